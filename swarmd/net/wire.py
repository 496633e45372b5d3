"""What carries the bytes of a connection: TCP in production, memory pipes in simulations.

A `Wire` knows neither peers nor encryption. Everything above it, from the security handshake on, is
the same for both.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import Final, Protocol

import trio

from protocol.errors import TransportError
from swarmd.net.keepalive import (
    KEEPALIVE_ACCEPTED_IDLE_S,
    KEEPALIVE_IDLE_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_PROBES,
    UNANSWERED_S,
)

ACCEPT_BACKLOG: Final = 128
"""Connections the kernel holds before they are accepted."""


class ByteStream(Protocol):
    """One connected, ordered, reliable pipe of bytes."""

    async def send_all(self, data: bytes | memoryview) -> None:
        """Sends everything; raises `trio.BrokenResourceError` when the pipe breaks."""
        ...

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Waits for some bytes; empty at the end."""
        ...

    async def aclose(self) -> None:
        """Closes both directions."""
        ...


class WireListener(Protocol):
    """A listening address."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, with the real port."""
        ...

    async def accept(self) -> ByteStream:
        """Waits for the next connection.

        Raises:
            TransportError: no resources for it now; accepting may go on.
            trio.ClosedResourceError: the listener was closed.
        """
        ...

    async def aclose(self) -> None:
        """Stops listening."""
        ...


class Wire(Protocol):
    """Opens and accepts byte streams."""

    async def dial(self, host: str, port: int) -> ByteStream:
        """Connects.

        Raises:
            TransportError: nobody answers there.
        """
        ...

    async def listen(self, host: str, port: int) -> WireListener:
        """Listens on an address, port 0 for a free one.

        Raises:
            TransportError: the address is in use or not ours.
        """
        ...


def remote_address(stream: ByteStream) -> tuple[str, int] | None:
    """The address at the other end, or None where there is none."""
    if isinstance(stream, trio.SocketStream):
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:
            return None
        return str(host), int(port)
    return None


def local_address(stream: ByteStream) -> tuple[str, int] | None:
    """The address at this end, or None where there is none."""
    if isinstance(stream, trio.SocketStream):
        try:
            host, port = stream.socket.getsockname()[:2]
        except OSError:
            return None
        return str(host), int(port)
    return None


def tune_keepalive(
    sock: trio.socket.SocketType | socket.socket, idle_s: int = KEEPALIVE_IDLE_S
) -> None:
    """Has TCP notice a peer that is gone, with a probe after so many idle seconds.

    Raises:
        OSError: the connection ended already.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", idle_s),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


_ACCEPT_AGAIN: Final = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}


@dataclass(slots=True)
class TCPListener:
    """A listening TCP socket."""

    _listener: trio.SocketListener

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, with the real port."""
        host, port = self._listener.socket.getsockname()[:2]
        return str(host), int(port)

    async def accept(self) -> ByteStream:
        """Waits for the next connection and turns keepalive on."""
        try:
            stream = await self._listener.accept()
        except OSError as error:
            if error.errno in _ACCEPT_AGAIN:
                raise TransportError(f"cannot accept now: {error}") from error
            raise
        try:
            tune_keepalive(stream.socket, KEEPALIVE_ACCEPTED_IDLE_S)
        except OSError as error:
            await trio.aclose_forcefully(stream)
            raise TransportError(f"connection ended before it was accepted: {error}") from error
        return stream

    async def aclose(self) -> None:
        """Stops listening."""
        await self._listener.aclose()


@dataclass(slots=True)
class TCPWire:
    """Streams over TCP, IPv4 and IPv6.

    A listening socket never sets SO_REUSEPORT, so that a second daemon on the same port fails
    instead of silently sharing its connections.
    """

    backlog: int = field(default=ACCEPT_BACKLOG)
    """Connections the kernel holds before they are accepted."""
    idle_s: int = KEEPALIVE_IDLE_S
    """Idle seconds before a peer that was called is probed."""
    is_metered: bool = False
    """Whether bytes cost money on the way to those who are called: few probes, little patience."""

    async def dial(self, host: str, port: int) -> ByteStream:
        """Connects to a host and turns keepalive on."""
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            cause = error.__cause__
            reasons = cause.exceptions if isinstance(cause, ExceptionGroup) else (error,)
            reason = "; ".join(str(each) for each in reasons)
            raise TransportError(f"cannot connect to {host} port {port}: {reason}") from error
        try:
            self._tune(stream.socket)
        except OSError as error:
            await trio.aclose_forcefully(stream)
            raise TransportError(f"connection to {host} port {port}: {error}") from error
        return stream

    def _tune(self, sock: trio.socket.SocketType) -> None:
        tune_keepalive(sock, self.idle_s)
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        if self.is_metered and option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, UNANSWERED_S * 1000)

    async def listen(self, host: str, port: int) -> WireListener:
        """Binds one address."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            await sock.bind((host, port))
            sock.listen(self.backlog)
        except OSError as error:
            sock.close()
            raise TransportError(f"cannot listen on {host} port {port}: {error}") from error
        return TCPListener(trio.SocketListener(sock))
