"""Chunks as zstd frames on the wire, where that pays (docs/spec/updates.md, section 1).

A sender that is asked by a peer behind a thin link packs chunks; the receiver unpacks each frame
under the length that the recipe gives and then hashes the plain bytes, as it does with any chunk.
So compression changes nothing about what is believed, and a frame that lies is a corrupt chunk.

Packing is given up for an image that does not compress (sealed, or compressed inside), and what was
packed once is kept, within a bound, for the next peer. All calls may block on the processor: they
are for worker threads, several at once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import zstandard

from chunks.zstd_frame import decode_frame
from protocol.digest import Digest
from protocol.limits import CHUNK_BYTES_MAX, MIB

WIRE_LEVEL: Final = 6
"""zstd level: 110 MB/s a core, within 0.3 % of the size of level 9 and 5 % of that of level 19 on
chunks of 16 KiB."""
PAYS_NUMERATOR: Final = 19
"""A frame pays if it has at most 19/20 of the chunk's bytes."""
PAYS_DENOMINATOR: Final = 20
"""See `PAYS_NUMERATOR`."""
SAMPLE_CHUNKS: Final = 16
"""Chunks of an image that are tried before it is judged, and the weight of the past afterwards."""
RETRY_CHUNKS: Final = 16
"""Of an image that does not compress one chunk in this many is tried: its parts may differ."""
CACHE_BYTES_MAX: Final = 16 * MIB
"""Frames kept: those of an update are a few MiB, and every peer asks for the same ones."""
IMAGES_MAX: Final = 64
"""Images whose judgement is kept; the one not asked for the longest is forgotten first."""
_ENTRY_BYTES: Final = 200
"""What an entry of the cache counts besides its frame: about the memory of its objects."""


class ChunkUnpacker:
    """Decodes frames of chunks; one thread at a time."""

    def __init__(self) -> None:
        """Allocates the decoder's context, which is worth keeping for a batch of chunks."""
        self._context = zstandard.ZstdDecompressor(max_window_size=CHUNK_BYTES_MAX)

    def unpack(self, frame: bytes | memoryview, size_bytes: int) -> bytes:
        """Decodes a chunk whose length the recipe gives; its digest is still to be checked.

        Args:
            frame: what the peer sent.
            size_bytes: the chunk's length, 1 to 1 MiB.

        Raises:
            FrameError: it is not one zstd frame of exactly that content.
        """
        return decode_frame(
            self._context, frame, size_bytes=size_bytes, window_bytes_max=CHUNK_BYTES_MAX
        )


@dataclass(slots=True)
class _Judgement:
    """How well an image compresses, as far as was tried."""

    tried: int = 0
    """Chunks tried, old ones counting less."""
    plain_bytes: int = 0
    """Their bytes."""
    packed_bytes: int = 0
    """Bytes of their frames."""
    skipped: int = 0
    """Chunks not tried since the last one that was."""

    def is_worth_trying(self) -> bool:
        """Whether to try the next chunk."""
        if self.tried < SAMPLE_CHUNKS or pays(self.plain_bytes, self.packed_bytes):
            return True
        self.skipped += 1
        return self.skipped >= RETRY_CHUNKS

    def note(self, plain_bytes: int, packed_bytes: int) -> None:
        """Takes an outcome; the past loses half of its weight every `SAMPLE_CHUNKS` chunks."""
        if self.tried >= 2 * SAMPLE_CHUNKS:
            self.tried //= 2
            self.plain_bytes //= 2
            self.packed_bytes //= 2
        self.tried += 1
        self.plain_bytes += plain_bytes
        self.packed_bytes += packed_bytes
        self.skipped = 0


def pays(plain_bytes: int, packed_bytes: int) -> bool:
    """Whether so many packed bytes instead of the plain ones are worth the work."""
    return packed_bytes * PAYS_DENOMINATOR <= plain_bytes * PAYS_NUMERATOR


@dataclass(frozen=True, slots=True, kw_only=True)
class PackerStatistics:
    """What a packer did since it was made."""

    packed: int
    """Chunks compressed."""
    reused: int
    """Answers from the cache."""
    skipped: int
    """Chunks not tried because their image does not compress."""
    cached_bytes: int
    """What the cache holds now."""


class ChunkPacker:
    """Encodes chunks, once each as long as they are remembered; for several threads at once."""

    def __init__(self, cache_bytes_max: int = CACHE_BYTES_MAX) -> None:
        """Starts with nothing remembered."""
        self._cache_bytes_max = cache_bytes_max
        self._lock = threading.Lock()
        self._frames: OrderedDict[Digest, bytes | None] = OrderedDict()
        self._cached_bytes = 0
        self._judgements: OrderedDict[Digest, _Judgement] = OrderedDict()
        self._idle: list[zstandard.ZstdCompressor] = []
        self._packed = self._reused = self._skipped = 0

    def pack(self, data: bytes | memoryview, *, image: Digest, chunk: Digest) -> bytes | None:
        """Encodes a chunk as one frame.

        Args:
            data: the chunk.
            image: the image it is read from.
            chunk: its digest.

        Returns:
            The frame, smaller than the chunk; None if that does not pay.
        """
        with self._lock:
            if chunk in self._frames:
                self._frames.move_to_end(chunk)
                self._reused += 1
                return self._frames[chunk]
            judgement = self._judgement(image)
            if not judgement.is_worth_trying():
                self._skipped += 1
                return None
            context = self._idle.pop() if self._idle else _compressor()
        frame: bytes = context.compress(data)
        with self._lock:
            self._idle.append(context)
            self._packed += 1
            judgement.note(len(data), len(frame))
            kept = frame if pays(len(data), len(frame)) else None
            self._remember(chunk, kept)
        return kept

    def statistics(self) -> PackerStatistics:
        """Counts what was done."""
        with self._lock:
            return PackerStatistics(
                packed=self._packed,
                reused=self._reused,
                skipped=self._skipped,
                cached_bytes=self._cached_bytes,
            )

    def _judgement(self, image: Digest) -> _Judgement:
        judgement = self._judgements.setdefault(image, _Judgement())
        self._judgements.move_to_end(image)
        while len(self._judgements) > IMAGES_MAX:
            self._judgements.popitem(last=False)
        return judgement

    def _remember(self, chunk: Digest, frame: bytes | None) -> None:
        if chunk in self._frames:
            return  # another thread packed it meanwhile
        self._frames[chunk] = frame
        self._cached_bytes += _ENTRY_BYTES + len(frame or b"")
        while self._cached_bytes > self._cache_bytes_max:
            _, oldest = self._frames.popitem(last=False)
            self._cached_bytes -= _ENTRY_BYTES + len(oldest or b"")


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(
        level=WIRE_LEVEL, write_content_size=True, write_checksum=False, write_dict_id=False
    )
