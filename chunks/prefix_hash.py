"""The digest of a whole image, taken while it arrives.

SHA-256 takes bytes in order, chunks come in any: so the digest follows the longest prefix of the
image that is held without a gap. Chunks that come in order are taken from memory, others later from
the disk. What it took are bytes of chunks that had matched their digests before; a chunk that is
lost and fetched again has the same bytes, so that nothing is taken twice. What is read from the
disk may have rotted since it was written: the digest is then wrong, and whoever compares it takes
the whole anew from the disk before judging (docs/spec/chunks.md, S6).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Final

from chunks.recipe import Recipe
from protocol.digest import Digest
from protocol.limits import MIB

STEP_BYTES: Final = 1 * MIB
"""Bytes read at once; one buffer of this size is held."""
_STEP_CHUNKS: Final = 4096
"""Chunks looked at for a step: those of `STEP_BYTES` where they are of the usual sizes."""


class PrefixHash:
    """See the module's docstring. Thread-safe."""

    def __init__(self) -> None:
        """Starts before the first chunk."""
        self._lock = threading.Lock()
        self._state = hashlib.sha256()
        self._next_index = 0

    def advance(
        self,
        recipe: Recipe,
        held_from: Callable[[int, int], int],
        read: Callable[[int, int], bytes],
        *,
        bytes_max: int,
    ) -> int:
        """Takes what has arrived since, from the disk.

        Args:
            recipe: the image's chunks.
            held_from: for (index, maximum): how many chunks from there on are held without a gap.
            read: for (size, offset): bytes of the image's file.
            bytes_max: about how much to take.

        Returns:
            Index of the first chunk not taken.

        Raises:
            OSError: the disk cannot be read.
        """
        with self._lock:
            while bytes_max > 0:
                first = self._next_index
                count = held_from(first, _STEP_CHUNKS) if first < recipe.chunk_count else 0
                if not count:
                    break
                count = max(1, recipe.prefix_count(first, count, STEP_BYTES))
                size_bytes = recipe.span_bytes(first, count)
                self._state.update(read(size_bytes, recipe.offset(first)))
                self._next_index = first + count
                bytes_max -= size_bytes
            return self._next_index

    @property
    def next_index(self) -> int:
        """Index of the first chunk not taken."""
        return self._next_index

    def feed(self, first: int, count: int, data: bytes | memoryview) -> None:
        """Takes chunks from memory if they are next; they match their digests and are written."""
        if first != self._next_index or not self._lock.acquire(blocking=False):
            return
        try:
            if first == self._next_index:
                self._state.update(data)
                self._next_index = first + count
        finally:
            self._lock.release()

    def digest(self, chunk_count: int) -> Digest | None:
        """The digest of the whole; None while not all of it was taken."""
        with self._lock:
            if self._next_index < chunk_count:
                return None
            return Digest(self._state.digest())
