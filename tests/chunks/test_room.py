"""Limits hold before a byte is written, and what they keep for others is there when needed."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunks.file_backend import OSFileBackend
from chunks.file_store import FileStore
from chunks.room import (
    StoreLimits,
    Usage,
    check_limits,
    check_reserve,
    missing_bytes,
    missing_files,
)
from chunks.store import DiskFullError
from protocol.errors import StorageError
from protocol.limits import KIB, MIB
from tests.chunks.chunk_images import FIXED_1000, Sample, generated, sample

LIMITS = st.builds(
    StoreLimits,
    quota_bytes=st.none() | st.integers(0, 1_000),
    files_max=st.none() | st.integers(0, 5),
    reserve_bytes=st.integers(0, 200),
)
USAGE = st.builds(
    Usage,
    image_bytes=st.integers(0, 1_000),
    image_count=st.integers(0, 5),
    staging_bytes=st.integers(0, 300),
    staging_count=st.integers(0, 3),
)


@settings(max_examples=60)
@given(limits=LIMITS, usage=USAGE, more=st.integers(0, 1_000), free=st.integers(0, 2_000))
def test_what_is_missing_is_what_the_checks_refuse(
    limits: StoreLimits, usage: Usage, more: int, free: int
) -> None:
    needs = missing_bytes(limits, usage, more, free), missing_files(limits, usage, 1)
    assert min(needs) >= 0
    is_refused = False
    try:
        check_limits(limits, usage, more)
        check_reserve(limits, usage, more, free)
    except DiskFullError:
        is_refused = True
    assert is_refused == (needs != (0, 0))


class Small(OSFileBackend):
    """A disk with little free space, which allocation takes for good."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, path: Path) -> int:
        return self.free

    def allocate(self, descriptor: int, size: int) -> None:
        if size > self.free:
            raise OSError(errno.ENOSPC, "full")
        self.free -= size
        super().allocate(descriptor, size)


def test_intake_stops_before_the_ledger_has_no_room(tmp_path: Path) -> None:
    backend = Small(100_000)
    store = FileStore.open(
        tmp_path / "store", backend=backend, limits=StoreLimits(reserve_bytes=40_000)
    )
    sample("a", 50_000).install(store)
    second = sample("b", 11_000)
    with pytest.raises(DiskFullError, match="kept for the ledger"):
        second.begin(store)
    with pytest.raises(DiskFullError, match="kept for the ledger"):
        store.stage(second.file(tmp_path), FIXED_1000)
    assert store.missing_room(11_000) == (1_000, 0)
    assert backend.free == 50_000
    assert os.listdir(tmp_path / "store" / "images") == [sample("a", 50_000).image.hex()]
    sample("c", 10_000).install(store)
    store.close()


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    store = FileStore.open(tmp_path / "store", limits=StoreLimits(files_max=2))
    sample("a").install(store)
    store.stage(sample("b").file(tmp_path), FIXED_1000)
    with pytest.raises(DiskFullError, match="3 images"):
        sample("c").begin(store)
    with pytest.raises(DiskFullError, match="3 images"):
        store.stage(sample("c").file(tmp_path), FIXED_1000)
    store.promote(sample("b").image)
    assert store.missing_room(0) == (0, 1)
    store.remove(sample("a").image)
    sample("c").install(store)
    store.close()


class Gate(OSFileBackend):
    """Holds the first staging back until it is let go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        self.reached.set()
        assert self.go_on.wait(10)
        return super().read_into(descriptor, buffer, offset)


def test_stagings_at_once_share_the_quota(tmp_path: Path) -> None:
    backend = Gate()
    limits = StoreLimits(quota_bytes=100_000)
    store = FileStore.open(tmp_path / "store", backend=backend, limits=limits)
    first, second = sample("a", 60_000), sample("b", 60_000)
    path = first.file(tmp_path)
    thread = threading.Thread(target=store.stage, args=(path, FIXED_1000))
    thread.start()
    assert backend.reached.wait(10)
    with pytest.raises(DiskFullError):
        store.stage(second.file(tmp_path), FIXED_1000)
    with pytest.raises(DiskFullError):
        second.begin(store)
    backend.go_on.set()
    thread.join()
    assert store.statistics().reserved_bytes == 60_000
    assert store.missing_room(40_000) == (0, 0)
    store.close()


class Growing(OSFileBackend):
    """A source to which somebody appends, or from which somebody cuts, once staging began."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def open_existing(self, path: Path, *, writable: bool) -> int:
        descriptor = super().open_existing(path, writable=writable)
        if path == self._path:
            os.truncate(path, self._size)
        return descriptor


@pytest.mark.parametrize("size", [7_501, 7_499, 90_000, 0])
def test_a_source_of_another_size_than_room_was_made_for_is_refused(
    tmp_path: Path, size: int
) -> None:
    path = sample().file(tmp_path)
    store = FileStore.open(tmp_path / "store", backend=Growing(path, size))
    with pytest.raises(StorageError, match="changed while it was read"):
        store.stage(path, FIXED_1000)
    assert store.staged_images() == ()
    assert os.listdir(tmp_path / "store" / "staging") == []
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
def test_a_real_full_disk_keeps_what_is_held_and_room_for_the_ledger(small_disk: Path) -> None:
    store = FileStore.open(small_disk / "store", limits=StoreLimits(reserve_bytes=1 * MIB))
    first = Sample(generated("first", 2 * MIB), FIXED_1000)
    first.install(store)
    with pytest.raises(DiskFullError):
        Sample(generated("second", 2 * MIB), FIXED_1000).begin(store)
    # What the ledger writes meanwhile.
    (small_disk / "ledger").write_bytes(bytes(768 * KIB))
    assert store.read_chunk(first.image, 5) == first.chunk(5)
    assert store.verify_image(first.image) == ()
    store.close()


@pytest.mark.slow
def test_a_disk_that_others_fill_pauses_a_download_and_loses_nothing(small_disk: Path) -> None:
    store = FileStore.open(small_disk / "store")
    image = Sample(generated("image", 1 * MIB), FIXED_1000)
    download = image.begin(store)
    store.write_chunk(download, 0, image.chunk(0))
    fill(small_disk / "other")
    with pytest.raises(DiskFullError):
        sample("b", 2_000_000).begin(store)
    # Room for the bytes was allocated; whether the index finds some for itself depends.
    with suppress(DiskFullError):
        for index in range(1, image.recipe.chunk_count):
            store.write_chunk(download, index, image.chunk(index))
        store.checkpoint(download)
    assert store.read_chunk(image.image, 0) == image.chunk(0)
    (small_disk / "other").unlink()
    image.install(store)
    store.close()


def fill(path: Path) -> None:
    """Takes all the room there is."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(64 * KIB)):
            pass


class Begun(OSFileBackend):
    """A disk on which somebody else looks for room while a file is being allocated."""

    look: Callable[[], None] | None = None

    def allocate(self, descriptor: int, size: int) -> None:
        if self.look is not None:
            self.look()
        super().allocate(descriptor, size)


def test_a_download_and_a_staging_do_not_both_get_the_last_room(tmp_path: Path) -> None:
    first, second, backend = sample("a", 60_000), sample("b", 60_000), Begun()
    limits = StoreLimits(quota_bytes=100_000)
    store = FileStore.open(tmp_path / "store", backend=backend, limits=limits)
    path = second.file(tmp_path)
    refused: list[DiskFullError] = []

    def stage() -> None:
        try:
            store.stage(path, FIXED_1000)
        except DiskFullError as error:
            refused.append(error)

    thread = threading.Thread(target=stage)

    def look() -> None:
        backend.look = None
        thread.start()
        thread.join(0.1)  # what it looks for is being taken: it waits, or has wrongly found it

    backend.look = look
    first.begin(store)
    thread.join(10)
    assert len(refused) == 1
    assert store.statistics().reserved_bytes == 60_000
    store.close()
