"""The network between simulated daemons: rates, latency, jitter, loss, partitions.

Each node has an uplink and a downlink that its connections share in the order in which they send.
Bytes that were sent arrive later, in order; a lost segment arrives after it was sent again, one
that is overtaken keeps what follows waiting, and one that comes twice takes its time on the
downlink twice. Who is behind a closed NAT hears nothing of those who call from outside its site. A
partition holds back what is under way and lets nobody connect; both go on when it heals, as TCP
does. Everything is decided by one generator and entered in one trace.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import trio

from protocol.errors import TransportError
from protocol.limits import KIB
from swarmd.net.memory import BACKLOG

PIPE_BYTES_MAX: Final = 256 * KIB
"""Bytes of one direction that were sent and not read yet, about what a kernel buffers."""
SEGMENT_BYTES: Final = 1448
"""Payload of a TCP segment on Ethernet with timestamps."""
RESEND_S_MIN: Final = 0.2
"""Least time after which a lost segment is sent again (Linux's TCP_RTO_MIN)."""
CALL_S: Final = 127.0
"""How long a call takes that nobody answers, seconds (Linux's six repetitions of a SYN)."""
NEAR_S: Final = 0.0005
"""One way between two nodes of a site, seconds."""
_FIRST_FREE_PORT: Final = 49152
_NOTE: Final = struct.Struct(">dIIq")
_DIAL: Final = -1
_END: Final = -2
_BREAK: Final = -3


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonLink:
    """How one node is connected."""

    uplink_bytes_per_s: float = float("inf")
    """Rate towards the others, bytes/s."""
    downlink_bytes_per_s: float = float("inf")
    """Rate from the others, bytes/s."""
    latency_s: float = 0.005
    """One way between this node and the middle of the network, seconds."""
    jitter_s: float = 0.0
    """Additional latency, uniform up to this, seconds; bytes stay in order."""
    loss: float = 0.0
    """Probability that a segment has to be sent again, 0 <= loss < 1."""
    duplication: float = 0.0
    """Probability that a segment arrives twice, 0 to 1."""
    reorder: float = 0.0
    """Probability that a segment is held back, 0 to 1."""
    reorder_s: float = 0.0
    """How long, seconds."""
    site: str = ""
    """Where it stands; between nodes of one site there are rates, but none of the above. Empty:
    alone."""
    is_closed: bool = False
    """Whether only nodes of its site can call it."""

    def __post_init__(self) -> None:
        """Refuses links that cannot be.

        Raises:
            ValueError: a rate is not above 0, a time is negative, or nothing would arrive.
        """
        if min(self.uplink_bytes_per_s, self.downlink_bytes_per_s) <= 0:
            raise ValueError("a link's rates are above 0 bytes/s")
        if min(self.latency_s, self.jitter_s, self.reorder_s) < 0 or not 0 <= self.loss < 1:
            raise ValueError("a link's latency and jitter are at least 0, its loss below 1")
        if not (0 <= self.duplication <= 1 and 0 <= self.reorder <= 1):
            raise ValueError("a link's probabilities are from 0 to 1")

    def is_near(self, other: DaemonLink) -> bool:
        """Whether both are of one site."""
        return bool(self.site) and self.site == other.site


@dataclass(frozen=True, slots=True)
class Carried:
    """What went over one node's link in both directions."""

    bytes: int
    """Bytes of streams."""
    pieces: int
    """Times that something was sent; a piece is at least one packet."""


class _Place:
    """A node on the network."""

    def __init__(self, number: int, link: DaemonLink) -> None:
        self.number = number
        self.link = link
        self.up_free_at = 0.0
        self.sent_bytes = 0
        self.carried_bytes = 0
        self.carried_pieces = 0
        self.down_free_at = 0.0


class _Pipe:
    """One direction of a connection."""

    def __init__(self, network: DaemonNetwork, source: _Place, target: _Place) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._last_at = 0.0
        self._lot = trio.lowlevel.ParkingLot()
        self._ended_at: float | None = None
        self._is_ended = self._is_broken = False

    async def send_all(self, data: bytes | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        view = memoryview(data)
        while view:
            while self._bytes >= PIPE_BYTES_MAX and not (self._is_broken or self._is_ended):
                await self._lot.park()
            if self._is_ended:
                raise trio.ClosedResourceError("this end was closed")
            if self._is_broken:
                raise trio.BrokenResourceError("the other end was closed")
            piece = bytes(view[: PIPE_BYTES_MAX - self._bytes])
            view = view[len(piece) :]
            arrival = self._network.carry(self._source, self._target, len(piece))
            self._last_at = max(self._last_at, arrival)
            self._under_way.append((self._last_at, piece))
            self._bytes += len(piece)
            self._lot.unpark_all()

    async def receive_some(self, max_bytes: int | None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._is_broken:
            await self._network.until_connected(self._source, self._target)
            now = trio.current_time()
            due_at = self._under_way[0][0] if self._under_way else self._ended_at
            if due_at is not None and due_at <= now:
                return self._take(now, max_bytes)
            with trio.move_on_at(float("inf") if due_at is None else due_at):
                await self._lot.park()
        raise trio.ClosedResourceError("this end was closed")

    def _take(self, now: float, max_bytes: int | None) -> bytes:
        taken: list[bytes] = []
        room = PIPE_BYTES_MAX if max_bytes is None else max_bytes
        while room and self._under_way and self._under_way[0][0] <= now:
            arrival, piece = self._under_way.popleft()
            if len(piece) > room:
                self._under_way.appendleft((arrival, piece[room:]))
                piece = piece[:room]
            taken.append(piece)
            room -= len(piece)
        data = b"".join(taken)
        self._bytes -= len(data)
        self._lot.unpark_all()
        return data

    def end(self) -> None:
        if not self._is_ended:
            self._is_ended = True
            arrival = self._network.carry(self._source, self._target, 0)
            self._ended_at = max(self._last_at, arrival)
            self._network.note(self._source, self._target, _END)
            self._lot.unpark_all()

    def break_off(self) -> None:
        if not self._is_broken:
            self._is_broken = True
            self._network.note(self._source, self._target, _BREAK)
            self._lot.unpark_all()


class DaemonStream:
    """One end of a connection."""

    def __init__(self, outgoing: _Pipe, incoming: _Pipe) -> None:
        """Made by the wire; the other end has the two pipes swapped."""
        self._outgoing = outgoing
        self._incoming = incoming

    async def send_all(self, data: bytes | memoryview) -> None:
        """Sends everything, waiting while the connection is full."""
        await self._outgoing.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Waits for some bytes; empty at the end."""
        return await self._incoming.receive_some(max_bytes)

    async def aclose(self) -> None:
        """Ends the outgoing direction and breaks the incoming one."""
        self._outgoing.end()
        self._incoming.break_off()
        await trio.lowlevel.checkpoint()


class _Listener:
    """A listening address."""

    def __init__(self, network: DaemonNetwork, place: _Place, host: str, port: int) -> None:
        self.address: Final = (host, port)
        self.place = place
        self._network = network
        self._send, self._receive = trio.open_memory_channel[DaemonStream](BACKLOG)

    def offer(self, stream: DaemonStream) -> None:
        try:
            self._send.send_nowait(stream)
        except trio.WouldBlock as error:
            raise TransportError(f"backlog of {self.address} is full") from error

    async def accept(self) -> DaemonStream:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel as error:
            raise trio.ClosedResourceError("listener was closed") from error

    async def aclose(self) -> None:
        self._network.forget(self)
        self._send.close()
        while True:
            try:
                stream = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            await stream.aclose()


class DaemonNetwork:
    """All nodes' links, the partition, the trace."""

    def __init__(self, *, seed: int) -> None:
        """An empty network; `seed` decides jitter and loss."""
        self._chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
        self._places: dict[str, _Place] = {}
        self._listeners: dict[tuple[str, int], _Listener] = {}
        self._next_port = _FIRST_FREE_PORT
        self._cut: dict[tuple[int, int], None] = {}
        self._healed = trio.lowlevel.ParkingLot()
        self._trace = hashlib.sha256()
        self.event_count = 0
        """Events in the trace."""

    @property
    def trace_hash(self) -> str:
        """SHA-256 over who sent how much to whom at what time, hexadecimal."""
        return self._trace.hexdigest()

    def sent_by(self, name: str) -> int:
        """Bytes that a node has sent, handshakes and all; 0 if it was never there."""
        place = self._places.get(name)
        return 0 if place is None else place.sent_bytes

    def carried(self, name: str) -> Carried:
        """What a node has sent and been sent, handshakes and all.

        Raises:
            KeyError: it was never there.
        """
        place = self._places[name]
        return Carried(place.carried_bytes, place.carried_pieces)

    @property
    def sent_bytes(self) -> int:
        """Bytes sent by all nodes."""
        return sum(place.sent_bytes for place in self._places.values())

    def wire_of(self, name: str, link: DaemonLink | None = None) -> DaemonWire:
        """The wire of a node, which is connected as said the first time."""
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = _Place(len(self._places), link or DaemonLink())
        return DaemonWire(self, place)

    def set_link(self, name: str, link: DaemonLink) -> None:
        """Changes how a node is connected, for what is sent from now on."""
        self._places[name].link = link

    # Partitions ----------------------------------------------------------------------------------

    def cut(self, sources: Collection[str], targets: Collection[str]) -> None:
        """Holds back what some nodes send to others, in this direction only."""
        for source in sources:
            for target in targets:
                if source != target:
                    pair = self._places[source].number, self._places[target].number
                    self._cut[pair] = None

    def partition(self, *sides: Collection[str]) -> None:
        """Separates groups of nodes from each other, both ways."""
        for side in sides:
            for other in sides:
                if side is not other:
                    self.cut(side, other)

    def heal(self) -> None:
        """Lets everything through again."""
        self._cut.clear()
        self._healed.unpark_all()

    async def until_connected(self, source: _Place, target: _Place) -> None:
        """Waits while nothing passes from one node to another."""
        while (source.number, target.number) in self._cut:
            await self._healed.park()

    # Bytes ---------------------------------------------------------------------------------------

    def carry(self, source: _Place, target: _Place, size_bytes: int) -> float:
        """Takes bytes; returns when they arrive, seconds."""
        now, up, down = trio.current_time(), source.link, target.link
        source.up_free_at = max(now, source.up_free_at) + size_bytes / up.uplink_bytes_per_s
        delay_s, again_bytes = NEAR_S, 0
        if not up.is_near(down):
            delay_s = up.latency_s + down.latency_s
            delay_s += self._jitter_s(up, down) + self._resending_s(up, down, size_bytes)
            for link in (up, down):
                if link.reorder and self._befalls(link.reorder, size_bytes):
                    delay_s += link.reorder_s
                if link.duplication and self._befalls(link.duplication, size_bytes):
                    again_bytes += min(size_bytes, SEGMENT_BYTES)
        reached = source.up_free_at + delay_s
        target.down_free_at = max(reached, target.down_free_at)
        target.down_free_at += (size_bytes + again_bytes) / down.downlink_bytes_per_s
        if size_bytes:
            source.sent_bytes += size_bytes
            for place in (source, target):
                place.carried_bytes += size_bytes
                place.carried_pieces += 1
            self.note(source, target, size_bytes)
        return target.down_free_at

    def _jitter_s(self, up: DaemonLink, down: DaemonLink) -> float:
        jitter_s = up.jitter_s + down.jitter_s
        return self._chance.random() * jitter_s if jitter_s else 0.0

    def _resending_s(self, up: DaemonLink, down: DaemonLink, size_bytes: int) -> float:
        """How much later bytes arrive because segments of them were lost, seconds."""
        passes, later_s = (1 - up.loss) * (1 - down.loss), 0.0
        if passes < 1 and size_bytes:
            segments = -(-size_bytes // SEGMENT_BYTES)
            while self._chance.random() >= passes**segments:
                later_s += max(RESEND_S_MIN, 2 * (up.latency_s + down.latency_s))
                segments = 1
        return later_s

    def _befalls(self, probability: float, size_bytes: int) -> bool:
        """Whether something happens to any segment of some bytes."""
        segments = -(-size_bytes // SEGMENT_BYTES)
        return bool(self._chance.random() >= (1 - probability) ** segments)

    def note(self, source: _Place, target: _Place, what: int) -> None:
        """Enters an event in the trace."""
        now = trio.current_time()
        self.event_count += 1
        self._trace.update(_NOTE.pack(now, source.number, target.number, what))

    # Connections ---------------------------------------------------------------------------------

    async def connect(self, place: _Place, host: str, port: int) -> DaemonStream:
        """See `DaemonWire.dial`."""
        listener = self._listeners.get((host, port))
        if listener is None:
            await trio.sleep(2 * place.link.latency_s)
            raise TransportError(f"cannot connect to {host} port {port}: nobody listens")
        there = listener.place
        if there.link.is_closed and not there.link.is_near(place.link):
            await trio.sleep(CALL_S)
            raise TransportError(f"cannot connect to {host} port {port}: timed out")
        await self.until_connected(place, there)
        await trio.sleep(2 * (place.link.latency_s + there.link.latency_s))
        await self.until_connected(there, place)
        self.note(place, there, _DIAL)
        outgoing, incoming = _Pipe(self, place, there), _Pipe(self, there, place)
        listener.offer(DaemonStream(incoming, outgoing))
        return DaemonStream(outgoing, incoming)

    def add_listener(self, place: _Place, host: str, port: int) -> _Listener:
        """See `DaemonWire.listen`."""
        if port == 0:
            port, self._next_port = self._next_port, self._next_port + 1
        if (host, port) in self._listeners:
            raise TransportError(f"cannot listen on {host} port {port}: address already in use")
        listener = self._listeners[host, port] = _Listener(self, place, host, port)
        return listener

    def forget(self, listener: _Listener) -> None:
        """Frees a listener's address."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]


class DaemonWire:
    """One node's way into the network."""

    def __init__(self, network: DaemonNetwork, place: _Place) -> None:
        """Made by `DaemonNetwork.wire_of`."""
        self._network = network
        self._place = place

    async def dial(self, host: str, port: int) -> DaemonStream:
        """Connects to whoever listens there.

        Raises:
            TransportError: nobody does, or its backlog is full.
        """
        await trio.lowlevel.checkpoint()
        return await self._network.connect(self._place, host, port)

    async def listen(self, host: str, port: int) -> _Listener:
        """Takes an address.

        Raises:
            TransportError: it is in use.
        """
        await trio.lowlevel.checkpoint()
        return self._network.add_listener(self._place, host, port)
