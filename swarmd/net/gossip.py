"""Gossip among admitted peers: gossipsub behind a facade that hides everybody else.

gossipsub sees a host whose only peers are those admitted to gossip. It cannot announce our topics
to anyone else (topics name device groups), because for it nobody else is connected. Messages carry
libp2p's own signature (strict) besides the author's; ids are digests of topic and data; duplicates
are remembered in a bounded table without libp2p's sweeper thread.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from libp2p.abc import IHost, INetConn, INetStream, INotifee, IPeerStore
from libp2p.crypto.keys import PrivateKey, PublicKey
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service.api import InternalManagerAPI
from libp2p.tools.timed_cache.last_seen_cache import LastSeenCache

from protocol.errors import LocalProtocolError, RemoteProtocolError, TransportError
from protocol.limits import KIB
from swarmd.entropy import SystemEntropy
from swarmd.net.address import PeerKey
from swarmd.net.gossip_router import GOSSIP_PROTOCOL, make_router, message_id
from swarmd.net.guards import Fence, GuardedSwarm, id_of, key_of
from swarmd.net.negotiation import request_protocol

if TYPE_CHECKING:
    from libp2p.pubsub.rpc_queue import RpcQueue

    from swarmd.net.config import NetworkConfig

logger = logging.getLogger(__name__)

RPC_OVERHEAD_BYTES: Final = 4 * KIB
"""Bytes of an RPC besides one message's data: signatures, ids, control messages."""
RPC_MESSAGES: Final = 4
"""Full-size messages one RPC may carry."""
REMOVE_S: Final = 1.0
"""Seconds pubsub may take to forget a peer; it takes one step of its task."""

TopicValidator = Callable[[PeerKey, bytes], bool]
"""Judges (relayer, data) at once. False is final for these bytes: never for "not yet known"."""


@dataclass(frozen=True, slots=True)
class GossipMessage:
    """One message another node published."""

    topic: str
    """Topic it was published under."""
    data: bytes
    """Its content, not verified beyond the topic's validator."""
    relayer: PeerKey
    """Who passed it to us; the author is named and proved by the content."""


class SeenMessages(LastSeenCache):
    """Message ids seen lately, bounded in number and age, without a thread."""

    def __init__(self, *, entries_max: int, seconds: float) -> None:
        # The base class is a type here, not an implementation: its constructor starts a thread.
        self._entries_max = entries_max
        self._seconds = seconds
        self._seen: OrderedDict[bytes, float] = OrderedDict()

    def add(self, key: bytes) -> bool:
        """Remembers an id; whether it was new."""
        now = trio.current_time()
        is_new = not self.has(key)
        self._seen.pop(key, None)
        self._seen[key] = now
        while self._seen:
            oldest = next(iter(self._seen))
            if len(self._seen) <= self._entries_max and self._seen[oldest] > now - self._seconds:
                break
            del self._seen[oldest]
        return is_new

    def has(self, key: bytes) -> bool:
        """Whether the id was seen within the remembered time."""
        seen = self._seen.get(key)
        return seen is not None and seen > trio.current_time() - self._seconds

    def length(self) -> int:
        """Ids remembered."""
        return len(self._seen)

    def stop(self) -> None:
        """Nothing runs."""


class _GossipNetwork:
    """What gossipsub may see of the connections."""

    def __init__(self, swarm: GuardedSwarm, is_admitted: Callable[[PeerKey], bool]) -> None:
        self._swarm = swarm
        self._is_admitted = is_admitted
        self.notifees: list[INotifee] = []

    def register_notifee(self, notifee: INotifee) -> None:
        self.notifees.append(notifee)

    def get_connections(self, peer_id: ID) -> list[INetConn]:
        if not self._is_admitted(key_of(peer_id)):
            return []
        return [conn for conn in self._swarm.get_connections(peer_id) if not conn.is_closed]


class GossipHost:
    """The host gossipsub runs on: no addresses, no dialing, only admitted peers."""

    def __init__(
        self,
        swarm: GuardedSwarm,
        private_key: PrivateKey,
        is_admitted: Callable[[PeerKey], bool],
        negotiate_s: int,
    ) -> None:
        """Shows gossipsub the part of `swarm` for which `is_admitted` holds."""
        self.network = _GossipNetwork(swarm, is_admitted)
        self.handlers: dict[str, Callable[[INetStream], Awaitable[None]]] = {}
        self._swarm = swarm
        self._private_key = private_key
        self._is_admitted = is_admitted
        self._negotiate_s = negotiate_s
        self._peerstore = PeerStore()

    def get_network(self) -> _GossipNetwork:
        """The visible connections."""
        return self.network

    def set_stream_handler(
        self, protocol: TProtocol, handler: Callable[[INetStream], Awaitable[None]]
    ) -> None:
        """Takes gossipsub's handler; the network calls it for admitted peers."""
        self.handlers[str(protocol)] = handler

    def get_id(self) -> ID:
        """Our peer id."""
        return self._swarm.get_peer_id()

    def get_private_key(self) -> PrivateKey:
        """Signs messages and the (empty) peer record."""
        return self._private_key

    def get_public_key(self) -> PublicKey:
        """Travels with each message."""
        return self._private_key.get_public_key()

    def get_peerstore(self) -> IPeerStore:
        """A store of its own: what peers claim about addresses ends here."""
        return self._peerstore

    def get_addrs(self) -> list[Any]:
        """None: gossip does not tell where we are."""
        return []

    async def connect(self, _: object) -> None:
        """Never: whom to dial is not gossipsub's decision."""
        raise SwarmException("gossip does not dial")

    async def new_stream(self, peer_id: ID, protocols: Sequence[TProtocol]) -> INetStream:
        """Opens a stream to an admitted peer."""
        if not self._is_admitted(key_of(peer_id)):
            raise SwarmException("peer is not admitted to gossip")
        stream = await self._swarm.new_stream(peer_id)
        try:
            chosen = await request_protocol(stream, protocols, timeout_s=self._negotiate_s)
        except TransportError as error:
            await stream.reset()
            raise SwarmException(str(error)) from error
        except BaseException:
            with trio.CancelScope(shield=True):
                await stream.reset()
            raise
        stream.set_protocol(TProtocol(chosen))
        return stream


_relayer: ContextVar[ID | None] = ContextVar("relayer", default=None)


class SafePubsub(Pubsub):
    """Pubsub whose tasks fail alone and whose deliveries name the relayer."""

    def __init__(
        self,
        host: GossipHost,
        router: GossipSub,
        config: NetworkConfig,
        *,
        deliver: Callable[[str, bytes, PeerKey], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`deliver(topic, data, relayer)` is called once for each accepted message of others."""
        gossip = config.gossip
        self._fence = Fence(on_failure)
        self._deliver = deliver
        super().__init__(
            cast("IHost", host),
            router,
            strict_signing=True,
            msg_id_constructor=message_id,
            max_subscriptions_per_rpc=gossip.topics_max,
            max_subscriptions_per_peer=gossip.topics_max,
            max_inbound_rpc_size=RPC_MESSAGES * (gossip.message_bytes_max + RPC_OVERHEAD_BYTES),
        )
        # A restart with a clock at 1970 would repeat numbers, and gossipsub takes one number with
        # two contents for equivocation.
        self.counter = int.from_bytes(SystemEntropy().token(7), "big")
        self.seen_messages.stop()
        self.seen_messages = SeenMessages(entries_max=gossip.seen_max, seconds=gossip.seen_s)

    @property
    def manager(self) -> InternalManagerAPI:
        """The task manager behind its fence."""
        return self._fence.around(super().manager)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Checks, delivers and relays one message; garbage is dropped."""
        token = _relayer.set(msg_forwarder)
        try:
            await super().push_msg(msg_forwarder, msg)
        finally:
            _relayer.reset(token)

    async def handle_sending_messages(
        self, peer_id: ID, stream: INetStream, queue: RpcQueue
    ) -> None:
        """Sends to one peer, beginning with our topics as they are now.

        libp2p puts them into the first message and registers the peer only after that was sent: a
        topic subscribed to meanwhile would never be announced to this peer.
        """
        if self.topic_ids:
            queue.push(self.get_hello_packet())
        await super().handle_sending_messages(peer_id, stream, queue)

    def notify_subscriptions(self, publish_message: rpc_pb2.Message) -> None:
        """Delivers a checked message, unless it is our own."""
        relayer = _relayer.get()
        if relayer is None or relayer == self.my_id:
            return
        for topic in publish_message.topicIDs:
            if topic in self.topic_ids:
                self._deliver(topic, publish_message.data, key_of(relayer))


class Gossip:
    """Topics, subscriptions and the set of peers admitted to gossip."""

    def __init__(self, swarm: GuardedSwarm, private_key: PrivateKey, config: NetworkConfig) -> None:
        """Builds the services; `network.py` runs them."""
        self.delivered = 0
        """Messages handed to subscriptions."""
        self.dropped = 0
        """Messages dropped because a subscription was full."""
        self.rejected = 0
        """Messages a validator refused."""
        self.faults = 0
        """Exceptions contained in gossip tasks, most of them a peer's garbage."""
        self._config = config
        self._swarm = swarm
        self._admitted: set[PeerKey] = set()
        self._channels: dict[str, trio.MemorySendChannel[GossipMessage]] = {}
        self.host = GossipHost(swarm, private_key, self._admitted.__contains__, config.negotiate_s)
        self.router = make_router(config, self._on_failure)
        self.pubsub = SafePubsub(
            self.host, self.router, config, deliver=self._deliver, on_failure=self._on_failure
        )

    def _on_failure(self, error: BaseException) -> None:
        self.faults += 1
        logger.debug("a gossip task failed and was contained: %r", error)

    def is_admitted(self, peer: PeerKey) -> bool:
        """Whether gossip is exchanged with the peer."""
        return peer in self._admitted

    async def admit(self, peer: PeerKey) -> None:
        """Starts gossip with a connected peer."""
        if peer in self._admitted:
            return
        self._admitted.add(peer)
        for conn in self._swarm.get_connections(id_of(peer))[:1]:
            await self._notify("connected", conn)

    async def expel(self, peer: PeerKey) -> None:
        """Ends gossip with a peer."""
        if peer not in self._admitted:
            return
        self._admitted.discard(peer)
        outbound = self.pubsub.peers.get(id_of(peer))
        if outbound is not None:
            await outbound.reset()
        for conn in self._swarm.get_connections(id_of(peer)):
            await self._remove(peer, conn)
            for stream in conn.get_streams():
                if stream.get_protocol() == GOSSIP_PROTOCOL:
                    await stream.reset()

    async def lose(self, peer: PeerKey, conn: INetConn) -> None:
        """Forgets an admitted peer one of whose connections ended."""
        self._admitted.discard(peer)
        await self._remove(peer, conn)

    async def _remove(self, peer: PeerKey, conn: INetConn) -> None:
        """Has pubsub forget a peer, and waits for it: admitted again too early, it would stay,
        with a stream that is dead.
        """
        await self._notify("disconnected", conn)
        with trio.move_on_after(REMOVE_S):
            while id_of(peer) in self.pubsub.peers and peer not in self._admitted:
                await trio.lowlevel.checkpoint()

    async def _notify(self, event: str, conn: INetConn) -> None:
        for notifee in self.host.network.notifees:
            await getattr(notifee, event)(self.host.network, conn)

    async def serve(self, stream: INetStream) -> None:
        """Serves an inbound gossip stream of an admitted peer."""
        stream.set_protocol(TProtocol(GOSSIP_PROTOCOL))
        try:
            await self.host.handlers[GOSSIP_PROTOCOL](stream)
        except Exception as error:
            self._on_failure(error)
            raise RemoteProtocolError(f"gossip stream carries nonsense: {error!r}") from error

    async def subscribe(
        self, topic: str, validator: TopicValidator
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        """Subscribes to a topic; see `Network.subscribe`."""
        if topic in self._channels:
            raise LocalProtocolError(f"already subscribed to {topic}")
        send, receive = trio.open_memory_channel[GossipMessage](
            self._config.gossip.queue_messages_max
        )
        self._channels[topic] = send
        self.pubsub.set_topic_validator(topic, self._guarded(validator), False)
        await self.pubsub.subscribe(topic)
        return receive

    def _guarded(self, validator: TopicValidator) -> Callable[[ID, rpc_pb2.Message], bool]:
        """Fences a validator in: bounds first, exceptions refuse the message."""

        def judge(forwarder: ID, message: rpc_pb2.Message) -> bool:
            if forwarder == self.pubsub.my_id:
                return True
            try:
                accepted = (
                    len(message.topicIDs) == 1
                    and len(message.data) <= self._config.gossip.message_bytes_max
                    and validator(key_of(forwarder), message.data)
                )
            except Exception as error:  # noqa: BLE001 - this is the fence
                self._on_failure(error)
                accepted = False
            if not accepted:
                self.rejected += 1
            return accepted

        return judge

    async def unsubscribe(self, topic: str) -> None:
        """Leaves a topic and ends its channel."""
        channel = self._channels.pop(topic, None)
        if channel is None:
            return
        channel.close()
        await self.pubsub.unsubscribe(topic)
        self.pubsub.remove_topic_validator(topic)

    def _deliver(self, topic: str, data: bytes, relayer: PeerKey) -> None:
        channel = self._channels.get(topic)
        if channel is None:
            return
        try:
            channel.send_nowait(GossipMessage(topic, data, relayer))
        except trio.WouldBlock:
            self.dropped += 1
        except trio.BrokenResourceError:
            logger.debug("nobody reads topic %s any more", topic)
        else:
            self.delivered += 1

    async def publish(self, topic: str, data: bytes) -> None:
        """Publishes a message; see `Network.publish`."""
        limit = self._config.gossip.message_bytes_max
        if not 0 < len(data) <= limit:
            raise LocalProtocolError(f"gossip message of {len(data)} bytes, allowed 1 to {limit}")
        await self.pubsub.publish(topic, data)

    def close(self) -> None:
        """Ends every subscription's channel."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()
