"""The gossipsub router: libp2p's, with what it lacks against members that keep news to themselves.

Messages are named by their content in every place: in the table of those seen, in the cache of
those that may be asked for, and in offers. libp2p's cache names them by author and number, so that
a node would ask for each message again that somebody offers it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.tools.anyio_service.api import InternalManagerAPI

from swarmd.net.guards import Fence

if TYPE_CHECKING:
    from swarmd.net.config import NetworkConfig

GOSSIP_PROTOCOL: Final = str(PROTOCOL_ID_V11)
"""The one gossipsub version spoken."""
OFFERED_IDS_MAX: Final = 2048
"""Message ids offered to peers outside a topic's mesh at one heartbeat, all peers together: 140 KB,
a twentieth of a link of 20 Mbit/s, and only while so much is new."""
OFFERED_PEERS_MIN: Final = 6
"""Peers outside the mesh to which news is offered at least (D_lazy of gossipsub 1.1)."""
OFFERED_HEARTBEATS: Final = 3
"""Heartbeats at which a message is offered (gossipsub 1.1)."""
KEPT_HEARTBEATS: Final = 5
"""Heartbeats for which it may be asked for (gossipsub 1.1)."""


def message_id(message: rpc_pb2.Message) -> bytes:
    """Names a message by its content, so that the same content is delivered once."""
    digest = hashlib.sha256()
    for topic in message.topicIDs:
        raw = topic.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    digest.update(message.data)
    return digest.digest()


class ContentCache(MessageCache):
    """Messages of the last heartbeats, by `message_id`."""

    def put(self, msg: rpc_pb2.Message) -> None:
        """Keeps a message."""
        name = message_id(msg)
        if name not in self.msgs:
            self.msgs[name] = msg
            self.history[0].append(CacheEntry(name, msg.topicIDs))


class SafeGossipSub(GossipSub):
    """The router, its tasks fenced in."""

    fence: Fence
    """Set before it runs."""

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Relays a message; our own also goes to subscribers outside the mesh.

        Flood publishing (gossipsub 1.1): right after a reconnect a mesh may still be empty, and
        what is published into an empty mesh is lost. At most `degree_high` more peers get it; which
        ones depends on the message, so that a few bad ones cannot always stand in the way.
        """
        await super().publish(msg_forwarder, pubsub_msg)
        pubsub = self.pubsub
        if pubsub is None or msg_forwarder != pubsub.my_id:
            return
        name = message_id(pubsub_msg)
        for topic in pubsub_msg.topicIDs:
            reached = self.mesh.get(topic) or self.fanout.get(topic) or set()
            others = sorted(
                pubsub.peer_topics.get(topic, set()) - reached,
                key=lambda peer: hashlib.sha256(name + peer.to_bytes()).digest(),
            )
            for peer in others[: self.degree_high]:
                if peer in pubsub.peers:
                    self.send_rpc(peer, rpc_pb2.RPC(publish=[pubsub_msg]))

    def gossip_heartbeat(self) -> defaultdict[ID, dict[str, list[bytes]]]:
        """Whom to offer what is new: all peers outside the mesh, while that is cheap.

        gossipsub 1.1 offers to a quarter of them, at least six, and libp2p to none that this node
        or the peer has pruned within the last minute. Members that enter every mesh and pass
        nothing on would so keep news from those whose meshes they fill: honest neighbours, pruned
        to make room, would offer to Sybils.
        """
        offers: defaultdict[ID, dict[str, list[bytes]]] = defaultdict(dict)
        pubsub = self.pubsub
        assert pubsub is not None, "heartbeats begin when pubsub runs"
        for topic in dict.fromkeys((*self.mesh, *self.fanout)):
            names = self.mcache.window(topic)
            if not names:
                continue
            members = self.mesh.get(topic) or self.fanout.get(topic) or set()
            others = [
                peer
                for peer in pubsub.peer_topics.get(topic, ())
                if peer in self.peer_protocol and peer not in members
            ]
            usual = max(OFFERED_PEERS_MIN, len(others) // 4)
            count = max(usual, OFFERED_IDS_MAX // len(names))
            for peer in self.select_from_minus(count, others, ()):
                offers[peer][topic] = list(names)
        return offers

    @property
    def manager(self) -> InternalManagerAPI:
        """The task manager behind its fence."""
        return self.fence.around(super().manager)


def _score_params() -> ScoreParams:
    """Scores: invalid messages and misbehaviour count, sharing an address does not.

    Weights follow gossipsub 1.1: deliveries are worth little and capped; ten invalid messages, or
    a burst of protocol misbehaviour, silence a peer until decay forgives it within minutes. No
    penalty for many peers at one address: fleets sit behind one NAT, and peers are members already.
    """
    return ScoreParams(
        p2_first_message_deliveries=TopicScoreParams(weight=0.1, cap=100.0, decay=0.99),
        # Whether a message is refused may depend on how far a copy of the ledger is: forwarders
        # that lag are not punished here; services score authors and malformed bytes.
        p4_invalid_messages=TopicScoreParams(weight=0.0, cap=1000.0, decay=0.99),
        p5_behavior_penalty_weight=-1.0,
        p5_behavior_penalty_decay=0.97,
        p5_behavior_penalty_threshold=10.0,
        publish_threshold=-20.0,
        gossip_threshold=-10.0,
        graylist_threshold=-40.0,
    )


def make_router(
    config: NetworkConfig, on_failure: Callable[[BaseException], None]
) -> SafeGossipSub:
    """Builds the router: no peer exchange, no direct peers, one protocol version."""
    gossip = config.gossip
    router = SafeGossipSub(
        protocols=[TProtocol(GOSSIP_PROTOCOL)],
        degree=gossip.degree,
        degree_low=gossip.degree_low,
        degree_high=gossip.degree_high,
        heartbeat_interval=gossip.heartbeat_s,
        direct_connect_interval=86_400,
        do_px=False,
        score_params=_score_params(),
        adaptive_gossip_enabled=False,
        eclipse_protection_enabled=False,
        spam_protection_enabled=True,
        max_messages_per_topic_per_second=float(gossip.messages_per_topic_per_second_max),
    )
    router.fence = Fence(on_failure)
    router.mcache = ContentCache(OFFERED_HEARTBEATS, KEPT_HEARTBEATS)
    return router
