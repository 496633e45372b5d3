"""The contract of a chunk store, and the types it speaks in.

A store keeps whole images in three areas: *downloads* (partial, growing), *images* (complete) and
*staging* (a publisher's, approver's or builder's own copies, invisible to the other two until they
are promoted). Images are named by the SHA-256 of their bytes as stored. What may be stored or
served is decided elsewhere: a store obeys, and keeps these promises:

1. `read_chunk` returns only bytes that hash to the recipe's digest. What this process has not
   verified itself is hashed first; rot is dropped from the have-set and reported, never returned.
2. `write_chunk` verifies before it writes.
3. After a crash at any instruction, `have` lists only chunks that were synced before they were
   counted; no chunk that a finished `checkpoint` or `finish` covered is lost.
4. A removed or locked image is not served from the moment the call begins to work on it; readers
   already under way finish with verified bytes, and never see a file vanish under them.
5. A full disk refuses new bytes and harms nothing that is held.

Every method is synchronous, may block on storage, and may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, Protocol

from chunks.chunk_batches import ReadOutcome, RunBytes, WriteOutcome
from chunks.recipe import Recipe
from protocol.digest import Digest
from protocol.errors import LocalProtocolError, StorageError
from protocol.limits import MIB
from protocol.manifest import ChunkerParameters
from protocol.runs import Runs

CHECKPOINT_BYTES: Final = 4 * MIB
"""Unsynced bytes after which a write makes its own checkpoint (a sync every 4 MiB costs 5 % of a
sync per chunk, and at most 4 MiB are fetched again after a crash)."""
UNSYNCED_BYTES_MAX: Final = 64 * MIB
"""Unsynced bytes after which `write_chunks`, too, makes its own checkpoint: where whoever should
make them does not keep up, writing waits for the disk."""
REPEAT_BYTES_MAX: Final = 1 * MIB
"""Bytes of equal chunks that one write fills in besides its own, so that it stays short."""


class ImageState(IntEnum):
    """What stands behind an image's digest."""

    PARTIAL = 1
    """Some chunks may be missing; those held are served."""
    COMPLETE = 2
    """Every chunk is held and the whole was checked against its digest."""
    STAGED = 3
    """In staging: complete, but served only to who asks for staged bytes explicitly."""
    LOCKED = 4
    """Kept because a device still runs it; never served, copied from or exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """What a store says about one image."""

    image: Digest
    """SHA-256 of the image's bytes as stored."""
    size_bytes: int
    """Bytes of the whole image."""
    state: ImageState
    """Partial, complete, staged or locked."""
    chunk_count: int
    """Chunks of its recipe."""
    have_count: int
    """Chunks held."""
    recipe_root: Digest
    """Merkle root of its recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedImage:
    """An image that was just cut and copied into staging."""

    image: Digest
    """SHA-256 of its bytes."""
    size_bytes: int
    """Its bytes."""
    recipe: Recipe
    """Its chunks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """The right to write into one image: what `begin` gives and the writing calls take."""

    image: Digest
    """The image being fetched."""
    recipe: Recipe
    """Its chunks."""
    generation: int
    """Tells this download from earlier ones of the same image that failed or were abandoned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatistics:
    """What a store holds, and what it did since it was opened."""

    images_partial: int
    """Images being fetched, or to be mended after rot."""
    images_complete: int
    """Images held whole and checked."""
    images_staged: int
    """Images in staging."""
    images_locked: int
    """Images kept without being served."""
    reserved_bytes: int
    """Sum of the sizes of all images, held or not: what the store may grow to as it stands."""
    quota_bytes: int | None
    """Bound of `reserved_bytes`; None is the disk's own."""
    written_bytes: int
    """Chunk bytes written by downloads."""
    reused_bytes: int
    """Of these, bytes copied from images already held, or from equal chunks."""
    read_bytes: int
    """Chunk bytes returned to readers."""
    checkpoints: int
    """Durable have-bitmaps."""
    chunks_refused: int
    """Chunks that did not match their digest and were not written."""
    chunks_rotten: int
    """Chunks that no longer matched their digest and were dropped."""


class ChunkSealer(Protocol):
    """What stands between cutting and storing, where an image is kept encrypted."""

    @property
    def overhead_bytes(self) -> int:
        """By how much every stored chunk is longer than the plain one."""
        ...

    def seal(self, chunk: memoryview) -> bytes:
        """The bytes to store for a chunk; called once for each chunk of the image, in order."""
        ...


class DiskFullError(StorageError):
    """No room, on the disk or in the quota: intake stops, everything held stays servable."""


class ChunkRottenError(StorageError):
    """Bytes on disk no longer match their digest, or cannot be read; they were dropped: refetch.

    Attributes:
        image: the image concerned.
        indices: its chunks that were dropped, ascending.
    """

    def __init__(self, image: Digest, indices: tuple[int, ...]) -> None:
        super().__init__(f"image {image.hex()[:8]}: {len(indices)} chunks rotten: {indices[:8]}")
        self.image = image
        self.indices = indices


class ImageMissingError(StorageError):
    """The store does not have this image, or not in the area asked for."""


class ChunkMissingError(StorageError):
    """The image is known, the chunk is not held."""


class ImageLockedError(StorageError):
    """The image is locked: kept, but not to be served."""


class RecipeConflictError(StorageError):
    """The image is held under another recipe or size; remove it first to begin anew."""


class DownloadClosedError(StorageError):
    """The download failed, finished or was removed; begin again to go on."""


class StoreOpenError(StorageError):
    """The store cannot be opened: absent, not writable, in use, damaged, foreign or newer."""


class IncompleteImageError(LocalProtocolError):
    """`finish` was called while chunks are missing."""


class ChunkStore(Protocol):
    """See the module's docstring for what every implementation promises.

    All methods may raise `StorageError`; those that take a `Download` raise `DownloadClosedError`
    for one that is no longer current; those that name an image raise `ImageMissingError` for an
    unknown one. `staged=True` means the copy in staging instead of the other areas' one.
    """

    def stage(
        self, source: Path, parameters: ChunkerParameters, sealer: ChunkSealer | None = None
    ) -> StagedImage:
        """Cuts a file and copies it into staging; staging the same bytes again replaces them.

        Args:
            source: the plain image.
            parameters: how to cut it.
            sealer: None: chunks are stored as they were cut. Otherwise the image is what it makes
                of them, one after the other: digest, size and recipe are of that.

        Raises:
            PolicyError: empty, over 16 GiB or over 2^18 chunks, or parameters out of range.
            DiskFullError: no room; nothing is left behind.
        """
        ...

    def promote(self, image: Digest) -> None:
        """Moves a staged image to the complete ones; a partial download of it is superseded."""
        ...

    def staged_images(self) -> tuple[ImageRecord, ...]:
        """Lists staging, in order of arrival."""
        ...

    def begin(self, image: Digest, size_bytes: int, recipe: Recipe) -> Download:
        """Reserves room for an image and starts, or goes on with, fetching it.

        Beginning an image that is being fetched gives the same download again, and resumes one
        from before a restart with what `have` lists.

        Args:
            image: SHA-256 that the whole must have in the end.
            size_bytes: the component's size; must be the recipe's.
            recipe: verified against the manifest.

        Raises:
            LocalProtocolError: `size_bytes` is not the recipe's, or the image is complete.
            RecipeConflictError: held under another recipe.
            ImageLockedError: the image is locked.
            DiskFullError: no room.
        """
        ...

    def reuse(self, download: Download) -> int:
        """Copies missing chunks from images already held, verifying each.

        After a restart the download's own file comes first: what was written to it and not covered
        by a checkpoint is found again, unless power was lost.

        Returns:
            Bytes that the download gained.
        """
        ...

    def write_chunk(self, download: Download, index: int, data: bytes) -> tuple[int, ...]:
        """Verifies a chunk and writes it; it is servable from then on, durable after a checkpoint.

        Every 4 MiB a write makes its own checkpoint before it returns.

        Returns:
            Indices now held that were not before: `index`, and others with the same bytes (up to
            1 MiB of these a call); empty if the chunk was held already.

        Raises:
            LocalProtocolError: no such index.
            DigestMismatchError: the bytes are not this chunk; nothing was written.
            DiskFullError: no room; the chunk is not held.
        """
        ...

    def write_chunks(self, download: Download, runs: Sequence[RunBytes]) -> WriteOutcome:
        """Verifies and writes many chunks at the cost of a few; otherwise as `write_chunk`.

        Makes no checkpoint below 64 MiB of unsynced bytes: the outcome says when one is due, and
        the caller has `checkpoint` called, in another thread if it likes.

        Args:
            download: what to write into.
            runs: (first index, bytes of that chunk and of those that follow it).

        Returns:
            What became of each chunk: refusals and a full disk do not raise.

        Raises:
            LocalProtocolError: a run leaves the image, or does not end where a chunk does.
        """
        ...

    def hash_ahead(self, download: Download) -> int:
        """Does a part of what `finish` will need: hashes what is held without a gap, in order.

        Returns:
            Index of the first chunk that was not hashed: called when it is held, there is more.
        """
        ...

    def checkpoint(self, download: Download) -> None:
        """Makes every chunk held at the time of the call survive a crash.

        Raises:
            StorageError: the sync failed. The download is closed and falls back to its last
                checkpoint; begin again (on a new file descriptor) to go on.
        """
        ...

    def finish(self, download: Download) -> None:
        """Checks the whole image against its digest and makes it complete, durably.

        Raises:
            IncompleteImageError: chunks are missing.
            ChunkRottenError: chunks were dropped; refetch them and finish again.
            DigestMismatchError: the chunks are all right but do not make this image: the manifest
                contradicts itself; abandon the download.
        """
        ...

    def abandon(self, download: Download) -> None:
        """Deletes a download and what it fetched."""
        ...

    def read_chunk(self, image: Digest, index: int, *, staged: bool = False) -> bytes:
        """Reads one chunk of a complete or partial image, or of a staged one if asked so.

        Raises:
            LocalProtocolError: no such index.
            ChunkMissingError: not held.
            ChunkRottenError: it was held and rotten; now it is not held.
            ImageLockedError: the image is locked.
        """
        ...

    def read_chunks(
        self, image: Digest, indices: Runs, *, bytes_max: int, staged: bool = False
    ) -> ReadOutcome:
        """Reads many chunks at the cost of a few; verified as by `read_chunk`.

        Args:
            image: which image.
            indices: its chunks.
            bytes_max: most bytes, unless the first chunk has more.
            staged: whether the staged copy is meant.

        Returns:
            What became of a prefix of `indices`, at least one: missing and rotten ones do not
            raise.

        Raises:
            LocalProtocolError: no such index.
            ImageLockedError: the image is locked.
        """
        ...

    def have(self, image: Digest) -> bytes:
        """Packed bitmap (`chunks.bitmap.Bitmap`) of the chunks held of a partial or complete image.

        Raises:
            ImageLockedError: the image is locked.
        """
        ...

    def images(self) -> tuple[ImageRecord, ...]:
        """Lists partial, complete and locked images in order of arrival; never staged ones."""
        ...

    def record(self, image: Digest, *, staged: bool = False) -> ImageRecord:
        """Says what is known of one image."""
        ...

    def recipe(self, image: Digest, *, staged: bool = False) -> Recipe:
        """Gives an image's recipe."""
        ...

    def remove(self, image: Digest, *, staged: bool = False) -> None:
        """Deletes an image whatever its state; a download of it is closed.

        After a failure the image stays locked: calling again goes on with the deletion.
        """
        ...

    def collect(self, image: Digest) -> bool:
        """Deletes an image of the images area unless somebody reads or writes it at this moment.

        Returns:
            Whether it was deleted; False also where there is none.
        """
        ...

    def withdraw(self, image: Digest, *, keep: bool = False) -> None:
        """Ends the serving of an image that no authorisation covers any more.

        Its bytes are deleted, or locked if `keep` (a device reports running them). Chunks of it
        that other images hold go on being served from those. Withdrawing what the store does not
        hold is no error.
        """
        ...

    def unlock(self, image: Digest) -> None:
        """Makes a locked image what it was before, when an authorisation covers it again."""
        ...

    def verify_image(self, image: Digest, *, staged: bool = False) -> tuple[int, ...]:
        """Hashes every chunk held and drops rotten ones.

        Returns:
            Indices that were dropped; of a staged image, that are rotten.
        """
        ...

    def verify_range(self, image: Digest, start: int, stop: int) -> tuple[int, ...]:
        """Hashes the chunks held among `start` up to, not including, `stop`; drops rotten ones.

        Locked images are read too; nothing of them leaves.

        Returns:
            Indices that were dropped.

        Raises:
            LocalProtocolError: no such indices.
        """
        ...

    def distrust(self) -> None:
        """Has every chunk hashed again at its next read.

        What was verified once may have rotted since; what the system caches hides it for a while.
        """
        ...

    def export(self, image: Digest, target: Path) -> None:
        """Copies a complete image to a file that appears whole, synced and verified, or not at all.

        Raises:
            ChunkMissingError: the image is not complete.
            ChunkRottenError: rotten chunks were dropped, the image is partial now.
            ImageLockedError: the image is locked.
        """
        ...

    def missing_room(self, more_bytes: int, more_files: int = 1) -> tuple[int, int]:
        """Says what is in the way of so many more bytes in so many more images.

        Returns:
            (bytes, files) of images that would have to go first; (0, 0) if there is room.
        """
        ...

    def statistics(self) -> StoreStatistics:
        """Counts what is held and what was done since opening."""
        ...

    def close(self) -> None:
        """Ends all use; downloads stay as their last checkpoint has them. May be called twice."""
        ...
