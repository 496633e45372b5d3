"""Copies a file into staging while it is cut and hashed: one pass, bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from chunks.chunker import cut
from chunks.file_backend import FileBackend, storage_errors, write_exactly
from chunks.layout import check_image_size, check_parameters
from chunks.recipe import Recipe, RecipeBuilder
from chunks.store import ChunkSealer, StagedImage
from protocol.digest import Digest
from protocol.errors import PolicyError
from protocol.limits import CHUNKS_PER_COMPONENT_MAX, IMAGE_BYTES_MAX, MIB
from protocol.manifest import ChunkerParameters

READ_BYTES: Final = 1 * MIB
"""Bytes of one read from a source file."""


class _FileSource:
    """A file read from its start through the backend, never beyond the largest image."""

    def __init__(self, backend: FileBackend, descriptor: int) -> None:
        self._backend = backend
        self._descriptor = descriptor
        self._offset = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Fills `buffer` from where the last call stopped."""
        data = self._backend.read_at(self._descriptor, min(len(buffer), READ_BYTES), self._offset)
        buffer[: len(data)] = data
        self._offset += len(data)
        if self._offset > IMAGE_BYTES_MAX:
            check_image_size(self._offset)
        return len(data)


def copy_and_cut(
    backend: FileBackend,
    source: Path,
    target: Path,
    parameters: ChunkerParameters,
    sealer: ChunkSealer | None = None,
) -> StagedImage:
    """Copies `source` to the new file `target`, sealed if so asked, synced, and describes it.

    Raises:
        PolicyError: empty, over 16 GiB, over 2^18 chunks, or parameters out of range.
        DiskFullError: no room.
        StorageError: the source cannot be read, or the target not written.
    """
    check_parameters(parameters)
    with storage_errors(f"staging {source}"):
        descriptor = backend.open_existing(source, writable=False)
        try:
            chunks = cut(_FileSource(backend, descriptor), parameters)
            return _copy(backend, chunks, target, sealer)
        finally:
            backend.close(descriptor)


def sealing_bytes_max(size: int, parameters: ChunkerParameters, sealer: ChunkSealer | None) -> int:
    """By how much sealing can make an image of `size` bytes longer."""
    if sealer is None:
        return 0
    return sealer.overhead_bytes * (-(-size // parameters.minimum))


def _copy(
    backend: FileBackend, chunks: Iterator[memoryview], target: Path, sealer: ChunkSealer | None
) -> StagedImage:
    whole = hashlib.sha256()
    builder = RecipeBuilder()
    offset = 0
    descriptor = backend.create(target)
    try:
        for chunk in chunks:
            if builder.chunk_count == CHUNKS_PER_COMPONENT_MAX:
                raise PolicyError(
                    "image.chunks",
                    f"over {CHUNKS_PER_COMPONENT_MAX} chunks: choose a larger average",
                )
            data = bytes(chunk) if sealer is None else sealer.seal(chunk)
            whole.update(data)
            builder.add(len(data), hashlib.sha256(data).digest())
            write_exactly(backend, descriptor, data, offset)
            offset += len(data)
        check_image_size(offset)
        backend.sync_data(descriptor)
    finally:
        backend.close(descriptor)
    recipe: Recipe = builder.build()
    return StagedImage(image=Digest(whole.digest()), size_bytes=offset, recipe=recipe)
