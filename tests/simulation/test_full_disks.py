"""Full and slow disks among machines: who runs out of room, what stays, who is waited for."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import ConfigError
from protocol.exchange_events import ChunksStored, WriteChunks
from protocol.limits import KIB
from swarmd.simulation.disk_room import DiskRoom
from swarmd.simulation.scenario import Fault, FaultKind, Gateways, Image, Scenario, Takes, Target
from swarmd.simulation.scenario_file import load_scenario, override, parse_scenario
from swarmd.simulation.swarm import Swarm, run_scenario
from swarmd.simulation.swarm_disk import GatewayDisk, RoomHost
from swarmd.simulation.transfer_part import ImagePart

UPGRADE = Scenario(
    name="upgrade",
    duration_s=90.0,
    gateways=Gateways(count=4, poll_s=1.0),
    image=Image(size_kib=256),
)
RELEASES = [{"publish_s": 1.0}, {"publish_s": 5.0}]
FULL = {"kind": "full-disk", "share": 0.5, "start_s": 4.0, "end_s": 12.0}
SUDDEN = {**FULL, "start_s": 5.9, "takes": "promised", "free_kib": 64}
THIN = {"thin": {"up_mbit": 4, "down_mbit": 8}}
"""Links on which the second release is under way when `SUDDEN` comes."""


def upgrade(*faults: dict[str, Any], **tables: Any) -> Scenario:
    tables = {"releases": RELEASES, **tables}
    return override(UPGRADE, {"faults": list(faults), **tables})


# Room --------------------------------------------------------------------------------------------


def test_a_disk_that_keeps_promises_refuses_images_and_one_that_does_not_writes() -> None:
    room = DiskRoom()
    assert (room.is_full, room.left_bytes, room.is_promising) == (False, None, True)
    assert room.allocate(1 << 40)
    room.fill(100, Takes.FREE)
    assert not room.allocate(101)
    assert room.allocate(60)
    assert (room.left_bytes, room.fits(1000), room.write(1000)) == (40, True, 1000)
    room.free(60)
    assert room.left_bytes == 100
    room.fill(100, Takes.PROMISED)
    assert not room.is_promising
    assert room.allocate(100)
    assert (room.write(70), room.fits(31), room.fits(30)) == (70, False, True)
    assert (room.write(70), room.write(70), room.left_bytes) == (30, 0, 0)
    room.clear()
    assert (room.is_full, room.write(70)) == (False, 70)


def test_an_image_is_given_room_once_and_gives_it_back() -> None:
    swarm = Swarm(UPGRADE, 1)
    name = swarm.parts.releases[0].manifest_id
    disk = GatewayDisk()
    disk.room.fill(100, Takes.FREE)
    assert disk.allocate(name, 0, 80)
    assert disk.allocate(name, 0, 80), "it has it"
    assert not disk.allocate(name, 1, 80)
    disk.delete(name)
    assert disk.allocate(name, 1, 80)


# Scenarios ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind = 'full-disk'\nfree_kib = -1", r"faults\[0\].free_kib: -1, allowed 0 to"),
        ("kind = 'full-disk'\nfree_kib = 1.5", r"faults\[0\].free_kib: expected a whole number"),
        ("kind = 'full-disk'\ntakes = 'all'", r"faults\[0\].takes: 'all', expected one of free"),
        ("kind = 'full-disk'\nfree_mib = 1", r"faults\[0\].free_mib: unknown key; did you mean"),
        ("kind = 'full-disk'\ntarget = 'validators'", r"faults\[0\].target: full-disk concerns"),
        ("kind = 'full-disk'\nstart_s = 2\nend_s = 2", r"faults\[0\].end_s: 2, not after"),
        ("kind = 'slow-disk'\nfree_kib = 1", r"faults\[0\].free_kib: slow-disk fills no disk"),
        ("kind = 'crash'\ntakes = 'promised'", r"faults\[0\].takes: crash fills no disk"),
    ],
)
def test_disks_that_cannot_be_are_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_scenario(f"[[faults]]\n{text}", "mine")


def test_disks_are_read_from_files() -> None:
    text = "[[faults]]\nkind = 'full-disk'\nfree_kib = 7\ntakes = 'promised'\nstart_s = 3"
    (fault,) = parse_scenario(text).faults
    assert fault == Fault(
        kind=FaultKind.FULL_DISK,
        target=Target.GATEWAYS,
        free_kib=7,
        takes=Takes.PROMISED,
        start_s=3.0,
    )
    assert [each.kind for each in load_scenario("full-disks").faults] == [FaultKind.FULL_DISK] * 2


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_full_disks_begin_nothing_keep_all_and_go_on_when_there_is_room() -> None:
    scenario = upgrade({**FULL, "share": 1.0})
    swarm = Swarm(scenario, 1)
    first, second = (release.manifest_id for release in swarm.parts.releases)
    swarm.run(until_s=11.5)
    for gateway in swarm.parts.gateways[1:]:
        held, begun = gateway.part(first), gateway.part(second)
        assert held is not None
        assert held.is_complete
        assert begun is not None
        assert begun.held_bytes == 0
    outcome = run_scenario(scenario, 1)
    assert outcome.held, outcome.explain()
    assert [len(release.finished_s) for release in outcome.releases] == [4, 4]
    assert min(outcome.releases[1].finished_s) > 5.0, "nobody before there was room"


@pytest.mark.slow
def test_writes_stop_where_nothing_was_promised_and_go_on_from_there() -> None:
    swarm = Swarm(upgrade(SUDDEN, links=THIN), 1)
    swarm.run(until_s=11.5)
    second = swarm.parts.releases[1].manifest_id
    full = [each for each in swarm.parts.gateways if each.files.room.is_full]
    assert len(full) == 2
    before: dict[int, int] = {}
    for gateway in full:
        part = gateway.part(second)
        assert part is not None
        assert 0 < part.held_bytes < 256 * KIB
        assert not part.is_complete
        before[gateway.number] = part.held_bytes
    swarm.run()
    for gateway in full:
        part = gateway.part(second)
        assert part is not None
        assert part.is_complete
        assert part.figures.gained_bytes == part.held_bytes, "nothing is fetched twice"
    outcome = run_scenario(upgrade(SUDDEN, links=THIN), 1)
    assert outcome.held, outcome.explain()


@pytest.mark.slow
def test_full_disks_serve_what_they_hold_to_who_comes_late() -> None:
    """Room for one more image each: enough for the one that was away."""
    full = {"kind": "full-disk", "share": 1.0, "start_s": 3.0, "free_kib": 300}
    away = {"kind": "crash", "share": 0.25, "start_s": 0.5, "end_s": 6.0}
    swarm = Swarm(upgrade(full, away, releases=[{"publish_s": 1.0}]), 1)
    swarm._advance(5.0)
    (late,) = [each for each in swarm.parts.gateways if not each.is_up]
    others = [each for each in swarm.parts.gateways[1:] if each is not late]
    before = sum(part.figures.sent_bytes for each in others for part in each.node.parts)
    outcome = swarm.run()
    assert outcome.held, outcome.explain()
    assert len(outcome.releases[0].finished_s) == 4
    after = sum(part.figures.sent_bytes for each in others for part in each.node.parts)
    assert after > before
    assert all(each.files.room.is_full for each in others)


@pytest.mark.slow
def test_nobody_waits_for_who_has_no_room_and_who_has_room_is_counted() -> None:
    never = {"kind": "full-disk", "share": 0.5, "start_s": 4.0}
    outcome = run_scenario(upgrade(never), 1)
    assert outcome.held, outcome.explain()
    assert [len(release.finished_s) for release in outcome.releases] == [4, 2]
    assert outcome.simulated_s < 20
    lasting = {**never, "end_s": 80.0}
    outcome = run_scenario(upgrade(lasting, duration_s=85.0), 1)
    assert outcome.verdict("complete").measured == 0.5, "there is room since 5 s, they look late"


@pytest.mark.slow
def test_a_revocation_makes_room() -> None:
    recalled = [{"publish_s": 1.0, "revoke_s": 6.0}, {"publish_s": 5.0}]
    full = {"kind": "full-disk", "share": 1.0, "start_s": 3.0}
    swarm = Swarm(upgrade(full, releases=recalled, duration_s=60.0), 1)
    swarm._advance(50.0)
    for gateway in swarm.parts.gateways:
        gateway.note_finished()
    second = swarm.parts.releases[1].manifest_id
    assert all(second in each.finished_s for each in swarm.parts.gateways[1:])


@pytest.mark.slow
def test_slow_disks_end() -> None:
    slow = {"kind": "slow-disk", "share": 1.0, "start_s": 0.5, "verify_ms": 600.0}
    ends = {**slow, "end_s": 4.0}
    both = [run_scenario(upgrade(fault), 1) for fault in (slow, ends)]
    last = [outcome.releases[1].finished_s[-1] for outcome in both]
    assert last[1] < last[0] - 0.5


# Mutants -----------------------------------------------------------------------------------------


def broken(scenario: Scenario, name: str) -> None:
    outcome = run_scenario(scenario, 1)
    assert name in [verdict.name for verdict in outcome.failures], outcome.explain()


@pytest.mark.slow
def test_a_node_that_throws_chunks_away_to_make_room_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = RoomHost._pause

    def discard(self: RoomHost, part: ImagePart, component: int, indices: Any) -> None:
        for other in self.parts:
            if other is not part:
                for possession in other.served.possession:
                    for index in list(possession)[:1]:
                        possession.discard(index)
        honest(self, part, component, indices)

    monkeypatch.setattr(RoomHost, "_pause", discard)
    broken(upgrade(FULL), "nothing-lost")


@pytest.mark.slow
def test_a_node_that_calls_complete_what_it_could_not_write_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = RoomHost._write

    def pretend(self: RoomHost, part: ImagePart, effect: WriteChunks) -> None:
        if self.files.room.is_promising:
            honest(self, part, effect)
        else:
            self.feed(part, ChunksStored(component=effect.component, indices=effect.indices))

    monkeypatch.setattr(RoomHost, "_write", pretend)
    broken(upgrade(SUDDEN, links=THIN), "nothing-lost")


@pytest.mark.slow
def test_a_node_that_gives_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RoomHost, "_pause", lambda *_arguments: None)
    broken(upgrade(FULL, duration_s=60.0), "complete")
