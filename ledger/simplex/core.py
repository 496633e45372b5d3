"""What every node of an epoch knows, voter or not: views, certificates, final blocks, culprits.

The lowest layer of the engine. It counts verified votes, takes certificates, moves from view to
view and commits; it signs nothing. Layers: `Core` < `sync.Sync` < `proposals.Proposals` <
`engine.Simplex`.
"""

from __future__ import annotations

from typing import Final

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.consensus_messages import Message
from ledger.header import Header
from ledger.simplex.ballots import Ballots
from ledger.simplex.chain import Chain
from ledger.simplex.interface import (
    Blame,
    Commit,
    Effect,
    EpochEnded,
    Halt,
    Load,
    Parameters,
    Persist,
    Record,
    RecordKind,
    Send,
)
from ledger.simplex.question import NewestVotes
from ledger.simplex.views import View
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, Signer, Verifier, Vote, VoteKind
from protocol.digest import ChainId
from protocol.errors import RemoteProtocolError, VerificationError

VIEW_WINDOW: Final = 8
"""Votes and proposals are kept up to this many views ahead (C53)."""


class Core:
    """State of one epoch and the transitions that need no signature of ours."""

    def __init__(
        self,
        *,
        chain: ChainId,
        era: int,
        validators: ValidatorSet,
        index: int,
        signer: Signer,
        verifier: Verifier,
        parameters: Parameters | None = None,
        previous: ValidatorSet | None = None,
    ) -> None:
        """Makes an engine that waits for `Start`.

        Args:
            chain: chain id, covered by every signature.
            era: era, covered by every signature.
            validators: the epoch's set.
            index: our position in it.
            signer: our vote key.
            verifier: checks signatures.
            parameters: timers.
            previous: set of the epoch before, whose misdeeds may still enter blocks; None: this is
                the first.
        """
        self._chain_id = chain
        self._era = era
        self._validators = validators
        self._previous = previous
        self._index = index
        self._signer = signer
        self._verifier = verifier
        self._parameters = parameters or Parameters()
        self._ballots = Ballots(
            chain=chain, era=era, epoch=validators.epoch, index=index, signer=signer
        )
        self._chain: Chain
        self._views: dict[int, View] = {}
        self._finals: dict[int, Certificate] = {}
        self._view = 0
        self._now = 0.0
        self._final_at = 0.0
        self._effects: list[Effect] = []
        self._unsaved: list[Certificate] = []
        self._held: list[tuple[int, list[Vote]]] = []
        self._sequence = 0
        self._newest = NewestVotes()
        self._accused: dict[tuple[int, int], Evidence] = {}
        self._convicted: dict[tuple[int, int], None] = {}
        self._ended = False
        self._halted: str | None = None
        self._finalize_due = False
        self._retry_at: float | None = None
        self._retry_pause_s = self._parameters.retry_s
        self._armed_at: float | None = None
        self._helper = (index + 1) % len(validators.members)

    @property
    def view(self) -> int:
        """Current view."""
        return self._view

    @property
    def final(self) -> Header:
        """Header of the last final block."""
        return self._chain.final

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """Proofs of contradiction that no final block holds yet."""
        return tuple(self._accused.values())

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """Every certificate held for views from the last final one on.

        Whoever drops an engine before these views are final keeps them: without them a fork there
        might convict nobody (C25).
        """
        return tuple(
            certificate
            for state in self._views.values()
            for certificate in (*state.certificates.values(), *state.skips.values())
        )

    @property
    def load(self) -> Load:
        """How much is held that is not final yet."""
        views = self._views.values()
        return Load(
            views=len(views),
            votes=sum(len(state.votes) for state in views),
            certificates=sum(len(state.certificates) + len(state.skips) for state in views),
            blocks=len(self._chain.blocks),
            accused=len(self._accused),
            writes=len(self._held),
        )

    @property
    def halted(self) -> str | None:
        """Why this key never votes again; None while it may."""
        return self._halted

    def _send(self, to: int, message: Message, after: int | None = None) -> None:
        self._effects.append(Send(to, message, after))

    def _state(self, view: int) -> View:
        state = self._views.get(view)
        if state is None:
            state = self._views[view] = View(view)
        return state

    # -- votes ---------------------------------------------------------------------------------

    def _accept_vote(self, vote: Vote) -> None:
        """Counts a vote of a peer.

        Raises:
            RemoteProtocolError: the signature is not the named member's.
        """
        if vote.epoch != self._validators.epoch:
            return
        if not self._chain.view <= vote.view <= self._view + VIEW_WINDOW:
            return
        state = self._views.get(vote.view)
        if state is not None and state.votes.get((vote.kind, vote.signer)) == vote:
            return
        if not vote.is_valid(self._validators, self._chain_id, self._era, self._verifier):
            raise RemoteProtocolError(f"vote of validator {vote.signer} is not validly signed")
        self._examine(vote)
        if vote.signer != self._index:
            self._count(vote)

    def _examine(self, vote: Vote) -> None:
        """Looks for contradiction in a verified vote: with others, or with our own journal."""
        self._newest.note(vote)
        if vote.signer == self._index:
            if self._is_foreign(vote):
                self._halt(f"a vote under this key in view {vote.view} is not in its journal")
            return
        state = self._views.get(vote.view)
        evidence = None if state is None else state.conflict(vote)
        name = (vote.epoch, vote.signer)
        if evidence is not None and name not in self._accused and name not in self._convicted:
            self._accused[name] = evidence
            self._effects.append(Blame(evidence))

    def _verify_evidence(self, evidence: Evidence) -> None:
        """Checks the signatures of evidence of this epoch or the one before (C24).

        Raises:
            VerificationError: it convicts nobody, or is of another epoch.
        """
        previous = self._previous
        is_previous = previous is not None and evidence.epoch == previous.epoch
        validators = previous if previous is not None and is_previous else self._validators
        evidence.verify(validators, self._chain_id, self._era, self._verifier)

    def _is_foreign(self, vote: Vote) -> bool:
        """Tells whether a valid vote under our key was cast by something else (C83, C84)."""
        if vote.view > self._ballots.newest_view:
            return True
        return vote.view > self._chain.view and not self._ballots.holds(vote)

    def _count(self, vote: Vote) -> None:
        state = self._state(vote.view)
        if (vote.kind, vote.signer) in state.votes:
            return
        certificate = state.add(vote, self._validators)
        if certificate is not None:
            self._certify(certificate)

    # -- certificates --------------------------------------------------------------------------

    def _accept_certificate(self, peer: int, certificate: Certificate) -> None:
        """Takes a certificate from a peer.

        Raises:
            RemoteProtocolError: it is not valid in this epoch.
        """
        final_view = self._chain.view
        if certificate.epoch != self._validators.epoch or certificate.view <= final_view:
            return
        state = self._views.get(certificate.view)
        held = None if state is None else state.certificates.get(certificate.kind)
        if held is not None and (
            certificate.kind is not VoteKind.NULLIFY
            or held == certificate
            or certificate.view >= self._view
        ):
            return
        try:
            certificate.verify(self._validators, self._chain_id, self._era, self._verifier)
        except VerificationError as error:
            raise RemoteProtocolError(f"validator {peer} sent a bad certificate") from error
        for vote in certificate.votes():
            self._examine(vote)
        self._helper = peer
        if held is not None:
            self._state(certificate.view).skips[peer] = certificate
        else:
            self._certify(certificate)

    def _certify(self, certificate: Certificate) -> None:
        """Keeps a verified certificate and leaves its view (C55 to C57)."""
        state = self._state(certificate.view)
        state.certificates[certificate.kind] = certificate
        if certificate.kind is VoteKind.FINALIZE:
            self._finals[certificate.view] = certificate
        else:
            self._unsaved.append(certificate)
            self._finalize_due |= certificate.kind is VoteKind.NOTARIZE
        if certificate.view >= self._view:
            self._enter(certificate.view + 1)

    def _enter(self, view: int) -> None:
        self._view = view
        self._armed_at = None
        self._progress()

    def _progress(self) -> None:
        """Something moved: retries start again with the short pause."""
        self._retry_at = None
        self._retry_pause_s = self._parameters.retry_s

    @property
    def _notarized_view(self) -> int:
        """Highest view with a notarized block, at least the final one."""
        return max(
            (view for view, state in self._views.items() if state.notarized is not None),
            default=self._chain.view,
        )

    # -- final blocks --------------------------------------------------------------------------

    def _commit_final(self) -> None:
        """Commits the newest certified block whose ancestors are all known (C58)."""
        for view in sorted(self._finals, reverse=True):
            certificate = self._finals[view]
            assert certificate.block_id is not None, "a finalize certificate names a block"
            path, missing = self._chain.path(certificate.block_id)
            if missing is None and path:
                self._commit(path, certificate)
                return

    def _commit(self, blocks: list[Block], certificate: Certificate) -> None:
        skips = [
            found
            for block in blocks
            for proof in block.skips
            if (state := self._views.get(proof.view)) is not None
            and (found := state.skip_certificate(proof.certificate)) is not None
        ]
        notarized = [
            held
            for block in blocks
            if (state := self._views.get(block.header.view)) is not None
            and (held := state.certificates.get(VoteKind.NOTARIZE)) is not None
        ]
        closing = next((i for i, block in enumerate(blocks) if block.header.closes_epoch), None)
        count = len(blocks) if closing is None else closing + 1
        blocks, fillers = blocks[:count], blocks[count:]
        self._effects.append(
            Commit(tuple(blocks), certificate, tuple(skips), tuple(notarized), tuple(fillers))
        )
        self._chain.advance(blocks[-1].header, certificate)
        for block in blocks:
            for evidence in block.evidence:
                name = (evidence.epoch, evidence.signer)
                self._convicted[name] = None
                self._accused.pop(name, None)
        if closing is not None:
            self._end()
            return
        self._final_at = self._now
        final_view = certificate.view
        self._views = {view: state for view, state in self._views.items() if view >= final_view}
        self._finals = {view: held for view, held in self._finals.items() if view > final_view}
        self._unsaved = [held for held in self._unsaved if held.view > final_view]
        self._ballots.prune(final_view)
        self._progress()

    def _end(self) -> None:
        """The epoch is over (E15): whatever this engine still held back, nobody needs any more."""
        self._ended = True
        self._held.clear()
        self._finals.clear()
        self._effects.append(EpochEnded(self._chain.final, self.evidence))

    # -- the end of a key ----------------------------------------------------------------------

    def _halt(self, reason: str) -> None:
        """Stops voting for good; the reason is in the journal before anyone hears of it (C84)."""
        if self._halted is not None:
            return
        self._halted = reason
        self._held.clear()
        record = Record(RecordKind.HALT, self._validators.epoch, self._view, reason.encode("utf-8"))
        self._sequence += 1
        self._effects += [Persist(self._sequence, (record,)), Halt(reason)]
