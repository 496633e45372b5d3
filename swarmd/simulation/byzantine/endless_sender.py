"""Endless sender: answers that never end, and objects larger than anything that is allowed.

The bytes are cheap to make and mean nothing; what counts is how many of them a receiver takes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Final

from protocol.framing import PREFIX_BYTES

PIECE_BYTES: Final = 16_384
"""Bytes that arrive at once."""
_LENGTH_MAX: Final = 2**32 - 1


class EndlessSender:
    """Makes streams without end."""

    def streams(self, frame_bytes_max: int) -> dict[str, Iterator[bytes]]:
        """Streams for a receiver of frames.

        Args:
            frame_bytes_max: the longest frame that the receiver allows.
        """
        return {
            "a frame of 4 GiB": self._frame(_LENGTH_MAX),
            "a frame just too long": self._frame(frame_bytes_max + 1),
            "frames of the greatest length": self._frame(frame_bytes_max),
            "empty frames": self._repeat(bytes(PREFIX_BYTES)),
        }

    def _frame(self, length: int) -> Iterator[bytes]:
        """Frames that say this length, one after the other, for ever."""
        prefix = length.to_bytes(PREFIX_BYTES, "big")
        while True:
            left = length
            yield prefix
            while left > 0:
                piece = bytes(min(left, PIECE_BYTES))
                left -= len(piece)
                yield piece

    def _repeat(self, data: bytes) -> Iterator[bytes]:
        while True:
            yield data * (PIECE_BYTES // len(data))

    def oversized(self, bytes_max: int) -> bytes:
        """An object one byte longer than its bound: a byte string of CBOR, canonical."""
        return b"\x5a" + (bytes_max - 4).to_bytes(4, "big") + bytes(bytes_max - 4)

    def section(self, prefix: bytes, kind: int, length: int) -> EndlessFile:
        """A bundle whose first section says a length, and goes on for ever."""
        return EndlessFile(prefix + bytes((kind,)) + length.to_bytes(4, "big"))


class EndlessFile(io.RawIOBase):
    """A file that begins with something and never ends; counts what was read of it."""

    def __init__(self, start: bytes) -> None:
        """Begins with `start`; zeros follow."""
        super().__init__()
        self._start = start
        self.bytes_read = 0
        """What was taken."""

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, as many as asked for."""
        assert size >= 0, "whoever asks for all of it never gets it"
        begin = self.bytes_read
        self.bytes_read += size
        return self._start[begin : begin + size].ljust(size, b"\0")
