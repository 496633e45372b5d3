"""Copies a file into staging while it is cut and hashed: one pass, bounded memory, four at work.

The source is read a block at a time and cut; while the next block is read, the last ones are
hashed chunk by chunk, hashed as a whole, and written, each by a thread of its own (all of this
leaves the interpreter's lock alone). What is hashed and what is written is the same buffer, so the
digests are those of the bytes handed to the disk, whatever happens to the source meanwhile; what
the disk then makes of them shows at the first read, which hashes every chunk again.

Where the file system can share blocks between files (`FileBackend.clone`), nothing is copied: the
clone, which no later change of the source reaches, is what is read and hashed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import Final

from chunks.chunker import cut_block
from chunks.file_backend import FileBackend, read_into_fully, storage_errors, write_exactly
from chunks.layout import check_image_size, check_parameters
from chunks.recipe import RecipeBuilder
from chunks.store import ChunkSealer, StagedImage
from protocol.digest import Digest
from protocol.errors import PolicyError, StorageError
from protocol.limits import CHUNKS_PER_COMPONENT_MAX, MIB
from protocol.manifest import ChunkerParameters

BLOCK_BYTES: Final = 4 * MIB
"""Bytes read at once: long enough that handing blocks to threads costs nothing, and short enough
that all buffers together stay below 20 MiB."""
BLOCKS_IN_FLIGHT: Final = 2
"""Blocks that are hashed and written while another is read."""
_HASHERS_AND_WRITER: Final = 3
"""Threads: chunk digests, the whole's digest, writing."""

Block = tuple[memoryview, list[int]]
"""Whole chunks, one behind the other, and where each ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A file to be staged."""

    path: Path
    """Where it lies."""
    size_bytes: int
    """Its size when room was made for it; more or less of it is refused."""


def copy_and_cut(
    backend: FileBackend,
    source: Origin,
    target: Path,
    parameters: ChunkerParameters,
    sealer: ChunkSealer | None = None,
) -> StagedImage:
    """Copies `source` to the new file `target`, sealed if so asked, synced, and describes it.

    Raises:
        PolicyError: empty, over 16 GiB, over 2^18 chunks, or parameters out of range.
        DiskFullError: no room.
        StorageError: the source cannot be read or has another size, or the target not written.
    """
    check_parameters(parameters)
    with storage_errors(f"staging {source.path}"):
        origin = backend.open_existing(source.path, writable=False)
        try:
            copy = backend.create(target)
            try:
                cloned = sealer is None and backend.clone(origin, copy)
                blocks = _read_blocks(
                    backend, copy if cloned else origin, parameters, source.size_bytes
                )
                if sealer is not None:
                    blocks = _seal_blocks(blocks, sealer)
                elif not cloned:
                    backend.allocate(copy, source.size_bytes)
                staged = _Stager(backend, None if cloned else copy).stage(blocks)
                backend.sync_data(copy)
            finally:
                backend.close(copy)
        finally:
            backend.close(origin)
    return staged


def sealing_bytes_max(size: int, parameters: ChunkerParameters, sealer: ChunkSealer | None) -> int:
    """By how much sealing can make an image of `size` bytes longer."""
    if sealer is None:
        return 0
    return sealer.overhead_bytes * (-(-size // parameters.minimum))


def _read_blocks(
    backend: FileBackend, descriptor: int, parameters: ChunkerParameters, expected: int
) -> Iterator[Block]:
    """Reads and cuts a file; a block is valid until `BLOCKS_IN_FLIGHT` more were asked for."""
    size = BLOCK_BYTES + parameters.maximum
    buffers = cycle([memoryview(bytearray(size)) for _ in range(BLOCKS_IN_FLIGHT + 2)])
    carried = memoryview(b"")
    offset = 0
    while True:
        buffer = next(buffers)
        buffer[: len(carried)] = carried
        read = read_into_fully(backend, descriptor, buffer[len(carried) :], offset)
        offset += read
        filled = buffer[: len(carried) + read]
        is_last = len(filled) < size
        if offset > expected or (is_last and offset < expected):
            raise StorageError(
                f"{offset} bytes instead of {expected}: it changed while it was read"
            )
        ends = cut_block(filled, parameters, is_last=is_last)
        if ends:
            yield filled[: ends[-1]], ends
        carried = filled[ends[-1] if ends else 0 :]
        if is_last:
            return


def _seal_blocks(blocks: Iterator[Block], sealer: ChunkSealer) -> Iterator[Block]:
    for data, ends in blocks:
        sealed = [sealer.seal(data[start:end]) for start, end in pairwise((0, *ends))]
        sealed_ends: list[int] = []
        end = 0
        for chunk in sealed:
            end += len(chunk)
            sealed_ends.append(end)
        yield memoryview(b"".join(sealed)), sealed_ends


class _Stager:
    """Hashes and writes blocks beside each other."""

    def __init__(self, backend: FileBackend, target: int | None) -> None:
        """Writes to the descriptor `target`; None if the bytes are there already."""
        self._backend = backend
        self._target = target
        self._whole = hashlib.sha256()
        self._builder = RecipeBuilder()
        self._offset = 0
        self._chunks = 0

    def stage(self, blocks: Iterator[Block]) -> StagedImage:
        """Takes all blocks; errors of reading, hashing and writing come out here."""
        under_way: deque[tuple[list[int], list[Future[list[bytes]]]]] = deque()
        with ThreadPoolExecutor(_HASHERS_AND_WRITER) as threads:
            for data, ends in blocks:
                self._chunks += len(ends)
                if self._chunks > CHUNKS_PER_COMPONENT_MAX:
                    raise PolicyError(
                        "image.chunks",
                        f"over {CHUNKS_PER_COMPONENT_MAX} chunks: choose a larger average",
                    )
                # The whole's digest takes blocks in order: each waits for the one before it.
                before = under_way[-1][1][1] if under_way else None
                jobs = [
                    threads.submit(_chunk_digests, data, ends),
                    threads.submit(self._hash_whole, data, before),
                    threads.submit(self._write, data, self._offset),
                ]
                under_way.append((ends, jobs))
                self._offset += len(data)
                if len(under_way) > BLOCKS_IN_FLIGHT:
                    self._settle(*under_way.popleft())
            while under_way:
                self._settle(*under_way.popleft())
        check_image_size(self._offset)
        image = Digest(self._whole.digest())
        return StagedImage(image=image, size_bytes=self._offset, recipe=self._builder.build())

    def _settle(self, ends: list[int], jobs: list[Future[list[bytes]]]) -> None:
        digests, *_ = [job.result() for job in jobs]
        for (start, end), digest in zip(pairwise((0, *ends)), digests, strict=True):
            self._builder.add(end - start, digest)

    def _hash_whole(self, data: memoryview, before: Future[list[bytes]] | None) -> list[bytes]:
        if before is not None:
            before.result()
        self._whole.update(data)
        return []

    def _write(self, data: memoryview, offset: int) -> list[bytes]:
        if self._target is not None:
            write_exactly(self._backend, self._target, data, offset)
        return []


def _chunk_digests(data: memoryview, ends: list[int]) -> list[bytes]:
    return [hashlib.sha256(data[start:end]).digest() for start, end in pairwise((0, *ends))]
