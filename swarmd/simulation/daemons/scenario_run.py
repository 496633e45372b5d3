"""Runs a scenario with whole daemons instead of their machines, and judges it by the same names.

What a scenario may ask of whole daemons is what happens to them from outside: links, releases,
revocations, partitions, crashes, churn, lost segments. Nodes that break the rules and slow disks
exist for machines only; a scenario with them is refused by name.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import trio

from protocol.digest import Digest
from protocol.errors import ConfigError
from protocol.limits import KIB
from protocol.manifest import SignedManifest
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.daemons.swarm import PUBLISHER, DaemonPlan, DaemonSwarm, daemon_swarm
from swarmd.simulation.daemons.wire import DaemonLink
from swarmd.simulation.links import NodeLink
from swarmd.simulation.scenario import Fault, FaultKind, LinkClass, ReleasePlan, Scenario, Target
from swarmd.simulation.swarm import PROGRESS_BLOCKS
from swarmd.simulation.swarm_build import healed_s, is_authorised
from swarmd.simulation.swarm_outcome import Outcome, ReleaseFigures, Sample, Verdict
from swarmd.simulation.transfer import fluid_bound_s

STEP_S: Final = 0.25
"""How often a run is looked at, simulated seconds."""
HEARTBEAT_MS: Final = 2_000
"""Of the chain: often, so that whether it goes on is soon seen, milliseconds."""
DEGREE_MAX: Final = 8
"""Addresses that a gateway starts with; it asks its peers for more."""
_MBIT: Final = 125_000.0


def run_daemons(scenario: Scenario, seed: int, folder: Path) -> Outcome:
    """Runs a scenario once, in an empty folder.

    Args:
        scenario: what happens.
        seed: decides all that is random.
        folder: for the daemons' data; stays behind.

    Raises:
        ConfigError: the scenario asks for what whole daemons cannot do; names the key.
        StorageError: the folder is not empty or cannot be written.
    """
    check_daemons(scenario)
    return run_simulated(lambda: _run(scenario, seed, folder), seed=seed)


def check_daemons(scenario: Scenario) -> None:
    """Refuses scenarios that whole daemons cannot run.

    Raises:
        ConfigError: names the key.
    """
    if scenario.adversaries:
        raise ConfigError("adversaries: whole daemons all keep the rules")
    if scenario.seeders.count != 1:
        raise ConfigError("seeders.count: among whole daemons the publisher is the only seeder")
    if scenario.network.pipe_mbit is not None:
        raise ConfigError("network.pipe_mbit: whole daemons have no pipes between sites")
    for number, fault in enumerate(scenario.faults):
        if fault.kind is FaultKind.SLOW_DISK:
            raise ConfigError(f"faults[{number}].kind: whole daemons have no slow disks")
    for number, plan in enumerate(scenario.releases):
        if not is_authorised(plan):
            raise ConfigError(f"releases[{number}].approvals: whole daemons publish by the rules")


async def _run(scenario: Scenario, seed: int, folder: Path) -> Outcome:
    links = _links(scenario, seed)
    plan = DaemonPlan(
        validators=scenario.validators.count,
        gateways=scenario.gateways.count,
        degree=min(scenario.gateways.peers, DEGREE_MAX),
        peer_exchange=True,
        heartbeat_ms=HEARTBEAT_MS,
        links=links,
    )
    async with daemon_swarm(plan, folder, seed=seed) as swarm:
        await swarm.start()
        return await _Run(scenario, seed, swarm, links).run()


def _links(scenario: Scenario, seed: int) -> dict[str, DaemonLink]:
    """The link of every node, as machines' swarms draw them."""
    classes, count = scenario.links, scenario.gateways.count
    first = next(iter(classes.values()))
    drawn: list[LinkClass] = []
    for each in list(classes.values())[1:]:
        drawn += [each] * min(round(each.share * count), count - len(drawn))
    drawn += [first] * (count - len(drawn))
    random.Random(f"links {seed}").shuffle(drawn)  # noqa: S311 - replayed by seed
    network = scenario.network
    validator = DaemonLink(latency_s=network.latency_ms / 2000, jitter_s=network.jitter_ms / 2000)
    origin = classes[scenario.seeders.link] if scenario.seeders.link else first
    links = {f"validator-{n + 1}": validator for n in range(scenario.validators.count)}
    links[PUBLISHER] = _link(origin, scenario)
    links |= {f"gateway-{n + 1}": _link(each, scenario) for n, each in enumerate(drawn)}
    return links


def _link(each: LinkClass, scenario: Scenario) -> DaemonLink:
    return DaemonLink(
        uplink_bytes_per_s=each.up_mbit * _MBIT,
        downlink_bytes_per_s=each.down_mbit * _MBIT,
        latency_s=each.latency_ms / 1000,
        loss=scenario.network.segment_loss,
    )


@dataclass
class _Progress:
    """One release on its way; simulated seconds since the scenario began."""

    plan: ReleasePlan
    image: bytes
    signed: SignedManifest | None = None
    is_approved: bool = False
    """Whether its owners have handed in their approvals; nobody may have it before."""
    final_s: float | None = None
    final: trio.Event = field(default_factory=trio.Event)
    revoked_s: float | None = None
    finished_s: dict[str, float] = field(default_factory=dict)
    kept_until_s: float = 0.0

    @property
    def digest(self) -> Digest:
        return Digest(hashlib.sha256(self.image).digest())


class _Run:
    """One run, from the moment when all daemons listen."""

    def __init__(
        self, scenario: Scenario, seed: int, swarm: DaemonSwarm, links: dict[str, DaemonLink]
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._swarm = swarm
        self._links = links
        self._zero_s = trio.current_time()
        self._chance = random.Random(f"faults {seed}")  # noqa: S311 - replayed by seed
        self._releases = [
            _Progress(plan, image)
            for plan, image in zip(scenario.releases, _images(scenario, seed), strict=True)
        ]
        self._samples: list[Sample] = []
        self._unauthorised_s: list[float] = []
        self._heal_s: float | None = None
        self._goal: int | None = None
        self._open_steps = 0

    @property
    def _now(self) -> float:
        return trio.current_time() - self._zero_s

    async def run(self) -> Outcome:
        async with trio.open_nursery() as nursery:
            for release in self._releases:
                self._schedule(nursery, release.plan.publish_s, partial(self._publish, release))
                if release.plan.revoke_s is not None:
                    self._schedule(nursery, release.plan.revoke_s, partial(self._revoke, release))
            for fault in self._scenario.faults:
                self._plan_fault(nursery, fault)
            while self._now < self._scenario.duration_s:
                await trio.sleep(STEP_S)
                self._look()
                if self._is_done():
                    break
            nursery.cancel_scope.cancel()
        return self._outcome()

    def _schedule(
        self, nursery: trio.Nursery, at_s: float, step: Callable[[], Awaitable[None]]
    ) -> None:
        async def later() -> None:
            await trio.sleep_until(self._zero_s + at_s)
            await step()
            self._open_steps -= 1

        self._open_steps += 1
        nursery.start_soon(later)

    # What happens --------------------------------------------------------------------------------

    async def _publish(self, release: _Progress) -> None:
        version = f"1.{self._releases.index(release)}"
        release.signed = await self._swarm.propose(release.image, version=version)
        release.is_approved = True
        await self._swarm.approve(release.signed)
        release.final_s = self._now
        release.final.set()

    async def _revoke(self, release: _Progress) -> None:
        await release.final.wait()
        assert release.signed is not None, "what is final was proposed"
        await self._swarm.revoke(release.signed)
        release.revoked_s = self._now

    def _plan_fault(self, nursery: trio.Nursery, fault: Fault) -> None:
        away = self._draw(fault)
        match fault.kind:
            case FaultKind.CRASH:
                self._schedule(nursery, fault.start_s, partial(self._swarm.crash, *away))
                if fault.end_s is not None:
                    self._schedule(nursery, fault.end_s, partial(self._swarm.start, *away))
            case FaultKind.CHURN:
                self._plan_churn(nursery, fault, away)
            case _:
                begin = partial(self._disturb, fault, away)
                self._schedule(nursery, fault.start_s, begin)
                if fault.end_s is not None:
                    self._schedule(nursery, fault.end_s, self._calm)

    def _draw(self, fault: Fault) -> list[str]:
        """The nodes that a fault concerns, the publisher never."""
        drawn: list[str] = []
        for target, names in (
            (Target.GATEWAYS, self._swarm.gateways),
            (Target.VALIDATORS, self._swarm.validators),
        ):
            if fault.target in (target, Target.ALL):
                chosen = self._chance.sample(range(len(names)), round(fault.share * len(names)))
                drawn += [names[number] for number in sorted(chosen)]
        return drawn

    def _plan_churn(self, nursery: trio.Nursery, fault: Fault, away: Sequence[str]) -> None:
        assert fault.end_s is not None, "scenarios are checked"
        latest_s = max(fault.start_s, fault.end_s - fault.away_s)
        for name in away:
            start_s = self._chance.uniform(fault.start_s, latest_s)
            back_s = min(start_s + fault.away_s, fault.end_s)
            self._schedule(nursery, start_s, partial(self._swarm.crash, name))
            self._schedule(nursery, back_s, partial(self._swarm.start, name))

    async def _disturb(self, fault: Fault, away: Sequence[str]) -> None:
        await trio.lowlevel.checkpoint()
        network = self._swarm.network
        if fault.kind is FaultKind.LOSS:
            for name, link in self._links.items():
                network.set_link(name, replace(link, loss=fault.loss))
            return
        rest = [name for name in self._swarm.names if name not in away]
        if fault.kind is FaultKind.ONE_WAY:
            network.cut(away, rest)
        else:
            network.partition(away, rest)

    async def _calm(self) -> None:
        await trio.lowlevel.checkpoint()
        self._swarm.network.heal()
        for name, link in self._links.items():
            self._swarm.network.set_link(name, link)

    # Observing -----------------------------------------------------------------------------------

    def _present(self) -> list[str]:
        return [name for name in self._swarm.gateways if name in self._swarm.running]

    def _look(self) -> None:
        now, swarm = self._now, self._swarm
        by_digest = {release.digest: release for release in self._releases}
        for name in self._present():
            for image in swarm.complete_images(name):
                release = by_digest[image]
                if not release.is_approved:
                    self._unauthorised_s.append(now)
                if release.revoked_s is not None:
                    release.kept_until_s = now
                release.finished_s.setdefault(name, now)
        self._look_at_progress(now)
        sent = swarm.network.sent_by
        self._samples.append(
            Sample(
                time_s=now,
                complete=sum(len(release.finished_s) for release in self._releases),
                height=max((final.height for final in swarm.finals), default=0),
                seeder_bytes=sent(PUBLISHER),
                gateway_bytes=sum(sent(name) for name in swarm.gateways),
                adversary_bytes=0,
                bad_bytes=0,
                seeder_use=0.0,
                gateway_use=0.0,
            )
        )

    def _look_at_progress(self, now: float) -> None:
        healed = healed_s(self._scenario)
        if healed is None or self._heal_s is not None or now < healed:
            return
        swarm = self._swarm
        if self._goal is None:
            self._goal = max((final.height for final in swarm.finals), default=0) + PROGRESS_BLOCKS
        up = [name for name in swarm.validators if name in swarm.running]
        if all(swarm.height(name) >= self._goal for name in up):
            self._heal_s = now - healed

    def _is_done(self) -> bool:
        if self._open_steps:
            return False
        if healed_s(self._scenario) is not None and self._heal_s is None:
            return False
        present = self._present()
        for release in self._releases:
            if release.plan.revoke_s is None:
                if not all(name in release.finished_s for name in present):
                    return False
            elif self._kept(release):
                return False
        return True

    def _kept(self, release: _Progress) -> bool:
        return any(release.digest in self._swarm.complete_images(name) for name in self._present())

    # Judging -------------------------------------------------------------------------------------

    def _outcome(self) -> Outcome:
        scenario, swarm = self._scenario, self._swarm
        return Outcome(
            scenario=scenario.name,
            summary=scenario.summary,
            seed=self._seed,
            nodes=scenario.gateways.count,
            validators=scenario.validators.count,
            adversaries=(),
            expected_to_break=(),
            verdicts=tuple(self._verdicts()),
            releases=tuple(self._figures(release) for release in self._releases),
            simulated_s=self._now,
            height=max((final.height for final in swarm.finals), default=0),
            event_count=swarm.network.event_count,
            trace_hash=swarm.network.trace_hash,
            samples=tuple(self._samples),
            frames=(),
        )

    def _verdicts(self) -> list[Verdict]:
        expect, swarm = self._scenario.expect, self._swarm
        found = [
            self._never("agreement", [self._now] * len(swarm.disagreements())),
            self._never("authorised-only", self._unauthorised_s),
            self._never("blame", [self._now] * swarm.offences()),
        ]
        waits = [
            math.inf if release.final_s is None else release.final_s - release.plan.publish_s
            for release in self._releases
        ]
        found += self._at_most("finality", expect.finality_s, max(waits), "s")
        if healed_s(self._scenario) is not None:
            taken = math.inf if self._heal_s is None else self._heal_s
            found += self._at_most("liveness", expect.heal_s, taken, "s")
        found += self._completeness()
        revoked = [release for release in self._releases if release.plan.revoke_s is not None]
        if revoked:
            healed = healed_s(self._scenario) or 0.0
            taken = max(
                math.inf
                if release.revoked_s is None
                else max(release.kept_until_s - max(release.revoked_s, healed), 0.0)
                for release in revoked
            )
            found += self._at_most("revocation", expect.revocation_s, taken, "s")
        size = sum(len(release.image) for release in self._releases)
        images = swarm.network.sent_by(PUBLISHER) / size
        return [*found, *self._at_most("seeder-images", expect.seeder_images, images, "")]

    def _completeness(self) -> list[Verdict]:
        expect, present = self._scenario.expect, self._present()
        in_force = [release for release in self._releases if release.plan.revoke_s is None]
        found: list[Verdict] = []
        if expect.complete is not None and in_force:
            ready = sum(all(name in release.finished_s for release in in_force) for name in present)
            share = ready / len(present) if present else 1.0
            failed = self._now if share < expect.complete else None
            found.append(
                Verdict(
                    name="complete",
                    bound=expect.complete,
                    measured=share,
                    is_minimum=True,
                    failed_s=failed,
                )
            )
        for name, limit, share in (
            ("makespan-p50", expect.makespan_p50, 0.5),
            ("makespan-p99", expect.makespan_p99, 0.99),
            ("makespan-max", expect.makespan_max, 1.0),
        ):
            taken = [self._makespan(release, share, len(present)) for release in in_force]
            found += self._at_most(name, limit, max(taken, default=0.0), "bounds")
        return found

    def _makespan(self, release: _Progress, share: float, count: int) -> float:
        """Time within which a share of the gateways finished, in fluid bounds."""
        figures = self._figures(release)
        needed = max(math.ceil(share * count - 1e-9), 1)
        if needed > len(figures.finished_s):
            return math.inf
        return figures.finished_s[needed - 1] / figures.bound_s

    def _figures(self, release: _Progress) -> ReleaseFigures:
        final = release.final_s
        times = [] if final is None else release.finished_s.values()
        size = len(release.image)
        if release is not self._releases[0]:
            size = max(round(size * release.plan.changed), 1)
        return ReleaseFigures(
            name=release.plan.name or f"release {self._releases.index(release) + 1}",
            manifest="" if release.signed is None else release.signed.manifest_id.hex(),
            is_authorised=True,
            published_s=release.plan.publish_s,
            final_s=final,
            revoked_s=release.revoked_s,
            bound_s=fluid_bound_s(
                size,
                [_plain(self._links[PUBLISHER])],
                [_plain(self._links[name]) for name in self._swarm.gateways],
            ),
            finished_s=tuple(sorted(max(time - (final or 0.0), 0.0) for time in times)),
        )

    def _never(self, name: str, times: Sequence[float]) -> Verdict:
        return Verdict(
            name=name, bound=0, measured=float(len(times)), failed_s=min(times, default=None)
        )

    def _at_most(self, name: str, limit: float | None, measured: float, unit: str) -> list[Verdict]:
        if limit is None:
            return []
        return [
            Verdict(
                name=name,
                bound=limit,
                measured=measured if math.isfinite(measured) else None,
                unit=unit,
                failed_s=None if measured <= limit else self._now,
            )
        ]


def _plain(link: DaemonLink) -> NodeLink:
    return NodeLink(
        uplink_bytes_per_s=link.uplink_bytes_per_s, downlink_bytes_per_s=link.downlink_bytes_per_s
    )


def _images(scenario: Scenario, seed: int) -> list[bytes]:
    """One image for each release; a part of each differs from the one before."""
    chance = random.Random(f"images {seed}")  # noqa: S311 - replayed by seed
    size = scenario.image.size_kib * KIB
    images = [chance.randbytes(size)]
    for plan in scenario.releases[1:]:
        changed = min(max(round(plan.changed * size), 1), size)
        start = chance.randrange(size - changed + 1)
        before = images[-1]
        images.append(before[:start] + chance.randbytes(changed) + before[start + changed :])
    return images
