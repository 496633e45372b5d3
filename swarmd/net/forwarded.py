"""A stream to a third member as the byte stream of a connection that passes through it."""

from __future__ import annotations

import trio

from protocol.errors import RemoteProtocolError, TransportError
from protocol.forward_messages import FORWARD_FRAME_BYTES_MAX
from swarmd.net.stream import Stream


class ForwardedStream:
    """A `ByteStream` whose pieces travel as frames of a stream.

    Whatever the member between does (cut, change, repeat, invent) shows as a broken connection to
    the handshake or the ciphers above.
    """

    def __init__(self, stream: Stream) -> None:
        """Takes over a stream on which both ends have agreed."""
        self._stream = stream
        self._rest = b""
        self.ended = trio.Event()
        """Set when the connection over it has let go of it."""

    async def send_all(self, data: bytes | memoryview) -> None:
        """Sends everything."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), FORWARD_FRAME_BYTES_MAX):
                piece = bytes(view[start : start + FORWARD_FRAME_BYTES_MAX])
                await self._stream.send_frame([piece])
        except TransportError as error:
            raise trio.BrokenResourceError(str(error)) from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Waits for some bytes; empty at the end."""
        if not self._rest:
            try:
                frame = await self._stream.receive_frame()
            except (TransportError, RemoteProtocolError) as error:
                raise trio.BrokenResourceError(str(error)) from error
            self._rest = b"" if frame is None else bytes(frame)
        size = len(self._rest) if max_bytes is None else max_bytes
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def aclose(self) -> None:
        """Closes both directions."""
        self.ended.set()
        try:
            await self._stream.aclose()
        except TransportError:
            await self._stream.reset()
