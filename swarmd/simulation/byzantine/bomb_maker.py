"""Bomb maker: packed chunks that take far more memory than they say, or say what they are not.

Every frame is one that some zstd decoder takes. What is wrong is the size in the header, the
window, or what stands before or behind the frame.
"""

from __future__ import annotations

import struct
from functools import cached_property

import zstandard

_SINGLE_SEGMENT = 0x20
"""Bit of the frame header descriptor (RFC 8878, 3.1.1.1.1): the window is the content size."""
_DESCRIPTOR_AT = 4
"""Where the frame header descriptor stands; its top two bits say how wide the content size is."""
_SIZE_WIDTHS = (1, 2, 4, 8)
_WINDOW_OF_1_MIB = 10 << 3
"""A window descriptor: exponent 10 above 1 KiB, no mantissa."""
_SKIPPABLE = 0x184D2A50
_WINDOW_LOG = 27


class BombMaker:
    """Makes frames for a receiver that expects `size_bytes`."""

    def __init__(self, size_bytes: int, *, bomb_bytes: int) -> None:
        """Every bomb decodes to `bomb_bytes`, where the decoder takes its word."""
        self._size_bytes = size_bytes
        self._bomb_bytes = bomb_bytes

    @cached_property
    def _bomb(self) -> bytes:
        return bytes(zstandard.ZstdCompressor(level=1).compress(bytes(self._bomb_bytes)))

    def _packed(
        self, content: bytes, *, write_checksum: bool = False, write_content_size: bool = True
    ) -> bytes:
        compressor = zstandard.ZstdCompressor(
            level=3, write_checksum=write_checksum, write_content_size=write_content_size
        )
        return bytes(compressor.compress(content))

    def frames(self, honest: bytes) -> dict[str, bytes]:
        """All bombs and lies about a chunk, by what is wrong."""
        packed = self._packed(honest)
        wide = zstandard.ZstdCompressionParameters(window_log=_WINDOW_LOG, write_content_size=1)
        skipped = struct.pack("<II", _SKIPPABLE, len(honest)) + honest
        return {
            "larger content": self._bomb,
            "larger content under the right size": self._under_false_size(),
            "no content size": self._packed(honest, write_content_size=False),
            "endless content without a size": self._sizeless_bomb(),
            "wide window": self._wide(wide, honest),
            "checksum": self._packed(honest, write_checksum=True),
            "two frames": packed + packed,
            "bytes behind": packed + b"\0",
            "skippable frame before": skipped + packed,
            "cut off": packed[:-1],
            "shorter content": self._packed(honest[:-1]),
            "not a frame": honest,
        }

    def _under_false_size(self) -> bytes:
        """The bomb, whose header was rewritten to say what the receiver expects."""
        bomb = bytearray(self._bomb)
        at, width = _DESCRIPTOR_AT + 1, _SIZE_WIDTHS[bomb[_DESCRIPTOR_AT] >> 6]
        if not bomb[_DESCRIPTOR_AT] & _SINGLE_SEGMENT:
            bomb[at] = _WINDOW_OF_1_MIB
            at += 1
        bomb[at : at + width] = self._size_bytes.to_bytes(width, "little")
        return bytes(bomb)

    def _sizeless_bomb(self) -> bytes:
        compressor = zstandard.ZstdCompressor(level=1, write_content_size=False)
        return bytes(compressor.compress(bytes(self._bomb_bytes)))

    def _wide(self, parameters: zstandard.ZstdCompressionParameters, honest: bytes) -> bytes:
        """Streamed without a pledged size, so that the header asks for the whole window."""
        writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        return writer.compress(honest) + writer.flush()
