"""Staging in blocks by several threads gives what cutting in one piece gives."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunks import staging
from chunks.chunker import cut_block
from chunks.file_backend import OSFileBackend
from chunks.file_store import FileStore
from chunks.layout import fixed_parameters
from chunks.store import DiskFullError
from protocol.digest import sha256
from protocol.errors import PolicyError
from protocol.manifest import ChunkerParameters
from tests.chunks.chunk_images import FIXED_1000, SMALL_CDC, generated, recipe_of

DATA = generated("staging", 40_000)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BLOCK_BYTES", 3_000)


def staged_data(store: FileStore, image: bytes, count: int) -> bytes:
    return b"".join(store.read_chunk(image, index, staged=True) for index in range(count))


@given(
    size=st.integers(1, 12_000),
    blocks=st.lists(st.integers(1, 4_000), max_size=12),
    parameters=st.sampled_from([SMALL_CDC, FIXED_1000]),
)
def test_cuts_do_not_depend_on_blocks(
    size: int, blocks: list[int], parameters: ChunkerParameters
) -> None:
    data = generated(f"{size}", size)
    lengths: list[int] = []
    begin = end = 0
    for block in [*blocks, size]:
        end = min(size, end + block)
        is_last = end == size
        ends = cut_block(memoryview(data)[begin:end], parameters, is_last=is_last)
        lengths += [after - before for before, after in zip([0, *ends], ends, strict=False)]
        begin += ends[-1] if ends else 0
        if is_last:
            break
    assert lengths == list(recipe_of(data, parameters).lengths)


@pytest.mark.parametrize("parameters", [SMALL_CDC, FIXED_1000], ids=["fastcdc", "fixed"])
@pytest.mark.parametrize("size", [1, 2_999, 4_000, 4_024, 8_048, 40_000])
def test_many_blocks_make_one_image(
    tmp_path: Path, parameters: ChunkerParameters, size: int
) -> None:
    data = DATA[:size]
    (tmp_path / "source").write_bytes(data)
    store = FileStore.open(tmp_path / "store")
    staged = store.stage(tmp_path / "source", parameters)
    assert staged.image == sha256(data)
    assert staged.recipe == recipe_of(data, parameters)
    assert staged_data(store, staged.image, staged.recipe.chunk_count) == data
    store.close()


class Reversing:
    """Seals by turning bytes round and putting a mark behind them; refuses to be called twice."""

    overhead_bytes = 3

    def __init__(self) -> None:
        self.sealed: list[bytes] = []

    def seal(self, chunk: memoryview) -> bytes:
        self.sealed.append(bytes(chunk)[::-1] + b"end")
        return self.sealed[-1]


def test_sealed_blocks_are_cut_before_they_are_sealed(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    store = FileStore.open(tmp_path / "store")
    sealer = Reversing()
    staged = store.stage(tmp_path / "source", SMALL_CDC, sealer)
    plain = recipe_of(DATA, SMALL_CDC)
    assert list(staged.recipe.lengths) == [length + 3 for length in plain.lengths]
    whole = b"".join(sealer.sealed)
    assert staged.image == sha256(whole)
    assert staged_data(store, staged.image, plain.chunk_count) == whole
    store.close()


class Cloning(OSFileBackend):
    """A file system that shares blocks, as a copy at once."""

    def __init__(self) -> None:
        self.writes = 0

    def clone(self, source: int, target: int) -> bool:
        os.sendfile(target, source, 0, os.fstat(source).st_size)
        os.pwrite(source, b"changed after it was cloned", 5_000)
        return True

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        self.writes += 1
        return super().write_at(descriptor, data, offset)

    def open_existing(self, path: Path, *, writable: bool) -> int:
        return super().open_existing(path, writable=True)


def test_a_clone_is_what_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    backend = Cloning()
    store = FileStore.open(tmp_path / "store", backend=backend)
    staged = store.stage(tmp_path / "source", SMALL_CDC)
    assert backend.writes == 0
    assert staged.image == sha256(DATA)
    assert staged_data(store, staged.image, staged.recipe.chunk_count) == DATA
    store.close()


def test_where_nothing_can_be_shared_nothing_is_cloned(tmp_path: Path) -> None:
    backend = OSFileBackend()
    (tmp_path / "source").write_bytes(DATA)
    source = backend.open_existing(tmp_path / "source", writable=False)
    read_end, write_end = os.pipe()
    assert not backend.clone(source, write_end)
    for descriptor in (source, read_end, write_end):
        os.close(descriptor)


class Changing(OSFileBackend):
    """A source that somebody writes to while it is read, and that gives few bytes a read."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self._reads = 0

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        self._reads += 1
        with self.source.open("r+b") as file:
            file.seek(self._reads * 97 % len(DATA))
            file.write(b"%d" % self._reads)
        return super().read_into(descriptor, buffer[:700], offset)


def test_a_source_that_changes_meanwhile_is_staged_as_it_was_read(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    store = FileStore.open(tmp_path / "store", backend=Changing(tmp_path / "source"))
    staged = store.stage(tmp_path / "source", SMALL_CDC)
    assert store.verify_image(staged.image, staged=True) == ()
    data = staged_data(store, staged.image, staged.recipe.chunk_count)
    assert sha256(data) == staged.image
    assert data != DATA
    store.close()


class Full(OSFileBackend):
    """A disk that is full after some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        if offset + len(data) > self.room:
            raise OSError(errno.ENOSPC, "no room")
        return super().write_at(descriptor, data, offset)


@pytest.mark.parametrize("room", [0, 9_000, 39_999])
def test_a_full_disk_ends_staging_and_leaves_nothing(tmp_path: Path, room: int) -> None:
    (tmp_path / "source").write_bytes(DATA)
    store = FileStore.open(tmp_path / "store", backend=Full(room))
    threads = threading.active_count()
    with pytest.raises(DiskFullError):
        store.stage(tmp_path / "source", SMALL_CDC)
    assert threading.active_count() == threads
    assert list((tmp_path / "store" / "staging").iterdir()) == []
    assert store.staged_images() == ()
    store.close()


def test_too_many_chunks_are_refused_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNKS_PER_COMPONENT_MAX", 30)
    (tmp_path / "source").write_bytes(DATA)
    store = FileStore.open(tmp_path / "store")
    with pytest.raises(PolicyError, match="larger average"):
        store.stage(tmp_path / "source", FIXED_1000)
    assert list((tmp_path / "store" / "staging").iterdir()) == []
    store.stage(tmp_path / "source", fixed_parameters(2_000))
    store.close()
