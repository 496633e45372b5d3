"""Planted defects; the campaign must find every one of them.

`MUTANTS` says for each engine of `swarmd.simulation.defective_engines` who provokes its defect,
what the invariants then say, and within how many seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.simplex.engine import Simplex
from swarmd.simulation.consensus_campaign import Outcome, Plan, run_seed
from swarmd.simulation.consensus_cluster import Epochs
from swarmd.simulation.defective_engines import (
    Amnesia,
    AnySigners,
    FinalizeAfterNullify,
    LazyEvidence,
    NoFsyncBeforeSend,
    NoParentCheck,
    NoPatience,
    NoQuestion,
    NoRetry,
    NoSkipCheck,
    NotarizedIsFinal,
    NoVerdict,
    SmallQuorum,
    StaleEpoch,
    TrustCertificates,
    TrustVotes,
    UnboundedParking,
    VoteTwice,
)
from swarmd.simulation.restored_journal import run_restore


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
