"""Reads of whole images and of reused chunks, each hashed; rot found on the way is dropped.

Everything here works on files the caller leases and takes the store's locks itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chunks.bitmap import Bitmap
from chunks.catalogue import Catalogue
from chunks.file_backend import FileBackend, write_exactly
from chunks.held_image import HeldImage, OpenFile
from chunks.image_table import ImageTable
from chunks.index_database import ChunkPlace
from chunks.recipe import Recipe
from chunks.store import ChunkRottenError, ImageMissingError
from protocol.digest import ChunkId, short
from protocol.errors import DigestMismatchError, LocalProtocolError, StorageError
from protocol.limits import MIB

COPY_BYTES: Final = 1 * MIB
"""Bytes read at once when a whole image is hashed or copied."""


class ImageReader:
    """Verifying reads for the file store."""

    def __init__(self, backend: FileBackend, table: ImageTable, catalogue: Catalogue) -> None:
        """Reads what `table` holds; `catalogue` drops what is rotten."""
        self._backend = backend
        self._table = table
        self._catalogue = catalogue

    def verify(
        self, held: HeldImage, opened: OpenFile, start: int = 0, stop: int | None = None
    ) -> tuple[int, ...]:
        """Hashes every chunk held, or those of a range, anew and drops those that do not match.

        Raises:
            LocalProtocolError: no such range.
        """
        count = opened.recipe.chunk_count
        end = count if stop is None else stop
        if not 0 <= start <= end <= count:
            raise LocalProtocolError(f"no chunks {start} to {end} among {count}")
        rotten: list[int] = []
        for index in range(start, end):
            with self._table.state:
                if index not in held.have:
                    continue
            if opened.read_verified(self._backend, index) is None:
                rotten.append(index)
                continue
            with self._table.state:
                if self._table.is_current(held, opened) and index in held.have:
                    held.verified.add(index)
        if rotten:
            self._catalogue.drop(held, opened.recipe, rotten)
        return tuple(rotten)

    def explain_mismatch(self, held: HeldImage, opened: OpenFile, actual: bytes) -> None:
        """Raises what is behind a whole image that does not match its digest."""
        rotten = self.verify(held, opened)
        if rotten:
            raise ChunkRottenError(held.image, rotten)
        raise DigestMismatchError(f"image {short(held.image)}", expected=held.image, actual=actual)

    def read_own(self, held: HeldImage, opened: OpenFile, index: int | None) -> bytes | None:
        """Reads a chunk of the image itself; None for no index, not held, or rotten."""
        if index is None:
            return None
        with self._table.state:
            if index not in held.have:
                return None
        data = opened.read_verified(self._backend, index)
        if data is None:
            self._catalogue.drop(held, opened.recipe, (index,))
        return data

    def read_place(self, place: ChunkPlace, chunk: ChunkId) -> bytes | None:
        """Reads a chunk of another image and verifies it; rot there is dropped there."""
        try:
            with self._table.lease(place.image) as (held, opened):
                index = opened.recipe.index_at(place.offset)
                with self._table.state:
                    if held.locked or index not in held.have:
                        return None
                if opened.recipe.digest(index) != chunk:
                    return None
                data = opened.read_verified(self._backend, index)
                if data is None:
                    self._catalogue.drop(held, opened.recipe, (index,))
                return data
        except ImageMissingError:
            return None

    def copy_out(self, held: HeldImage, opened: OpenFile, part: Path) -> bytes:
        """Copies an image to a new file and syncs it; returns the digest of what was copied."""
        descriptor = self._backend.create(part)
        offset = 0

        def write(block: bytes) -> None:
            nonlocal offset
            with self._table.state:
                # An export of gigabytes ends within a block of a revocation.
                held.check_served()
            write_exactly(self._backend, descriptor, block, offset)
            offset += len(block)

        try:
            actual = self.hash_whole(held, opened, write)
            self._backend.sync_data(descriptor)
        finally:
            self._backend.close(descriptor)
        return actual

    def hash_whole(self, held: HeldImage, opened: OpenFile, sink: Callable[[bytes], None]) -> bytes:
        """Hashes a whole image and hands its blocks to `sink`; a short file has another digest.

        Raises:
            ChunkRottenError: it cannot be read; the chunks concerned were dropped.
            StorageError: it could not be read, but each of its chunks can: try again.
        """
        whole = hashlib.sha256()
        offset = 0
        while offset < held.size_bytes:
            size = min(COPY_BYTES, held.size_bytes - offset)
            try:
                block = self._backend.read_at(opened.descriptor, size, offset)
            except OSError as error:
                rotten = self.verify(held, opened)
                if rotten:
                    raise ChunkRottenError(held.image, rotten) from error
                raise StorageError(f"image {short(held.image)}: {error.strerror}") from error
            if not block:
                break
            whole.update(block)
            sink(block)
            offset += len(block)
        return whole.digest()


def held_repeats(have: Bitmap, recipe: Recipe) -> dict[ChunkId, int]:
    """One held index for each chunk that repeats within the image."""
    own: dict[ChunkId, int] = {}
    for chunk, indices in recipe.repeats.items():
        for index in indices:
            if index in have:
                own[chunk] = index
                break
    return own
