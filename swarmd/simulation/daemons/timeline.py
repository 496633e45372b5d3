"""Drives daemons through a scenario: releases, revocations and faults at their times, and looks.

Time is trio's: simulated where the event loop's clock is, real elsewhere. Who is hit by a fault and
what images contain comes from the seed.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from protocol.digest import Digest, ManifestId
from protocol.limits import KIB
from swarmd.simulation.daemons.outside import PUBLISHER, OutsideSwarm, View
from swarmd.simulation.scenario import Fault, FaultKind, LinkClass, ReleasePlan, Scenario, Target
from swarmd.simulation.swarm import PROGRESS_BLOCKS, OnStep
from swarmd.simulation.swarm_build import healed_s
from swarmd.simulation.swarm_outcome import Sample


@dataclass
class ReleaseProgress:
    """One release on its way; seconds since the scenario began."""

    plan: ReleasePlan
    """What the scenario says."""
    image: bytes
    """What is distributed."""
    manifest: ManifestId | None = None
    """Its id, once proposed."""
    is_approved: bool = False
    """Whether its owners have handed in their approvals; nobody may have it before."""
    final_s: float | None = None
    """When its authorisation was final."""
    final: trio.Event = field(default_factory=trio.Event)
    """Set then."""
    revoked_s: float | None = None
    """When its revocation was final."""
    finished_s: dict[str, float] = field(default_factory=dict)
    """When each gateway was first seen with it."""
    kept_until_s: float = 0.0
    """When a gateway was last seen with it after its revocation."""

    @property
    def digest(self) -> Digest:
        """Digest of the image."""
        return Digest(hashlib.sha256(self.image).digest())


@dataclass
class Record:
    """What was seen of a run."""

    scenario: Scenario
    """What was to happen."""
    seed: int
    """Decided who and what."""
    releases: list[ReleaseProgress]
    """In the order of the scenario."""
    view: View
    """The last look."""
    ended_s: float = 0.0
    """When the run ended."""
    height: int = 0
    """The greatest height seen."""
    samples: list[Sample] = field(default_factory=list)
    """One of each look."""
    unauthorised_s: list[float] = field(default_factory=list)
    """Moments at which a gateway had an image that nobody had approved."""
    heal_s: float | None = None
    """From the end of the last fault until the chain went on."""
    full: dict[str, None] = field(default_factory=dict)
    """Gateways whose disks are full now."""
    lost_s: list[float] = field(default_factory=list)
    """Looks at which a gateway lacked what it had held, and that nothing newer replaced."""
    zero_s: float = 0.0
    """When it began, on the event loop's clock."""

    def finished_s(
        self, release: ReleaseProgress, completions: Mapping[tuple[str, str], float]
    ) -> dict[str, float]:
        """When each gateway had a release: by what is known exactly, else when it was seen.

        Args:
            release: one of this run.
            completions: as `Findings` has them.
        """
        version = version_of(self.releases.index(release))
        return {
            name: min(completions.get((name, version), math.inf) - self.zero_s, seen_s)
            for name, seen_s in release.finished_s.items()
        }


class Timeline:
    """One run, from the moment when all daemons listen."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        swarm: OutsideSwarm,
        *,
        on_step: OnStep | None = None,
    ) -> None:
        """Begins now.

        Args:
            scenario: what happens.
            seed: decides images and whom faults befall.
            swarm: its nodes run.
            on_step: told seconds and the part of the scenario's duration, after each look.
        """
        self._on_step = on_step
        self._scenario = scenario
        self._swarm = swarm
        self._zero_s = trio.current_time()
        self._chance = random.Random(f"faults {seed}")  # noqa: S311 - replayed by seed
        images = draw_images(scenario, seed)
        empty = View(heights={}, complete={}, seeder_bytes=0, gateway_bytes=0)
        plans = zip(scenario.releases, images, strict=True)
        self._record = Record(
            scenario, seed, [ReleaseProgress(plan, image) for plan, image in plans], empty
        )
        self._record.zero_s = self._zero_s
        self._goal: int | None = None
        self._open_steps = 0
        self._proposing = trio.Lock()

    @property
    def _now(self) -> float:
        return trio.current_time() - self._zero_s

    async def run(self) -> Record:
        """Goes through the scenario; ends when nothing is awaited any more, or at its end.

        Raises:
            TransportError: a node ended by itself, or did not start.
        """
        record = self._record
        async with trio.open_nursery() as nursery:
            for release in record.releases:
                self._schedule(nursery, release.plan.publish_s, partial(self._publish, release))
                if release.plan.revoke_s is not None:
                    self._schedule(nursery, release.plan.revoke_s, partial(self._revoke, release))
            for fault in self._scenario.faults:
                self._plan_fault(nursery, fault)
            while self._now < self._scenario.duration_s:
                await trio.sleep(self._swarm.look_s)
                self._note(await self._swarm.look())
                if self._on_step is not None:
                    self._on_step(self._now, self._now / self._scenario.duration_s)
                if self._is_done():
                    break
            nursery.cancel_scope.cancel()
        record.ended_s = self._now
        return record

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

    async def _publish(self, release: ReleaseProgress) -> None:
        version = version_of(self._record.releases.index(release))
        # A publisher numbers its releases by those authorised: one after the other.
        async with self._proposing:
            release.manifest = await self._swarm.propose(release.image, version=version)
            release.is_approved = True
            await self._swarm.approve(release.manifest)
        release.final_s = self._now
        release.final.set()

    async def _revoke(self, release: ReleaseProgress) -> None:
        await release.final.wait()
        assert release.manifest is not None, "what is final was proposed"
        await self._swarm.revoke(release.manifest)
        release.revoked_s = self._now

    def _plan_fault(self, nursery: trio.Nursery, fault: Fault) -> None:
        away = self._draw(fault)
        match fault.kind:
            case FaultKind.CRASH:
                self._schedule(nursery, fault.start_s, partial(self._crash, *away))
                if fault.end_s is not None:
                    self._schedule(nursery, fault.end_s, partial(self._start, *away))
            case FaultKind.CHURN:
                self._plan_churn(nursery, fault, away)
            case FaultKind.SLOW_DISK | FaultKind.FULL_DISK:
                self._schedule(nursery, fault.start_s, partial(self._trouble, fault, away))
                if fault.end_s is not None:
                    self._schedule(nursery, fault.end_s, partial(self._relieve, fault, away))
            case _:
                begin = partial(self._swarm.disturb, fault, away)
                self._schedule(nursery, fault.start_s, begin)
                if fault.end_s is not None:
                    self._schedule(nursery, fault.end_s, self._swarm.calm)

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
            self._schedule(nursery, start_s, partial(self._crash, name))
            self._schedule(nursery, back_s, partial(self._start, name))

    async def _trouble(self, fault: Fault, names: Sequence[str]) -> None:
        await self._swarm.trouble(fault, names)
        if fault.kind is FaultKind.FULL_DISK:
            self._record.full |= dict.fromkeys(names)

    async def _relieve(self, fault: Fault, names: Sequence[str]) -> None:
        await self._swarm.relieve(fault, names)
        if fault.kind is FaultKind.FULL_DISK:
            for name in names:
                self._record.full.pop(name, None)

    async def _crash(self, *names: str) -> None:
        """Ends those that run: faults may overlap, and a small share may be nobody."""
        up = [name for name in names if name in self._swarm.running]
        if up:
            await self._swarm.crash(*up)

    async def _start(self, *names: str) -> None:
        down = [name for name in names if name not in self._swarm.running]
        if down:
            await self._swarm.start(*down)

    # Observing -----------------------------------------------------------------------------------

    def _note(self, view: View) -> None:
        now, record = self._now, self._record
        record.view = view
        record.height = max(record.height, *view.heights.values(), 0)
        by_digest = {release.digest: release for release in record.releases}
        for name, images in view.complete.items():
            for image in images:
                release = by_digest.get(image)
                if release is None or not release.is_approved:
                    record.unauthorised_s.append(now)
                if release is None:
                    continue
                if release.revoked_s is not None:
                    release.kept_until_s = now
                release.finished_s.setdefault(name, now)
        self._note_losses(now)
        self._note_progress(now)
        record.samples.append(
            Sample(
                time_s=now,
                complete=sum(len(release.finished_s) for release in record.releases),
                height=record.height,
                seeder_bytes=view.seeder_bytes,
                gateway_bytes=view.gateway_bytes,
                adversary_bytes=view.adversary_bytes,
                bad_bytes=0,
                seeder_use=0.0,
                gateway_use=0.0,
            )
        )

    def _note_losses(self, now: float) -> None:
        """The newest release in force that a gateway had, it still has (SI42a)."""
        lasting = [each for each in self._record.releases if each.plan.revoke_s is None]
        for name, images in self._record.view.complete.items():
            had = [release for release in lasting if name in release.finished_s]
            if had and had[-1].digest not in images:
                self._record.lost_s.append(now)

    def _note_progress(self, now: float) -> None:
        healed, record = healed_s(self._scenario), self._record
        if healed is None or record.heal_s is not None or now < healed:
            return
        if self._goal is None:
            self._goal = record.height + PROGRESS_BLOCKS
        heights = record.view.heights
        up = [name for name in self._swarm.validators if name in self._swarm.running]
        if all(heights.get(name, 0) >= self._goal for name in up):
            record.heal_s = now - healed

    def _is_done(self) -> bool:
        record = self._record
        if self._open_steps:
            return False
        if healed_s(self._scenario) is not None and record.heal_s is None:
            return False
        complete = record.view.complete
        for release in record.releases:
            if release.plan.revoke_s is None:
                awaited = [name for name in complete if name not in record.full]
                if not all(name in release.finished_s for name in awaited):
                    return False
            elif any(release.digest in images for images in complete.values()):
                return False
        return True


def version_of(number: int) -> str:
    """What the image of a release is called, by its place in the scenario."""
    return f"1.{number}"


def draw_links(scenario: Scenario, seed: int) -> dict[str, LinkClass]:
    """The link of the publisher and of every gateway, as machines' swarms draw them."""
    classes, count = scenario.links, scenario.gateways.count
    first = next(iter(classes.values()))
    drawn: list[LinkClass] = []
    for each in list(classes.values())[1:]:
        drawn += [each] * min(round(each.share * count), count - len(drawn))
    drawn += [first] * (count - len(drawn))
    random.Random(f"links {seed}").shuffle(drawn)  # noqa: S311 - replayed by seed
    origin = classes[scenario.seeders.link] if scenario.seeders.link else first
    return {PUBLISHER: origin, **{f"gateway-{n + 1}": each for n, each in enumerate(drawn)}}


def draw_skews(scenario: Scenario, seed: int) -> dict[str, int]:
    """By how much wall clocks are ahead, milliseconds; the publisher's and right ones are left out.

    Validators first, so that clocks of gateways change no validator's.
    """
    chance = random.Random(f"clocks {seed}")  # noqa: S311 - replayed by seed
    skews: dict[str, int] = {}
    for kind, section in (("validator", scenario.validators), ("gateway", scenario.gateways)):
        for number in range(1, section.count + 1):
            skews[f"{kind}-{number}"] = chance.randint(-section.skew_ms, section.skew_ms)
    return {name: skew_ms for name, skew_ms in skews.items() if skew_ms}


def of_one_end(probability: float) -> float:
    """What may happen at each of two ends so that something happens to a packet at all."""
    return float(1 - (1 - probability) ** 0.5)


def draw_images(scenario: Scenario, seed: int) -> list[bytes]:
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
