"""A chunk store in memory, for tests and simulations: the same contract, nothing survives it.

Kept to the contract by the very tests that the file store passes. One lock around every call makes
it thread-safe. Besides the contract it offers `rot`, with which a test spoils stored bytes.
"""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from chunks.bitmap import Bitmap
from chunks.chunk_batches import ReadOutcome, RunBytes, WriteOutcome, verify_runs
from chunks.chunker import cut
from chunks.image_table import StoreCounters
from chunks.layout import check_image_size
from chunks.recipe import Recipe, RecipeBuilder
from chunks.store import (
    REPEAT_BYTES_MAX,
    ChunkMissingError,
    ChunkRottenError,
    ChunkSealer,
    ChunkStore,
    DiskFullError,
    Download,
    DownloadClosedError,
    ImageLockedError,
    ImageMissingError,
    ImageRecord,
    ImageState,
    IncompleteImageError,
    RecipeConflictError,
    StagedImage,
    StoreStatistics,
)
from protocol.digest import ChunkId, Digest, sha256, short
from protocol.errors import (
    DigestMismatchError,
    LocalProtocolError,
    PolicyError,
    StorageError,
)
from protocol.limits import CHUNKS_PER_COMPONENT_MAX
from protocol.manifest import ChunkerParameters
from protocol.runs import Runs

P = ParamSpec("P")
R = TypeVar("R")


def _locked(
    method: Callable[Concatenate[MemoryStore, P], R],
) -> Callable[Concatenate[MemoryStore, P], R]:
    """Makes a method hold the store's lock, and refuse a closed store."""

    @functools.wraps(method)
    def locked(self: MemoryStore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._lock:
            if self._closed:
                raise StorageError("the chunk store is closed")
            return method(self, *args, **kwargs)

    return locked


@dataclass(slots=True, kw_only=True)
class _MemoryImage:
    image: Digest
    recipe: Recipe
    state: ImageState
    have: Bitmap
    data: bytearray = field(repr=False)
    locked: bool = False
    generation: int | None = None

    def bytes_of(self, index: int) -> bytes | None:
        """A chunk's bytes; None if they do not match any more."""
        start = self.recipe.offset(index)
        data = bytes(self.data[start : start + self.recipe.length(index)])
        return data if bytes(sha256(data)) == self.recipe.digest(index) else None

    def put(self, index: int, data: bytes) -> None:
        start = self.recipe.offset(index)
        self.data[start : start + len(data)] = data
        self.have.add(index)

    def check_served(self) -> None:
        if self.locked:
            raise ImageLockedError(f"image {short(self.image)} is locked")

    def record(self) -> ImageRecord:
        return ImageRecord(
            image=self.image,
            size_bytes=self.recipe.size_bytes,
            state=ImageState.LOCKED if self.locked else self.state,
            chunk_count=self.recipe.chunk_count,
            have_count=self.have.count,
            recipe_root=self.recipe.root,
        )


class MemoryStore(ChunkStore):
    """A `ChunkStore` in memory; its methods and errors are described there."""

    def __init__(self, *, quota_bytes: int | None = None) -> None:
        """Starts empty.

        Args:
            quota_bytes: bound of the sum of all images' sizes; None for no bound.
        """
        self._lock = threading.RLock()
        self._quota_bytes = quota_bytes
        self._images: dict[tuple[Digest, bool], _MemoryImage] = {}
        self._counters = StoreCounters()
        self._generations = 0
        self._closed = False

    @_locked
    def stage(
        self, source: Path, parameters: ChunkerParameters, sealer: ChunkSealer | None = None
    ) -> StagedImage:
        """See `ChunkStore.stage`."""
        try:
            data = source.read_bytes()
        except OSError as error:
            raise StorageError(f"staging {source}: {error.strerror}") from error
        check_image_size(len(data))
        builder = RecipeBuilder()
        stored = []
        for chunk in cut(io.BytesIO(data), parameters):
            if builder.chunk_count == CHUNKS_PER_COMPONENT_MAX:
                raise PolicyError("image.chunks", f"over {CHUNKS_PER_COMPONENT_MAX} chunks")
            stored.append(bytes(chunk) if sealer is None else sealer.seal(chunk))
            builder.add(len(stored[-1]), sha256(stored[-1]))
        data = b"".join(stored)
        check_image_size(len(data))
        image, recipe = sha256(data), builder.build()
        if (image, True) not in self._images:
            self._check_quota(len(data))
        self._images.pop((image, True), None)
        self._images[image, True] = _MemoryImage(
            image=image,
            recipe=recipe,
            state=ImageState.STAGED,
            have=Bitmap.full(recipe.chunk_count),
            data=bytearray(data),
        )
        return StagedImage(image=image, size_bytes=len(data), recipe=recipe)

    @_locked
    def promote(self, image: Digest) -> None:
        """See `ChunkStore.promote`."""
        held = self._find(image, staged=True)
        other = self._images.get((image, False))
        if other is not None:
            other.check_served()
            if other.state is ImageState.COMPLETE:
                if other.recipe.root != held.recipe.root:
                    raise RecipeConflictError(f"image {short(image)} has another recipe")
                del self._images[image, True]
                return
        self._images.pop((image, False), None)
        del self._images[image, True]
        self._images[image, False] = replace(held, state=ImageState.COMPLETE)

    @_locked
    def staged_images(self) -> tuple[ImageRecord, ...]:
        """See `ChunkStore.staged_images`."""
        return tuple(held.record() for key, held in self._images.items() if key[1])

    @_locked
    def begin(self, image: Digest, size_bytes: int, recipe: Recipe) -> Download:
        """See `ChunkStore.begin`."""
        if size_bytes != recipe.size_bytes:
            raise LocalProtocolError(f"{size_bytes} bytes, the recipe has {recipe.size_bytes}")
        held = self._images.get((image, False))
        if held is None:
            self._check_quota(size_bytes)
            held = _MemoryImage(
                image=image,
                recipe=recipe,
                state=ImageState.PARTIAL,
                have=Bitmap(recipe.chunk_count),
                data=bytearray(size_bytes),
            )
            self._images[image, False] = held
        held.check_served()
        if held.recipe.root != recipe.root:
            raise RecipeConflictError(f"image {short(image)} has another recipe")
        if held.state is ImageState.COMPLETE:
            raise LocalProtocolError(f"image {short(image)} is complete")
        if held.generation is None:
            self._generations += 1
            held.generation = self._generations
        return Download(image=image, recipe=recipe, generation=held.generation)

    @_locked
    def reuse(self, download: Download) -> int:
        """See `ChunkStore.reuse`."""
        held = self._current(download)
        gained = 0
        for index in held.have.missing():
            data = self._source(held.recipe.digest(index))
            if data is not None and len(data) == held.recipe.length(index):
                held.put(index, data)
                gained += len(data)
        self._counters.reused_bytes += gained
        self._counters.written_bytes += gained
        return gained

    def _source(self, chunk: ChunkId) -> bytes | None:
        for (_, staged), other in self._images.items():
            if staged or other.locked:
                continue
            for index in range(other.recipe.chunk_count):
                if index in other.have and other.recipe.digest(index) == chunk:
                    data = other.bytes_of(index)
                    if data is not None:
                        return data
                    self._drop(other, (index,))
        return None

    @_locked
    def write_chunk(self, download: Download, index: int, data: bytes) -> tuple[int, ...]:
        """See `ChunkStore.write_chunk`."""
        expected, actual = download.recipe.digest(index), bytes(sha256(data))
        if actual != expected or len(data) != download.recipe.length(index):
            self._counters.chunks_refused += 1
            raise DigestMismatchError(f"chunk {index}", expected=expected, actual=actual)
        held = self._current(download)
        if index in held.have:
            return ()
        repeats = [
            other
            for other in held.recipe.repeats.get(expected, ())
            if other != index and other not in held.have
        ][: max(1, REPEAT_BYTES_MAX // len(data))]
        for target in (index, *repeats):
            held.put(target, data)
        self._counters.written_bytes += len(data) * (1 + len(repeats))
        self._counters.reused_bytes += len(data) * len(repeats)
        return (index, *repeats)

    @_locked
    def write_chunks(self, download: Download, runs: Sequence[RunBytes]) -> WriteOutcome:
        """See `ChunkStore.write_chunks`."""
        verified, refused = verify_runs(download.recipe, runs)
        held = self._current(download)
        self._counters.chunks_refused += len(refused)
        gained: list[int] = []
        stored_bytes = 0
        for run in verified:
            for index in range(run.first, run.first + run.count):
                data = bytes(run.part(held.recipe, index, 1).data)
                fresh = self.write_chunk(download, index, data)
                gained.extend(fresh)
                stored_bytes += len(data) if index in fresh else 0
        return WriteOutcome(
            stored=Runs.merged((run.first, run.count) for run in verified),
            gained=Runs.of(gained),
            refused=tuple(refused),
            stored_bytes=stored_bytes,
        )

    @_locked
    def hash_ahead(self, download: Download) -> int:
        """See `ChunkStore.hash_ahead`; hashing memory when it is complete is soon enough."""
        self._current(download)
        return 0

    @_locked
    def checkpoint(self, download: Download) -> None:
        """See `ChunkStore.checkpoint`."""
        self._current(download)
        self._counters.checkpoints += 1

    @_locked
    def finish(self, download: Download) -> None:
        """See `ChunkStore.finish`."""
        held = self._current(download)
        if not held.have.is_full:
            raise IncompleteImageError(f"chunks of {short(held.image)} are missing")
        self._check_whole(held)
        held.state = ImageState.COMPLETE
        held.generation = None

    def _check_whole(self, held: _MemoryImage) -> None:
        actual = sha256(held.data)
        if actual != held.image:
            rotten = self._verify(held)
            if rotten:
                raise ChunkRottenError(held.image, rotten)
            raise DigestMismatchError(
                f"image {short(held.image)}", expected=held.image, actual=actual
            )

    @_locked
    def abandon(self, download: Download) -> None:
        """See `ChunkStore.abandon`."""
        self._current(download)
        del self._images[download.image, False]

    @_locked
    def read_chunk(self, image: Digest, index: int, *, staged: bool = False) -> bytes:
        """See `ChunkStore.read_chunk`."""
        held = self._find(image, staged=staged)
        held.check_served()
        if index not in held.have:
            raise ChunkMissingError(f"chunk {index} of {short(image)} is not held")
        data = held.bytes_of(index)
        if data is None:
            self._drop(held, (index,))
            raise ChunkRottenError(image, (index,))
        self._counters.read_bytes += len(data)
        return data

    @_locked
    def read_chunks(
        self, image: Digest, indices: Runs, *, bytes_max: int, staged: bool = False
    ) -> ReadOutcome:
        """See `ChunkStore.read_chunks`."""
        self._find(image, staged=staged).check_served()
        found: list[tuple[int, bytes]] = []
        absent: list[int] = []
        rotten: list[int] = []
        for index in indices:
            length = self._find(image, staged=staged).recipe.length(index)
            if (found or absent) and length > bytes_max:
                break
            bytes_max -= length
            try:
                found.append((index, self.read_chunk(image, index, staged=staged)))
            except ChunkRottenError as error:
                rotten.extend(error.indices)
                absent.append(index)
            except ChunkMissingError:
                absent.append(index)
        return ReadOutcome(
            found=Runs.of_ascending([index for index, _ in found]),
            lengths=tuple(len(data) for _, data in found),
            payload=tuple(data for _, data in found),
            absent=Runs.of(absent),
            rotten=Runs.of(rotten),
        )

    @_locked
    def have(self, image: Digest) -> bytes:
        """See `ChunkStore.have`."""
        held = self._find(image)
        held.check_served()
        return held.have.encode()

    @_locked
    def images(self) -> tuple[ImageRecord, ...]:
        """See `ChunkStore.images`."""
        return tuple(held.record() for key, held in self._images.items() if not key[1])

    @_locked
    def record(self, image: Digest, *, staged: bool = False) -> ImageRecord:
        """See `ChunkStore.record`."""
        return self._find(image, staged=staged).record()

    @_locked
    def recipe(self, image: Digest, *, staged: bool = False) -> Recipe:
        """See `ChunkStore.recipe`."""
        return self._find(image, staged=staged).recipe

    @_locked
    def remove(self, image: Digest, *, staged: bool = False) -> None:
        """See `ChunkStore.remove`."""
        self._find(image, staged=staged)
        del self._images[image, staged]

    @_locked
    def collect(self, image: Digest) -> bool:
        """See `ChunkStore.collect`; every call holds the lock, so nobody is within one."""
        return self._images.pop((image, False), None) is not None

    @_locked
    def withdraw(self, image: Digest, *, keep: bool = False) -> None:
        """See `ChunkStore.withdraw`."""
        held = self._images.get((image, False))
        if held is None:
            return
        if not keep:
            del self._images[image, False]
            return
        held.locked = True
        held.generation = None

    @_locked
    def unlock(self, image: Digest) -> None:
        """See `ChunkStore.unlock`."""
        self._find(image).locked = False

    @_locked
    def verify_image(self, image: Digest, *, staged: bool = False) -> tuple[int, ...]:
        """See `ChunkStore.verify_image`."""
        return self._verify(self._find(image, staged=staged))

    @_locked
    def verify_range(self, image: Digest, start: int, stop: int) -> tuple[int, ...]:
        """See `ChunkStore.verify_range`."""
        held = self._find(image)
        if not 0 <= start <= stop <= held.recipe.chunk_count:
            raise LocalProtocolError(f"no chunks {start} to {stop} of {short(image)}")
        return self._verify(held, range(start, stop))

    def distrust(self) -> None:
        """See `ChunkStore.distrust`; memory is hashed at every read."""

    def _verify(self, held: _MemoryImage, indices: range | None = None) -> tuple[int, ...]:
        rotten = tuple(
            index
            for index in (range(held.recipe.chunk_count) if indices is None else indices)
            if index in held.have and held.bytes_of(index) is None
        )
        self._drop(held, rotten)
        return rotten

    @_locked
    def export(self, image: Digest, target: Path) -> None:
        """See `ChunkStore.export`."""
        held = self._find(image)
        held.check_served()
        if held.state is not ImageState.COMPLETE:
            raise ChunkMissingError(f"image {short(image)} is not complete")
        self._check_whole(held)
        try:
            target.write_bytes(held.data)
        except OSError as error:
            raise StorageError(f"exporting to {target}: {error.strerror}") from error

    @_locked
    def missing_room(self, more_bytes: int, more_files: int = 1) -> tuple[int, int]:  # noqa: ARG002
        """See `ChunkStore.missing_room`; memory has no files."""
        if self._quota_bytes is None:
            return 0, 0
        return max(0, self._reserved_bytes() + more_bytes - self._quota_bytes), 0

    @_locked
    def statistics(self) -> StoreStatistics:
        """See `ChunkStore.statistics`."""
        states = [held.record().state for held in self._images.values()]
        counters = self._counters
        return StoreStatistics(
            images_partial=states.count(ImageState.PARTIAL),
            images_complete=states.count(ImageState.COMPLETE),
            images_staged=states.count(ImageState.STAGED),
            images_locked=states.count(ImageState.LOCKED),
            reserved_bytes=self._reserved_bytes(),
            quota_bytes=self._quota_bytes,
            written_bytes=counters.written_bytes,
            reused_bytes=counters.reused_bytes,
            read_bytes=counters.read_bytes,
            checkpoints=counters.checkpoints,
            chunks_refused=counters.chunks_refused,
            chunks_rotten=counters.chunks_rotten,
        )

    def close(self) -> None:
        """See `ChunkStore.close`."""
        with self._lock:
            self._closed = True

    @_locked
    def rot(self, image: Digest, index: int, *, staged: bool = False) -> None:
        """Flips a bit of a stored chunk behind the store's back: a test's bad sector."""
        held = self._find(image, staged=staged)
        held.data[held.recipe.offset(index)] ^= 1

    def _find(self, image: Digest, *, staged: bool = False) -> _MemoryImage:
        held = self._images.get((image, staged))
        if held is None:
            raise ImageMissingError(f"no image {short(image)}")
        return held

    def _current(self, download: Download) -> _MemoryImage:
        held = self._find(download.image)
        if held.locked or held.generation is None or held.generation != download.generation:
            raise DownloadClosedError(f"download of image {short(download.image)} is closed")
        return held

    def _drop(self, held: _MemoryImage, indices: tuple[int, ...]) -> None:
        self._counters.chunks_rotten += len(indices)
        if indices and held.state is not ImageState.STAGED:
            held.state = ImageState.PARTIAL
            for index in indices:
                held.have.discard(index)

    def _reserved_bytes(self) -> int:
        return sum(held.recipe.size_bytes for held in self._images.values())

    def _check_quota(self, more_bytes: int) -> None:
        if self._quota_bytes is not None:
            total = self._reserved_bytes() + more_bytes
            if total > self._quota_bytes:
                raise DiskFullError(f"{total} bytes, the quota is {self._quota_bytes}")
