"""Byte streams in memory, for tests and for simulations on an autojump clock.

No sockets, no threads, no randomness: with a deterministic scheduler two runs take the same steps.
A pipe holds at most `PIPE_BYTES_MAX` unread bytes, so that backpressure behaves as it does on TCP.
"""

from __future__ import annotations

from typing import Final

import trio

from protocol.errors import TransportError
from protocol.limits import KIB

PIPE_BYTES_MAX: Final = 256 * KIB
"""Unread bytes in one direction of a pipe, about what a kernel's socket buffer holds."""
BACKLOG: Final = 128
"""Connections waiting to be accepted, as on TCP."""
_FIRST_FREE_PORT: Final = 49152


class _Pipe:
    """One direction."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._buffer = bytearray()
        self._lot = trio.lowlevel.ParkingLot()
        self.is_ended = False
        self.is_broken = False

    async def send_all(self, data: bytes | memoryview) -> None:
        await trio.sleep(self._latency_s)
        view = memoryview(data)
        while view:
            while len(self._buffer) >= PIPE_BYTES_MAX and not (self.is_broken or self.is_ended):
                await self._lot.park()
            if self.is_ended:
                raise trio.ClosedResourceError("this end was closed")
            if self.is_broken:
                raise trio.BrokenResourceError("the other end was closed")
            size = min(len(view), PIPE_BYTES_MAX - len(self._buffer))
            self._buffer += view[:size]
            view = view[size:]
            self._lot.unpark_all()

    async def receive_some(self, max_bytes: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._buffer and not self.is_ended and not self.is_broken:
            await self._lot.park()
        if self.is_broken:
            raise trio.ClosedResourceError("this end was closed")
        data = bytes(self._buffer[:max_bytes])
        del self._buffer[: len(data)]
        self._lot.unpark_all()
        return data

    def end(self) -> None:
        self.is_ended = True
        self._lot.unpark_all()

    def break_off(self) -> None:
        self.is_broken = True
        self._lot.unpark_all()


class MemoryStream:
    """One end of a pipe pair."""

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        """Made by `MemoryWire`; the other end has the two pipes swapped."""
        self._outgoing = outgoing
        self._incoming = incoming

    async def send_all(self, data: bytes | memoryview) -> None:
        """Sends everything, waiting while the pipe is full."""
        await self._outgoing.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Waits for some bytes; empty at the end."""
        return await self._incoming.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Ends the outgoing pipe and breaks the incoming one."""
        self._outgoing.end()
        self._incoming.break_off()
        await trio.lowlevel.checkpoint()


class MemoryListener:
    """A listening address of a `MemoryWire`."""

    def __init__(self, wire: MemoryWire, host: str, port: int) -> None:
        """Made by `MemoryWire.listen`."""
        self.address: Final = (host, port)
        self._wire = wire
        self._send, self._receive = trio.open_memory_channel[MemoryStream](BACKLOG)

    def offer(self, stream: MemoryStream) -> None:
        """Queues a connection.

        Raises:
            TransportError: the backlog is full.
        """
        try:
            self._send.send_nowait(stream)
        except trio.WouldBlock as error:
            raise TransportError(f"backlog of {self.address} is full") from error

    async def accept(self) -> MemoryStream:
        """Waits for the next connection."""
        try:
            return await self._receive.receive()
        except trio.EndOfChannel as error:
            raise trio.ClosedResourceError("listener was closed") from error

    async def aclose(self) -> None:
        """Frees the address; whoever waits to be accepted sees the end."""
        self._wire.forget(self)
        self._send.close()
        while True:
            try:
                stream = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            await stream.aclose()


class MemoryWire:
    """A network in memory: every `Network` that shares the object can reach the others."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        """`latency_s` delays every send, seconds."""
        self._latency_s = latency_s
        self._listeners: dict[tuple[str, int], MemoryListener] = {}
        self._next_port = _FIRST_FREE_PORT

    async def dial(self, host: str, port: int) -> MemoryStream:
        """Connects to a listener of this wire."""
        await trio.sleep(self._latency_s)
        listener = self._listeners.get((host, port))
        if listener is None:
            raise TransportError(f"cannot connect to {host} port {port}: nobody listens")
        there, back = _Pipe(self._latency_s), _Pipe(self._latency_s)
        listener.offer(MemoryStream(back, there))
        return MemoryStream(there, back)

    async def listen(self, host: str, port: int) -> MemoryListener:
        """Takes an address of this wire."""
        await trio.lowlevel.checkpoint()
        if port == 0:
            port, self._next_port = self._next_port, self._next_port + 1
        if (host, port) in self._listeners:
            raise TransportError(f"cannot listen on {host} port {port}: address already in use")
        listener = MemoryListener(self, host, port)
        self._listeners[host, port] = listener
        return listener

    def forget(self, listener: MemoryListener) -> None:
        """Frees a listener's address."""
        self._listeners.pop(listener.address, None)
