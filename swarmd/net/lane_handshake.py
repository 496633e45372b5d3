"""What both ends of a lane do before there is one: handshake and a few bytes, without blocking."""

from __future__ import annotations

import ssl

import trio

from protocol.errors import TransportError
from swarmd.net.lane_cipher import LaneCipher


async def shake_hands(sock: ssl.SSLSocket) -> None:
    """Completes the TLS handshake; the caller sets a limit of time.

    Raises:
        OSError: the other end does not speak TLS 1.3, or the connection broke.
    """
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock.fileno())
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock.fileno())
        else:
            return


async def receive_exactly(sock: ssl.SSLSocket, cipher: LaneCipher, size_bytes: int) -> bytes:
    """Receives that many bytes and not one more.

    Raises:
        TransportError: the connection ended before.
    """
    buffer = bytearray(size_bytes)
    view = memoryview(buffer)
    while view:
        count = cipher.recv_into(view)
        if count is None:
            await trio.lowlevel.wait_readable(sock.fileno())
        elif count == 0:
            raise TransportError(f"connection ended {len(view)} bytes early")
        else:
            view = view[count:]
    return bytes(buffer)


async def send_exactly(sock: ssl.SSLSocket, cipher: LaneCipher, data: bytes) -> None:
    """Sends some bytes.

    Raises:
        TransportError: the connection broke.
    """
    view = memoryview(data)
    while view:
        count = cipher.send(view)
        if count is None:
            await trio.lowlevel.wait_writable(sock.fileno())
        else:
            view = view[count:]
