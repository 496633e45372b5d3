"""Addresses of Unix sockets in directories of any depth, and who is at the other end.

Linux bounds a Unix socket's address to 108 bytes. A data directory may lie deeper, so both sides
open the directory first and name the socket through `/proc/self/fd/<descriptor>/`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_CREDENTIALS = struct.Struct("3i")
"""`struct ucred` of Linux: process id, user id, group id (unix(7))."""


@contextlib.contextmanager
def short_socket_address(path: Path) -> Iterator[str]:
    """A short address for the socket at `path`, valid inside the block, for bind and connect.

    Raises:
        OSError: the directory of `path` cannot be opened.
    """
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def peer_uid(credentials: bytes) -> int:
    """The user id in the answer to `SO_PEERCRED`."""
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)


CREDENTIALS_BYTES = _CREDENTIALS.size
"""Bytes that `getsockopt(SOL_SOCKET, SO_PEERCRED)` returns."""


def listen_unix(path: Path, *, backlog: int) -> socket.socket:
    """Binds and listens on a Unix socket that only this user may open, replacing a stale one.

    The caller holds the data directory's lock, so whatever lies at `path` is left over from a
    daemon that died.

    Raises:
        OSError: the socket cannot be made.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with short_socket_address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(backlog)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def remove_socket(path: Path) -> None:
    """Removes the socket file at `path`, if it is still there."""
    path.unlink(missing_ok=True)
