"""Proposals: what a leader builds on, and what a voter must hold before it judges (C50 to C54).

The middle layer of the engine; it signs nothing.
"""

from __future__ import annotations

from typing import Final

from ledger.block import Block, SkipProof
from ledger.consensus_messages import CertificateMessage, Propose
from ledger.header import Header
from ledger.simplex.interface import ALL, Build, Verify
from ledger.simplex.pace import Pace
from ledger.simplex.rules import check_parent, check_place, skipped_views
from ledger.simplex.sync import Sync
from ledger.simplex.views import View
from ledger.vote import VoteKind
from protocol.digest import BlockId
from protocol.errors import LocalProtocolError, VerificationError
from protocol.limits import BLOCK_EVIDENCE_MAX

SKIP_PUSH_MAX: Final = 8
"""Newest skip certificates a leader sends ahead of its proposal; older ones are asked for."""


class Proposals(Sync):
    """The layer that builds and examines proposals."""

    _pace: Pace
    _built_view = 0
    _verify_asked: View | None = None

    def _examine_proposal(self, state: View, block: Block) -> None:
        """Asks for the verdict when parent, skips and ancestors are held, for those otherwise."""
        self._want_from = self._validators.leader(self._view)
        try:
            missing = [*self._missing_parent(block), *self._missing_skips(block)]
            if missing:
                self._want_views.update(dict.fromkeys(missing))
                return
            path = self._path(block.header.parent)
            if path is None:
                return
            check_parent(block.header, path[-1].header if path else self._chain.final)
            self._check_evidence(block, path)
        except VerificationError:
            state.verdict = False
            return
        self._chain.add(block)
        self._verify_asked = state
        self._effects.append(Verify(block, tuple(path)))

    def _on_verdict(self, block_id: BlockId, ok: bool) -> None:
        """Takes the verdict on the proposal that was asked for last; others are outdated."""
        asked = self._verify_asked
        proposal = None if asked is None else asked.proposal
        if asked is not None and proposal is not None and proposal.block_id == block_id:
            asked.verdict = ok

    def _missing_parent(self, block: Block) -> list[int]:
        """Finds the parent's view if its certificate is missing.

        Raises:
            VerificationError: the block does not extend the last final one, or its parent lost.
        """
        header = block.header
        final = self._chain.final
        if header.parent_view <= self._chain.view:
            if header.parent != final.block_id:
                raise VerificationError("proposal does not extend the last final block")
            return []
        state = self._views.get(header.parent_view)
        notarized = None if state is None else state.notarized
        if notarized is not None and notarized != header.parent:
            raise VerificationError("another block is notarized in the parent's view")
        return [] if notarized is not None else [header.parent_view]

    def _missing_skips(self, block: Block) -> list[int]:
        """Finds skipped views without the certificate that lets them be skipped (C54)."""
        header = block.header
        missing = [
            view
            for view in range(header.parent_view + 1, header.view)
            if view not in self._views or not self._views[view].is_skipped
        ]
        for skip in block.skips:
            state = self._views.get(skip.view)
            if state is None or state.skip_certificate(skip.certificate) is None:
                missing.append(skip.view)
        return missing

    def _check_evidence(self, block: Block, path: list[Block]) -> None:
        """Checks evidence that needs no state: signatures, epoch, no repetition (C24).

        Raises:
            VerificationError: it convicts nobody, or somebody convicted already.
        """
        known = dict(self._convicted)
        known.update({(item.epoch, item.signer): None for held in path for item in held.evidence})
        for item in block.evidence:
            if (item.epoch, item.signer) in known:
                raise VerificationError("a second conviction of one validator in an epoch")
            self._verify_evidence(item)

    def _may_lead(self) -> bool:
        return (
            self._validators.leader(self._view) == self._index
            and self._built_view < self._view
            and self._ballots.may(VoteKind.NOTARIZE, self._view)
        )

    def _lead(self) -> None:
        """Asks for a block when it is our turn, there is a reason, and the pause is over."""
        if self._armed_at is None or not self._may_lead():
            return
        parent = self._choose_parent()
        if parent is None or self._now < self._pace.build_at:
            return
        path = self._path(parent.block_id)
        if path is None:
            return
        self._built_view = self._view
        known = [(item.epoch, item.signer) for block in path for item in block.evidence]
        evidence = [held for name, held in self._accused.items() if name not in known]
        self._effects.append(
            Build(
                self._view,
                parent,
                tuple(path),
                self._skip_proofs(parent.view_in(self._validators.epoch)),
                tuple(evidence[:BLOCK_EVIDENCE_MAX]),
                self._validators.epoch,
            )
        )

    def _choose_parent(self) -> Header | None:
        """Finds the highest notarized block with all later views skipped; wants what is missing."""
        missing: list[int] = []
        for view in range(self._view - 1, self._chain.view, -1):
            state = self._views.get(view)
            block_id = None if state is None else state.notarized
            if block_id is not None:
                header = self._chain.header(block_id)
                if header is not None and not missing:
                    return header
                if header is None:
                    self._want_ids[block_id] = None
                if state is None or not state.is_skipped:
                    break
            elif state is None or not state.is_skipped:
                missing.append(view)
        else:
            if not missing:
                return self._chain.final
        self._want_views.update(dict.fromkeys(missing))
        return None

    def _skip_proofs(self, parent_view: int) -> tuple[SkipProof, ...]:
        return tuple(
            SkipProof(view, self._views[view].certificates[VoteKind.NULLIFY].digest)
            for view in skipped_views(parent_view, self._view)
        )

    def _on_built(self, view: int, block: Block | None) -> None:
        if view > self._built_view:
            raise LocalProtocolError(f"no block of view {view} was asked for")
        if view != self._view or not self._ballots.may(VoteKind.NOTARIZE, view):
            return
        state = self._state(view)
        if block is None:
            self._pace.pass_turn(view)
            return
        try:
            check_place(block, chain=self._chain_id, era=self._era, validators=self._validators)
        except VerificationError as error:
            raise LocalProtocolError(f"own proposal is not valid: {error}") from error
        if block.header.view != view or self._chain.header(block.header.parent) is None:
            raise LocalProtocolError("own proposal is not the one that was asked for")
        state.proposal = block
        state.verdict = True
        self._chain.add(block)
        self._pace.note_proposal(self._now)
        self._send_proposal(state, ALL)

    def _send_proposal(self, state: View, to: int) -> None:
        """Sends the proposal with its newest skip certificates ahead; blocks need no fsync."""
        assert state.proposal is not None, "there is a proposal to send"
        for skip in state.proposal.skips[-SKIP_PUSH_MAX:]:
            held = self._views.get(skip.view)
            certificate = None if held is None else held.skip_certificate(skip.certificate)
            if certificate is not None:
                self._send(to, CertificateMessage(certificate))
        self._send(to, Propose(state.proposal))
