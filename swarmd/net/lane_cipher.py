"""What protects the bytes of a lane: two calls, so that another cipher can take the place of ours.

Neither call ever blocks. `RecordCipher` is AES-GCM on a plain socket: records of docs/spec/lane.md,
section 4. A record is received whole into a buffer and opened from there straight into the frame
it belongs to; it is sealed from the parts of a frame into a buffer and sent with one call. Each
direction is used by one thread at a time, and no two directions share anything.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, Protocol

from protocol.errors import TransportError
from protocol.limits import KIB
from swarmd.net.lane_buffers import RecordBuffers
from swarmd.net.lane_records import (
    HEAD_BYTES,
    OVERHEAD_BYTES,
    RECORD_BYTES_MAX,
    RecordOpener,
    RecordSealer,
    read_length,
)

AHEAD_BYTES: Final = 64 * KIB
"""Received in one call at least, if it is there: small records cost few calls. Behind a large one
only the head of the next is taken along, so that little has to be moved in the buffer."""
SMALL_RECORD_BYTES: Final = 16 * KIB
"""Records of thin links; a lane that sees no larger ones has a small buffer."""
_SMALL_BUFFER_BYTES: Final = 2 * (SMALL_RECORD_BYTES + OVERHEAD_BYTES)
_LARGE_BUFFER_BYTES: Final = RECORD_BYTES_MAX + OVERHEAD_BYTES + HEAD_BYTES + AHEAD_BYTES
"""The largest record of which all but a byte is there, and what is taken along."""


class LaneCipher(Protocol):
    """An authenticated, encrypted byte stream on a non-blocking socket."""

    def send(self, pieces: Sequence[memoryview]) -> int | None:
        """Encrypts and sends some pieces, each at most `RECORD_BYTES_MAX`, with one call.

        After None the next call must have the same pieces: they are encrypted already.

        Returns:
            Their bytes, once all were taken; None: the socket is full.

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

    def certain_bytes(self, missing_bytes: int) -> int:
        """What the socket surely brings before a look at it is worth anything, after a None.

        Args:
            missing_bytes: what must come through the cipher for the frame under way.

        Returns:
            Bytes on the wire; 0: nothing has begun.
        """
        ...


class RecordCipher:
    """See the module's docstring."""

    def __init__(
        self,
        sock: socket.socket,
        buffers: RecordBuffers,
        *,
        send_key: bytes,
        receive_key: bytes,
        early: bytes = b"",
    ) -> None:
        """Takes a connection over from TLS.

        Args:
            sock: non-blocking; TLS neither reads nor writes it any more.
            buffers: what records are kept in while they are sent or received.
            send_key: this end's, of 32 bytes, never used before.
            receive_key: the peer's.
            early: what came behind the last record of TLS already.
        """
        self._sock: Final = sock
        self._outgoing = _Outgoing(sock, buffers, send_key)
        self._incoming = _Incoming(sock, buffers, receive_key, early)

    def send(self, pieces: Sequence[memoryview]) -> int | None:
        """Sends each piece as a record."""
        return self._outgoing.send(pieces)

    def recv_into(self, view: memoryview) -> int | None:
        """Receives what one record carries, or what is left of it."""
        return self._incoming.recv_into(view)

    def certain_bytes(self, missing_bytes: int) -> int:
        """Counts the heads and tags of records in."""
        return self._incoming.certain_bytes(missing_bytes)


class _Outgoing:
    """Seals and sends; holds records that the socket did not take yet."""

    def __init__(self, sock: socket.socket, buffers: RecordBuffers, key: bytes) -> None:
        self._sock = sock
        self._buffers = buffers
        self._sealer = RecordSealer(key)
        self._buffer = bytearray()
        self._pending = memoryview(b"")
        self._pending_plain_bytes = 0

    def send(self, pieces: Sequence[memoryview]) -> int | None:
        if not self._pending:
            self._seal(pieces)
        try:
            count = self._sock.send(self._pending)
        except BlockingIOError:
            return None
        except OSError as error:
            raise TransportError(f"lane broke: {error}") from error
        self._pending = self._pending[count:]
        if self._pending:
            return None  # it took a part, so it is full now
        self._pending = memoryview(b"")
        self._buffers.give(self._buffer)
        return self._pending_plain_bytes

    def _seal(self, pieces: Sequence[memoryview]) -> None:
        plain_bytes = sum(map(len, pieces))
        self._buffer = self._buffers.take(plain_bytes + OVERHEAD_BYTES * len(pieces))
        view, end = memoryview(self._buffer), 0
        for piece in pieces:
            end += self._sealer.seal(piece, view[end:])
        self._pending, self._pending_plain_bytes = view[:end], plain_bytes


class _Incoming:
    """Receives and opens; holds what came of a record, and what of one was not asked for yet."""

    def __init__(
        self, sock: socket.socket, buffers: RecordBuffers, key: bytes, early: bytes
    ) -> None:
        self._sock = sock
        self._buffers = buffers
        self._opener = RecordOpener(key)
        self._buffer = bytearray(early)
        self._start, self._end = 0, len(early)
        self._opened_buffer = bytearray()
        self._opened = memoryview(b"")
        self._is_dry = False
        self._has_large = False
        self._is_ended = False

    def recv_into(self, view: memoryview) -> int | None:
        if self._opened:
            return self._give(view)
        while not self._is_ended:
            size = self._size()
            if size is not None and self._end - self._start >= size + OVERHEAD_BYTES:
                return self._open(size, view)
            if self._is_dry or not self._fill(size):
                self._is_dry = False
                self._rest()
                return None
        return 0

    def certain_bytes(self, missing_bytes: int) -> int:
        held_bytes, size = self._end - self._start, self._size()
        if size is None:
            if not missing_bytes and not held_bytes:
                return 0
            return missing_bytes + OVERHEAD_BYTES - held_bytes
        certain_bytes = size + OVERHEAD_BYTES - held_bytes
        if missing_bytes > size:
            certain_bytes += missing_bytes - size + OVERHEAD_BYTES
        return certain_bytes

    def _size(self) -> int | None:
        """What the record under way carries, once its head is there."""
        if self._end - self._start < HEAD_BYTES:
            return None
        return read_length(self._buffer[self._start : self._start + HEAD_BYTES])

    def _open(self, size: int, view: memoryview) -> int:
        """Opens the first record of the buffer into `view`, or where it can wait to be taken."""
        record = memoryview(self._buffer)[self._start : self._start + size + OVERHEAD_BYTES]
        self._start += size + OVERHEAD_BYTES
        if size <= len(view):
            self._opener.open(record, view[:size])
            self._is_ended = size == 0
            return size
        self._opened_buffer = self._buffers.take(size)
        opened = memoryview(self._opened_buffer)[:size]
        self._opener.open(record, opened)
        self._opened = opened
        return self._give(view)

    def _give(self, view: memoryview) -> int:
        count = min(len(view), len(self._opened))
        view[:count] = self._opened[:count]
        self._opened = self._opened[count:]
        if not self._opened:
            self._opened = memoryview(b"")
            self._buffers.give(self._opened_buffer)
        return count

    def _fill(self, size: int | None) -> bool:
        """Receives once; returns whether anything came. `size`: of the record under way."""
        self._make_room(size)
        held_bytes = self._end - self._start
        rest_bytes = 0 if size is None else size + OVERHEAD_BYTES - held_bytes
        wanted_bytes = max(rest_bytes + HEAD_BYTES, AHEAD_BYTES)
        wanted_bytes = min(wanted_bytes, len(self._buffer) - self._end)
        try:
            count = self._sock.recv_into(
                memoryview(self._buffer)[self._end : self._end + wanted_bytes]
            )
        except BlockingIOError:
            return False
        except OSError as error:
            raise TransportError(f"lane broke: {error}") from error
        if count == 0:
            raise TransportError("lane broke: the connection ended without an end of the stream")
        self._end += count
        self._is_dry = count < wanted_bytes
        return True

    def _rest(self) -> None:
        """Gives the buffer back if nothing is in it: most lanes are idle most of the time."""
        if self._start == self._end:
            self._buffers.give(self._buffer)
            self._buffer, self._start, self._end = bytearray(), 0, 0

    def _make_room(self, size: int | None) -> None:
        """Has the buffer begin with the record under way and hold all of it and a head more."""
        needed_bytes = (size or 0) + OVERHEAD_BYTES + HEAD_BYTES
        self._has_large = self._has_large or needed_bytes > _SMALL_BUFFER_BYTES
        capacity = _LARGE_BUFFER_BYTES if self._has_large else _SMALL_BUFFER_BYTES
        held_bytes = self._end - self._start
        if len(self._buffer) < capacity:
            buffer = self._buffers.take(capacity)
            buffer[:held_bytes] = memoryview(self._buffer)[self._start : self._end]
            self._buffers.give(self._buffer)
            self._buffer = buffer
        elif self._start and self._start + max(needed_bytes, AHEAD_BYTES) > len(self._buffer):
            view = memoryview(self._buffer)
            view[:held_bytes] = view[self._start : self._end]
        else:
            return
        self._start, self._end = 0, held_bytes
