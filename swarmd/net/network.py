"""The network of one node: connections, streams and gossip, every one of them bounded.

Participants: this node, its peers in three classes (`PeerClass`), the daemon that answers
`Admission`. Goals: only proved keys get in, only through Noise; a peer can cost no more than the
limits of `NetworkConfig` say; a stranger learns nothing but the hello protocol's name; whatever a
peer sends, the node lives. Non-goals: whom to dial, what to say, scoring: services decide that.

Rules:
- Libp2p never dials or listens itself; connections are made here, one dial per peer at a time.
- Two connections to one peer: if both sides dialed at once, the one dialed by the smaller key
  stays; otherwise the newer stays (the older is what a restarted peer left behind).
- If libp2p itself ends, the body of `open_network` is cancelled and `TransportError` raised.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from libp2p.network.exceptions import SwarmException
from libp2p.tools.anyio_service import background_trio_service

from protocol.errors import LocalProtocolError, TransportError
from protocol.limits import FRAME_BYTES_MAX
from swarmd.net.address import PeerAddress, PeerKey, short_peer
from swarmd.net.config import Admission, GossipConfig, NetworkConfig, PeerClass
from swarmd.net.connected import DialReport, OtherPeerError, PeerEvent
from swarmd.net.connections import Connections
from swarmd.net.dispatch import Dispatcher, ServedProtocol
from swarmd.net.gossip import Gossip, GossipMessage, TopicValidator
from swarmd.net.gossip_router import GOSSIP_PROTOCOL
from swarmd.net.guards import id_of, key_pair, quiet_logging
from swarmd.net.negotiation import StreamRefusedError, request_protocol
from swarmd.net.route import Route
from swarmd.net.stream import Stream, StreamHandler
from swarmd.net.wire import TCPWire

if TYPE_CHECKING:
    from libp2p.abc import INetConn

    from swarmd.net.wire import ByteStream

__all__ = [
    "Admission",
    "GossipConfig",
    "GossipMessage",
    "Network",
    "NetworkConfig",
    "NetworkStatistics",
    "OtherPeerError",
    "PeerAddress",
    "PeerClass",
    "PeerEvent",
    "PeerKey",
    "Route",
    "Stream",
    "StreamRefusedError",
    "open_network",
]

GOSSIP_STREAMS_MAX: Final = 2
"""Inbound gossip streams a peer may have: one, and its successor after a reconnect."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkStatistics:
    """What the network has done since it was opened, and holds now."""

    bytes_in: int
    """Bytes received on the wire, encryption included, TCP and IP headers not."""
    bytes_out: int
    """Bytes sent on the wire, likewise."""
    connections: dict[PeerClass, int]
    """Connected peers per class."""
    handshakes: int
    """Inbound connections that have not proved a key yet."""
    streams: int
    """Inbound streams being served, gossip not counted."""
    refused_connections: int
    """Peers turned away after they proved a key: not admitted, or no slot."""
    refused_streams: int
    """Inbound streams turned away: over a limit, or no protocol agreed."""
    failed_handshakes: int
    """Inbound connections that proved no key in time, or nonsense, or gave way to newer ones."""
    violations: int
    """Connections ended because the peer broke a protocol or overstayed as a stranger."""
    handler_faults: int
    """Unexpected exceptions of stream handlers: defects of ours, contained."""
    events_dropped: int
    """Connection events nobody read in time; compare with `peers()`."""
    gossip_delivered: int
    """Gossip messages handed to subscriptions."""
    gossip_dropped: int
    """Gossip messages dropped because a subscription was full."""
    gossip_rejected: int
    """Gossip messages a validator refused."""
    gossip_faults: int
    """Exceptions contained in gossip tasks, most of them a peer's garbage."""


class Network:
    """Made by `open_network`."""

    def __init__(self, config: NetworkConfig, admission: Admission) -> None:
        """Builds everything; nothing runs yet."""
        keys = key_pair(config.seed)
        self._config = config
        self._admission = admission
        self._connections = Connections(
            config,
            admission,
            keys,
            on_registered=self.admit_to_gossip,
            on_lost=self._lose_gossip,
        )
        self._swarm = self._connections.swarm
        self._dispatcher = Dispatcher(config, admission)
        self._gossip = Gossip(self._swarm, keys.private_key, config)
        self._swarm.set_stream_handler(self._dispatcher.on_stream)
        self._dispatcher.serve_raw(
            GOSSIP_PROTOCOL,
            self._gossip.serve,
            may_open=self._gossip.is_admitted,
            streams_per_peer_max=GOSSIP_STREAMS_MAX,
        )
        self._closing = trio.Event()

    @property
    def peer(self) -> PeerKey:
        """Our own transport key."""
        return self._connections.own_key

    def handle(
        self,
        protocol: str,
        handler: StreamHandler,
        *,
        streams_per_peer_max: int,
        deadline_s: float | None,
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> None:
        """Serves a protocol from now on.

        Args:
            protocol: id, such as `/swarmd/<chain>/hello/1`.
            handler: serves one stream; returning closes it, raising resets it.
            streams_per_peer_max: streams of this protocol one peer may have open.
            deadline_s: seconds after which a stream is reset; None for long-lived ones.
            frame_bytes_max: bytes of one frame's body in either direction.

        Raises:
            LocalProtocolError: the protocol is already served.
        """
        served = ServedProtocol(
            handler=handler,
            streams_per_peer_max=streams_per_peer_max,
            deadline_s=deadline_s,
            frame_bytes_max=frame_bytes_max,
        )
        self._dispatcher.serve(protocol, served)

    async def connect(
        self,
        addresses: Sequence[PeerAddress],
        report: DialReport = lambda _address, _error: None,
        *,
        replaces_forwarded: bool = False,
    ) -> None:
        """Makes sure the peer at these addresses is connected.

        Tries them in order, the next one beside a silent one after `dial_stagger_s`; a refused one
        costs only its refusal. `report` is told how each behaved; those still under way when one
        led to the peer are not reported. With `replaces_forwarded` a peer that is connected only
        through a third node is dialed, too.

        Raises:
            LocalProtocolError: no address, or addresses of several peers.
            OtherPeerError: somebody else's key was proved at one of them, the peer's at none.
            TransportError: none of them led to the peer, or it is not admitted.
        """
        peers = {address.peer for address in addresses}
        if len(peers) != 1:
            raise LocalProtocolError(f"addresses of {len(peers)} peers, expected 1")
        await self._connections.connect(
            peers.pop(), addresses, report, replaces_forwarded=replaces_forwarded
        )

    async def connect_over(self, peer: PeerKey, stream: ByteStream, via: PeerKey) -> None:
        """Connects to a peer over bytes that the member `via` passes on; it sees ciphertext only.

        Raises:
            TransportError: the peer did not prove its key there, or is not admitted.
        """
        await self._connections.connect_over(peer, stream, via)

    def accept_over(self, stream: ByteStream, via: PeerKey) -> None:
        """Serves bytes that the member `via` passes on like a connection that was accepted."""
        self._connections.accept_over(stream, via)

    async def probe(self, address: PeerAddress) -> None:
        """Has a peer prove its key at an address, and hangs up; the connections do not change.

        Raises:
            TransportError: it did not.
        """
        await self._connections.probe(address)

    def route(self, peer: PeerKey) -> Route | None:
        """How a peer is reached; None: it is not connected."""
        return self._connections.route(peer)

    async def disconnect_via(self, forwarder: PeerKey) -> None:
        """Ends every connection that a member passes on."""
        await self._connections.disconnect_via(forwarder)

    async def open_stream(
        self, peer: PeerKey, protocol: str, *, frame_bytes_max: int = FRAME_BYTES_MAX
    ) -> Stream:
        """Opens a stream to a connected peer.

        Raises:
            StreamRefusedError: the peer does not offer the protocol to us.
            TransportError: not connected, or the connection broke.
        """
        if peer not in self._connections:
            raise TransportError(f"peer {short_peer(peer)} is not connected")
        try:
            stream = await self._swarm.new_stream(id_of(peer))
        except SwarmException as error:
            raise TransportError(f"no stream to {short_peer(peer)}: {error}") from error
        try:
            await request_protocol(stream, [protocol], timeout_s=self._config.negotiate_s)
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        return Stream(stream, peer, protocol, frame_bytes_max=frame_bytes_max)

    async def disconnect(self, peer: PeerKey) -> None:
        """Ends every connection to a peer; harmless when there is none."""
        await self._gossip.expel(peer)
        await self._connections.disconnect(peer)

    def peers(self) -> tuple[PeerKey, ...]:
        """The connected peers, oldest first."""
        return self._connections.peers()

    def is_connected(self, peer: PeerKey) -> bool:
        """Whether a peer is connected."""
        return peer in self._connections

    @property
    def events(self) -> trio.MemoryReceiveChannel[PeerEvent]:
        """Comings and goings; one reader, or clones of the channel that share them out."""
        return self._connections.events

    @property
    def is_on_tcp(self) -> bool:
        """Whether connections are TCP's, so that others can be opened beside them."""
        return self._config.wire is None or isinstance(self._config.wire, TCPWire)

    @property
    def listen_addresses(self) -> tuple[PeerAddress, ...]:
        """Where this node listens, with real ports."""
        return tuple(
            PeerAddress(self.peer, *listener.address) for listener in self._connections.listeners
        )

    async def subscribe(
        self, topic: str, validator: TopicValidator
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Joins a topic and returns its messages, without our own and without repeats.

        `validator(relayer, data)` runs once per message, at once and before it is relayed. False is
        remembered for these bytes: it must mean "never valid". What is only not valid *yet* must be
        let through and kept by the subscriber. An exception counts as False.

        Raises:
            LocalProtocolError: already subscribed.
        """
        return await self._gossip.subscribe(topic, validator)

    async def unsubscribe(self, topic: str) -> None:
        """Leaves a topic; its channel ends."""
        await self._gossip.unsubscribe(topic)

    async def publish(self, topic: str, data: bytes) -> None:
        """Publishes to a topic, whether or not subscribed.

        Raises:
            LocalProtocolError: the message is empty or too large.
        """
        await self._gossip.publish(topic, data)

    async def admit_to_gossip(self, peer: PeerKey) -> None:
        """Starts gossip with a connected peer that has become a member."""
        if self._admission.may_gossip(peer) and peer in self._connections:
            await self._gossip.admit(peer)

    async def expel(self, peer: PeerKey) -> None:
        """Ends gossip with a peer, but not its connection."""
        await self._gossip.expel(peer)

    def statistics(self) -> NetworkStatistics:
        """What happened so far."""
        connections = dict.fromkeys(PeerClass, 0)
        for peer in self._connections.peers():
            connections[self._admission.peer_class(peer)] += 1
        counters = self._connections.counters
        return NetworkStatistics(
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            connections=connections,
            handshakes=self._connections.handshake_count,
            streams=self._dispatcher.stream_count,
            refused_connections=counters.refused,
            refused_streams=self._dispatcher.refused,
            failed_handshakes=counters.failed_handshakes,
            violations=counters.violations,
            handler_faults=self._dispatcher.faults + counters.faults,
            events_dropped=counters.events_dropped,
            gossip_delivered=self._gossip.delivered,
            gossip_dropped=self._gossip.dropped,
            gossip_rejected=self._gossip.rejected,
            gossip_faults=self._gossip.faults,
        )

    async def _lose_gossip(self, peer: PeerKey, conn: INetConn) -> None:
        """Moves gossip to another connection of the peer, or ends it."""
        if self._gossip.is_admitted(peer):
            await self._gossip.lose(peer, conn)
            await self.admit_to_gossip(peer)

    async def run(self, ready: trio.Event) -> None:
        """Sets `ready` when running and runs until `stop`; raises when libp2p ends by itself."""
        gossip = self._gossip
        async with (
            background_trio_service(self._swarm) as swarm,
            background_trio_service(gossip.pubsub) as pubsub,
            background_trio_service(gossip.router) as router,
            trio.open_nursery() as nursery,
        ):
            await gossip.pubsub.wait_until_ready()
            for service in (swarm, pubsub, router):
                nursery.start_soon(self._watch_service, service.wait_finished)
            self._connections.start(nursery)
            ready.set()
            try:
                await self._closing.wait()
            finally:
                self._closing.set()
                with trio.CancelScope(shield=True) as scope:
                    scope.deadline = trio.current_time() + self._config.close_s
                    await self._connections.shut_down()
                    gossip.close()
                nursery.cancel_scope.cancel()

    async def _watch_service(self, wait_finished: Callable[[], Awaitable[None]]) -> None:
        await wait_finished()
        if not self._closing.is_set():
            raise TransportError("a libp2p service ended by itself")

    async def bind(self) -> None:
        """Takes the listen addresses; raises `TransportError` when one is not available."""
        await self._connections.bind()

    async def unbind(self) -> None:
        """Frees the listen addresses."""
        await self._connections.unbind()

    def stop(self) -> None:
        """Begins the orderly shutdown."""
        self._closing.set()


@asynccontextmanager
async def open_network(config: NetworkConfig, *, admission: Admission) -> AsyncIterator[Network]:
    """Runs a network for the duration of a block.

    Yields:
        The running network, listening.

    Raises:
        TransportError: a listen address is not available, or libp2p ended by itself (the block is
            cancelled then, and the daemon may open the network anew).
    """
    quiet_logging()
    network = Network(config, admission)
    await network.bind()
    failure: BaseException | None = None
    body_error: Exception | None = None

    ready = trio.Event()

    async def run() -> None:
        nonlocal failure
        try:
            await network.run(ready)
        except Exception as error:  # noqa: BLE001 - becomes the block's TransportError
            failure = error
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await ready.wait()
            try:
                yield network
            except Exception as error:  # noqa: BLE001 - raised again below, ungrouped
                body_error = error
            network.stop()
    finally:
        await network.unbind()
    if body_error is not None:
        raise body_error
    if failure is not None:
        raise TransportError(f"the network ended by itself: {failure!r}") from failure
