"""One stream to a peer, as protocol handlers see it: frames or raw bytes, typed errors."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Self, TypeVar

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamEOF

from protocol.errors import RemoteProtocolError, TransportError
from protocol.framing import FrameBuffer, encode_frame
from protocol.limits import KIB
from swarmd.net.address import short_peer
from swarmd.net.send_gate import SendGate

if TYPE_CHECKING:
    from libp2p.abc import INetStream

    from swarmd.net.address import PeerKey

RECEIVE_BYTES: Final = 256 * KIB
"""Bytes `receive_some` returns at most: a whole default window."""

_Result = TypeVar("_Result")

StreamHandler = Callable[["Stream"], Awaitable[None]]
"""Serves one inbound stream; when it returns the stream is closed, when it raises it is reset."""


class Stream:
    """A bidirectional stream; one task may send while another receives.

    Received bytes wait in a buffer bounded by the stream's window. A handler that is busy elsewhere
    stalls only the peer's writes on this stream, for as long as it likes: bound that by deadlines
    and by windows in the protocol above. A send or receive that is cancelled resets the stream,
    since part of a frame may be gone.
    """

    def __init__(
        self, stream: INetStream, peer: PeerKey, protocol: str, *, frame_bytes_max: int
    ) -> None:
        """Made by `Network`."""
        self.peer: Final = peer
        """Who is at the other end, proved by the handshake."""
        self.protocol: Final = protocol
        """Protocol both sides agreed on."""
        self._stream = stream
        self._frame_bytes_max = frame_bytes_max
        self._frames = FrameBuffer(frame_bytes_max)
        self._ready: deque[bytes] = deque()
        self.gate: SendGate | None = None
        """Holds frames back, if set."""

    @property
    def remote_host(self) -> str:
        """IP address at the other end; empty where the wire has none."""
        address = self._stream.get_remote_address()
        return "" if address is None else address[0]

    def __repr__(self) -> str:
        """Names peer and protocol."""
        return f"Stream({short_peer(self.peer)}, {self.protocol})"

    async def _guarded(self, operation: Awaitable[_Result]) -> _Result:
        """Turns libp2p's errors into ours and resets the stream when cut short."""
        try:
            return await operation
        except StreamEOF:
            raise
        except (BaseLibp2pError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise TransportError(
                f"stream {self.protocol} to {short_peer(self.peer)} broke: {error!r}"
            ) from error
        except trio.Cancelled:
            await self.reset()
            raise

    async def send_frame(self, body: bytes | Sequence[bytes | memoryview]) -> None:
        """Sends one length-prefixed frame; of several parts the body is their concatenation.

        Raises:
            LocalProtocolError: the body is empty or over the protocol's bound.
            TransportError: the stream broke.
        """
        whole = body if isinstance(body, bytes) else b"".join(body)
        frame = encode_frame(whole, bytes_max=self._frame_bytes_max)
        if self.gate is None:
            await self.send_all(frame)
        else:
            await self._send_admitted(memoryview(frame), self.gate)

    async def _send_admitted(self, view: memoryview, gate: SendGate) -> None:
        """Sends as much at a time as may go."""
        try:
            while view:
                count = await gate.admit(len(view))
                await self.send_all(view[:count])
                view = view[count:]
        except trio.Cancelled:
            await self.reset()
            raise

    async def receive_frame(self) -> bytes | None:
        """Waits for one frame; None when the peer ended its side between frames.

        Raises:
            RemoteProtocolError: the frame is empty, over the protocol's bound, or cut off.
            TransportError: the stream broke.
        """
        while not self._ready:
            data = await self.receive_some()
            if not data:
                if self._frames.is_empty:
                    return None
                raise RemoteProtocolError("stream ended inside a frame")
            self._ready.extend(self._frames.feed(data))
        return self._ready.popleft()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Sends raw bytes, waiting for the peer's window.

        Raises:
            TransportError: the stream broke.
        """
        await self._guarded(self._stream.write(bytes(data)))

    async def receive_some(self, bytes_max: int = RECEIVE_BYTES) -> bytes:
        """Waits for some raw bytes; empty when the peer ended its side.

        Do not mix with `receive_frame` while a frame may be partly received.

        Raises:
            TransportError: the stream broke.
        """
        try:
            return await self._guarded(self._stream.read(bytes_max))
        except StreamEOF:
            return b""

    async def close_write(self) -> None:
        """Ends our side; the peer's answer can still be received."""
        closing = self._stream.close_write()  # type: ignore[attr-defined]  # NetStream has it
        await self._guarded(closing)

    async def aclose(self) -> None:
        """Ends our side and ignores what the peer still sends."""
        await self._guarded(self._stream.close())

    async def reset(self) -> None:
        """Breaks the stream off in both directions; never fails."""
        with trio.CancelScope(shield=True):
            await self._stream.reset()

    async def __aenter__(self) -> Self:
        """Enters a block that closes the stream at its end, or resets it on an error."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes after success, resets after failure."""
        if kind is None:
            try:
                await self.aclose()
            except TransportError:
                await self.reset()
        else:
            await self.reset()
