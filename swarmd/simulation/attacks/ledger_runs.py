"""Sieges of a simulated chain: misbehaving validators against the production engine.

Each takes a few seeds of the campaign (docs/spec/simulation-adversaries.md): links lose, repeat and
reorder, validators lose power; after three quarters everything is well again but for the liars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.simplex.engine import Simplex
from swarmd.simulation.attacks.attack import AttackResult, at_least, at_most, never
from swarmd.simulation.consensus_campaign import LIVE_BLOCKS, Outcome, Plan, run_seed
from swarmd.simulation.consensus_cluster import Epochs
from swarmd.simulation.restored_journal import run_restore

DURATION_S: Final = 16.0
"""Simulated seconds of a seed; the last quarter without faults."""
PAUSE_S: Final = 0.5
"""Between two proposals, simulated seconds: ten blocks take five when nobody misbehaves."""
HEAL_S: Final = 30.0
"""Within which ten more blocks must be final: one of four leaders is bad, and each costs a view of
at most twice the patience before the next one."""
SEEDS: Final = 2
"""Seeds with one liar of four; one more has two of seven."""
CONTROL_SEEDS: Final = 32
"""Seeds within which an engine with a defect must be caught."""

FORKS: Final = 2
"""Forks whose culprits are counted."""
OLD_JOURNALS: Final = 6
"""Seeds in which validators get an old journal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Siege:
    """One adversary, at the bound: f of its kind."""

    adversary: str
    """Its name in the catalogue."""
    defect: type[Simplex] | None = None
    """An engine without the rule that withstands it; None: no single rule does."""
    epoch_ms: int | None = None
    """Length of epochs, milliseconds; None: the first never ends."""
    convicts: bool = False
    """Whether its own signatures must convict it."""

    def _plan(self, engine: type[Simplex], count: int) -> Plan:
        return Plan(
            count=count,
            byzantine=self.adversary,
            engine=engine,
            duration_s=DURATION_S,
            block_interval_s=PAUSE_S,
            epochs=None if self.epoch_ms is None else Epochs(length_ms=self.epoch_ms, reserves=1),
        )

    def run(self, seed: int) -> AttackResult:
        """Runs it against the production engine."""
        plan = self._plan(Simplex, 4)
        outcomes = [run_seed(one, plan) for one in _seeds(seed, SEEDS)]
        outcomes.append(run_seed(seed, self._plan(Simplex, 7)))
        return judged(outcomes, convicts=self.convicts)

    def control(self, seed: int) -> AttackResult:
        """Runs it against engines without the rule, until one seed shows what it is there for."""
        assert self.defect is not None, "only a siege with a defect has a control"
        plan = self._plan(self.defect, 4)
        outcomes: list[Outcome] = []
        for one in _seeds(seed, CONTROL_SEEDS):
            outcomes.append(run_seed(one, plan))
            if outcomes[-1].is_broken:
                break
        return judged(outcomes)


def _seeds(seed: int, count: int) -> range:
    return range(seed * CONTROL_SEEDS, seed * CONTROL_SEEDS + count)


def tries(outcomes: Sequence[Outcome]) -> int:
    """Bad messages that reached honest engines, or blocks during which the liar had a seat."""
    return sum(max(each.bad_received, each.refused, each.height) for each in outcomes)


def judged(outcomes: Sequence[Outcome], *, convicts: bool = False) -> AttackResult:
    """What seeds came to that must keep safety and, once healed, progress.

    Args:
        outcomes: one of each seed.
        convicts: whether at least one seed must convict a liar.
    """
    heal_s = max(math.inf if each.is_stuck else each.heal_s for each in outcomes)
    innocent = sum(not set(each.convicted) <= set(each.faulty) for each in outcomes)
    verdicts = [
        never("safety broken", sum(len(each.violations) for each in outcomes)),
        never("honest convicted", innocent),
        at_most(f"{LIVE_BLOCKS} blocks final after healing", HEAL_S, heal_s, "s"),
    ]
    if convicts:
        verdicts.append(at_least("liars convicted", 1, sum(len(o.convicted) for o in outcomes)))
    return AttackResult(verdicts=tuple(verdicts), attempts=tries(outcomes))


def run_mixture(seed: int) -> AttackResult:
    """Two liars of different kinds, drawn by the seed, among seven."""
    plan = Plan(count=7, duration_s=DURATION_S, block_interval_s=PAUSE_S)
    return judged([run_seed(one, plan) for one in _seeds(seed, 4)])


# -- beyond the bound ------------------------------------------------------------------------------


def run_fork(seed: int) -> AttackResult:
    """Two twins of four fork the chain: every fork must convict more than f, and nobody honest."""
    plan = Plan(byzantine="twin", faulty=2, duration_s=DURATION_S, power_failures=False)
    outcomes: list[Outcome] = []
    forks: list[Outcome] = []
    for one in _seeds(seed, CONTROL_SEEDS):
        outcomes.append(run_seed(one, plan))
        forks += outcomes[-1:] if outcomes[-1].is_forked else []
        if len(forks) == FORKS:
            break
    limit = (plan.count - 1) // 3
    return AttackResult(
        verdicts=(
            at_least("forks provoked", 1, len(forks)),
            at_least(
                "convicted by each fork",
                limit + 1,
                min((len(each.culprits) for each in forks), default=0),
            ),
            never("broken accounts", sum(each.unaccounted(limit) is not None for each in outcomes)),
        ),
        attempts=len(outcomes),
    )


def run_drift(seed: int) -> AttackResult:
    """Half of four clocks are an hour wrong: the chain must stand still, and never fork."""
    plan = Plan(byzantine="clock_ahead", faulty=2, duration_s=DURATION_S, power_failures=False)
    outcomes = [run_seed(one, plan) for one in _seeds(seed, SEEDS)]
    return AttackResult(
        verdicts=(
            never("forks", sum(each.is_forked for each in outcomes)),
            never("honest convicted", sum(bool(each.culprits) for each in outcomes)),
            at_least("runs that stand still", len(outcomes), sum(o.is_stuck for o in outcomes)),
        ),
        attempts=len(outcomes),
    )


# -- old disks -------------------------------------------------------------------------------------


def run_old_journal(seed: int, engine: type[Simplex] = Simplex) -> AttackResult:
    """Honest validators come back with an old copy of their vote journal, again and again.

    Args:
        seed: the first of a few.
        engine: what they run.
    """
    convicted = runs = 0
    for one in _seeds(seed, OLD_JOURNALS if engine is Simplex else CONTROL_SEEDS):
        violations = run_restore(one, engine).violations
        convicted += sum("convicted" in each for each in violations)
        runs += 1
        if convicted:
            break
    return AttackResult(
        verdicts=(never("validators convicted by their own past", convicted),), attempts=runs
    )
