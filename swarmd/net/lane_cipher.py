"""What protects the bytes of a lane: two calls, so that another cipher can take the place of TLS.

Neither call ever blocks. `TLSCipher` is OpenSSL on the connection's own socket: it reads and writes
records without a copy in Python. A cipher is used by one thread at a time; the lane sees to that.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final, Protocol

from protocol.errors import TransportError
from swarmd.net.lane_watch import RECEIVE_WATCH


class LaneCipher(Protocol):
    """An authenticated, encrypted byte stream on a non-blocking socket."""

    def send(self, view: memoryview) -> int | None:
        """Encrypts and sends the beginning of `view`.

        After None the next call must begin with the same bytes: some may be encrypted already.

        Returns:
            How many bytes were taken; None: nothing now, the socket is full.

        Raises:
            TransportError: the connection broke.
        """
        ...

    def recv_into(self, view: memoryview) -> int | None:
        """Receives and decrypts into the beginning of `view`.

        Returns:
            How many bytes came; 0: the peer ended the stream, and said so under the cipher;
            None: nothing now, the socket is dry and no decrypted byte is held back.

        Raises:
            TransportError: the connection broke, or ended without the cipher's own end.
        """
        ...


def wrap_tls(sock: socket.socket, context: ssl.SSLContext, *, server_side: bool) -> ssl.SSLSocket:
    """Puts TLS on a connected, non-blocking socket; the handshake is the caller's.

    An end without close_notify, which anybody on the path can forge, stays an error.

    Raises:
        OSError: the connection has ended already.
    """
    return context.wrap_socket(
        sock,
        server_side=server_side,
        do_handshake_on_connect=False,
        suppress_ragged_eofs=False,
    )


class TLSCipher:
    """TLS by OpenSSL."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        """Takes a socket of `wrap_tls` after its handshake."""
        self._sock: Final = sock

    def send(self, view: memoryview) -> int | None:
        """Sends records; OpenSSL cuts them to 16 KiB."""
        try:
            return self._sock.send(view)
        except ssl.SSLWantWriteError:
            return None
        except ssl.SSLWantReadError as error:
            raise _unexpected() from error
        except OSError as error:
            raise TransportError(f"lane broke: {error}") from error

    def recv_into(self, view: memoryview) -> int | None:
        """Receives at most one record of data."""
        RECEIVE_WATCH.begins(self._sock)
        try:
            return self._sock.recv_into(view)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLWantWriteError as error:
            raise _unexpected() from error
        except OSError as error:
            raise TransportError(f"lane broke: {error}") from error
        finally:
            RECEIVE_WATCH.ends()


def _unexpected() -> TransportError:
    """A peer that demands new keys while nothing can be sent; this implementation never does."""
    return TransportError("lane broke: the peer demands a key update while the socket is full")
