"""Length-prefixed frames over a byte stream: 4 bytes big-endian length, then the body.

A sans-IO buffer: feed what arrives, take what is complete. A length of zero or above the bound is
an error at once, before its body is waited for.
"""

from __future__ import annotations

from typing import Final

from protocol.errors import LocalProtocolError, RemoteProtocolError

PREFIX_BYTES: Final = 4
"""Bytes of the length prefix."""


def encode_frame(body: bytes, *, bytes_max: int) -> bytes:
    """Prefixes a body with its length.

    Raises:
        LocalProtocolError: the body is empty or over `bytes_max`: a defect of ours.
    """
    if not 0 < len(body) <= bytes_max:
        raise LocalProtocolError(f"frame of {len(body)} bytes, allowed 1 to {bytes_max}")
    return len(body).to_bytes(PREFIX_BYTES, "big") + body


class FrameBuffer:
    """Cuts a byte stream into frames."""

    def __init__(self, bytes_max: int) -> None:
        """`bytes_max` bounds one frame's body, bytes."""
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Adds received bytes and returns the frames now complete, in order.

        Raises:
            RemoteProtocolError: the peer announced an empty or too long frame; the buffer is then
                unusable and the stream must be closed.
        """
        self._buffer += data
        frames: list[bytes] = []
        while len(self._buffer) >= PREFIX_BYTES:
            size = int.from_bytes(self._buffer[:PREFIX_BYTES], "big")
            if not 0 < size <= self._bytes_max:
                raise RemoteProtocolError(f"frame of {size} bytes, allowed 1 to {self._bytes_max}")
            end = PREFIX_BYTES + size
            if len(self._buffer) < end:
                break
            # Through a view: a slice of the buffer itself would be copied twice.
            with memoryview(self._buffer) as view:
                frames.append(bytes(view[PREFIX_BYTES:end]))
            del self._buffer[:end]
        return frames

    @property
    def is_empty(self) -> bool:
        """Whether the stream could end here without cutting a frame."""
        return not self._buffer
