"""What was written and not noted is found again after a kill; what only looks like it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from chunks.file_backend import OSFileBackend
from chunks.file_store import FileStore
from protocol.errors import StorageError
from protocol.limits import MIB
from tests.chunks.chunk_images import Sample, generated
from tests.chunks.faulty_backend import Fault, FaultyBackend
from tests.support.chunk_disk import RecordingBackend
from tests.support.crash_chunks import ROOT
from tests.support.crash_states import crash_states
from tests.support.memory_files import MemoryFiles

IMAGE = Sample(generated("salvage", 20_500))


def killed(root: Path, backend: OSFileBackend | None = None) -> None:
    """Fetches half of an image with a checkpoint after a quarter, then ends at once."""
    store = FileStore.open(root, backend=backend)
    download = IMAGE.begin(store)
    for index in range(10):
        store.write_chunk(download, index, IMAGE.chunk(index))
        if index == 4:
            store.checkpoint(download)
    # As a kill does: the index is left as it is, nothing is noted.
    store.close()


def test_what_was_written_before_a_kill_is_found_again(tmp_path: Path) -> None:
    killed(tmp_path / "store")
    store = FileStore.open(tmp_path / "store")
    assert IMAGE.missing(store) == list(range(5, 21))
    download = IMAGE.begin(store)
    assert store.reuse(download) == 5_000
    assert IMAGE.missing(store) == list(range(10, 21))
    assert store.reuse(download) == 0
    IMAGE.install(store)
    store.close()


class Sparse(OSFileBackend):
    """A file system that tells what was written, by the page; counts what is read."""

    def __init__(self, *pages: int) -> None:
        self.read_bytes = 0
        self._pages = sorted(pages)

    def data_ranges(self, descriptor: int) -> list[tuple[int, int]]:
        return [(page * 4096, (page + 1) * 4096) for page in self._pages]

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        self.read_bytes += size
        return super().read_at(descriptor, size, offset)


def test_places_that_were_never_written_are_not_read(tmp_path: Path) -> None:
    image = Sample(generated("large", 8 * MIB))
    store = FileStore.open(tmp_path / "store")
    download = image.begin(store)
    written = (0, 4_000, 4_001)
    for index in written:
        store.write_chunk(download, index, image.chunk(index))
    store.close()
    pages = {at // 4096 for index in written for at in (index * 1_000, index * 1_000 + 999)}
    backend = Sparse(*pages)
    store = FileStore.open(tmp_path / "store", backend=backend)
    assert store.reuse(image.begin(store)) == 3_000
    assert backend.read_bytes < 20_000
    store.close()


def test_a_fresh_download_is_not_searched(tmp_path: Path) -> None:
    backend = Sparse()
    store = FileStore.open(tmp_path / "store", backend=backend)
    assert store.reuse(IMAGE.begin(store)) == 0
    assert backend.read_bytes == 0
    store.close()


def test_damaged_bytes_are_not_taken_for_chunks(tmp_path: Path) -> None:
    killed(tmp_path / "store")
    path = tmp_path / "store" / "images" / f"{IMAGE.image.hex()}.part"
    with path.open("r+b") as file:
        for index in (6, 8):
            file.seek(index * 1_000 + 500)
            file.write(b"!")
        # Another chunk's bytes at a place that is not its own.
        file.seek(15_000)
        file.write(IMAGE.chunk(9))
    store = FileStore.open(tmp_path / "store")
    assert store.reuse(IMAGE.begin(store)) == 3_000
    assert IMAGE.missing(store) == [6, 8, *range(10, 21)]
    assert store.statistics().chunks_rotten == 0
    IMAGE.install(store)
    store.close()


def test_what_a_failed_sync_left_in_the_cache_is_written_again(tmp_path: Path) -> None:
    """The cache may call it clean although the medium never took it."""
    backend = FaultyBackend(graves=tmp_path / "graves")
    store = FileStore.open(tmp_path / "store", backend=backend)
    download = IMAGE.begin(store)
    for index in range(3):
        store.write_chunk(download, index, IMAGE.chunk(index))
    backend.arm(Fault.EIO)
    with pytest.raises(StorageError):
        store.checkpoint(download)
    assert IMAGE.missing(store) == list(range(21))
    writes = backend.calls.count("write")
    download = IMAGE.begin(store)
    assert store.reuse(download) == 3_000
    assert backend.calls.count("write") > writes
    store.checkpoint(download)
    backend.lose_unsynced(tmp_path / "store", Random(1))
    store = FileStore.open(tmp_path / "store")
    assert IMAGE.missing(store) == list(range(3, 21))
    assert store.verify_image(IMAGE.image) == ()
    store.close()


class Blind(OSFileBackend):
    """A file system that cannot tell where it has data."""

    def data_ranges(self, descriptor: int) -> list[tuple[int, int]]:
        return [(0, IMAGE.recipe.size_bytes)]


def test_where_the_file_system_cannot_tell_everything_is_read(tmp_path: Path) -> None:
    killed(tmp_path / "store", Blind())
    store = FileStore.open(tmp_path / "store", backend=Blind())
    assert store.reuse(IMAGE.begin(store)) == 5_000
    assert IMAGE.missing(store) == list(range(10, 21))
    store.close()


def test_the_system_says_where_a_file_has_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 10_000)
    backend = OSFileBackend()
    descriptor = backend.open_existing(tmp_path / "file", writable=True)
    assert backend.data_ranges(descriptor) == [(0, 10_000)]
    os.ftruncate(descriptor, 1 << 20)
    os.pwrite(descriptor, b"y", 900_000)
    ranges = backend.data_ranges(descriptor)
    assert all(any(start <= at < end for start, end in ranges) for at in (0, 9_999, 900_000))
    assert ranges == sorted(ranges)
    backend.close(descriptor)
    (tmp_path / "empty").touch()
    descriptor = backend.open_existing(tmp_path / "empty", writable=True)
    assert backend.data_ranges(descriptor) == []
    backend.close(descriptor)


def lives() -> Iterator[tuple[RecordingBackend, int]]:
    """Stores that a process left at once, and their operations so far."""
    whole = RecordingBackend()
    store = FileStore.open(ROOT, backend=whole)
    download = IMAGE.begin(store)
    for index in range(6):
        store.write_chunk(download, index, IMAGE.chunk(index))
    whole.kill()
    for prefix in range(40, len(whole.files.operations) + 1, 3):
        files = MemoryFiles.after(whole.files.operations[:prefix])
        yield RecordingBackend(files), len(files.operations)


@pytest.mark.slow
def test_what_was_salvaged_and_noted_survives_a_power_loss() -> None:
    salvaged = 0
    for backend, begun in lives():
        store = FileStore.open(ROOT, backend=backend)
        download = IMAGE.begin(store)
        salvaged += store.reuse(download)
        store.checkpoint(download)
        held = set(IMAGE.indices) - set(IMAGE.missing(store))
        marked = len(backend.files.operations)
        backend.kill()
        if not held:
            continue  # nothing was promised
        for state in crash_states(backend.files.operations, seeds=[1, 2], first=marked):
            after = RecordingBackend(MemoryFiles.of(state.image))
            store = FileStore.open(ROOT, backend=after)
            assert held <= set(IMAGE.indices) - set(IMAGE.missing(store)), begun
            assert store.verify_image(IMAGE.image) == ()
            after.kill()
    assert salvaged > 10_000
