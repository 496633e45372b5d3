"""Multiplexes streams over one secured connection: yamux with hard bounds.

Wire-compatible with yamux (hashicorp/yamux spec.md; libp2p id `/yamux/1.0.0`). It replaces libp2p's
own implementation because that one only logs when a peer overruns its receive window (unbounded
memory), resets a writer that waits five seconds for the reader, lets windows grow to 16 MiB, and
wakes twice a minute to measure round trips.

Rules:
- A peer that sends beyond a window, an unknown frame or a stream id out of order loses the
  connection. A stream beyond the limit is reset.
- Credit is returned when the application reads, so a slow reader slows exactly its own stream and
  never the connection: frames are taken off the wire at once, into buffers the windows bound.
- Writing is cancel-safe: a frame is queued whole or not at all; one task owns the wire.
- No pings of our own: an idle connection is silent; TCP keepalive finds dead peers.
"""

from __future__ import annotations

import logging
import struct
from collections import deque
from typing import TYPE_CHECKING, Final, Self

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from protocol.errors import RemoteProtocolError
from protocol.limits import KIB, MIB

if TYPE_CHECKING:
    from libp2p.abc import ISecureConn
    from libp2p.connection_types import ConnectionType
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

    from swarmd.net.guards import RawStream

logger = logging.getLogger(__name__)

_HEADER: Final = struct.Struct("!BBHII")
_DATA, _WINDOW_UPDATE, _PING, _GO_AWAY = 0, 1, 2, 3
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8

INITIAL_WINDOW: Final = 256 * KIB
"""Window both sides start a stream with (yamux spec)."""
FRAME_DATA_MAX: Final = 65519 - _HEADER.size
"""Data bytes of one frame: header and data fill exactly one Noise message."""
OUTGOING_HIGH_BYTES: Final = 256 * KIB
"""Queued outgoing bytes at which writers of data wait."""
OUTGOING_MAX_BYTES: Final = 1 * MIB
"""Queued outgoing bytes at which a peer that provokes answers (pings, resets) without reading them
loses the connection."""
COALESCE_BYTES: Final = 4 * KIB
"""Small frames are joined up to this size: a peer that fills a window with frames of one byte would
otherwise cost forty times the window in objects."""
SEND_WINDOW_MAX: Final = 2**31
"""More credit than this is nonsense."""
FLUSH_S: Final = 0.5
"""Seconds an orderly close waits for queued frames."""


class MuxStream(IMuxedStream):
    """One stream of a `Mux`."""

    def __init__(self, mux: Mux, stream_id: int, *, receive_window: int) -> None:
        """Made by `Mux`; `receive_window` is what the peer may send unread, bytes."""
        self.muxed_conn = mux
        self.stream_id: Final = stream_id
        self._mux = mux
        self._window_bytes = receive_window
        self._receive_window = receive_window
        self._send_window = INITIAL_WINDOW
        self._chunks: deque[bytes] = deque()
        self._offset = 0
        self._uncredited = 0
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()
        self._is_reset = False
        self._is_receive_ended = False
        self._is_send_ended = False
        self._is_abandoned = False

    async def read(self, n: int | None = None) -> bytes:
        """Waits for some bytes: what is left of the oldest frame, at most `n`.

        Raises:
            MuxedStreamEOF: the peer ended its side and everything was read.
            MuxedStreamReset: the stream or the connection broke.
        """
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self._is_reset:
                raise MuxedStreamReset("stream was reset")
            if self._is_receive_ended or self._is_abandoned:
                raise MuxedStreamEOF("stream ended")
            await self._readers.park()
        data, start = self._chunks[0], self._offset
        if n is None or n < 0 or n >= len(data) - start:
            self._chunks.popleft()
            self._offset = 0
        else:
            self._offset = start + n
        if start or self._offset:
            data = data[start : self._offset or None]
        self._credit(len(data))
        return data

    def _credit(self, size: int) -> None:
        self._uncredited += size
        if self._uncredited * 2 < self._window_bytes or self._is_receive_ended or self._is_reset:
            return
        self._receive_window += self._uncredited
        self._mux.enqueue(_WINDOW_UPDATE, 0, self.stream_id, self._uncredited)
        self._uncredited = 0

    async def write(self, data: bytes) -> None:
        """Queues everything, waiting for the peer's window and the wire.

        Raises:
            MuxedStreamClosed: our side was ended before.
            MuxedStreamReset: the stream or the connection broke.
        """
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            self._check_writable()
            if not self._send_window:
                await self._writers.park()
                continue
            if not self._mux.has_room:
                await self._mux.wait_room()
                continue
            size = min(len(view), self._send_window, FRAME_DATA_MAX)
            self._send_window -= size
            self._mux.enqueue(_DATA, 0, self.stream_id, size, view[:size])
            view = view[size:]

    def _check_writable(self) -> None:
        if self._is_reset:
            raise MuxedStreamReset("stream was reset")
        if self._is_send_ended:
            raise MuxedStreamClosed("stream was closed for writing")

    async def close_write(self) -> None:
        """Ends our side; the peer's may go on."""
        self._end_sending()
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        """Ends our side and ignores what the peer still sends: data after this is answered by a
        reset, and unread data is dropped.
        """
        self._end_sending()
        self._is_abandoned = True
        self._chunks.clear()
        self._readers.unpark_all()
        self._mux.forget(self.stream_id)
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """Breaks the stream off in both directions."""
        if not self._is_reset and not (self._is_receive_ended and self._is_send_ended):
            self._mux.enqueue(_WINDOW_UPDATE, _RST, self.stream_id, 0)
        self.on_reset()
        self._chunks.clear()
        await trio.lowlevel.checkpoint()

    def _end_sending(self) -> None:
        if self._is_send_ended or self._is_reset:
            return
        self._is_send_ended = True
        self._mux.enqueue(_WINDOW_UPDATE, _FIN, self.stream_id, 0)
        self._writers.unpark_all()
        self._forget_if_done()

    def _forget_if_done(self) -> None:
        if self._is_reset or (self._is_receive_ended and self._is_send_ended):
            self._mux.forget(self.stream_id)

    def on_data(self, data: bytes) -> None:
        """Takes received data.

        Raises:
            RemoteProtocolError: more than the window allows, or data after the end.
        """
        if len(data) > self._receive_window:
            raise RemoteProtocolError(
                f"peer sent {len(data)} bytes into a window of {self._receive_window}"
            )
        if self._is_receive_ended and data:
            raise RemoteProtocolError("peer sent data after the end of a stream")
        if not data:
            return
        self._receive_window -= len(data)
        if self._chunks and len(self._chunks[-1]) + len(data) <= COALESCE_BYTES:
            self._chunks[-1] += data
        else:
            self._chunks.append(data)
        self._readers.unpark_all()

    def on_credit(self, size: int) -> None:
        """Takes received credit.

        Raises:
            RemoteProtocolError: more credit than makes sense.
        """
        self._send_window += size
        if self._send_window > SEND_WINDOW_MAX:
            raise RemoteProtocolError(f"peer raised a window to {self._send_window} bytes")
        self._writers.unpark_all()

    def on_end(self) -> None:
        """Notes that the peer ended its side."""
        self._is_receive_ended = True
        self._readers.unpark_all()
        self._forget_if_done()

    def on_reset(self) -> None:
        """Notes that the stream broke."""
        self._is_reset = True
        self._readers.unpark_all()
        self._writers.unpark_all()
        self._mux.forget(self.stream_id)

    def set_deadline(self, ttl: int) -> None:
        """Not offered: deadlines are cancel scopes of whoever waits.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("use a trio cancel scope")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's socket address."""
        return self._mux.get_remote_address()

    async def __aenter__(self) -> Self:
        """Enters a block that closes the stream at its end."""
        return self


class Mux(IMuxedConn):
    """The streams of one connection."""

    def __init__(
        self,
        conn: ISecureConn,
        peer_id: ID,
        *,
        streams_max: int = 32,
        window_bytes: int = INITIAL_WINDOW,
        stall_s: float = 30.0,
    ) -> None:
        """Takes over a secured connection.

        Args:
            conn: carries the frames, owned from here on.
            peer_id: who is at the other end.
            streams_max: streams the peer may have open.
            window_bytes: unread bytes buffered per stream, at least `INITIAL_WINDOW`.
            stall_s: seconds one send may block before the connection is given up.
        """
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.violation: RemoteProtocolError | None = None
        self.raw: RawStream | None = None
        """The byte stream at the bottom, where it is known."""
        self._conn = conn
        self._is_initiator = conn.is_initiator
        self._next_id = 1 if conn.is_initiator else 2
        self._last_remote_id = 0
        self._streams: dict[int, MuxStream] = {}
        self._remote_streams_max = streams_max
        self._window_bytes = window_bytes
        self._stall_s = stall_s
        self._accept_send, self._accept_receive = trio.open_memory_channel[MuxStream](streams_max)
        self._outgoing: deque[bytes] = deque()
        self._outgoing_bytes = 0
        self._has_work = trio.Event()
        self._room = trio.lowlevel.ParkingLot()
        self._drained = trio.lowlevel.ParkingLot()
        self._scope = trio.CancelScope()
        self._is_closed = False

    @property
    def is_initiator(self) -> bool:
        """Whether this side dialed."""
        return self._is_initiator

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self._is_closed

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._is_closed

    @property
    def has_room(self) -> bool:
        """Whether data may be queued now."""
        return self._outgoing_bytes < OUTGOING_HIGH_BYTES

    async def wait_room(self) -> None:
        """Waits until the wire has taken some of the queue, or the connection ended."""
        await self._room.park()

    async def start(self) -> None:
        """Moves frames until the connection ends; never raises for the peer's doing."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_loop)
                    self.event_started.set()
                    await self._read_loop()
                    nursery.cancel_scope.cancel()
        finally:
            self._end()
            with trio.CancelScope(shield=True):
                await self._conn.close()

    async def _read_loop(self) -> None:
        buffer = bytearray()
        try:
            while True:
                buffer += await self._conn.read(None)
                self._take_frames(buffer)
        except RemoteProtocolError as error:
            self.violation = error
        except Exception as error:  # noqa: BLE001 - any failure of the layers below ends it
            logger.debug("connection ended: %r", error)

    async def _write_loop(self) -> None:
        while True:
            while self._outgoing:
                batch = [self._outgoing.popleft()]
                size = len(batch[0])
                while self._outgoing and size + len(self._outgoing[0]) <= 65519:
                    batch.append(self._outgoing.popleft())
                    size += len(batch[-1])
                try:
                    with trio.fail_after(self._stall_s):
                        await self._conn.write(b"".join(batch))
                except Exception:  # noqa: BLE001 - stalled or broken: the connection is over
                    self._scope.cancel()
                    return
                self._outgoing_bytes -= size
                if self.has_room:
                    self._room.unpark_all()
            self._drained.unpark_all()
            self._has_work = trio.Event()
            await self._has_work.wait()

    def enqueue(
        self, kind: int, flags: int, stream_id: int, value: int, data: bytes | memoryview = b""
    ) -> None:
        """Queues one frame; a peer that lets the queue overflow loses the connection."""
        if self._is_closed:
            return
        frame = b"".join((_HEADER.pack(0, kind, flags, stream_id, value), data))
        self._outgoing.append(frame)
        self._outgoing_bytes += len(frame)
        if self._outgoing_bytes > OUTGOING_MAX_BYTES:
            self._scope.cancel()
        self._has_work.set()

    def _take_frames(self, buffer: bytearray) -> None:
        """Handles every complete frame in the buffer and removes it."""
        position = 0
        while len(buffer) - position >= _HEADER.size:
            version, kind, flags, stream_id, value = _HEADER.unpack_from(buffer, position)
            if version != 0 or kind > _GO_AWAY:
                raise RemoteProtocolError(f"unknown frame: version {version}, type {kind}")
            size = value if kind == _DATA else 0
            if size > self._window_bytes:
                raise RemoteProtocolError(f"frame of {size} bytes exceeds every window")
            end = position + _HEADER.size + size
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                data = bytes(view[position + _HEADER.size : end])
            position = end
            self._on_frame(kind, flags, stream_id, value, data)
        del buffer[:position]

    def _on_frame(self, kind: int, flags: int, stream_id: int, value: int, data: bytes) -> None:
        if kind == _PING:
            if flags & _SYN:
                self.enqueue(_PING, _ACK, 0, value)
            return
        if kind == _GO_AWAY:
            self._scope.cancel()
            return
        if flags & _SYN:
            self._on_open(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            if kind == _DATA and data and not flags & _RST:
                self.enqueue(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        if kind == _DATA:
            stream.on_data(data)
        else:
            stream.on_credit(value)
        if flags & _RST:
            stream.on_reset()
        elif flags & _FIN:
            stream.on_end()

    def _on_open(self, stream_id: int) -> None:
        if stream_id % 2 == self._next_id % 2 or stream_id <= self._last_remote_id:
            raise RemoteProtocolError(f"peer opened stream {stream_id} out of order")
        self._last_remote_id = stream_id
        remote = sum(1 for key in self._streams if key % 2 != self._next_id % 2)
        if remote >= self._remote_streams_max:
            self.enqueue(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        stream = MuxStream(self, stream_id, receive_window=self._window_bytes)
        try:
            self._accept_send.send_nowait(stream)
        except trio.WouldBlock:
            self.enqueue(_WINDOW_UPDATE, _RST, stream_id, 0)
            return
        self._streams[stream_id] = stream
        self.enqueue(_WINDOW_UPDATE, _ACK, stream_id, self._window_bytes - INITIAL_WINDOW)

    async def open_stream(self) -> MuxStream:
        """Opens a stream.

        Raises:
            MuxedStreamError: the connection has ended.
        """
        await trio.lowlevel.checkpoint()
        if self._is_closed:
            raise MuxedStreamError("connection is closed")
        stream = MuxStream(self, self._next_id, receive_window=self._window_bytes)
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        credit = self._window_bytes - INITIAL_WINDOW
        self.enqueue(_WINDOW_UPDATE, _SYN, stream.stream_id, credit)
        return stream

    async def accept_stream(self) -> MuxStream:
        """Waits for a stream the peer opens.

        Raises:
            MuxedConnUnavailable: the connection has ended.
        """
        try:
            return await self._accept_receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise MuxedConnUnavailable("connection is closed") from error

    def forget(self, stream_id: int) -> None:
        """Drops a finished stream."""
        self._streams.pop(stream_id, None)

    def _end(self) -> None:
        self._is_closed = True
        self._accept_send.close()
        for stream in list(self._streams.values()):
            stream.on_reset()
        self._streams.clear()
        self._outgoing.clear()
        self._room.unpark_all()
        self._drained.unpark_all()

    async def close(self) -> None:
        """Sends what is queued and a farewell, then ends the connection."""
        if self._is_closed:
            return
        self.enqueue(_GO_AWAY, 0, 0, 0)
        with trio.move_on_after(FLUSH_S):
            while self._outgoing_bytes and self.event_started.is_set() and not self._is_closed:
                await self._drained.park()
        self._end()
        self._scope.cancel()
        await self._conn.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's socket address."""
        return self._conn.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The addresses the connection really uses."""
        return self._conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """How the connection was made."""
        return self._conn.get_connection_type()
