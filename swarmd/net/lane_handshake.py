"""What both ends of a lane do before there is one: TLS, and a few bytes under it (B10 to B15, B30).

OpenSSL works on memory here and never touches the socket. So it can be left at an exact byte, what
came behind its last record is known, and a peer that sends what TLS permits without end (KeyUpdate,
RFC 8446, section 4.6.3) is cut off by counting what it sent: called on a socket, OpenSSL would work
it off for as long as it comes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

import trio

from protocol.errors import TransportError
from protocol.limits import KIB

OPENING_BYTES_MAX: Final = 16 * KIB
"""What is taken from a connection before it is a lane (B15); handshake and claim are 3 KiB with the
largest keys there are."""
_READ_BYTES: Final = 4 * KIB
"""Taken at once: what OpenSSL works off without a pause, 2 ms at worst."""

_T = TypeVar("_T")


class LaneOpening:
    """TLS on a connection that becomes a lane; the caller sets a limit of time."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> None:
        """`sock`: connected and non-blocking; stays the caller's to close."""
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._left_bytes = OPENING_BYTES_MAX

    @property
    def peer_certificate(self) -> bytes:
        """The certificate the other end has shown, DER; empty: none."""
        return self._tls.getpeercert(binary_form=True) or b""

    async def shake_hands(self) -> None:
        """Completes the TLS handshake.

        Raises:
            OSError: the other end does not speak TLS 1.3, or the connection broke.
            TransportError: it ended, or too much came.
        """
        await self._until_done(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        """Sends some bytes under TLS; raises OSError when the connection broke."""
        await self._until_done(partial(self._tls.write, data))

    async def receive_exactly(self, size_bytes: int) -> bytes:
        """Receives that many bytes under TLS, and makes sure that there are no more.

        Raises:
            OSError: the connection broke.
            TransportError: it ended before, or too much came.
        """
        received = b""
        while len(received) < size_bytes:
            wanted_bytes = size_bytes - len(received)
            piece = await self._until_done(partial(self._tls.read, wanted_bytes))
            if not piece:
                raise TransportError(f"TLS ended {wanted_bytes} bytes early")
            received += piece
        if self._tls.pending():
            raise TransportError("more was said under TLS than there is to say")
        return received

    def leave(self) -> bytes:
        """What came behind the last record of TLS: the beginning of the lane's own."""
        return self._incoming.read()

    async def _until_done(self, call: Callable[[], _T]) -> _T:
        while True:
            try:
                result = call()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            else:
                await self._flush()
                return result

    async def _flush(self) -> None:
        view = memoryview(self._outgoing.read())
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._sock.fileno())

    async def _fill(self) -> None:
        if self._left_bytes <= 0:
            raise TransportError(f"no lane within {OPENING_BYTES_MAX} bytes")
        await trio.lowlevel.wait_readable(self._sock.fileno())
        try:
            data = self._sock.recv(min(_READ_BYTES, self._left_bytes))
        except BlockingIOError:
            return
        if not data:
            raise TransportError("the connection ended before it was a lane")
        self._left_bytes -= len(data)
        self._incoming.write(data)
