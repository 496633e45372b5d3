"""Copies a file into staging while it is cut and hashed: one pass, bounded memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from chunks.chunker import cut
from chunks.file_backend import FileBackend, storage_errors, write_exactly
from chunks.layout import check_image_size, check_parameters
from chunks.recipe import Recipe, RecipeBuilder
from chunks.store import StagedImage
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
    backend: FileBackend, source: Path, target: Path, parameters: ChunkerParameters
) -> StagedImage:
    """Copies `source` to the new file `target`, synced, and describes it.

    Raises:
        PolicyError: empty, over 16 GiB, over 2^18 chunks, or parameters out of range.
        DiskFullError: no room.
        StorageError: the source cannot be read, or the target not written.
    """
    check_parameters(parameters)
    with storage_errors(f"staging {source}"):
        descriptor = backend.open_existing(source, writable=False)
        try:
            return _copy(backend, _FileSource(backend, descriptor), target, parameters)
        finally:
            backend.close(descriptor)


def _copy(
    backend: FileBackend, source: _FileSource, target: Path, parameters: ChunkerParameters
) -> StagedImage:
    whole = hashlib.sha256()
    builder = RecipeBuilder()
    offset = 0
    descriptor = backend.create(target)
    try:
        for chunk in cut(source, parameters):
            if builder.chunk_count == CHUNKS_PER_COMPONENT_MAX:
                raise PolicyError(
                    "image.chunks",
                    f"over {CHUNKS_PER_COMPONENT_MAX} chunks: choose a larger average",
                )
            data = bytes(chunk)
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
