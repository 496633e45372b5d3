"""One seed of the consensus campaign: a network that suffers, heals, and must then make progress.

A seed decides links, partitions, power failures and the misbehaving seat. Faults last for the first
three quarters of the run; then links are clean and everyone is up. Safety is checked at every
commit, liveness at the end.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from ledger.simplex.engine import Simplex
from ledger.simplex.interface import Parameters
from protocol.errors import ConfigError, LocalProtocolError
from swarmd.simulation.byzantine.catalogue import adversary, draw_adversary
from swarmd.simulation.consensus_cluster import Cluster, Epochs
from swarmd.simulation.consensus_events import fingerprint
from swarmd.simulation.consensus_host import ConsensusHost
from swarmd.simulation.consensus_store import Disk
from swarmd.simulation.world import Link, World

FAULTY_SHARE: Final = 0.75
"""Part of the run with faults."""
LIVE_BLOCKS: Final = 10
"""Blocks that every honest validator must see become final once the network has healed."""
GRACE_S: Final = 60.0
"""How long after the end of the run these may still take: a view at the longest patience, and a
few whose leader misbehaves."""
_CALM: Final = Link(latency_s=0.02, jitter_s=0.05)
_PARAMETERS: Final = Parameters(delta_s=0.5, retry_s=0.5)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed came to."""

    seed: int
    """Replays it."""
    violations: tuple[str, ...]
    """Broken safety invariants; must be empty."""
    is_stuck: bool
    """Whether some honest validator made no progress after healing."""
    height: int
    """Blocks final at the end."""
    restarts: int
    """Power failures."""
    simulated_s: float
    """Simulated seconds."""
    event_count: int
    """Events executed."""
    trace_hash: str
    """Equal for two runs of one seed."""
    heal_s: float
    """Seconds from healing until every honest validator had ten new final blocks."""
    epochs: int
    """Epoch that the run ended in."""
    culprits: tuple[int, ...]
    """Processes that stored certificates convict."""
    faulty: tuple[int, ...]
    """Processes that misbehave."""
    adversaries: tuple[str, ...] = ()
    """How each of them misbehaves, by name in the catalogue."""
    refused: int = 0
    """Messages and blocks of misbehaving processes that honest ones refused."""
    bad_received: int = 0
    """Messages meant to be bad that reached an honest engine, each refused or ignored."""
    convicted: tuple[int, ...] = ()
    """Processes that evidence was found against while the chain ran."""

    @property
    def is_broken(self) -> bool:
        """Whether anything went wrong, safety or liveness."""
        return bool(self.violations) or self.is_stuck

    @property
    def broken_at_s(self) -> float | None:
        """When the first invariant broke, simulated seconds; None: none did."""
        return float(self.violations[0].partition("s:")[0]) if self.violations else None

    @property
    def is_forked(self) -> bool:
        """Whether two honest hosts hold different final blocks of one height."""
        return any("disagreement" in item for item in self.violations)

    def unaccounted(self, fault_limit: int) -> str | None:
        """What accountability promised and did not keep; None: nothing.

        Args:
            fault_limit: f of the run's sets.
        """
        if any("honest validator" in item for item in self.violations):
            return "an honest validator was convicted or scored"
        if not set(self.culprits) <= set(self.faulty):
            return f"convicted {self.culprits}, but {self.faulty} misbehaved"
        if self.is_forked and len(self.culprits) <= fault_limit:
            return f"a fork convicts {self.culprits} only"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What may vary between campaigns."""

    count: int = 4
    """Validators."""
    duration_s: float = 60.0
    """Simulated seconds of a seed."""
    real_signatures: bool = False
    """Ed25519 and the wire codecs instead of the oracle and objects."""
    engine: type[Simplex] = Simplex
    """What honest validators run; tests plant defects here."""
    byzantine: str | None = None
    """An adversary's name in the catalogue for all seats that misbehave, or `none`; None lets the
    seed decide for each seat."""
    power_failures: bool = True
    """Whether honest validators crash."""
    epochs: Epochs | None = None
    """How validators change; None: never."""
    faulty: int | None = None
    """Misbehaving processes, all in the first set; None: f, wherever the seed puts them. More than
    f fork the chain: then only accountability is promised."""
    host: type[ConsensusHost] = ConsensusHost
    """What honest validators are; tests plant defects here."""
    block_interval_s: float = 0.25
    """Least time between two proposals of a leader, seconds."""
    faults_end_s: float | None = None
    """Heal so early instead of after three quarters, with the same faults until then."""
    stop_s: float | None = None
    """Stop so early and judge safety alone."""

    @property
    def is_expected_to_break(self) -> bool:
        """Whether more processes misbehave than any protocol can stand."""
        return self.faulty is not None and self.faulty > (self.count - 1) // 3


class Scenario:
    """Builds and runs one seed."""

    def __init__(self, seed: int, plan: Plan) -> None:
        """Makes world, cluster and fault script; `run` executes them."""
        self.seed = seed
        self.plan = plan
        self.chance = random.Random(f"faults {seed}")  # noqa: S311 - replayed, not secret
        self.world = World(seed, self._draw_link(), fingerprint)
        self.cluster = Cluster(
            self.world,
            plan.count,
            real_signatures=plan.real_signatures,
            wire=plan.real_signatures,
            parameters=replace(_PARAMETERS, block_interval_s=plan.block_interval_s),
            disk=Disk(sync_s=self.chance.choice([0.002, 0.01, 0.05])),
            epochs=plan.epochs,
        )
        self.restarts = 0
        self._faults_end_s = plan.duration_s * FAULTY_SHARE
        self.adversaries: list[str] = []
        self._add_hosts(plan.byzantine)
        self._script = sorted(self._draw_faults(), key=lambda fault: fault[0])

    def _draw_link(self) -> Link:
        chance = self.chance
        return Link(
            latency_s=chance.choice([0.005, 0.02, 0.05]),
            jitter_s=chance.choice([0.01, 0.1, 0.3]),
            loss=chance.choice([0.0, 0.02, 0.05, 0.1]),
            duplication=chance.choice([0.0, 0.02]),
        )

    def _add_hosts(self, kind: str | None) -> None:
        processes = list(range(len(self.cluster.actors)))
        limit = self.cluster.validators.fault_limit
        faulty: list[int] = []
        if self.plan.faulty is not None:
            faulty = self.chance.sample(range(self.plan.count), self.plan.faulty)
        elif kind is None:
            faulty = self.chance.sample(processes, self.chance.randint(0, limit))
        elif kind != "none":
            faulty = self.chance.sample(processes, limit)
        self.faulty = faulty
        for process in processes:
            if process not in faulty:
                skew_ms = self.chance.randrange(-300, 301)
                self.plan.host(self.cluster, process, engine=self.plan.engine, skew_ms=skew_ms)
                continue
            chosen = draw_adversary(self.chance) if kind is None else adversary(kind)
            if chosen.seat is None:
                raise ConfigError(f"{chosen.name} does not attack the validators of a chain")
            self.adversaries.append(chosen.name)
            chosen.seat(self.cluster, process)

    # -- faults --------------------------------------------------------------------------------

    def _draw_faults(self) -> list[tuple[float, str, int, float]]:
        """Draws (time, kind, host, duration) of partitions, splits, crashes, blackouts, idling."""
        chance = self.chance
        faults: list[tuple[float, str, int, float]] = []
        if self.plan.faulty is not None:
            faults += [
                (self._instant(), "split", 0, chance.uniform(0.5, 3.0))
                for _ in range(chance.randrange(1, 4))
            ]
        faults += [
            (self._instant(), "partition", 0, chance.uniform(0.5, 6.0))
            for _ in range(chance.randrange(6))
        ]
        if chance.random() < 0.3:
            start = self._instant()
            faults += [(start, "idle", 0, 0.0), (start + 5.0, "busy", 0, 0.0)]
        if self.plan.power_failures:
            for host in range(len(self.cluster.hosts)):
                for _ in range(chance.randrange(4)):
                    faults.append((self._instant(), "crash", host, chance.uniform(0.05, 4.0)))
            if chance.random() < 0.3:
                faults.append((self._instant(), "blackout", 0, chance.uniform(0.05, 2.0)))
        return faults

    def _instant(self) -> float:
        return self.chance.uniform(1.0, max(1.5, self._faults_end_s - 1.0))

    def _apply(
        self, kind: str, host: int, duration_s: float
    ) -> list[tuple[float, str, int, float]]:
        """Applies a fault; returns its end as a later entry of the script."""
        hosts = self.cluster.hosts
        end = self.world.now + duration_s
        match kind:
            case "partition":
                sides = self.chance.choice([2, 2, 3])
                self.world.partition(
                    {number: self.chance.randrange(sides) for number in range(len(hosts))}
                )
                return [(end, "heal", 0, 0.0)]
            case "split":
                self.world.partition(self._split())
                return [(end, "heal", 0, 0.0)]
            case "heal":
                self.world.heal()
            case "crash":
                return self._cut(hosts[host], end)
            case "blackout":
                return [entry for each in hosts for entry in self._cut(each, end)]
            case "restart":
                if not hosts[host].is_up:
                    hosts[host].start()
            case "idle" | "busy":
                for each in hosts:
                    each.set_pending(kind == "busy")
        return []

    def _split(self) -> dict[int, int]:
        """Twins on both sides of a cut, the honest in two halves: how more than f fork a chain."""
        sides: dict[int, int] = {}
        honest = [host.actor for host in self.cluster.honest]
        self.chance.shuffle(honest)
        for position, actor in enumerate(honest):
            sides[actor] = position % 2
        for process in self.faulty:
            for position, actor in enumerate(self.cluster.actors[process]):
                sides[actor] = position % 2
        return sides

    def _cut(self, host: ConsensusHost, end: float) -> list[tuple[float, str, int, float]]:
        if not host.is_up:
            return []
        host.crash()
        self.restarts += 1
        return [(end, "restart", host.actor, 0.0)]

    # -- running -------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Runs the seed to its end, or to where a host was led to use its engine wrongly."""
        is_stuck, heal_s = False, 0.0
        try:
            is_stuck, heal_s = self._play()
        except LocalProtocolError as error:
            self.cluster.violate(f"an engine was used wrongly: {error}")
        watch = self.cluster.watch
        return Outcome(
            self.seed,
            tuple(self.cluster.violations),
            is_stuck,
            max(self.cluster.final, default=0),
            self.restarts,
            self.world.now,
            self.world.event_count,
            self.world.trace_hash,
            heal_s,
            max(host.epoch for host in self.cluster.hosts),
            tuple(self.cluster.audit()),
            tuple(sorted(self.faulty)),
            tuple(self.adversaries),
            sum(watch.refusals.values()),
            watch.bad_received,
            tuple(sorted(self.cluster.convicted)),
        )

    def _play(self) -> tuple[bool, float]:
        """Suffers, heals, waits; returns whether it is stuck and how long healing took."""
        for each in self.cluster.hosts:
            each.set_pending(True)
            each.start()
        script = self._script
        heal_at_s = self._faults_end_s
        for early in (self.plan.faults_end_s, self.plan.stop_s):
            heal_at_s = heal_at_s if early is None else min(heal_at_s, early)
        while script and script[0][0] < heal_at_s:
            time, kind, host, duration_s = script.pop(0)
            self.world.run_until(time)
            script += self._apply(kind, host, duration_s)
            script.sort(key=lambda fault: fault[0])
        self.world.run_until(heal_at_s)
        self._calm_down()
        is_stuck, heal_s = False, 0.0
        if self.plan.stop_s is None:
            is_stuck, heal_s = self._await_progress()
            self.world.run_until(self.plan.duration_s)
        else:
            self.world.run_until(self.plan.stop_s)
        return is_stuck, heal_s

    def _calm_down(self) -> None:
        self.world.heal()
        self.world.link = _CALM
        for host in self.cluster.hosts:
            host.set_pending(True)
            if not host.is_up:
                host.start()

    def _await_progress(self) -> tuple[bool, float]:
        """Waits until every honest validator has ten blocks above any final one at healing."""
        goal = max(self.cluster.final, default=0) + LIVE_BLOCKS
        start = self.world.now
        end = self.plan.duration_s + GRACE_S
        while self.world.now < end:
            self.world.run_until(self.world.now + 0.25)
            if all(host.final.height >= goal for host in self.cluster.honest):
                return False, self.world.now - start
        return True, self.world.now - start


def run_seed(seed: int, plan: Plan | None = None) -> Outcome:
    """Runs one seed of the campaign."""
    return Scenario(seed, plan or Plan()).run()
