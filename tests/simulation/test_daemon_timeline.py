"""The driver of scenarios and its judge, over a swarm that does what a test says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protocol.digest import Digest, ManifestId, sha256
from swarmd.simulation.daemons.judgement import judge
from swarmd.simulation.daemons.outside import PUBLISHER, Findings, View
from swarmd.simulation.daemons.timeline import Timeline, draw_images
from swarmd.simulation.links import NodeLink
from swarmd.simulation.scenario import (
    Expectations,
    Fault,
    FaultKind,
    Gateways,
    Image,
    ReleasePlan,
    Scenario,
    Target,
)
from swarmd.simulation.swarm_outcome import Outcome

SCENARIO = Scenario(
    name="driven",
    duration_s=30.0,
    gateways=Gateways(count=4),
    image=Image(size_kib=1),
    expect=Expectations(makespan_p50=100.0, makespan_max=100.0, seeder_images=2.0),
)
LINK = NodeLink(uplink_bytes_per_s=1e6, downlink_bytes_per_s=1e6)
FINDINGS = Findings(seeder_bytes=1024, disagreements=0, offences=0)


@dataclass
class FakeSwarm:
    """Gateways have what `holds` says; a validator has a block a second unless it is down."""

    holds: Callable[[FakeSwarm, str], Collection[Digest]] = lambda swarm, _: swarm.approved
    findings: Findings = FINDINGS
    has_links: bool = True
    is_stuck: bool = False
    look_s: float = 0.25
    adversaries: Sequence[tuple[str, int]] = ()
    approved: list[Digest] = field(default_factory=list)
    done: list[tuple[str, object]] = field(default_factory=list)
    full: set[str] = field(default_factory=set)
    validators = ("validator-1", "validator-2", "validator-3", "validator-4")
    gateways = ("gateway-1", "gateway-2", "gateway-3", "gateway-4")

    def __post_init__(self) -> None:
        self.running: list[str] = [*self.validators, PUBLISHER, *self.gateways]
        self._images: dict[ManifestId, Digest] = {}

    @property
    def links(self) -> Mapping[str, NodeLink] | None:
        names = (PUBLISHER, *self.gateways)
        return dict.fromkeys(names, LINK) if self.has_links else None

    def _note(self, *what: object) -> None:
        self.done.append((f"{trio.current_time():.2f}", what))

    async def start(self, *names: str) -> None:
        self._note("start", *names)
        self.running += names

    async def crash(self, *names: str) -> None:
        self._note("crash", *names)
        for name in names:
            self.running.remove(name)

    async def disturb(self, fault: Fault, away: Sequence[str]) -> None:
        self._note(fault.kind.value, *away)

    async def calm(self) -> None:
        self._note("calm")

    async def trouble(self, fault: Fault, names: Sequence[str]) -> None:
        self._note(fault.kind.value, *names)
        self.full |= set(names)

    async def relieve(self, fault: Fault, names: Sequence[str]) -> None:
        self._note(f"no more {fault.kind.value}", *names)
        self.full -= set(names)

    async def propose(self, image: bytes, *, version: str) -> ManifestId:
        self._note("propose", version)
        manifest = ManifestId(sha256(version.encode()))
        self._images[manifest] = sha256(image)
        await trio.sleep(0.5)
        return manifest

    async def approve(self, manifest: ManifestId) -> None:
        if self.is_stuck:
            await trio.sleep_forever()
        await trio.sleep(0.5)
        self.approved.append(self._images[manifest])

    async def revoke(self, manifest: ManifestId) -> None:
        await trio.sleep(0.5)
        self.approved.remove(self._images[manifest])

    async def look(self) -> View:
        await trio.lowlevel.checkpoint()
        return View(
            heights=dict.fromkeys(
                (name for name in self.validators if name in self.running),
                0 if self.is_stuck else int(trio.current_time()),
            ),
            complete={
                name: tuple(self.holds(self, name))
                for name in self.gateways
                if name in self.running
            },
            seeder_bytes=10,
            gateway_bytes=20,
        )

    async def find(self) -> Findings:
        await trio.lowlevel.checkpoint()
        return self.findings


def run(swarm: FakeSwarm, scenario: Scenario = SCENARIO) -> Outcome:
    async def drive() -> Outcome:
        record = await Timeline(scenario, 1, swarm).run()
        return judge(record, swarm, await swarm.find(), level="fake")

    return trio.run(drive, clock=MockClock(autojump_threshold=0))


def failures(outcome: Outcome) -> set[str]:
    return {verdict.name for verdict in outcome.failures}


def test_a_good_run_ends_when_nothing_is_awaited_any_more() -> None:
    outcome = run(FakeSwarm())
    assert outcome.passed, outcome.explain()
    assert 2.0 <= outcome.simulated_s <= 2.25
    assert outcome.verdict("finality").measured == pytest.approx(1.0)
    (release,) = outcome.releases
    assert len(release.finished_s) == 4
    assert max(release.finished_s) <= 0.25
    assert outcome.level == "fake"


def test_a_run_tells_how_far_it_is() -> None:
    steps: list[tuple[float, float]] = []

    async def drive() -> None:
        timeline = Timeline(SCENARIO, 1, FakeSwarm(), on_step=lambda *step: steps.append(step))
        await timeline.run()

    trio.run(drive, clock=MockClock(autojump_threshold=0))
    assert steps[0] == pytest.approx((0.25, 0.25 / 30))
    assert steps == sorted(steps)


def test_what_nobody_approved_is_seen_whatever_it_is() -> None:
    (image,) = draw_images(SCENARIO, 1)
    early = run(FakeSwarm(lambda _, __: [sha256(image)]))
    assert failures(early) == {"authorised-only"}
    foreign = run(FakeSwarm(lambda swarm, _: [*swarm.approved, sha256(b"foreign")]))
    assert failures(foreign) == {"authorised-only"}


def test_one_gateway_that_never_gets_it_breaks_completeness_and_the_last_makespan() -> None:
    outcome = run(FakeSwarm(lambda swarm, name: swarm.approved if name != "gateway-3" else ()))
    assert failures(outcome) == {"complete", "makespan-max"}
    assert outcome.verdict("complete").measured == 0.75
    assert outcome.simulated_s == pytest.approx(30.0)


def test_one_gateway_that_keeps_a_revoked_image_breaks_the_revocation() -> None:
    scenario = replace(
        SCENARIO, releases=(ReleasePlan(publish_s=1.0, revoke_s=5.0), ReleasePlan(publish_s=6.0))
    )
    kept: list[Digest] = []

    def hold(swarm: FakeSwarm, name: str) -> Collection[Digest]:
        kept.extend(image for image in swarm.approved if image not in kept)
        return kept if name == "gateway-2" else swarm.approved

    assert failures(run(FakeSwarm(), scenario)) == set()
    outcome = run(FakeSwarm(hold), scenario)
    assert failures(outcome) == {"revocation"}
    assert outcome.verdict("revocation").measured == pytest.approx(30.0 - 5.5, abs=0.5)


def test_what_is_never_final_is_never_complete() -> None:
    outcome = run(FakeSwarm(is_stuck=True))
    assert {"finality", "complete"} <= failures(outcome)
    assert outcome.verdict("finality").measured is None


def test_faults_befall_as_many_as_they_say_and_end() -> None:
    faults = (
        Fault(kind=FaultKind.CRASH, target=Target.VALIDATORS, share=0.25, start_s=2, end_s=4),
        Fault(kind=FaultKind.ONE_WAY, share=0.5, start_s=3, end_s=5),
        Fault(kind=FaultKind.CHURN, share=1.0, start_s=6, end_s=12, away_s=1.5),
    )
    swarm = FakeSwarm()
    outcome = run(swarm, replace(SCENARIO, faults=faults))
    assert outcome.passed, outcome.explain()
    first = [what for _, what in swarm.done if isinstance(what, tuple)][1:5]
    assert [what[0] for what in first] == ["crash", "one-way", "start", "calm"]
    assert first[0][1] == first[2][1]
    assert len(first[1]) == 3
    rest = [what for _, what in swarm.done][5:]
    assert sorted(str(what) for what in rest) == sorted(
        f"('{verb}', 'gateway-{n}')" for verb in ("crash", "start") for n in (1, 2, 3, 4)
    )
    assert outcome.verdict("liveness").measured is not None


def test_a_share_that_is_nobody_and_faults_that_overlap_are_harmless() -> None:
    nobody = Fault(kind=FaultKind.CRASH, share=0.1, start_s=1, end_s=2)
    swarm = FakeSwarm()
    assert run(swarm, replace(SCENARIO, faults=(nobody,))).passed
    assert [what for _, what in swarm.done] == [("propose", "1.0")]
    twice = Fault(kind=FaultKind.CRASH, share=1.0, start_s=2, end_s=4)
    swarm = FakeSwarm()
    outcome = run(swarm, replace(SCENARIO, faults=(twice, replace(twice, start_s=3, end_s=5))))
    assert failures(outcome) == {"makespan-p50", "makespan-max"}, "two seconds away are many bounds"
    assert [what[0] for _, what in swarm.done if isinstance(what, tuple)] == [
        "propose",
        "crash",
        "start",
    ]


def test_a_chain_that_stops_after_a_fault_breaks_liveness() -> None:
    faults = (Fault(kind=FaultKind.PARTITION, start_s=2, end_s=4),)
    outcome = run(FakeSwarm(is_stuck=True), replace(SCENARIO, faults=faults))
    assert "liveness" in failures(outcome)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"disagreements": 1}, "agreement"),
        ({"offences": 2}, "blame"),
        ({"spoilt": 1}, "nothing-bad-kept"),
        ({"seeder_bytes": 2049}, "seeder-images"),
    ],
)
def test_what_is_found_at_the_end_breaks_its_verdict(change: dict[str, Any], name: str) -> None:
    outcome = run(FakeSwarm(findings=replace(FINDINGS, **change)))
    assert failures(outcome) == {name}


def test_without_links_no_makespan_is_judged_and_no_bound_is_known() -> None:
    outcome = run(FakeSwarm(has_links=False))
    assert not any(verdict.name.startswith("makespan") for verdict in outcome.verdicts)
    document = outcome.document()
    assert isinstance(document["releases"], list)
    assert document["releases"][0]["bound_s"] is None


# Disks -------------------------------------------------------------------------------------------

UPGRADE = replace(
    SCENARIO,
    releases=(ReleasePlan(publish_s=1.0), ReleasePlan(publish_s=5.0)),
    expect=Expectations(),
)
FULL = Fault(kind=FaultKind.FULL_DISK, share=0.5, start_s=3.0)


def _without_room(swarm: FakeSwarm, name: str) -> Collection[Digest]:
    """Gateways with full disks have the first image only."""
    return swarm.approved[:1] if name in swarm.full else swarm.approved


def test_who_has_no_room_is_not_awaited_and_not_counted() -> None:
    outcome = run(FakeSwarm(_without_room), replace(UPGRADE, faults=(FULL,)))
    assert outcome.passed, outcome.explain()
    assert outcome.simulated_s < 10
    assert [len(release.finished_s) for release in outcome.releases] == [4, 2]


def test_who_has_room_again_is_awaited() -> None:
    swarm = FakeSwarm(_without_room)
    outcome = run(swarm, replace(UPGRADE, faults=(replace(FULL, end_s=20.0),)))
    assert outcome.passed, outcome.explain()
    assert [len(release.finished_s) for release in outcome.releases] == [4, 4]
    troubles = [what for what in swarm.done if "full-disk" in str(what)]
    assert [time for time, _ in troubles] == ["3.00", "20.00"]
    lazy = FakeSwarm(lambda swarm, name: swarm.approved[: 1 + (name != "gateway-1")])
    outcome = run(lazy, replace(UPGRADE, faults=(replace(FULL, share=1.0, end_s=20.0),)))
    assert failures(outcome) == {"complete"}


def test_who_throws_away_what_it_has_to_make_room_is_caught() -> None:
    def greedy(swarm: FakeSwarm, name: str) -> Collection[Digest]:
        return () if name in swarm.full else swarm.approved

    outcome = run(FakeSwarm(greedy), replace(UPGRADE, faults=(FULL,)))
    assert failures(outcome) == {"nothing-lost"}


def test_what_is_newer_or_revoked_is_no_loss() -> None:
    newest = FakeSwarm(lambda swarm, _: swarm.approved[-1:])
    assert run(newest, UPGRADE).passed
    plans = (ReleasePlan(publish_s=1.0, revoke_s=5.0),)
    outcome = run(FakeSwarm(), replace(UPGRADE, releases=plans))
    assert outcome.verdict("nothing-lost").passed
