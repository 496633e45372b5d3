"""Consensus engines that lack one rule each: what the rule is there for shows when it is gone.

Each removes exactly one rule of docs/spec/consensus.md by overriding one method. The campaign must
find every one of them; attacks use them as controls, for without its rule an attack must win.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import Record, RecordKind
from ledger.vote import Evidence, Vote, VoteKind
from protocol.digest import BlockId
from protocol.errors import SignatureError


class NoFsyncBeforeSend(Simplex):
    """Breaks C70: votes leave before their records are durable."""

    def _hold(self, sequence: int, votes: list[Vote]) -> None:
        self._release(sequence, votes)


class NoSkipCheck(Simplex):
    """Breaks C54: a proposal may leave out any notarized block."""

    def _missing_skips(self, block: Block) -> list[int]:  # noqa: ARG002
        return []


class NoParentCheck(Simplex):
    """Breaks C54: a proposal's parent need not be notarized."""

    def _missing_parent(self, block: Block) -> list[int]:  # noqa: ARG002
        return []


class NoQuestion(Simplex):
    """Breaks C82: votes at once after a start, whatever the others remember."""

    @property
    def may_vote(self) -> bool:
        """Always, unless it was halted."""
        return self._halted is None


class FinalizeAfterNullify(Simplex):
    """Breaks C72: votes finalize in a view it nullified."""

    def _finalize(self, cast: list[Vote]) -> None:
        for view in list(self._views):
            self._ballots._cast.pop((view, VoteKind.NULLIFY), None)  # noqa: SLF001 - the defect
        super()._finalize(cast)


class Amnesia(NoQuestion):
    """Breaks C80 and C82: starts without its own votes, and asks nobody for them."""

    def _restore(self, record: Record) -> None:
        if record.kind is not RecordKind.VOTE:
            super()._restore(record)

    def _is_foreign(self, vote: Vote) -> bool:  # noqa: ARG002
        return False


class SmallQuorum(Simplex):
    """Breaks C1: takes 2f votes for a quorum."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        lax = replace(self._validators)
        object.__setattr__(lax, "quorum", 2 * lax.fault_limit)
        self._validators = lax


class VoteTwice(Simplex):
    """Breaks C53 and C71: notarizes every proposal of a view, not only the first."""

    def _on_propose(self, peer: int, block: Block) -> None:
        state = self._views.get(block.header.view)
        if state is not None and state.proposal not in (None, block):
            state.proposal = state.verdict = None
            self._verify_asked = None
            place = (block.header.view, VoteKind.NOTARIZE)
            self._ballots._cast.pop(place, None)  # noqa: SLF001 - the defect
        super()._on_propose(peer, block)


class StaleEpoch(Simplex):
    """Breaks C31: takes certificates of the epoch before for its own."""

    def _accept_certificate(self, peer: int, certificate: Certificate) -> None:
        previous = self._previous
        if previous is None or certificate.epoch != previous.epoch:
            super()._accept_certificate(peer, certificate)
        elif certificate.view >= self._view:
            certificate.verify(previous, self._chain_id, self._era, self._verifier)
            self._certify(certificate)


class AnySigners(Simplex):
    """Breaks C31: counts q valid signatures in a certificate, whoever made them."""

    def _accept_certificate(self, peer: int, certificate: Certificate) -> None:
        is_whole = len(certificate.signers) == len(certificate.signatures)
        if not is_whole or certificate.view != self._view or not self._is_enough(certificate):
            super()._accept_certificate(peer, certificate)
        else:
            self._certify(certificate)

    def _is_enough(self, certificate: Certificate) -> bool:
        members = range(len(self._validators.members))
        keys = [key for key in map(self._validators.key_of, members) if key is not None]
        message = certificate.votes()[0].message(self._chain_id, self._era)
        return len(certificate.signatures) == self._validators.quorum and all(
            any(self._verifier.verify(key, signature, message) for key in keys)
            for signature in certificate.signatures
        )


class TrustCertificates(Simplex):
    """Breaks C31: takes certificates of future views on trust."""

    def _accept_certificate(self, peer: int, certificate: Certificate) -> None:
        is_whole = len(certificate.signers) == len(certificate.signatures)
        if is_whole and certificate.view > self._view + 8:
            self._certify(certificate)
        else:
            super()._accept_certificate(peer, certificate)


class TrustVotes(Simplex):
    """Breaks C48: does not check who signed a vote."""

    def _accept_vote(self, vote: Vote) -> None:
        if vote.epoch == self._validators.epoch and (
            self._chain.view <= vote.view <= self._view + 8
        ):
            self._examine(vote)
            if vote.signer != self._index:
                self._count(vote)


class UnboundedParking(Simplex):
    """Breaks C53: keeps votes of any later view."""

    def _accept_vote(self, vote: Vote) -> None:
        if vote.epoch == self._validators.epoch and vote.view > self._view + 8:
            if not vote.is_valid(self._validators, self._chain_id, self._era, self._verifier):
                raise SignatureError("not valid")
            self._count(vote)
        else:
            super()._accept_vote(vote)


class LazyEvidence(Simplex):
    """Breaks C24: convicts without checking the signatures."""

    def _verify_evidence(self, evidence: Evidence) -> None:
        """Believes whatever it is told."""


class NotarizedIsFinal(Simplex):
    """Breaks C32: commits a block that is notarized and may still be skipped."""

    def _certify(self, certificate: Certificate) -> None:
        super()._certify(certificate)
        if certificate.kind is VoteKind.NOTARIZE and not self._ended:
            self._finals[certificate.view] = replace(certificate, kind=VoteKind.FINALIZE)


class NoVerdict(Simplex):
    """Breaks C54: votes for blocks whatever executing them yields."""

    def _on_verdict(self, block_id: BlockId, ok: bool) -> None:  # noqa: ARG002
        super()._on_verdict(block_id, True)


class NoPatience(Simplex):
    """Breaks C60: waits for a leader for ever."""

    def _patience_s(self) -> float:
        return 1e9


class NoRetry(Simplex):
    """Breaks C63: says everything once."""

    def _retry(self) -> None:
        """Never repeats anything."""
