"""What the file store keeps in memory of each image, and of each image file it has open.

Everything here is guarded by the store's state lock (`FileStore`), except reading and writing
through an `OpenFile` that the caller leases.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from chunks.bitmap import Bitmap
from chunks.file_backend import FileBackend, read_exactly, write_exactly
from chunks.prefix_hash import PrefixHash
from chunks.recipe import Recipe
from chunks.store import Download, DownloadClosedError, ImageLockedError, ImageRecord, ImageState
from protocol.digest import ChunkId, Digest, sha256, short


def is_chunk(data: bytes, chunk: ChunkId) -> bool:
    """Tells whether `data` hashes to `chunk`."""
    return bytes(sha256(data)) == chunk


@dataclass(slots=True, kw_only=True)
class OpenFile:
    """An open image file with its recipe; closed when retired and no longer leased."""

    descriptor: int
    """For reading and writing; never used again after a failed sync."""
    recipe: Recipe
    """Its chunks."""
    leases: int = 0
    """Threads that are using the descriptor."""
    retired: bool = False
    """Set when the store gave the file up; the last lease closes it."""
    sync_lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the descriptor is synced; taken before the state lock, never within it."""
    repeats: dict[ChunkId, list[int]] = field(default_factory=dict)
    """Equal chunks that a write of one of them has yet to fill in; consumed as it does."""

    prefix: PrefixHash = field(default_factory=PrefixHash)
    """The digest of the whole as far as it has arrived."""

    def read(self, backend: FileBackend, index: int) -> bytes | None:
        """Reads a chunk's bytes as they stand on disk; None if the disk cannot give them."""
        length = self.recipe.length(index)
        try:
            data = read_exactly(backend, self.descriptor, length, self.recipe.offset(index))
        except OSError:
            # A bad sector is rot like any other: what cannot be read is not held.
            return None
        return data if len(data) == length else None

    def read_verified(self, backend: FileBackend, index: int) -> bytes | None:
        """Reads a chunk; None if it cannot be read or does not match its digest."""
        data = self.read(backend, index)
        return data if data is not None and is_chunk(data, self.recipe.digest(index)) else None

    def write(self, backend: FileBackend, index: int, data: bytes) -> None:
        """Writes a chunk; `OSError` as the system raises it."""
        write_exactly(backend, self.descriptor, data, self.recipe.offset(index))


@dataclass(slots=True, kw_only=True, eq=False)
class HeldImage:
    """One image in one area."""

    row: int
    """Its key in the index."""
    image: Digest
    """Digest of the whole."""
    size_bytes: int
    """Bytes of the whole."""
    recipe_root: Digest
    """Root of its recipe."""
    state: ImageState
    """PARTIAL, COMPLETE or STAGED."""
    path: Path
    """Where its file is now."""
    have: Bitmap
    """Chunks that are servable."""
    durable: Bitmap
    """Chunks that the index lists: what a crash leaves."""
    locked: bool = False
    """Kept without being served."""
    verified: Bitmap = field(init=False)
    """Chunks this process has hashed since it opened the store; the others are hashed on read."""
    generation: int | None = None
    """The current download's number; None while nobody downloads."""
    unsynced_bytes: int = 0
    """Written since the last checkpoint."""
    opened: OpenFile | None = None
    """The open file, if there is one."""
    may_hold_more: bool = False
    """Whether its file may hold chunks that `have` does not list: they were written, and the bits
    were lost."""

    def __post_init__(self) -> None:
        """Starts with nothing verified."""
        self.verified = Bitmap(len(self.have))

    @property
    def is_staged(self) -> bool:
        """Whether it lies in staging."""
        return self.state is ImageState.STAGED

    def record(self) -> ImageRecord:
        """Says what is known of the image."""
        return ImageRecord(
            image=self.image,
            size_bytes=self.size_bytes,
            state=ImageState.LOCKED if self.locked else self.state,
            chunk_count=len(self.have),
            have_count=self.have.count,
            recipe_root=self.recipe_root,
        )

    def check_served(self) -> None:
        """Refuses a locked image.

        Raises:
            ImageLockedError: it is.
        """
        if self.locked:
            raise ImageLockedError(f"image {short(self.image)} is locked")

    def check_download(self, download: Download) -> None:
        """Refuses a download that is not this image's current one.

        Raises:
            DownloadClosedError: it is not.
        """
        if self.locked or self.generation is None or self.generation != download.generation:
            raise DownloadClosedError(f"download of image {short(self.image)} is closed")
