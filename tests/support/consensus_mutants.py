"""Engines with one planted defect each; the campaign must find every one of them.

Each removes exactly one rule of docs/spec/consensus.md by overriding one method. `MUTANTS` says for
each what it breaks, who provokes it, what the invariants then say, and within how many seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger.block import Block
from ledger.certificate import Certificate
from ledger.simplex.engine import Simplex
from ledger.simplex.interface import Record, RecordKind
from ledger.vote import Evidence, Vote, VoteKind
from protocol.errors import SignatureError
from swarmd.simulation.consensus_campaign import Outcome, Plan, run_seed
from swarmd.simulation.consensus_cluster import Epochs
from tests.support.restored_journal import run_restore


class NoFsyncBeforeSend(Simplex):
    """Breaks C70: votes leave before their records are durable."""

    def _hold(self, sequence: int, votes: list[Vote]) -> None:
        self._release(sequence, votes)


class NoSkipCheck(Simplex):
    """Breaks C54: a proposal may leave out any notarized block."""

    def _missing_skips(self, block: Block) -> list[int]:
        return []


class NoParentCheck(Simplex):
    """Breaks C54: a proposal's parent need not be notarized."""

    def _missing_parent(self, block: Block) -> list[int]:
        return []


class NoQuestion(Simplex):
    """Breaks C82: votes at once after a start, whatever the others remember."""

    @property
    def may_vote(self) -> bool:
        return self._halted is None


class FinalizeAfterNullify(Simplex):
    """Breaks C72: votes finalize in a view it nullified."""

    def _finalize(self, cast: list[Vote]) -> None:
        for view in list(self._views):
            self._ballots._cast.pop((view, VoteKind.NULLIFY), None)
        super()._finalize(cast)


class Amnesia(NoQuestion):
    """Breaks C80 and C82: starts without its own votes, and asks nobody for them."""

    def _restore(self, record: Record) -> None:
        if record.kind is not RecordKind.VOTE:
            super()._restore(record)

    def _is_foreign(self, vote: Vote) -> bool:
        return False


class SmallQuorum(Simplex):
    """Breaks C1: takes 2f votes for a quorum."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
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
            self._ballots._cast.pop((block.header.view, VoteKind.NOTARIZE), None)
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

    def _on_verdict(self, block_id: object, ok: bool) -> None:
        super()._on_verdict(block_id, True)  # type: ignore[arg-type]


class NoPatience(Simplex):
    """Breaks C60: waits for a leader for ever."""

    def _patience_s(self) -> float:
        return 1e9


class NoRetry(Simplex):
    """Breaks C63: says everything once."""

    def _retry(self) -> None:
        """Never repeats anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted defect and how the campaign finds it."""

    engine: type[Simplex]
    """What honest validators run."""
    says: str
    """Part of what the invariants say; `stuck`: the chain stands still."""
    byzantine: str = "none"
    """Who provokes it."""
    seeds: int = 10
    """Within how many it is found."""
    seed: int = 0
    """One that finds it."""
    epoch_ms: int | None = None
    """Length of epochs; None: the first never ends."""
    duration_s: float = 30.0
    """Simulated seconds of each seed."""
    restores: bool = False
    """Whether validators come back with old copies of their journals."""

    @property
    def name(self) -> str:
        """The class's name."""
        return self.engine.__name__

    @property
    def rule(self) -> str:
        """What is broken, in a line."""
        return (self.engine.__doc__ or "").splitlines()[0]

    def plan(self, engine: type[Simplex] | None = None) -> Plan:
        """The campaign's plan for it; with the production engine: the control."""
        return Plan(
            engine=engine or self.engine,
            byzantine=self.byzantine,
            duration_s=self.duration_s,
            epochs=None if self.epoch_ms is None else Epochs(length_ms=self.epoch_ms, reserves=1),
        )

    def is_found_by(self, seed: int, engine: type[Simplex] | None = None) -> bool:
        """Runs one seed."""
        if self.restores:
            violations: Sequence[str] = run_restore(seed, engine or self.engine).violations
            return any(self.says in item for item in violations)
        outcome = run_seed(seed, self.plan(engine))
        return (self.says == "stuck" and outcome.is_stuck) or self._is_said(outcome)

    def _is_said(self, outcome: Outcome) -> bool:
        return any(self.says in item for item in outcome.violations)

    def first_seed(self, run: Callable[[int], bool] | None = None) -> int | None:
        """The first seed that finds it; None: none of `seeds` does."""
        find = run or self.is_found_by
        return next((seed for seed in range(self.seeds) if find(seed)), None)


MUTANTS: Final = (
    Mutant(engine=NoFsyncBeforeSend, says="not durable"),
    Mutant(engine=NoSkipCheck, says="is not skipped", byzantine="forking_proposer"),
    Mutant(engine=NoParentCheck, says="parent is not notarized", byzantine="nullifier"),
    Mutant(engine=NoQuestion, seed=17, says="convicted", restores=True, seeds=20),
    Mutant(engine=FinalizeAfterNullify, seed=2, says="after it nullified", seeds=20),
    Mutant(engine=Amnesia, seed=6, says="after it", byzantine="silent_leader", seeds=30),
    Mutant(engine=SmallQuorum, seed=1, says="disagreement", seeds=60, duration_s=60.0),
    Mutant(engine=VoteTwice, says="twice", byzantine="double_proposer"),
    Mutant(engine=StaleEpoch, says="bad message", byzantine="stale_epoch", epoch_ms=3000),
    Mutant(engine=AnySigners, says="bad message", byzantine="certificate_forger"),
    Mutant(engine=TrustCertificates, says="bad message", byzantine="certificate_forger"),
    Mutant(engine=TrustVotes, says="halted", byzantine="impersonator"),
    Mutant(engine=UnboundedParking, says="views, at most", byzantine="future_flooder"),
    Mutant(engine=LazyEvidence, says="convicted", byzantine="evidence_spammer"),
    Mutant(engine=NotarizedIsFinal, says="scored honest"),
    Mutant(engine=NoVerdict, says="wrong roots", byzantine="wrong_roots"),
    Mutant(engine=NoPatience, says="stuck", byzantine="silent_leader"),
    Mutant(engine=NoRetry, seed=2, says="stuck"),
)
"""Every planted defect."""
