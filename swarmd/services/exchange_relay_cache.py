"""Chunks that were verified lately, as they travelled: what is passed on need not be read again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from protocol.digest import Digest
from protocol.limits import MIB
from protocol.relay_messages import PushedChunk

CACHE_BYTES_MAX: Final = 16 * MIB
"""Bytes kept: what 16 relayers of 64 units of 16 KiB may be asked to pass on."""

ChunkKey = tuple[Digest, int]
"""(digest of the image, chunk index)."""


class ChunkCache:
    """See the module's docstring. The oldest go first."""

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        """Starts empty."""
        self._bytes_max = bytes_max
        self._chunks: OrderedDict[ChunkKey, tuple[bytes, bool]] = OrderedDict()
        self.held_bytes = 0
        """Bytes kept now."""

    def put(self, image: Digest, index: int, data: bytes, *, is_packed: bool) -> None:
        """Keeps a verified chunk, packed if it came so."""
        self._drop((image, index))
        self._chunks[image, index] = (data, is_packed)
        self.held_bytes += len(data)
        while self.held_bytes > self._bytes_max:
            self._drop(next(iter(self._chunks)))

    def _drop(self, key: ChunkKey) -> None:
        entry = self._chunks.pop(key, None)
        if entry is not None:
            self.held_bytes -= len(entry[0])

    def find(self, image: Digest, indices: range) -> tuple[PushedChunk, ...] | None:
        """All of a run of chunks, ready to be pushed; None if one is not kept."""
        found: list[PushedChunk] = []
        for index in indices:
            entry = self._chunks.get((image, index))
            if entry is None:
                return None
            found.append(PushedChunk(index=index, data=entry[0], is_compressed=entry[1]))
        return tuple(found)

    def forget(self, image: Digest) -> None:
        """Drops the chunks of an image: it may not be served any more, or rotted."""
        for key in [key for key in self._chunks if key[0] == image]:
            self._drop(key)
