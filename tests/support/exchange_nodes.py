"""Nodes that run the real exchange service over streams in memory, for tests and measurements."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from chunks.store import ChunkStore
from protocol.digest import ManifestId
from protocol.errors import TransportError
from protocol.exchange_events import Offence, PeerId
from protocol.relay_events import RelaySettings
from swarmd.entropy import SeededEntropy
from swarmd.services.exchange import ExchangeService
from swarmd.services.exchange_packing import PackingMode
from swarmd.services.exchange_ports import TrafficRates

T = TypeVar("T")

WINDOW_BYTES = 4 * 1024 * 1024
"""Unread bytes a stream holds before its sender waits, like a muxer's window."""


class Uplink:
    """One node's sending rate: frames of all its streams leave one after the other."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self._lock = trio.Lock()

    async def send(self, size_bytes: int) -> None:
        async with self._lock:
            await trio.sleep(size_bytes / self.bytes_per_s)


class MemoryFrameStream:
    """One end of a framed stream in memory."""

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.other: MemoryFrameStream
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._lot = trio.lowlevel.ParkingLot()
        self.is_broken = False
        self.frames_left: int | None = None
        self.watch: Callable[[bytes], None] | None = None
        self.uplink: Uplink | None = None

    async def send_frame(self, body: bytes | Sequence[bytes | memoryview]) -> None:
        whole = body if isinstance(body, bytes) else b"".join(body)
        other = self.other
        while other._bytes > WINDOW_BYTES and not (self.is_broken or other.is_broken):
            await other._lot.park()
        await trio.lowlevel.checkpoint()
        if self.is_broken or other.is_broken:
            raise TransportError("stream broken")
        if self.frames_left is not None:
            self.frames_left -= 1
            if self.frames_left < 0:
                self.break_now()
                raise TransportError("stream broken")
        if self.watch is not None:
            self.watch(whole)
        if self.uplink is not None:
            await self.uplink.send(len(whole))
        other._frames.append(whole)
        other._bytes += len(whole)
        other._lot.unpark_all()

    async def receive_frame(self) -> bytes | None:
        while not self._frames:
            if self.is_broken or self.other.is_broken:
                return None
            await self._lot.park()
        body = self._frames.popleft()
        self._bytes -= len(body)
        self._lot.unpark_all()
        return body

    async def reset(self) -> None:
        self.break_now()

    def break_now(self) -> None:
        for end in (self, self.other):
            end.is_broken = True
            end._lot.unpark_all()


def stream_pair(one: PeerId, other: PeerId) -> tuple[MemoryFrameStream, MemoryFrameStream]:
    """A stream between two peers: (one's end, the other's end)."""
    left, right = MemoryFrameStream(other), MemoryFrameStream(one)
    left.other, right.other = right, left
    return left, right


@dataclass
class Rules:
    """Permits everything except what was denied."""

    denied: set[tuple[PeerId, ManifestId]] = field(default_factory=set)
    denied_ask: set[tuple[PeerId, ManifestId]] = field(default_factory=set)
    questions: int = 0

    def may_serve(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        self.questions += 1
        return (peer, manifest_id) not in self.denied

    def may_ask(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        return (peer, manifest_id) not in self.denied_ask


@dataclass
class Score:
    """Notes every complaint."""

    blames: list[tuple[PeerId, Offence, str]] = field(default_factory=list)
    stalls: list[PeerId] = field(default_factory=list)

    def blame(self, peer: PeerId, offence: Offence, detail: str) -> None:
        self.blames.append((peer, offence, detail))

    def stalled(self, peer: PeerId) -> None:
        self.stalls.append(peer)


async def run_in_place(call: Callable[[], T]) -> T:
    """Runs store calls without threads, which an autojump clock does not wait for."""
    await trio.lowlevel.checkpoint()
    return call()


class Node:
    """One node: a service, its store, its rules."""

    def __init__(
        self,
        network: Network,
        key: PeerId,
        store: ChunkStore,
        *,
        has_threads: bool = False,
        packing: PackingMode = PackingMode.AUTO,
        relays: RelaySettings | None = None,
        traffic: TrafficRates | None = None,
    ) -> None:
        self.network = network
        self.key = key
        self.store = store
        self.uplink: Uplink | None = None
        self.rules = Rules()
        self.score = Score()
        self.service = ExchangeService(
            own_key=key,
            store=store,
            authority=self.rules,
            score=self.score,
            open_stream=self._open,
            entropy=SeededEntropy(0, key.hex()),
            run_blocking=None if has_threads else run_in_place,
            packing=packing,
            relays=relays,
            traffic=traffic,
        )

    async def _open(self, peer: PeerId) -> MemoryFrameStream:
        return await self.network.open(self, peer)


class Network:
    """Streams between nodes of one process."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.nodes: dict[PeerId, Node] = {}
        self.streams: list[tuple[PeerId, PeerId, MemoryFrameStream]] = []
        self.breaks_after: int | None = None
        self.watch: Callable[[bytes], None] | None = None

    async def add(
        self,
        name: str,
        store: ChunkStore,
        *,
        has_threads: bool = False,
        packing: PackingMode = PackingMode.AUTO,
        relays: RelaySettings | None = None,
        traffic: TrafficRates | None = None,
    ) -> Node:
        key = name.encode().ljust(32, b".")
        node = Node(
            self,
            key,
            store,
            has_threads=has_threads,
            packing=packing,
            relays=relays,
            traffic=traffic,
        )
        self.nodes[node.key] = node
        await self.nursery.start(lambda task_status: node.service.run(task_status=task_status))
        return node

    async def open(self, node: Node, peer: PeerId) -> MemoryFrameStream:
        await trio.lowlevel.checkpoint()
        if peer not in self.nodes:
            raise TransportError("no such peer")
        ours, theirs = stream_pair(node.key, peer)
        ours.watch = theirs.watch = self.watch
        self.streams.append((node.key, peer, ours))
        theirs.frames_left, self.breaks_after = self.breaks_after, None
        ours.uplink, theirs.uplink = node.uplink, self.nodes[peer].uplink
        self.nursery.start_soon(self.nodes[peer].service.serve_stream, theirs)
        return ours

    def connect(self, one: Node, other: Node) -> None:
        one.service.peer_connected(other.key)
        other.service.peer_connected(one.key)

    def connect_all(self) -> None:
        nodes = list(self.nodes.values())
        for i, one in enumerate(nodes):
            for other in nodes[i + 1 :]:
                self.connect(one, other)


@asynccontextmanager
async def open_memory_network() -> AsyncIterator[Network]:
    """A network whose nodes all end with the block."""
    async with trio.open_nursery() as nursery:
        yield Network(nursery)
        nursery.cancel_scope.cancel()
