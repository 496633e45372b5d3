"""Full and slow disks of whole daemons: what the image store meets, and what a run says of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chunks.file_store import FileStore
from chunks.recipe import RecipeBuilder
from chunks.room import StoreLimits
from chunks.store import DiskFullError, ImageState
from protocol.digest import sha256
from protocol.limits import KIB
from swarmd.simulation.daemons.disks import TroubledDisk, relieve, trouble
from swarmd.simulation.daemons.scenario_run import run_daemons
from swarmd.simulation.scenario import (
    Expectations,
    Fault,
    FaultKind,
    Gateways,
    Image,
    LinkClass,
    ReleasePlan,
    Scenario,
    Takes,
)

FULL = Fault(kind=FaultKind.FULL_DISK, share=0.5, start_s=4.0, end_s=20.0)
UPGRADE = Scenario(
    name="upgrade",
    duration_s=120.0,
    gateways=Gateways(count=2, peers=4),
    image=Image(size_kib=128),
    releases=(ReleasePlan(publish_s=0.5), ReleasePlan(publish_s=5.0)),
    faults=(FULL,),
    expect=Expectations(seeder_images=40.0, heal_s=None),
)
CHUNK = 4 * KIB


# The store on such a disk ------------------------------------------------------------------------


@pytest.fixture
def disk() -> TroubledDisk:
    return TroubledDisk(64 * KIB, lambda _pause_s: None)


@pytest.fixture
def store(tmp_path: Path, disk: TroubledDisk) -> Iterator[FileStore]:
    limits = StoreLimits(reserve_bytes=64 * KIB)
    opened = FileStore.open(tmp_path / "store", backend=disk, limits=limits)
    yield opened
    opened.close()


def image(mark: int) -> tuple[Any, bytes]:
    data = b"".join(bytes([mark, index]) * (CHUNK // 2) for index in range(8))
    builder = RecipeBuilder()
    for index in range(8):
        builder.add(CHUNK, sha256(data[index * CHUNK : (index + 1) * CHUNK]))
    return builder.build(), data


def test_a_full_disk_refuses_images_keeps_what_it_has_and_takes_them_later(
    store: FileStore, disk: TroubledDisk
) -> None:
    (held, held_data), (other, other_data) = image(1), image(2)
    begun = store.begin(sha256(held_data), len(held_data), held)
    trouble(disk, replace(FULL, free_kib=16))
    with pytest.raises(DiskFullError):
        store.begin(sha256(other_data), len(other_data), other)
    outcome = store.write_chunks(begun, [(0, held_data)])
    assert not outcome.full, "its room was promised, and is kept"
    store.finish(begun)
    assert store.read_chunk(sha256(held_data), 3) == held_data[3 * CHUNK : 4 * CHUNK]
    relieve(disk, FULL)
    store.begin(sha256(other_data), len(other_data), other)


def test_a_disk_that_promises_nothing_refuses_writes_and_keeps_those_before(
    store: FileStore, disk: TroubledDisk
) -> None:
    recipe, data = image(1)
    begun = store.begin(sha256(data), len(data), recipe)
    trouble(disk, replace(FULL, free_kib=10, takes=Takes.PROMISED))
    runs = [(index, data[index * CHUNK : (index + 1) * CHUNK]) for index in range(8)]
    outcome = store.write_chunks(begun, runs)
    assert list(outcome.stored) == [0, 1], "two chunks and a half fit"
    assert list(outcome.full) == [2, 3, 4, 5, 6, 7]
    assert store.read_chunk(sha256(data), 1) == data[CHUNK : 2 * CHUNK]
    relieve(disk, FULL)
    store.write_chunks(begun, runs[2:])
    store.finish(begun)
    assert store.record(sha256(data)).state is ImageState.COMPLETE


def test_a_deleted_image_makes_room(store: FileStore, disk: TroubledDisk) -> None:
    (one, one_data), (two, two_data) = image(1), image(2)
    begun = store.begin(sha256(one_data), len(one_data), one)
    trouble(disk, FULL)
    with pytest.raises(DiskFullError):
        store.begin(sha256(two_data), len(two_data), two)
    store.abandon(begun)
    store.begin(sha256(two_data), len(two_data), two)


def test_a_slow_disk_has_each_write_wait(tmp_path: Path) -> None:
    waited: list[float] = []
    disk = TroubledDisk(0, waited.append)
    file = disk.create(tmp_path / "file")
    disk.write_at(file, memoryview(b"fast"), 0)
    slow = Fault(kind=FaultKind.SLOW_DISK, verify_ms=250)
    trouble(disk, slow)
    disk.write_at(file, memoryview(b"slow"), 4)
    relieve(disk, slow)
    disk.write_at(file, memoryview(b"fast"), 8)
    assert (waited, disk.read_at(file, 20, 0)) == ([0.25], b"fastslowfast")
    disk.room.fill(2, Takes.PROMISED)
    assert disk.write_at(file, memoryview(b"more"), 12) == 2, "as a real one: a part, then no more"
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        disk.write_at(file, memoryview(b"re"), 14)
    assert caught.value.errno == errno.ENOSPC
    disk.close(file)


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_daemons_without_room_live_on_and_go_on_when_there_is_some(tmp_path: Path) -> None:
    """The first release comes onto slow disks, each write of which takes a second."""
    slow = Fault(kind=FaultKind.SLOW_DISK, share=1.0, start_s=0.1, end_s=4.5, verify_ms=1000)
    outcome = run_daemons(replace(UPGRADE, faults=(slow, FULL)), 3, tmp_path / "network")
    assert outcome.passed, outcome.explain()
    first, second = outcome.releases
    assert len(first.finished_s) == 2
    assert min(first.finished_s) >= 1.0
    assert second.final_s is not None
    late = [time for time in second.finished_s if second.final_s + time > 20.0]
    assert (len(second.finished_s), len(late)) == (2, 1)
    assert outcome.verdict("nothing-lost").passed


@pytest.mark.slow
def test_daemons_whose_writes_fail_midway_go_on_where_they_were(tmp_path: Path) -> None:
    sudden = replace(FULL, start_s=5.0, takes=Takes.PROMISED, free_kib=128 + 40)
    scenario = replace(UPGRADE, faults=(sudden,), links={"thin": LinkClass(up_mbit=4, down_mbit=4)})
    outcome = run_daemons(scenario, 1, tmp_path / "network")
    assert outcome.passed, outcome.explain()
    assert len(outcome.releases[1].finished_s) == 2
