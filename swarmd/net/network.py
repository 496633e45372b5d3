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

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.rcmgr import Direction
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from protocol.errors import LocalProtocolError, RemoteProtocolError, SwarmError, TransportError
from protocol.limits import FRAME_BYTES_MAX
from swarmd.net.address import PeerAddress, PeerKey, short_peer
from swarmd.net.config import Admission, NetworkConfig, PeerClass
from swarmd.net.gossip import GOSSIP_PROTOCOL, Gossip, GossipMessage, TopicValidator
from swarmd.net.guards import (
    GatedNoise,
    GuardedSwarm,
    RawStream,
    Upgrader,
    id_of,
    key_of,
    key_pair,
    quiet_logging,
)
from swarmd.net.negotiation import StreamRefusedError, answer_negotiation, request_protocol
from swarmd.net.stream import Stream, StreamHandler
from swarmd.net.wire import ByteStream, TCPWire, WireListener
from swarmd.net.yamux import Mux

if TYPE_CHECKING:
    from libp2p.abc import INetConn, INetStream
    from libp2p.network.connection.swarm_connection import SwarmConn

__all__ = [
    "Admission",
    "GossipMessage",
    "Network",
    "NetworkConfig",
    "NetworkStatistics",
    "PeerAddress",
    "PeerClass",
    "PeerEvent",
    "PeerKey",
    "Stream",
    "StreamRefusedError",
    "open_network",
]

logger = logging.getLogger(__name__)

SIMULTANEOUS_S: Final = 5.0
"""Two connections in opposite directions this close together were dialed at once, seconds."""
OUTBOUND_SPARE: Final = 64
"""Connections we dial beyond the inbound limits: our own decisions never wait for strangers."""
ACCEPT_PAUSE_S: Final = 0.1
"""Pause after the system refused to accept (out of descriptors or memory), seconds."""
GOSSIP_STREAMS_MAX: Final = 2
"""Inbound gossip streams a peer may have: one, and its successor after a reconnect."""


@dataclass(frozen=True, slots=True)
class PeerEvent:
    """A peer came (its first connection) or went (its last)."""

    peer: PeerKey
    """Who."""
    is_connected: bool
    """Whether it came."""


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
    """Inbound streams being served."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Protocol:
    """A protocol this node serves."""

    handler: StreamHandler
    streams_per_peer_max: int
    deadline_s: float | None
    frame_bytes_max: int


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    """A registered connection."""

    conn: INetConn
    peer: PeerKey
    is_inbound: bool
    since: float


class Network:
    """Made by `open_network`."""

    def __init__(self, config: NetworkConfig, admission: Admission) -> None:
        """Builds everything; nothing runs yet."""
        keys = key_pair(config.seed)
        self._config = config
        self._admission = admission
        self._wire = config.wire or TCPWire()
        self._swarm = GuardedSwarm(
            keys,
            Upgrader(GatedNoise(keys, self._may_enter), config),
            connections_max=config.connections_max + OUTBOUND_SPARE,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
        )
        self._swarm.set_stream_handler(self._on_stream)
        self.peer: Final = key_of(self._swarm.get_peer_id())
        """Our own transport key."""
        self._gossip = Gossip(self._swarm, keys.private_key, config)
        self._protocols: dict[str, _Protocol] = {}
        self._listeners: list[WireListener] = []
        self._connections: dict[PeerKey, list[_Connection]] = {}
        self._dials: dict[PeerKey, trio.Lock] = {}
        self._handshakes: dict[RawStream, trio.CancelScope] = {}
        self._streams: dict[PeerKey, dict[str, int]] = {}
        self._events_send, self._events = trio.open_memory_channel[PeerEvent](config.events_max)
        self._nursery: trio.Nursery | None = None
        self._closing = trio.Event()
        self._bytes_in = 0
        self._bytes_out = 0
        self._refused_connections = 0
        self._refused_streams = 0
        self._failed_handshakes = 0
        self._violations = 0
        self._handler_faults = 0
        self._events_dropped = 0

    # --- what services use ---------------------------------------------------------------------

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
        if protocol in self._protocols:
            raise LocalProtocolError(f"protocol {protocol} has a handler already")
        self._protocols[protocol] = _Protocol(
            handler=handler,
            streams_per_peer_max=streams_per_peer_max,
            deadline_s=deadline_s,
            frame_bytes_max=frame_bytes_max,
        )

    async def connect(self, addresses: Sequence[PeerAddress]) -> None:
        """Makes sure the peer at these addresses is connected.

        Tries them in order, the next one beside a silent one after `dial_stagger_s`; a refused one
        costs only its refusal.

        Raises:
            LocalProtocolError: no address, or addresses of several peers.
            TransportError: none of them led to the peer, or it is not admitted.
        """
        peers = {address.peer for address in addresses}
        if len(peers) != 1:
            raise LocalProtocolError(f"addresses of {len(peers)} peers, expected 1")
        peer = peers.pop()
        if peer == self.peer:
            raise TransportError("that address is our own")
        lock = self._dials.setdefault(peer, trio.Lock())
        try:
            async with lock:
                if peer not in self._connections:
                    await self._dial(peer, addresses)
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._dials.pop(peer, None)

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
        for connection in list(self._connections.get(peer, ())):
            await connection.conn.close()

    def peers(self) -> tuple[PeerKey, ...]:
        """The connected peers, oldest first."""
        return tuple(self._connections)

    def is_connected(self, peer: PeerKey) -> bool:
        """Whether a peer is connected."""
        return peer in self._connections

    @property
    def events(self) -> trio.MemoryReceiveChannel[PeerEvent]:
        """Comings and goings; one reader, or clones of the channel that share them out."""
        return self._events

    @property
    def listen_addresses(self) -> tuple[PeerAddress, ...]:
        """Where this node listens, with real ports."""
        return tuple(PeerAddress(self.peer, *listener.address) for listener in self._listeners)

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
        for peer in self._connections:
            connections[self._admission.peer_class(peer)] += 1
        return NetworkStatistics(
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            connections=connections,
            handshakes=len(self._handshakes),
            streams=sum(sum(counts.values()) for counts in self._streams.values()),
            refused_connections=self._refused_connections,
            refused_streams=self._refused_streams,
            failed_handshakes=self._failed_handshakes,
            violations=self._violations,
            handler_faults=self._handler_faults,
            events_dropped=self._events_dropped,
            gossip_delivered=self._gossip.delivered,
            gossip_dropped=self._gossip.dropped,
            gossip_rejected=self._gossip.rejected,
            gossip_faults=self._gossip.faults,
        )

    # --- connections ---------------------------------------------------------------------------

    def _may_enter(self, peer: PeerKey, is_inbound: bool) -> bool:
        """The gate in the handshake: the peer has just proved this key."""
        allowed = peer != self.peer and self._admission.may_connect(peer)
        if allowed and is_inbound and peer not in self._connections:
            allowed = self._has_slot(self._admission.peer_class(peer), 0)
        if not allowed:
            self._refused_connections += 1
        return allowed

    def _has_slot(self, peer_class: PeerClass, already: int) -> bool:
        taken = sum(1 for other in self._connections if self._class_of_inbound(other) is peer_class)
        return taken - already < self._config.connections_of(peer_class)

    def _class_of_inbound(self, peer: PeerKey) -> PeerClass | None:
        """The class whose slot a peer takes; peers only we dialed take none."""
        if any(connection.is_inbound for connection in self._connections[peer]):
            return self._admission.peer_class(peer)
        return None

    async def _dial(self, peer: PeerKey, addresses: Sequence[PeerAddress]) -> None:
        failures: list[str] = []
        connected = False

        async def attempt(address: PeerAddress, ended: trio.Event) -> None:
            nonlocal connected
            try:
                with trio.fail_after(self._config.dial_s):
                    await self._dial_one(address)
            except Exception as error:  # noqa: BLE001 - handshakes fail in many ways, all alike
                failures.append(f"{address.host} port {address.port}: {error}")
            else:
                connected = True
                nursery.cancel_scope.cancel()
            ended.set()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                ended = trio.Event()
                nursery.start_soon(attempt, address, ended)
                with trio.move_on_after(self._config.dial_stagger_s):
                    await ended.wait()
        if not connected and peer not in self._connections:
            raise TransportError(f"cannot reach {short_peer(peer)}: {'; '.join(failures)}")

    async def _dial_one(self, address: PeerAddress) -> None:
        stream = await self._wire.dial(address.host, address.port)
        raw = self._count(stream)
        try:
            await self._swarm.upgrade_outbound_raw_conn(
                RawConnection(raw, initiator=True), id_of(address.peer)
            )
        except BaseException:
            await raw.close()
            raise

    def _count(self, stream: ByteStream) -> RawStream:
        raw = RawStream(stream, stall_s=self._config.stall_s)
        raw.on_bytes = self._on_bytes
        return raw

    def _on_bytes(self, raw: RawStream, received: int, sent: int) -> None:
        """Counts, and cuts strangers off at their budget."""
        self._bytes_in += received
        self._bytes_out += sent
        if max(raw.bytes_in, raw.bytes_out) <= self._config.stranger_bytes_max:
            return
        peer = raw.peer
        if peer is None or self._admission.peer_class(peer) is PeerClass.STRANGER:
            self._violations += 1
            raise ConnectionClosedError("stranger exceeded its byte budget")

    async def _accept(self, listener: WireListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except TransportError as error:
                logger.warning("%s", error)
                await trio.sleep(ACCEPT_PAUSE_S)
            except trio.ClosedResourceError:
                return
            else:
                nursery.start_soon(self._greet, self._count(stream))

    async def _greet(self, raw: RawStream) -> None:
        """Takes one inbound connection through its handshake."""
        if len(self._handshakes) >= self._config.handshakes_max:
            next(iter(self._handshakes.values())).cancel()
        succeeded = False
        with trio.move_on_after(self._config.handshake_s) as scope:
            self._handshakes[raw] = scope
            try:
                await self._swarm.upgrade_inbound_raw_conn(
                    RawConnection(raw, initiator=False), Multiaddr("/ip4/0.0.0.0/tcp/0")
                )
                succeeded = True
            except Exception as error:  # noqa: BLE001 - garbage fails in many ways, all alike
                logger.debug("inbound handshake failed: %r", error)
            finally:
                del self._handshakes[raw]
                if not succeeded:
                    self._failed_handshakes += 1
                    await raw.close()

    def _on_connected(self, conn: SwarmConn) -> None:
        peer = key_of(conn.muxed_conn.peer_id)
        new = _Connection(conn, peer, conn.direction is Direction.INBOUND, trio.current_time())
        known = self._connections.setdefault(peer, [])
        losers = {self._loser(new, old) for old in known}
        known.append(new)
        if conn.is_closed:
            self._on_disconnected(conn)
            return
        if len(known) == 1:
            self._tell(PeerEvent(peer, is_connected=True))
        peer_class = self._admission.peer_class(peer)
        if new.is_inbound and not self._has_slot(peer_class, 1):
            self._refused_connections += 1
            losers.add(new)
        for loser in losers:
            self._spawn(loser.conn.close)
        if peer_class is PeerClass.STRANGER:
            self._spawn(self._watch_stranger, new)
        if self._admission.may_gossip(peer):
            self._spawn(self._gossip.admit, peer)

    def _loser(self, new: _Connection, old: _Connection) -> _Connection:
        """Which of two connections to one peer is closed; both ends decide alike."""
        if new.is_inbound is not old.is_inbound and new.since - old.since < SIMULTANEOUS_S:
            inbound, outbound = (new, old) if new.is_inbound else (old, new)
            return inbound if self.peer < new.peer else outbound
        return old

    def _on_disconnected(self, conn: INetConn) -> None:
        peer = key_of(conn.muxed_conn.peer_id)
        known = self._connections.get(peer, [])
        rest = [connection for connection in known if connection.conn is not conn]
        if len(rest) == len(known):
            return
        if isinstance(conn.muxed_conn, Mux) and conn.muxed_conn.violation is not None:
            self._violations += 1
            logger.info("peer %s broke yamux: %s", short_peer(peer), conn.muxed_conn.violation)
        if rest:
            self._connections[peer] = rest
        else:
            del self._connections[peer]
            self._tell(PeerEvent(peer, is_connected=False))
        self._spawn(self._gossip_lost, peer, conn)

    async def _gossip_lost(self, peer: PeerKey, conn: INetConn) -> None:
        """Moves gossip to another connection of the peer, or ends it."""
        if not self._gossip.is_admitted(peer):
            return
        await self._gossip.lose(peer, conn)
        await self.admit_to_gossip(peer)

    async def _watch_stranger(self, connection: _Connection) -> None:
        await trio.sleep(self._config.stranger_s)
        if connection not in self._connections.get(connection.peer, ()):
            return
        if self._admission.peer_class(connection.peer) is PeerClass.STRANGER:
            self._violations += 1
            await connection.conn.close()

    def _tell(self, event: PeerEvent) -> None:
        try:
            self._events_send.send_nowait(event)
        except (trio.WouldBlock, trio.BrokenResourceError):
            self._events_dropped += 1

    def _spawn(self, function: object, *args: object) -> None:
        if self._nursery is not None and not self._closing.is_set():
            self._nursery.start_soon(self._contained, function, args)

    async def _contained(self, function: object, args: tuple[object, ...]) -> None:
        try:
            await function(*args)  # type: ignore[operator]  # any coroutine function
        except Exception:
            self._handler_faults += 1
            logger.exception("a network task failed and was contained")

    # --- inbound streams -----------------------------------------------------------------------

    async def _on_stream(self, stream: INetStream) -> None:
        """Serves one inbound stream; nothing it raises reaches libp2p."""
        try:
            await self._serve(stream)
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("inbound stream ended: %s", error)
        except SwarmError as error:
            logger.info("inbound stream refused: %s", error)
        except Exception:
            self._handler_faults += 1
            logger.exception("a stream handler failed and was contained")
        else:
            return
        with trio.CancelScope(shield=True):
            await stream.reset()

    async def _serve(self, stream: INetStream) -> None:
        peer = key_of(stream.muxed_conn.peer_id)
        counts = self._streams.setdefault(peer, {})
        limit = self._config.streams_per_peer_max
        if self._admission.peer_class(peer) is PeerClass.STRANGER:
            limit = self._config.stranger_streams_max
        if sum(counts.values()) >= limit:
            self._refused_streams += 1
            raise TransportError(f"peer {short_peer(peer)} has {limit} streams already")
        name = ""
        counts[name] = counts.get(name, 0) + 1
        try:
            protocol = await self._negotiate(stream, peer)
            counts[name] -= 1
            name = protocol
            counts[name] = counts.get(name, 0) + 1
            await self._dispatch(stream, peer, protocol, counts[name])
        finally:
            counts[name] -= 1
            if not any(counts.values()):
                self._streams.pop(peer, None)

    async def _negotiate(self, stream: INetStream, peer: PeerKey) -> str:
        offered = [name for name in self._protocols if self._admission.may_open(peer, name)]
        if self._gossip.is_admitted(peer):
            offered.append(GOSSIP_PROTOCOL)
        try:
            return await answer_negotiation(stream, offered, timeout_s=self._config.negotiate_s)
        except TransportError:
            self._refused_streams += 1
            raise

    async def _dispatch(self, stream: INetStream, peer: PeerKey, protocol: str, count: int) -> None:
        if protocol == GOSSIP_PROTOCOL:
            if count > GOSSIP_STREAMS_MAX:
                raise RemoteProtocolError(f"peer opened {count} gossip streams")
            await self._gossip.serve(stream, protocol)
            await stream.close()
            return
        served = self._protocols[protocol]
        if count > served.streams_per_peer_max:
            self._refused_streams += 1
            raise TransportError(f"peer {short_peer(peer)} has too many {protocol} streams")
        ours = Stream(stream, peer, protocol, frame_bytes_max=served.frame_bytes_max)
        if served.deadline_s is None:
            await served.handler(ours)
        else:
            with trio.move_on_after(served.deadline_s) as scope:
                await served.handler(ours)
            if scope.cancelled_caught:
                raise TransportError(f"{protocol} took longer than {served.deadline_s} s")
        await ours.aclose()

    # --- life ----------------------------------------------------------------------------------

    async def bind(self) -> None:
        """Takes the listen addresses.

        Raises:
            TransportError: one of them is in use or not ours.
        """
        try:
            for host, port in self._config.listen:
                self._listeners.append(await self._wire.listen(host, port))
        except BaseException:
            await self.unbind()
            raise

    async def unbind(self) -> None:
        """Frees the listen addresses."""
        with trio.CancelScope(shield=True):
            for listener in self._listeners:
                await listener.aclose()
        self._listeners.clear()

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
            self._nursery = nursery
            for service in (swarm, pubsub, router):
                nursery.start_soon(self._watch_service, service.wait_finished)
            for listener in self._listeners:
                nursery.start_soon(self._accept, listener, nursery)
            ready.set()
            try:
                await self._closing.wait()
            finally:
                self._closing.set()
                with trio.CancelScope(shield=True) as scope:
                    scope.deadline = trio.current_time() + self._config.close_s
                    await self._shut_down()
                nursery.cancel_scope.cancel()

    async def _watch_service(self, wait_finished: object) -> None:
        await wait_finished()  # type: ignore[operator]  # bound coroutine method
        if not self._closing.is_set():
            raise TransportError("a libp2p service ended by itself")

    async def _shut_down(self) -> None:
        await self.unbind()
        for scope in self._handshakes.values():
            scope.cancel()
        async with trio.open_nursery() as nursery:
            for conn in self._swarm.get_connections():
                nursery.start_soon(conn.close)
        await self._swarm.close()
        self._gossip.close()
        self._events_send.close()

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

    with suppress(trio.ClosedResourceError):
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
