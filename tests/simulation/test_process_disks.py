"""Full and slow disks of processes: told by a file, or really full."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from chunks.file_store import FileStore
from chunks.recipe import RecipeBuilder
from chunks.room import StoreLimits
from chunks.store import DiskFullError
from protocol.digest import sha256
from protocol.errors import ConfigError
from protocol.limits import KIB, MIB
from swarmd.simulation.processes.disks import RESERVE_BYTES, SmallDisks, ToldDisks, WatchedDisk
from swarmd.simulation.processes.founding import create
from swarmd.simulation.processes.namespaces import why_not
from swarmd.simulation.processes.scenario_run import run_processes
from swarmd.simulation.processes.support import Isolation, check_processes
from swarmd.simulation.processes.swarm import daemon_command
from swarmd.simulation.scenario import (
    Expectations,
    Fault,
    FaultKind,
    Gateways,
    Image,
    ReleasePlan,
    Scenario,
    Takes,
)
from swarmd.simulation.scenario_file import load_scenario

FULL = Fault(kind=FaultKind.FULL_DISK, share=1.0, start_s=5.0, end_s=20.0)
SLOW = Fault(kind=FaultKind.SLOW_DISK, share=1.0, start_s=0.1, verify_ms=200)
UPGRADE = Scenario(
    name="upgrade",
    duration_s=200.0,
    gateways=Gateways(count=1),
    image=Image(size_kib=96),
    releases=(ReleasePlan(publish_s=0.5), ReleasePlan(publish_s=8.0)),
    faults=(SLOW, FULL),
    expect=Expectations(finality_s=100.0, heal_s=100.0, seeder_images=20.0),
)


@pytest.mark.slow
@pytest.mark.network
def test_a_process_without_room_lives_on_and_goes_on_when_there_is_some(tmp_path: Path) -> None:
    """On a disk that is really full where that can be; the first release comes over a slow one."""
    isolation = Isolation.LOOPBACK if why_not() else Isolation.NAMESPACES
    folder = tmp_path / "network"
    outcome = run_processes(UPGRADE, 1, folder, isolation)
    assert outcome.passed, outcome.explain()
    assert outcome.verdict("nothing-lost").passed
    assert outcome.verdict("nothing-bad-kept").passed
    second = outcome.releases[1]
    assert second.final_s is not None
    assert second.final_s + second.finished_s[0] > 20.0
    log = (folder / "gateway-1.log").read_text()
    assert "no space for manifest" in log
    assert "Traceback" not in log
    assert not _mounted(folder)


def _mounted(folder: Path) -> bool:
    return str(folder) in Path("/proc/self/mounts").read_text()


# What disks do -----------------------------------------------------------------------------------


def test_daemons_obey_the_last_order_and_fill_once(tmp_path: Path) -> None:
    told = ToldDisks(UPGRADE, tmp_path)
    orders = told.orders("gateway-1")
    assert orders is not None
    disk = WatchedDisk(0, orders)
    disk.obey()
    assert (disk.room.is_full, disk.write_s) == (False, 0.0)
    told.trouble(replace(FULL, free_kib=2), ["gateway-1"])
    disk.obey()
    assert disk.room.left_bytes == 2 * KIB
    disk.room.allocate(KIB)
    told.trouble(SLOW, ["gateway-1"])
    disk.obey()
    assert (disk.room.left_bytes, disk.write_s) == (KIB, 0.2), "what is full stays as it is"
    told.relieve(FULL, ["gateway-1"])
    told.relieve(SLOW, ["gateway-1"])
    disk.obey()
    assert (disk.room.is_full, disk.write_s) == (False, 0.0)
    told.trouble(FULL, ["gateway-2"])
    disk.obey()
    assert not disk.room.is_full


def test_the_store_of_a_process_meets_its_orders(tmp_path: Path) -> None:
    told = ToldDisks(UPGRADE, tmp_path)
    orders = told.orders("gateway-1")
    assert orders is not None
    store = FileStore.open(tmp_path / "store", backend=WatchedDisk(0, orders))
    builder = RecipeBuilder()
    builder.add(4, sha256(b"data"))
    told.trouble(FULL, ["gateway-1"])
    with pytest.raises(DiskFullError):
        store.begin(sha256(b"data"), 4, builder.build())
    told.relieve(FULL, ["gateway-1"])
    begun = store.begin(sha256(b"data"), 4, builder.build())
    told.trouble(replace(FULL, takes=Takes.PROMISED), ["gateway-1"])
    assert list(store.write_chunks(begun, [(0, b"data")]).full) == [0]
    store.close()


def test_only_where_disks_are_troubled_they_are_others() -> None:
    folder = Path("/somewhere")
    calm = replace(UPGRADE, faults=())
    assert ToldDisks(calm, folder).orders("gateway-1") is None
    assert daemon_command(folder, disk=None)[2:4] == ["swarmd", "run"]
    words = daemon_command(folder, disk=folder / "gateway-1.disk")
    assert words[-1] == "--disk=/somewhere/gateway-1.disk"
    assert "--adversary" not in " ".join(words)


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}")
def test_small_disks_are_full_leave_the_reserve_and_go(tmp_path: Path) -> None:
    folder = tmp_path / "network"
    with SmallDisks(UPGRADE, folder) as disks:
        (node,) = [each for each in create(folder, UPGRADE).nodes if "gateway" in each.name]
        before = sorted(path.name for path in node.directory.path.iterdir())
        disks.prepare([node.directory])
        path = node.directory.path
        assert _mounted(folder)
        assert sorted(each.name for each in path.iterdir()) == before
        assert node.directory.load_config().storage.reserve_bytes == RESERVE_BYTES
        limits = StoreLimits(reserve_bytes=RESERVE_BYTES)
        store = FileStore.open(path / "images", limits=limits)
        disks.trouble(FULL, [node.name])
        free_bytes = os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
        assert RESERVE_BYTES - 64 * KIB <= free_bytes <= RESERVE_BYTES
        builder = RecipeBuilder()
        builder.add(MIB, sha256(bytes(MIB)))
        with pytest.raises(DiskFullError):
            store.begin(sha256(bytes(MIB)), MIB, builder.build())
        (path / "ledger-grows").write_bytes(bytes(MIB))
        disks.relieve(FULL, [node.name])
        store.begin(sha256(bytes(MIB)), MIB, builder.build())
        store.close()
    assert not _mounted(folder)


# What is refused ---------------------------------------------------------------------------------


def test_real_disks_keep_their_promises_and_told_ones_need_not() -> None:
    scenario = replace(UPGRADE, faults=(SLOW, replace(FULL, takes=Takes.PROMISED)))
    check_processes(scenario, Isolation.LOOPBACK)
    if why_not() is None:
        with pytest.raises(ConfigError, match=r"^faults\[1\].takes: disks of level namespaces"):
            check_processes(scenario, Isolation.NAMESPACES)


def test_small_disks_take_no_more_memory_than_there_may_be(tmp_path: Path) -> None:
    large = replace(UPGRADE, image=Image(size_kib=1024 * 1024), gateways=Gateways(count=4))
    with pytest.raises(ConfigError, match=r"^image.size_kib: small disks would take \d+ MiB"):
        SmallDisks(large, tmp_path)
    SmallDisks(replace(large, faults=(SLOW,)), tmp_path)


def test_the_shipped_scenario_runs_as_processes() -> None:
    check_processes(load_scenario("full-disks"), Isolation.LOOPBACK)
