"""Many gossipsub routers in one process: the production `Gossip` over links in memory.

Nodes run what a daemon runs (`swarmd.net.gossip` with its configuration, scores and bounds); below
it there is no encryption and no multiplexer, only ordered bytes with a delay, so that hundreds of
nodes fit. Run it under `swarmd.simulation.daemons.runtime.run_simulated`: one seed decides all.
Dishonest nodes are `swarmd.simulation.gossip_sybil`; they speak the protocol by hand.
"""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import trio
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.tools.anyio_service import background_trio_service

from protocol.errors import RemoteProtocolError
from swarmd.net.address import PeerKey
from swarmd.net.config import NetworkConfig
from swarmd.net.gossip import Gossip
from swarmd.net.guards import id_of, key_pair

if TYPE_CHECKING:
    from swarmd.net.guards import GuardedSwarm

TOPIC: Final = "/swarmd/simulated/announce/1"
"""The one topic."""
LATENCY_S: Final = 0.05
"""One way between any two nodes, seconds."""
GENUINE: Final = b"genuine "
"""What the topic's validators take begins so: it stands for an author's signature."""
NEGOTIATION_LINES: Final = 2
"""Lines that who opens a stream writes before the protocol is agreed."""


class _Pipe:
    """One direction of a stream: bytes arrive in order, each after the delay."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s
        self._under_way: deque[tuple[float, bytes]] = deque()
        self._arrived = bytearray()
        self._lot = trio.lowlevel.ParkingLot()
        self.is_ended = False

    def put(self, data: bytes, *, at_once: bool = False) -> None:
        delay_s = 0.0 if at_once else self._latency_s
        self._under_way.append((trio.current_time() + delay_s, data))
        self._lot.unpark_all()

    def end(self) -> None:
        self.is_ended = True
        self._lot.unpark_all()

    async def take(self, size: int) -> bytes:
        while not self._arrived:
            if self._under_way:
                arrival, data = self._under_way[0]
                if arrival > trio.current_time():
                    await trio.sleep_until(arrival)
                self._under_way.popleft()
                self._arrived += data
            elif self.is_ended:
                raise StreamEOF("the other end closed")
            else:
                await self._lot.park()
        taken = bytes(self._arrived[:size])
        del self._arrived[:size]
        return taken


@dataclass(frozen=True, slots=True)
class _Muxed:
    """What streams name the other end by."""

    peer_id: ID
    is_closed: bool = False


class GossipStream:
    """One end of a stream, as far as pubsub looks at it."""

    metric_send_channel = None
    """Pubsub's own statistics are not kept."""

    def __init__(self, other: ID, outgoing: _Pipe, incoming: _Pipe, *, lines: int) -> None:
        """Made by `GossipWorld`.

        Args:
            other: who is at the other end.
            outgoing: where writes go.
            incoming: where reads come from.
            lines: the first so many writes come back as they are: that agrees on a protocol.
        """
        self.muxed_conn: Final = _Muxed(other)
        self._outgoing = outgoing
        self._incoming = incoming
        self._lines = lines
        self._protocol: Any = None

    async def read(self, n: int | None = None) -> bytes:
        """Waits for some bytes."""
        return await self._incoming.take(65_536 if n is None else n)

    async def write(self, data: bytes) -> None:
        """Sends bytes."""
        await trio.lowlevel.checkpoint()
        if self._outgoing.is_ended:
            raise StreamClosed("the stream is closed")
        if self._lines:
            self._lines -= 1
            self._incoming.put(data, at_once=True)
            return
        self._outgoing.put(data)

    async def reset(self) -> None:
        """Ends both directions."""
        await trio.lowlevel.checkpoint()
        self._outgoing.end()
        self._incoming.end()

    async def close(self) -> None:
        """Ends the outgoing direction."""
        await trio.lowlevel.checkpoint()
        self._outgoing.end()

    def set_protocol(self, protocol: object) -> None:
        """Notes what was agreed."""
        self._protocol = protocol

    def get_protocol(self) -> object:
        """What was agreed."""
        return self._protocol

    def get_remote_address(self) -> tuple[str, int]:
        """All nodes are behind one address, as fleets behind one NAT are."""
        return ("192.0.2.1", 1024)


@dataclass(frozen=True, slots=True)
class _Connection:
    """What pubsub looks at of a connection."""

    muxed_conn: _Muxed
    is_closed: bool = False

    def get_streams(self) -> list[GossipStream]:
        return []


class GossipActor(Protocol):
    """A node of the world."""

    @property
    def key(self) -> PeerKey:
        """Its transport key."""
        ...

    async def serve(self, stream: GossipStream) -> None:
        """Reads a stream that another node opened, to its end."""
        ...

    async def meet(self, other: PeerKey) -> None:
        """A connection to another node is there."""
        ...


class _Connections:
    """What the production `Gossip` sees of a daemon's connections."""

    def __init__(self, world: GossipWorld, key: PeerKey) -> None:
        self._world = world
        self._key = key

    def get_peer_id(self) -> ID:
        return id_of(self._key)

    def get_connections(self, peer_id: ID) -> list[_Connection]:
        if not self._world.is_connected(self._key, peer_id):
            return []
        return [_Connection(_Muxed(peer_id))]

    async def new_stream(self, peer_id: ID) -> GossipStream:
        await trio.lowlevel.checkpoint()
        return self._world.open_stream(self._key, peer_id)


@dataclass(slots=True)
class Heard:
    """When a node was first told of something, simulated seconds, by what it was told."""

    at_s: dict[bytes, float] = field(default_factory=dict)
    """Only what the validators took."""
    count: int = 0
    """Messages handed over."""


class HonestNode:
    """The production gossip of one daemon."""

    def __init__(
        self, world: GossipWorld, number: int, *, config: NetworkConfig, is_pushing: bool
    ) -> None:
        """Made by `GossipWorld.add`.

        Args:
            world: where it lives.
            number: its place among the honest.
            config: its limits; the seed in it is its key's.
            is_pushing: it tells its mesh of news, and nobody else: the control.
        """
        pair = key_pair(config.seed)
        self.number: Final = number
        self.key: Final = PeerKey(pair.public_key.to_bytes())
        connections = cast("GuardedSwarm", _Connections(world, self.key))
        self.gossip: Final = Gossip(connections, pair.private_key, config)
        """What a daemon has."""
        if is_pushing:
            _only_push(self.gossip.router)
        self.heard: Final = Heard()
        """What its services were told."""

    async def serve(self, stream: GossipStream) -> None:
        """Reads a stream that a peer opened."""
        try:
            await self.gossip.serve(cast("Any", stream))
        except RemoteProtocolError:
            await stream.reset()

    async def meet(self, other: PeerKey) -> None:
        """Admits a member."""
        await self.gossip.admit(other)

    async def publish(self, data: bytes) -> None:
        """Publishes to the topic."""
        await self.gossip.publish(TOPIC, data)

    @property
    def mesh(self) -> tuple[PeerKey, ...]:
        """Peers that the topic is pushed to."""
        return tuple(
            PeerKey(peer.to_bytes()[-32:]) for peer in self.gossip.router.mesh.get(TOPIC, ())
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs its services and listens to the topic."""
        gossip = self.gossip
        async with (
            background_trio_service(gossip.pubsub),
            background_trio_service(gossip.router),
            trio.open_nursery() as nursery,
        ):
            await gossip.pubsub.wait_until_ready()
            channel = await gossip.subscribe(TOPIC, lambda _, data: data.startswith(GENUINE))
            nursery.start_soon(self._listen, channel)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()

    async def _listen(self, channel: trio.MemoryReceiveChannel[Any]) -> None:
        async for message in channel:
            self.heard.count += 1
            self.heard.at_s.setdefault(message.data, trio.current_time())


class GossipWorld:
    """All nodes, and who is connected with whom."""

    def __init__(self, nursery: trio.Nursery, stack: AsyncExitStack, *, seed: int) -> None:
        """Made by `gossip_world`."""
        self.chance: Final = random.Random(f"gossip {seed}")  # noqa: S311 - replayed by seed
        """Decides who knows whom."""
        self.nursery: Final = nursery
        """Where nodes run their tasks."""
        self.honest: Final[list[HonestNode]] = []
        """Production nodes, in the order they were added."""
        self._actors: dict[PeerKey, GossipActor] = {}
        self._by_id: dict[ID, PeerKey] = {}
        self._links: dict[tuple[PeerKey, PeerKey], None] = {}
        self._stack = stack

    async def add(self, *, is_pushing: bool = False) -> HonestNode:
        """Adds a production node with a daemon's configuration and starts it.

        Args:
            is_pushing: it tells its mesh of news, and nobody else: the control.
        """
        number = len(self.honest)
        seed = b"honest gossip %04d" % number
        config = NetworkConfig(seed=seed.ljust(32, b"."))
        node = HonestNode(self, number, config=config, is_pushing=is_pushing)
        self.honest.append(node)
        self.enter(node)
        await self._stack.enter_async_context(node.running())
        return node

    def enter(self, actor: GossipActor) -> None:
        """Makes a node known to the world."""
        self._actors[actor.key] = actor
        self._by_id[id_of(actor.key)] = actor.key

    def is_connected(self, one: PeerKey, other: ID) -> bool:
        """Whether two nodes have a connection."""
        return (one, self._by_id[other]) in self._links

    def neighbours(self, one: PeerKey) -> tuple[PeerKey, ...]:
        """With whom a node is connected."""
        return tuple(other for key, other in self._links if key == one)

    async def connect(self, one: GossipActor, other: GossipActor) -> None:
        """Connects two nodes, once."""
        if one is other or (one.key, other.key) in self._links:
            return
        self._links[one.key, other.key] = self._links[other.key, one.key] = None
        await one.meet(other.key)
        await other.meet(one.key)

    def open_stream(
        self, source: PeerKey, target: ID, *, lines: int = NEGOTIATION_LINES
    ) -> GossipStream:
        """Opens a gossip stream; the other end begins to read at once.

        Args:
            source: who opens it.
            target: to whom.
            lines: what the opener will write to agree on the protocol.
        """
        there = self._actors[self._by_id[target]]
        forth, back = _Pipe(LATENCY_S), _Pipe(LATENCY_S)
        self.nursery.start_soon(there.serve, GossipStream(id_of(source), back, forth, lines=0))
        return GossipStream(target, forth, back, lines=lines)

    async def join(self, nodes: Iterable[HonestNode], degree: int) -> None:
        """Connects honest nodes with `degree` others each that they choose at random."""
        for node in nodes:
            others = [other for other in self.honest if other is not node]
            for other in self.chance.sample(others, min(degree, len(others))):
                await self.connect(node, other)


def _only_push(router: GossipSub) -> None:
    """Takes from a router what reaches peers outside its mesh: offers, and publishing to more."""
    vars(router)["gossip_heartbeat"] = lambda: defaultdict(dict)
    vars(router)["publish"] = partial(GossipSub.publish, router)


@asynccontextmanager
async def gossip_world(seed: int) -> AsyncIterator[GossipWorld]:
    """An empty world; leaving it ends all nodes."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        yield GossipWorld(nursery, stack, seed=seed)
        nursery.cancel_scope.cancel()
