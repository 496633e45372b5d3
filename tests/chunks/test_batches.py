"""Writing and reading by the batch does what writing and reading chunk by chunk does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunks.file_store import FileStore
from chunks.memory_store import MemoryStore
from chunks.prefix_hash import PrefixHash
from chunks.store import (
    CHECKPOINT_BYTES,
    UNSYNCED_BYTES_MAX,
    ChunkRottenError,
    ChunkStore,
    DownloadClosedError,
    ImageLockedError,
    ImageState,
)
from protocol.digest import sha256
from protocol.errors import DigestMismatchError, LocalProtocolError
from protocol.manifest import ChunkerKind, ChunkerParameters
from protocol.runs import NO_CHUNKS, Runs
from tests.chunks.chunk_images import Sample, generated, sample


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChunkStore]:
    made = FileStore.open(tmp_path / "store") if request.param == "file" else MemoryStore()
    yield made
    made.close()


def run_of(image: Sample, first: int, count: int) -> tuple[int, bytes]:
    """Neighbouring chunks as the store takes them."""
    return first, b"".join(image.chunk(index) for index in range(first, first + count))


def spoilt(data: bytes, position: int) -> bytes:
    return data[:position] + bytes((data[position] ^ 1,)) + data[position + 1 :]


def rot(tmp_path: Path, image: Sample, index: int) -> None:
    """Flips a bit of a chunk in the file store's image file."""
    (path,) = (tmp_path / "store" / "images").glob(f"{image.image.hex()}*")
    content = path.read_bytes()
    path.write_bytes(spoilt(content, image.recipe.offset(index)))


def test_a_batch_is_held_as_its_chunks_are(store: ChunkStore) -> None:
    image = sample()
    download = image.begin(store)
    outcome = store.write_chunks(download, [run_of(image, 5, 3), run_of(image, 1, 2)])
    assert outcome.stored == outcome.gained == Runs([(1, 2), (5, 3)])
    assert (outcome.refused, outcome.full, outcome.stored_bytes) == ((), NO_CHUNKS, 4500)
    assert image.missing(store) == [0, 3, 4]
    again = store.write_chunks(download, [run_of(image, 0, 8)])
    assert again.stored == Runs([(0, 8)])
    assert again.gained == Runs([(0, 1), (3, 2)])
    assert again.stored_bytes == 3000
    store.finish(download)
    assert store.record(image.image).state is ImageState.COMPLETE
    assert store.verify_image(image.image) == ()


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_a_chunk_that_lies_is_refused_and_its_neighbours_are_not(
    store: ChunkStore, bad: int
) -> None:
    image = sample()
    download = image.begin(store)
    outcome = store.write_chunks(download, [(0, spoilt(image.data, bad * 1000))])
    assert [index for index, _ in outcome.refused] == [bad]
    error = outcome.refused[0][1]
    assert isinstance(error, DigestMismatchError)
    assert set(outcome.stored) == set(image.indices) - {bad}
    assert image.missing(store) == [bad]
    assert store.statistics().chunks_refused == 1
    store.write_chunks(download, [run_of(image, bad, 1)])
    store.finish(download)


@pytest.mark.parametrize("run", [(0, b""), (0, b"x" * 999), (7, b"x" * 501), (8, b"x"), (-1, b"x")])
def test_runs_that_do_not_end_where_chunks_do(store: ChunkStore, run: tuple[int, bytes]) -> None:
    image = sample()
    with pytest.raises(LocalProtocolError):
        store.write_chunks(image.begin(store), [run])
    assert image.missing(store) == list(image.indices)


def test_equal_chunks_are_filled_in_together(store: ChunkStore) -> None:
    image = Sample(b"\0" * 5000 + generated("z", 2000))
    outcome = store.write_chunks(image.begin(store), [run_of(image, 1, 1), run_of(image, 5, 1)])
    assert outcome.stored == Runs([(1, 1), (5, 1)])
    assert outcome.gained == Runs([(0, 6)])
    assert outcome.stored_bytes == 2000
    assert store.statistics().reused_bytes == 4000


def test_a_closed_download_takes_no_batch(store: ChunkStore) -> None:
    image = sample()
    download = image.begin(store)
    store.finish(image.fetch(store))
    with pytest.raises(DownloadClosedError):
        store.write_chunks(download, [run_of(image, 0, 1)])


def test_a_batch_is_read_as_its_chunks_are(store: ChunkStore) -> None:
    image = sample()
    store.write_chunks(image.begin(store), [run_of(image, 0, 3), run_of(image, 5, 3)])
    outcome = store.read_chunks(image.image, Runs([(0, 8)]), bytes_max=10**6)
    assert outcome.found == Runs([(0, 3), (5, 3)])
    assert outcome.absent == Runs([(3, 2)])
    assert outcome.lengths == (1000,) * 5 + (500,)
    assert b"".join(outcome.payload) == image.data[:3000] + image.data[5000:]
    assert outcome.rotten == NO_CHUNKS


@pytest.mark.parametrize(("bytes_max", "count"), [(1, 1), (1000, 1), (1999, 1), (2000, 2)])
def test_a_read_ends_within_its_bound_but_for_the_first_chunk(
    store: ChunkStore, bytes_max: int, count: int
) -> None:
    image = sample()
    image.install(store)
    outcome = store.read_chunks(image.image, Runs([(1, 1), (3, 4)]), bytes_max=bytes_max)
    assert tuple(outcome.found) == (1, 3)[:count]
    assert outcome.absent == NO_CHUNKS


def test_a_locked_image_gives_nothing(store: ChunkStore) -> None:
    image = sample()
    image.install(store)
    store.withdraw(image.image, keep=True)
    with pytest.raises(ImageLockedError):
        store.read_chunks(image.image, Runs([(0, 8)]), bytes_max=10**6)


def test_rot_costs_the_chunks_it_hits_and_no_other(tmp_path: Path) -> None:
    store = FileStore.open(tmp_path / "store")
    image = sample()
    image.install(store)
    store.close()
    rot(tmp_path, image, 2)
    store = FileStore.open(tmp_path / "store")
    outcome = store.read_chunks(image.image, Runs([(0, 8)]), bytes_max=10**6)
    assert outcome.found == Runs([(0, 2), (3, 5)])
    assert outcome.absent == outcome.rotten == Runs([(2, 1)])
    assert image.missing(store) == [2]
    store.close()


def test_what_was_verified_once_is_not_hashed_again(tmp_path: Path) -> None:
    store = FileStore.open(tmp_path / "store")
    image = sample()
    store.write_chunks(image.begin(store), [run_of(image, 0, 8)])
    rot(tmp_path, image, 2)
    outcome = store.read_chunks(image.image, Runs([(2, 1)]), bytes_max=10**6)
    assert b"".join(outcome.payload) != image.chunk(2), "it was verified before it was written"
    store.close()


def test_checkpoints_are_asked_for_and_made_where_nobody_does(tmp_path: Path) -> None:
    size = 2**20
    parameters = ChunkerParameters(kind=ChunkerKind.FIXED, minimum=size, average=size, maximum=size)
    image = Sample(b"".join(bytes((n,)) * size for n in range(66)), parameters)
    store = FileStore.open(tmp_path / "store")
    download = image.begin(store)
    due = [store.write_chunks(download, [run_of(image, n, 1)]).is_checkpoint_due for n in range(66)]
    first = CHECKPOINT_BYTES // size - 1
    last = UNSYNCED_BYTES_MAX // size - 1
    assert due == [first <= n < last for n in range(66)]
    assert store.statistics().checkpoints == 1
    store.close()


def test_an_image_is_hashed_while_it_comes_and_finished_without_being_read(tmp_path: Path) -> None:
    store = FileStore.open(tmp_path / "store")
    image = sample()
    download = image.begin(store)
    assert not store.write_chunks(download, [run_of(image, 0, 3)]).is_hash_due
    assert not store.write_chunks(download, [run_of(image, 5, 3)]).is_hash_due
    assert store.hash_ahead(download) == 3
    assert store.write_chunks(download, [run_of(image, 3, 2)]).is_hash_due
    assert store.hash_ahead(download) == 8
    rot(tmp_path, image, 6)  # after its digest was taken: what later reads are for
    store.finish(download)
    assert store.verify_image(image.image) == (6,)
    store.close()


def test_rot_that_was_hashed_ahead_blames_no_manifest(tmp_path: Path) -> None:
    store = FileStore.open(tmp_path / "store")
    image = sample()
    download = image.begin(store)
    store.write_chunks(download, [run_of(image, 4, 4)])
    rot(tmp_path, image, 5)
    store.write_chunks(download, [run_of(image, 0, 4)])
    assert store.hash_ahead(download) == 8
    with pytest.raises(ChunkRottenError) as caught:
        store.finish(download)
    assert caught.value.indices == (5,)
    store.write_chunks(download, [run_of(image, 5, 1)])
    store.finish(download)
    assert store.record(image.image).state is ImageState.COMPLETE
    store.close()


@given(st.data())
def test_the_digest_of_a_prefix_needs_no_order(data: st.DataObject) -> None:
    image = sample("p", 12_300)
    prefix = PrefixHash()
    held: set[int] = set()

    def held_from(index: int, maximum: int) -> int:
        reach = index
        while reach in held and reach - index < maximum:
            reach += 1
        return reach - index

    def read(size_bytes: int, offset: int) -> bytes:
        return image.data[offset : offset + size_bytes]

    order = data.draw(st.permutations(image.indices))
    for index in order:
        assert prefix.digest(image.recipe.chunk_count) is None
        held.add(index)
        if data.draw(st.booleans()):
            prefix.feed(index, 1, image.chunk(index))
        if data.draw(st.booleans()):
            prefix.advance(image.recipe, held_from, read, bytes_max=2500)
    while prefix.advance(image.recipe, held_from, read, bytes_max=2500) < len(order):
        pass
    assert prefix.digest(image.recipe.chunk_count) == sha256(image.data)
