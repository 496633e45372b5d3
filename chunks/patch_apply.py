"""Applies a patch object to a download, step by step, believing none of what it makes.

Every chunk that the patch makes goes the way of a chunk from a peer: the store compares it with the
recipe before it is written. So a wrong patch, or a base that is not what it should be, costs time
and nothing else. What is held already is not made again, which is also how an interrupted
application goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chunks.bitmap import Bitmap
from chunks.byte_source import StoreSource
from chunks.patch import PatchError, PatchReader, read_patch
from chunks.store import ChunkStore, Download
from protocol.digest import Digest
from protocol.errors import DigestMismatchError
from protocol.limits import MIB

STEP_BYTES: Final = 4 * MIB
"""Target bytes made in one step: some 10 ms of work, after which others take turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What one step did."""

    gained: tuple[int, ...]
    """Chunks held now that were not before."""
    made_bytes: int
    """Bytes of the chunks made."""
    is_done: bool
    """Whether nothing is left to make."""


class PatchApplication:
    """One patch being applied to one download; for one thread at a time, all calls may block."""

    def __init__(
        self, store: ChunkStore, download: Download, *, patch: Digest, base: Digest
    ) -> None:
        """Opens the patch and its base.

        Args:
            store: holds the download, and the other two completely.
            download: of the image to be made.
            patch: digest of the patch object.
            base: digest of the image it applies to.

        Raises:
            PatchError: the patch breaks the format, or is about images of other sizes.
            StorageError: patch or base is missing, incomplete, rotten or unreadable.
        """
        self._store = store
        self._download = download
        base_source = StoreSource(store, base)
        patch_source = StoreSource(store, patch)
        table = read_patch(
            patch_source,
            target_bytes=download.recipe.size_bytes,
            base_bytes=base_source.size_bytes,
        )
        self._reader = PatchReader(table, patch=patch_source, base=base_source)
        self._next = 0

    def step(self) -> StepOutcome:
        """Makes and writes the next missing chunks.

        Raises:
            PatchError: the patch makes other bytes than the recipe says, or cannot be decoded.
            DiskFullError: no room; the same step may be repeated.
            StorageError: patch or base cannot be read (rot), or the download failed.
        """
        recipe = self._download.recipe
        held = Bitmap.decode(self._store.have(self._download.image), recipe.chunk_count)
        gained: list[int] = []
        made_bytes = 0
        while self._next < recipe.chunk_count and made_bytes < STEP_BYTES:
            index = self._next
            if index not in held:
                data = self._reader.read(recipe.offset(index), recipe.length(index))
                gained.extend(self._write(index, data))
                made_bytes += len(data)
            self._next += 1
        return StepOutcome(
            gained=tuple(gained),
            made_bytes=made_bytes,
            is_done=self._next >= recipe.chunk_count,
        )

    def _write(self, index: int, data: bytes) -> tuple[int, ...]:
        try:
            return self._store.write_chunk(self._download, index, data)
        except DigestMismatchError as error:
            raise PatchError(f"patch makes a wrong chunk {index}: {error}") from error
