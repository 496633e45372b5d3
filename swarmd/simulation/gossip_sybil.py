"""Gossip Sybils: identities in one hand that enter every mesh and then do as their mob decides.

They speak gossipsub by hand, as cheaply as possible, like the "bad boys" of the evaluation of
gossipsub 1.1: say hello, graft themselves into every mesh, keep to backoffs so that nothing they do
is punished. What they do with messages is in `swarmd.simulation.byzantine.gossip_mob`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final, cast

import trio
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from libp2p.utils import encode_varint_prefixed
from libp2p.utils.varint import read_varint_prefixed_bytes

from swarmd.net.address import PeerKey
from swarmd.net.guards import id_of, key_pair
from swarmd.simulation.byzantine.gossip_mob import GossipMob
from swarmd.simulation.gossip_world import TOPIC, GossipStream, GossipWorld

BACKOFF_S: Final = 60.0
"""How long they stay away from a mesh they were pruned from, as gossipsub 1.1 asks."""
IDS: Final = 64
"""Made-up message ids of one offer."""


class GossipSybil:
    """One identity."""

    def __init__(self, world: GossipWorld, mob: GossipMob, number: int) -> None:
        """Enters the world; connect it like any other node.

        Args:
            world: where it lives.
            mob: whose hand it is in.
            number: decides its key.
        """
        self._pair = key_pair((b"sybil %06d" % number).ljust(32, b"."))
        self.key: Final = PeerKey(self._pair.public_key.to_bytes())
        self._world = world
        self._mob = mob
        self._streams: dict[PeerKey, GossipStream] = {}
        self._seen: dict[bytes, None] = {}
        world.enter(self)

    async def meet(self, other: PeerKey) -> None:
        """Says hello and enters the mesh of the other."""
        stream = self._world.open_stream(self.key, id_of(other), lines=0)
        self._streams[other] = stream
        hello = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)])
        await self._send(stream, hello)
        await self._graft(stream)
        if self._mob.is_luring:
            self._world.nursery.start_soon(self._lure, stream)

    async def serve(self, stream: GossipStream) -> None:
        """Listens to a node."""
        try:
            while True:
                rpc = rpc_pb2.RPC()
                rpc.ParseFromString(await read_varint_prefixed_bytes(cast("Any", stream)))
                await self._take(stream, rpc)
        except (StreamEOF, StreamClosed):
            await stream.reset()

    async def _take(self, stream: GossipStream, rpc: rpc_pb2.RPC) -> None:
        for message in rpc.publish:
            name = hashlib.sha256(message.data).digest()
            if name in self._seen:
                continue
            self._seen[name] = None
            delay_s = self._mob.judge(message.data)
            if delay_s:
                self._mob.withheld += 1
                self._world.nursery.start_soon(self._pass_on, message, delay_s)
            elif delay_s is None:
                self._mob.withheld += 1
            else:
                await self._pass_on(message, 0.0)
        if any(prune.topicID == TOPIC for prune in rpc.control.prune):
            self._world.nursery.start_soon(self._return, stream)

    async def _pass_on(self, message: rpc_pb2.Message, delay_s: float) -> None:
        await trio.sleep(delay_s)
        for stream in tuple(self._streams.values()):
            await self._send(stream, rpc_pb2.RPC(publish=[message]))

    async def _return(self, stream: GossipStream) -> None:
        """Enters a mesh again as soon as that is allowed."""
        await trio.sleep(BACKOFF_S + 1.0)
        other = next(key for key in self._streams if id_of(key) == stream.muxed_conn.peer_id)
        await self._graft(self._streams[other])

    async def _graft(self, stream: GossipStream) -> None:
        control = rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID=TOPIC)])
        await self._send(stream, rpc_pb2.RPC(control=control))

    async def _lure(self, stream: GossipStream) -> None:
        number = 0
        while True:
            number += 1
            self._mob.offers += IDS
            names = [
                hashlib.sha256(self.key + b"%d %d" % (number, index)).hexdigest().encode()
                for index in range(IDS)
            ]
            offer = rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=names)
            control = rpc_pb2.ControlMessage(ihave=[offer])
            await self._send(stream, rpc_pb2.RPC(control=control))
            await trio.sleep(1.0)

    async def flood(self, data: Callable[[int], bytes], *, per_s: int, seconds: float) -> int:
        """Publishes under its own name, to all it knows; returns how many messages.

        Args:
            data: content of each by number.
            per_s: how many a second.
            seconds: how long.
        """
        count = round(per_s * seconds)
        for number in range(count):
            message = self._signed(data(number), number)
            for stream in tuple(self._streams.values()):
                await self._send(stream, rpc_pb2.RPC(publish=[message]))
            await trio.sleep(1.0 / per_s)
        return count

    def _signed(self, data: bytes, number: int) -> rpc_pb2.Message:
        message = rpc_pb2.Message(
            data=data,
            topicIDs=[TOPIC],
            from_id=id_of(self.key).to_bytes(),
            seqno=number.to_bytes(8, "big"),
        )
        prefix = PUBSUB_SIGNING_PREFIX.encode()
        message.signature = self._pair.private_key.sign(prefix + message.SerializeToString())
        message.key = self._pair.public_key.serialize()
        return message

    @staticmethod
    async def _send(stream: GossipStream, rpc: rpc_pb2.RPC) -> None:
        try:
            await stream.write(encode_varint_prefixed(rpc.SerializeToString()))
        except StreamClosed:
            await trio.lowlevel.checkpoint()
