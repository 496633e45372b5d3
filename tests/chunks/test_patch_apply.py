"""Applying patches to downloads: right ones, wrong ones, rotten bases, interruptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chunks.byte_source import StoreSource
from chunks.file_store import FileStore
from chunks.layout import fixed_parameters
from chunks.memory_store import MemoryStore
from chunks.patch import PatchError
from chunks.patch_apply import STEP_BYTES, PatchApplication
from chunks.store import (
    ChunkRottenError,
    ChunkStore,
    DiskFullError,
    Download,
    ImageMissingError,
    ImageState,
)
from protocol.digest import Digest, sha256
from protocol.errors import LocalProtocolError, StorageError
from tests.chunks.chunk_images import SMALL_CDC, Sample, generated
from tests.chunks.patches import copy, frame_of, framed, pair, patch_between, patch_of

PATCH_CHUNKS = fixed_parameters(1024)


def hold(store: ChunkStore, image: Sample) -> Digest:
    """Has a store hold an image completely."""
    download = store.begin(image.image, len(image.data), image.recipe)
    for index in image.indices:
        store.write_chunk(download, index, image.chunk(index))
    store.finish(download)
    return image.image


def hold_patch(store: ChunkStore, patch: bytes) -> Digest:
    return hold(store, Sample(patch, PATCH_CHUNKS))


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkStore:
    return MemoryStore() if request.param == "memory" else FileStore.open(tmp_path / "store")


def begin(store: ChunkStore, image: Sample) -> Download:
    return store.begin(image.image, len(image.data), image.recipe)


def apply(application: PatchApplication) -> list[int]:
    gained: list[int] = []
    while True:
        outcome = application.step()
        gained.extend(outcome.gained)
        if outcome.is_done:
            return gained


def test_the_patched_image_is_complete(store: ChunkStore) -> None:
    old, new = pair()
    base, patch = hold(store, old), hold_patch(store, patch_between(old, new))
    download = begin(store, new)
    reused = store.reuse(download)
    assert 0 < reused < len(new.data)
    gained = apply(PatchApplication(store, download, patch=patch, base=base))
    store.finish(download)
    assert store.record(new.image).state is ImageState.COMPLETE
    assert 0 < len(gained) < new.recipe.chunk_count  # what was reused is not made again
    assert b"".join(store.read_chunk(new.image, index) for index in new.indices) == new.data


@pytest.mark.slow
def test_steps_are_bounded(store: ChunkStore) -> None:
    old = Sample(generated("o", 3000), SMALL_CDC)
    new = Sample(generated("n", 4096) * 1500, fixed_parameters(4096))
    parts = [
        (framed(STEP_BYTES // 4), frame_of(new.data[: STEP_BYTES // 4]))
        for _ in range(len(new.data) // (STEP_BYTES // 4))
    ]
    rest = len(new.data) - sum(segment.length for segment, _ in parts)
    parts.append((framed(rest), frame_of(new.data[-rest:])))
    patch = hold_patch(store, patch_of(len(new.data), len(old.data), *parts))
    application = PatchApplication(store, begin(store, new), patch=patch, base=hold(store, old))
    first = application.step()
    assert first.made_bytes < STEP_BYTES + 4096


WRONG: dict[str, Callable[[Sample, Sample], bytes]] = {
    "another image": lambda old, new: patch_of(
        len(new.data), len(old.data), (framed(len(new.data)), frame_of(bytes(len(new.data))))
    ),
    "one wrong byte": lambda old, new: patch_of(
        len(new.data),
        len(old.data),
        (framed(len(new.data)), frame_of(new.data[:9000] + b"\0" + new.data[9001:])),
    ),
    "the base's beginning": lambda old, new: patch_of(
        len(new.data), len(old.data), (copy(len(new.data), 0), b"")
    ),
    "another size": lambda old, new: patch_of(5, len(old.data), (copy(5, 0), b"")),
    "not a patch": lambda old, new: generated("noise", 5000),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_patch_writes_no_wrong_byte(store: ChunkStore, name: str) -> None:
    old, new = pair()
    base, patch = hold(store, old), hold_patch(store, WRONG[name](old, new))
    download = begin(store, new)
    with pytest.raises(PatchError):
        apply(PatchApplication(store, download, patch=patch, base=base))
    for index in new.indices:  # whatever is held now is right, and the rest can still be fetched
        store.write_chunk(download, index, new.chunk(index))
    store.finish(download)
    assert store.verify_image(new.image) == ()


def test_a_patch_for_another_base_of_the_same_size_is_found_out(store: ChunkStore) -> None:
    old, new = pair()
    other = Sample(generated("other", len(old.data)), SMALL_CDC)
    patch = hold_patch(store, patch_between(old, new))
    download = begin(store, new)
    with pytest.raises(PatchError):
        apply(PatchApplication(store, download, patch=patch, base=hold(store, other)))
    assert store.record(new.image).state is ImageState.PARTIAL


def test_a_base_that_rotted_is_no_fault_of_the_patch(tmp_path: Path) -> None:
    old, new = pair()
    store = FileStore.open(tmp_path / "store")
    base, patch = hold(store, old), hold_patch(store, patch_between(old, new))
    store.close()
    path = tmp_path / "store" / "images" / old.image.hex()
    spoiled = bytearray(path.read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    path.write_bytes(spoiled)
    store = FileStore.open(tmp_path / "store")
    application = PatchApplication(store, begin(store, new), patch=patch, base=base)
    with pytest.raises(ChunkRottenError) as caught:
        apply(application)
    assert caught.value.image == base
    assert store.record(base).state is ImageState.PARTIAL  # it is mended like any other image


@pytest.mark.slow
def test_power_fails_in_the_middle_and_the_application_goes_on(tmp_path: Path) -> None:
    old, new = pair(200_000)
    store = FileStore.open(tmp_path / "store")
    base, patch = hold(store, old), hold_patch(store, patch_between(old, new))
    download = begin(store, new)
    reader_limit = 40

    class PowerFailure(Exception):
        pass

    class FailingStore:
        def __init__(self) -> None:
            self.written = 0

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def write_chunk(self, into: Download, index: int, data: bytes) -> tuple[int, ...]:
            self.written += 1
            if self.written > reader_limit:
                raise PowerFailure
            return store.write_chunk(into, index, data)

    failing: ChunkStore = FailingStore()  # type: ignore[assignment]  # all but one call are real
    with pytest.raises(PowerFailure):
        apply(PatchApplication(failing, download, patch=patch, base=base))
    store.checkpoint(download)
    store.close()

    store = FileStore.open(tmp_path / "store")
    download = begin(store, new)
    held = store.record(new.image).have_count
    assert held >= reader_limit
    gained = apply(PatchApplication(store, download, patch=patch, base=base))
    assert len(gained) == new.recipe.chunk_count - held
    store.finish(download)
    assert store.verify_image(new.image) == ()


def test_a_full_disk_stops_the_application_which_then_goes_on() -> None:
    old, new = pair()
    store = MemoryStore()
    base, patch = hold(store, old), hold_patch(store, patch_between(old, new))
    download = begin(store, new)

    class FullStore:
        is_full = True

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def write_chunk(self, into: Download, index: int, data: bytes) -> tuple[int, ...]:
            if self.is_full and index == 20:
                raise DiskFullError("full")
            return store.write_chunk(into, index, data)

    full = FullStore()
    partly: ChunkStore = full  # type: ignore[assignment]  # all but one call are real
    application = PatchApplication(partly, download, patch=patch, base=base)
    with pytest.raises(DiskFullError):
        apply(application)
    full.is_full = False
    apply(application)
    store.finish(download)


def test_what_is_needed_must_be_held(store: ChunkStore) -> None:
    old, new = pair()
    download = begin(store, new)
    patch = Sample(patch_between(old, new), PATCH_CHUNKS)
    with pytest.raises(ImageMissingError):
        PatchApplication(store, download, patch=patch.image, base=old.image)
    hold(store, old)
    with pytest.raises(ImageMissingError):
        PatchApplication(store, download, patch=patch.image, base=old.image)
    begin(store, patch)
    with pytest.raises(StorageError):  # begun, not complete
        PatchApplication(store, download, patch=patch.image, base=old.image)


def test_an_image_is_read_across_its_chunks(store: ChunkStore) -> None:
    image = Sample(generated("image", 10_500))
    source = StoreSource(store, hold(store, image))
    for offset, length in ((0, 1), (999, 2), (0, 10_500), (2500, 4000), (10_499, 1), (700, 0)):
        assert source.read(offset, length) == image.data[offset : offset + length]
    for offset, length in ((-1, 1), (0, 10_501), (10_500, 1), (3, -1)):
        with pytest.raises(LocalProtocolError):
            source.read(offset, length)
    assert sha256(source.read(0, source.size_bytes)) == image.image
