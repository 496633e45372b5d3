"""What every chunk store promises, tried on the file store and on the memory store alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chunks.file_store import FileStore
from chunks.layout import fixed_parameters
from chunks.memory_store import MemoryStore
from chunks.recipe import Recipe
from chunks.room import StoreLimits
from chunks.store import (
    REPEAT_BYTES_MAX,
    ChunkMissingError,
    ChunkRottenError,
    ChunkStore,
    DiskFullError,
    DownloadClosedError,
    ImageLockedError,
    ImageMissingError,
    ImageState,
    IncompleteImageError,
    RecipeConflictError,
)
from protocol.digest import Digest, sha256
from protocol.errors import DigestMismatchError, LocalProtocolError, PolicyError, StorageError
from tests.chunks.chunk_images import FIXED_1000, SMALL_CDC, Sample, generated, sample

QUOTA = 100_000
LIMITS = StoreLimits(quota_bytes=QUOTA)


class Fixture:
    """A store and the way to spoil its bytes behind its back."""

    def __init__(self, store: ChunkStore, root: Path | None) -> None:
        self.store = store
        self.root = root

    def rot(self, image: Digest, index: int, *, staged: bool = False) -> None:
        if isinstance(self.store, MemoryStore):
            self.store.rot(image, index, staged=staged)
            return
        assert self.root is not None
        offset = self.store.recipe(image, staged=staged).offset(index)
        directory = self.root / ("staging" if staged else "images")
        (path,) = directory.glob(f"{image.hex()}*")
        with path.open("r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    def forget_verified(self) -> None:
        """Makes the store as if just started: nothing verified since boot."""
        if isinstance(self.store, FileStore):
            assert self.root is not None
            self.store.close()
            self.store = FileStore.open(self.root, limits=LIMITS)


@pytest.fixture(params=["file", "memory"])
def fixture(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fixture]:
    made = (
        Fixture(FileStore.open(tmp_path / "store", limits=LIMITS), tmp_path / "store")
        if request.param == "file"
        else Fixture(MemoryStore(quota_bytes=QUOTA), None)
    )
    yield made
    made.store.close()


@pytest.fixture
def store(fixture: Fixture) -> ChunkStore:
    return fixture.store


def test_download_from_begin_to_export(store: ChunkStore, tmp_path: Path) -> None:
    image = sample()
    download = image.begin(store)
    assert image.missing(store) == list(image.indices)
    for index in reversed(image.indices):
        assert store.write_chunk(download, index, image.chunk(index)) == (index,)
        assert store.read_chunk(image.image, index) == image.chunk(index)
    assert store.record(image.image).state is ImageState.PARTIAL
    store.finish(download)
    record = store.record(image.image)
    assert (record.state, record.have_count, record.chunk_count, record.size_bytes) == (
        ImageState.COMPLETE,
        8,
        8,
        7_500,
    )
    assert record.recipe_root == image.recipe.root
    assert store.images() == (record,)
    assert store.recipe(image.image) == image.recipe
    assert store.verify_image(image.image) == ()
    store.export(image.image, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == image.data


def test_begin_again_gives_the_same_download(store: ChunkStore) -> None:
    image = sample()
    assert image.begin(store) == image.begin(store)


def test_begin_with_a_size_that_is_not_the_recipes(store: ChunkStore) -> None:
    image = sample()
    with pytest.raises(LocalProtocolError, match="7501 bytes"):
        store.begin(image.image, 7_501, image.recipe)
    assert store.images() == ()


def test_begin_of_a_complete_image(store: ChunkStore) -> None:
    image = sample()
    image.install(store)
    with pytest.raises(LocalProtocolError, match="complete"):
        image.begin(store)


def test_begin_with_another_recipe(store: ChunkStore) -> None:
    image = sample()
    image.begin(store)
    other = Sample(image.data, fixed_parameters(500))
    with pytest.raises(RecipeConflictError):
        other.begin(store)
    store.remove(image.image)
    other.install(store)
    assert store.recipe(image.image) == other.recipe


def test_wrong_bytes_are_never_written(store: ChunkStore) -> None:
    image = sample()
    download = image.begin(store)
    for wrong in (image.chunk(1), b"", image.chunk(0) + b"x", image.chunk(0)[:-1], bytes(1000)):
        with pytest.raises(DigestMismatchError):
            store.write_chunk(download, 0, wrong)
    assert store.statistics().chunks_refused == 5
    assert store.statistics().written_bytes == 0
    with pytest.raises(ChunkMissingError):
        store.read_chunk(image.image, 0)


def test_a_digest_with_a_false_length_does_not_overrun_neighbours(store: ChunkStore) -> None:
    data = generated("a", 3_000)
    lying = Recipe([1_000, 1_000, 1_000], sha256(data[:2_000]) + 2 * sha256(data[1_000:2_000]))
    download = store.begin(sha256(data), 3_000, lying)
    with pytest.raises(DigestMismatchError):
        store.write_chunk(download, 0, data[:2_000])


@pytest.mark.parametrize("index", [-1, 8, 2**40])
def test_no_such_chunk(store: ChunkStore, index: int) -> None:
    image = sample()
    download = image.begin(store)
    with pytest.raises(LocalProtocolError):
        store.write_chunk(download, index, b"x")
    with pytest.raises(LocalProtocolError):
        store.read_chunk(image.image, index)


def test_a_chunk_written_twice_counts_once(store: ChunkStore) -> None:
    image = sample()
    download = image.begin(store)
    assert store.write_chunk(download, 3, image.chunk(3)) == (3,)
    assert store.write_chunk(download, 3, image.chunk(3)) == ()
    assert store.statistics().written_bytes == 1_000


def test_equal_chunks_are_filled_in_together(store: ChunkStore) -> None:
    image = Sample(bytes(3_000) + generated("a", 1_000) + bytes(1_000))
    download = image.begin(store)
    assert sorted(store.write_chunk(download, 1, bytes(1_000))) == [0, 1, 2, 4]
    assert image.missing(store) == [3]
    assert store.statistics().reused_bytes == 3_000
    store.write_chunk(download, 3, image.chunk(3))
    store.finish(download)


def test_equal_chunks_are_filled_in_within_bounds() -> None:
    large = REPEAT_BYTES_MAX // 2
    image = Sample(bytes(large * 6), fixed_parameters(large))
    store = MemoryStore()
    assert len(store.write_chunk(image.begin(store), 0, bytes(large))) == 3


def test_finish_with_chunks_missing(store: ChunkStore) -> None:
    image = sample()
    download = image.begin(store)
    store.write_chunk(download, 0, image.chunk(0))
    with pytest.raises(IncompleteImageError):
        store.finish(download)


def test_finish_of_a_recipe_that_does_not_make_the_image(store: ChunkStore) -> None:
    image = sample()
    download = store.begin(sha256(b"other"), len(image.data), image.recipe)
    for index in image.indices:
        store.write_chunk(download, index, image.chunk(index))
    with pytest.raises(DigestMismatchError):
        store.finish(download)
    assert store.record(sha256(b"other")).state is ImageState.PARTIAL
    store.abandon(download)
    assert store.images() == ()


def test_a_download_ends_with_finish_abandon_and_remove(store: ChunkStore) -> None:
    image = sample()
    download = image.fetch(store)
    store.finish(download)
    for use in (store.checkpoint, store.finish, store.abandon, store.reuse):
        with pytest.raises(DownloadClosedError):
            use(download)
    store.remove(image.image)
    download = image.begin(store)
    store.abandon(download)
    with pytest.raises(ImageMissingError):
        store.checkpoint(download)
    again = image.begin(store)
    assert again != download
    with pytest.raises(DownloadClosedError):
        store.write_chunk(download, 0, image.chunk(0))
    store.remove(image.image)
    with pytest.raises(ImageMissingError):
        store.write_chunk(again, 0, image.chunk(0))


def test_unknown_images(store: ChunkStore, tmp_path: Path) -> None:
    unknown = sha256(b"unknown")
    for use in (
        store.have,
        store.record,
        store.recipe,
        store.remove,
        store.unlock,
        store.verify_image,
        store.promote,
    ):
        with pytest.raises(ImageMissingError):
            use(unknown)
    with pytest.raises(ImageMissingError):
        store.read_chunk(unknown, 0)
    with pytest.raises(ImageMissingError):
        store.export(unknown, tmp_path / "out")
    store.withdraw(unknown)


def test_staged_bytes_are_invisible_until_promoted(store: ChunkStore, tmp_path: Path) -> None:
    image = Sample(generated("s", 20_000), SMALL_CDC)
    staged = store.stage(image.file(tmp_path), SMALL_CDC)
    assert (staged.image, staged.size_bytes, staged.recipe) == (image.image, 20_000, image.recipe)
    assert store.images() == ()
    assert [record.state for record in store.staged_images()] == [ImageState.STAGED]
    for use in (store.have, store.record, store.recipe, store.verify_image, store.remove):
        with pytest.raises(ImageMissingError):
            use(image.image)
    with pytest.raises(ImageMissingError):
        store.read_chunk(image.image, 0)
    with pytest.raises(ImageMissingError):
        store.export(image.image, tmp_path / "out")
    assert store.read_chunk(image.image, 0, staged=True) == image.chunk(0)
    assert store.recipe(image.image, staged=True) == image.recipe
    assert store.verify_image(image.image, staged=True) == ()
    store.promote(image.image)
    assert store.staged_images() == ()
    assert [record.state for record in store.images()] == [ImageState.COMPLETE]
    assert [store.read_chunk(image.image, i) for i in image.indices] == [
        image.chunk(i) for i in image.indices
    ]
    with pytest.raises(ImageMissingError):
        store.read_chunk(image.image, 0, staged=True)


def test_staged_bytes_are_no_source_of_reuse(store: ChunkStore, tmp_path: Path) -> None:
    image = sample()
    store.stage(image.file(tmp_path), FIXED_1000)
    assert store.reuse(image.begin(store)) == 0


def test_staging_again_replaces(store: ChunkStore, tmp_path: Path) -> None:
    image = sample()
    path = image.file(tmp_path)
    store.stage(path, FIXED_1000)
    store.stage(path, SMALL_CDC)
    assert len(store.staged_images()) == 1
    assert store.recipe(image.image, staged=True) == Sample(image.data, SMALL_CDC).recipe
    store.remove(image.image, staged=True)
    assert store.staged_images() == ()


def test_promotion_supersedes_a_download(store: ChunkStore, tmp_path: Path) -> None:
    image = sample()
    download = image.begin(store)
    store.stage(image.file(tmp_path), FIXED_1000)
    store.promote(image.image)
    assert store.record(image.image).state is ImageState.COMPLETE
    with pytest.raises(DownloadClosedError):
        store.write_chunk(download, 0, image.chunk(0))


def test_promotion_of_what_is_complete(store: ChunkStore, tmp_path: Path) -> None:
    image = sample()
    image.install(store)
    store.stage(image.file(tmp_path), FIXED_1000)
    store.promote(image.image)
    assert store.staged_images() == ()
    store.stage(image.file(tmp_path), SMALL_CDC)
    with pytest.raises(RecipeConflictError):
        store.promote(image.image)
    store.withdraw(image.image, keep=True)
    with pytest.raises(ImageLockedError):
        store.promote(image.image)


def test_what_cannot_be_staged(store: ChunkStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        store.stage(tmp_path / "absent", FIXED_1000)
    (tmp_path / "empty").touch()
    with pytest.raises(PolicyError, match=r"image\.size"):
        store.stage(tmp_path / "empty", FIXED_1000)
    with pytest.raises(StorageError):
        store.stage(tmp_path, FIXED_1000)
    assert store.staged_images() == ()


def test_reuse_copies_what_other_images_hold(store: ChunkStore) -> None:
    old = sample("a", 8_000)
    old.install(store)
    new = Sample(old.data[:3_000] + generated("b", 2_000) + old.data[5_000:])
    download = new.begin(store)
    assert store.reuse(download) == 6_000
    assert new.missing(store) == [3, 4]
    assert store.statistics().reused_bytes == 6_000
    assert store.reuse(download) == 0
    new.install(store)


def test_reuse_verifies_what_it_copies(fixture: Fixture) -> None:
    old = sample("a", 4_000)
    old.install(fixture.store)
    fixture.rot(old.image, 2)
    new = Sample(old.data + generated("b", 1_000))
    assert fixture.store.reuse(new.begin(fixture.store)) == 3_000
    assert new.missing(fixture.store) == [2, 4]
    assert old.missing(fixture.store) == [2]
    assert fixture.store.record(old.image).state is ImageState.PARTIAL


def test_reuse_does_not_copy_from_locked_images(store: ChunkStore) -> None:
    old = sample("a", 4_000)
    old.install(store)
    store.withdraw(old.image, keep=True)
    new = Sample(old.data + generated("b", 1_000))
    assert store.reuse(new.begin(store)) == 0


def test_reuse_within_the_image(fixture: Fixture) -> None:
    image = Sample(bytes(2_000) + generated("a", 1_000) + bytes(1_000))
    download = image.begin(fixture.store)
    fixture.store.write_chunk(download, 0, bytes(1_000))
    fixture.rot(image.image, 1)
    assert fixture.store.verify_image(image.image) == (1,)
    assert image.missing(fixture.store) == [1, 2]
    assert fixture.store.reuse(download) == 1_000
    assert image.missing(fixture.store) == [2]


def test_rot_is_found_on_the_first_read_after_a_start(fixture: Fixture) -> None:
    image = sample()
    image.install(fixture.store)
    fixture.forget_verified()
    fixture.rot(image.image, 5)
    with pytest.raises(ChunkRottenError) as caught:
        fixture.store.read_chunk(image.image, 5)
    assert (caught.value.image, caught.value.indices) == (image.image, (5,))
    store = fixture.store
    assert store.record(image.image).state is ImageState.PARTIAL
    assert image.missing(store) == [5]
    with pytest.raises(ChunkMissingError):
        store.read_chunk(image.image, 5)
    assert store.read_chunk(image.image, 4) == image.chunk(4)
    assert store.statistics().chunks_rotten == 1
    image.install(store)
    assert store.read_chunk(image.image, 5) == image.chunk(5)
    assert store.verify_image(image.image) == ()


def test_finish_finds_rot(fixture: Fixture) -> None:
    image = sample()
    download = image.fetch(fixture.store)
    fixture.rot(image.image, 6)
    with pytest.raises(ChunkRottenError):
        fixture.store.finish(download)
    assert image.missing(fixture.store) == [6]
    image.install(fixture.store)


def test_export_of_rot(fixture: Fixture, tmp_path: Path) -> None:
    image = sample()
    image.install(fixture.store)
    fixture.rot(image.image, 0)
    with pytest.raises(ChunkRottenError):
        fixture.store.export(image.image, tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []
    with pytest.raises(ChunkMissingError):
        fixture.store.export(image.image, tmp_path / "out")


def test_export_to_nowhere(store: ChunkStore, tmp_path: Path) -> None:
    image = sample()
    image.install(store)
    with pytest.raises(StorageError):
        store.export(image.image, tmp_path / "absent" / "out")


def test_rot_in_staging(fixture: Fixture, tmp_path: Path) -> None:
    image = sample()
    fixture.store.stage(image.file(tmp_path), FIXED_1000)
    fixture.rot(image.image, 1, staged=True)
    assert fixture.store.verify_image(image.image, staged=True) == (1,)
    with pytest.raises(ChunkRottenError):
        fixture.store.read_chunk(image.image, 1, staged=True)
    assert fixture.store.record(image.image, staged=True).state is ImageState.STAGED


def test_withdrawn_bytes_are_gone_and_others_stay(store: ChunkStore) -> None:
    old, new = sample("a", 4_000), Sample(generated("a", 4_000) + generated("b", 500))
    old.install(store)
    new.install(store)
    store.withdraw(old.image)
    assert [record.image for record in store.images()] == [new.image]
    with pytest.raises(ImageMissingError):
        store.read_chunk(old.image, 0)
    assert store.read_chunk(new.image, 0) == old.chunk(0)
    # And they serve as the source when the image is authorised again.
    assert store.reuse(old.begin(store)) == 4_000


def _check_locked(store: ChunkStore, image: Sample, directory: Path) -> None:
    assert store.record(image.image).state is ImageState.LOCKED
    with pytest.raises(ImageLockedError):
        store.have(image.image)
    with pytest.raises(ImageLockedError):
        store.read_chunk(image.image, 0)
    with pytest.raises(ImageLockedError):
        store.export(image.image, directory / "out")
    with pytest.raises(ImageLockedError):
        image.begin(store)
    assert store.statistics().images_locked == 1


def test_locked_bytes_are_kept_and_not_served(fixture: Fixture, tmp_path: Path) -> None:
    image = sample()
    image.install(fixture.store)
    fixture.store.withdraw(image.image, keep=True)
    for _ in range(2):
        _check_locked(fixture.store, image, tmp_path)
        fixture.forget_verified()
    fixture.store.unlock(image.image)
    assert fixture.store.record(image.image).state is ImageState.COMPLETE
    assert fixture.store.read_chunk(image.image, 0) == image.chunk(0)


def test_locking_closes_a_download(store: ChunkStore) -> None:
    image = sample()
    download = image.begin(store)
    store.write_chunk(download, 0, image.chunk(0))
    store.withdraw(image.image, keep=True)
    with pytest.raises(DownloadClosedError):
        store.write_chunk(download, 1, image.chunk(1))
    store.unlock(image.image)
    assert store.record(image.image).state is ImageState.PARTIAL
    image.install(store)


def test_quota_bounds_everything_held(store: ChunkStore, tmp_path: Path) -> None:
    first, second = sample("a", 60_000), sample("b", 60_000)
    first.install(store)
    with pytest.raises(DiskFullError):
        second.begin(store)
    with pytest.raises(DiskFullError):
        store.stage(second.file(tmp_path), FIXED_1000)
    statistics = store.statistics()
    assert (statistics.reserved_bytes, statistics.quota_bytes) == (60_000, QUOTA)
    assert store.read_chunk(first.image, 0) == first.chunk(0)
    store.remove(first.image)
    second.install(store)


def test_collecting_deletes_what_nobody_uses(store: ChunkStore, tmp_path: Path) -> None:
    first, second = sample("a"), sample("b")
    first.install(store)
    store.stage(second.file(tmp_path), FIXED_1000)
    assert not store.collect(second.image)
    assert store.collect(first.image)
    assert not store.collect(first.image)
    assert store.images() == ()
    assert [record.image for record in store.staged_images()] == [second.image]
    first.install(store)


def test_a_collected_download_is_closed(store: ChunkStore) -> None:
    image = sample()
    download = image.begin(store)
    store.write_chunk(download, 0, image.chunk(0))
    assert store.collect(image.image)
    with pytest.raises(StorageError):
        store.write_chunk(download, 1, image.chunk(1))
    image.install(store)


def test_a_range_is_verified_and_rot_in_it_dropped(fixture: Fixture) -> None:
    store, image = fixture.store, sample()
    image.install(store)
    fixture.rot(image.image, 2)
    fixture.rot(image.image, 5)
    assert store.verify_range(image.image, 0, 2) == ()
    assert store.verify_range(image.image, 2, 5) == (2,)
    assert image.missing(store) == [2]
    assert store.record(image.image).state is ImageState.PARTIAL
    assert store.verify_range(image.image, 2, 8) == (5,)
    for wrong in ((-1, 2), (3, 2), (0, 9)):
        with pytest.raises(LocalProtocolError):
            store.verify_range(image.image, *wrong)
    with pytest.raises(ImageMissingError):
        store.verify_range(sample("other").image, 0, 0)


def test_rot_after_a_chunk_was_verified_is_found_once_it_is_distrusted(fixture: Fixture) -> None:
    store, image = fixture.store, sample()
    image.install(store)
    assert store.read_chunk(image.image, 3) == image.chunk(3)
    fixture.rot(image.image, 3)
    store.distrust()
    with pytest.raises(ChunkRottenError):
        store.read_chunk(image.image, 3)
    image.install(store)


def test_missing_room_says_what_is_in_the_way(store: ChunkStore) -> None:
    assert store.missing_room(QUOTA) == (0, 0)
    assert store.missing_room(QUOTA + 1) == (1, 0)
    sample("a", 60_000).install(store)
    assert store.missing_room(60_000) == (20_000, 0)


def test_statistics_count(store: ChunkStore, tmp_path: Path) -> None:
    first, second, third = sample("a"), sample("b"), sample("c")
    first.install(store)
    second.begin(store)
    store.stage(third.file(tmp_path), FIXED_1000)
    store.read_chunk(first.image, 0)
    statistics = store.statistics()
    assert statistics.images_complete == statistics.images_partial == statistics.images_staged == 1
    assert (statistics.written_bytes, statistics.read_bytes) == (7_500, 1_000)
    assert (statistics.chunks_rotten, statistics.chunks_refused) == (0, 0)


def test_a_closed_store_refuses(store: ChunkStore) -> None:
    image = sample()
    image.install(store)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.read_chunk(image.image, 0)
    with pytest.raises(StorageError, match="closed"):
        store.images()
