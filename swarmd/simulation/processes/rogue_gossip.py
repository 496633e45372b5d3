"""Gateways' daemons that spoil gossip, or come as many strangers: the real node and worse."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import trio

from protocol.errors import SwarmError
from protocol.version import ProtocolName, protocol_id
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.config import NetworkConfig, PeerClass
from swarmd.net.network import Network, open_network
from swarmd.running_node import RunningNode
from swarmd.simulation.byzantine.gossip_flooder import PER_S, GossipFlooder
from swarmd.simulation.byzantine.gossip_mob import GossipMob
from swarmd.simulation.byzantine.stranger_flooder import PAUSE_S, STRANGERS, StrangerFlooder

_IDLE_S: Final = 20.0
"""How long a stranger keeps a stream open on which it says nothing, seconds."""


def withhold(services: RunningNode) -> None:
    """Has a node be in every mesh and pass on nothing: neither others' news nor its own."""
    mob, gossip = GossipMob(), services.network._gossip  # noqa: SLF001 - rogues know no privacy
    real = gossip.router.publish

    async def publish(forwarder: Any, message: Any) -> None:
        late_s = mob.judge(message.data)
        if late_s is None:
            mob.withheld += 1
            await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(late_s)
            await real(forwarder, message)

    def offer_nothing() -> defaultdict[Any, dict[str, list[bytes]]]:
        return defaultdict(dict)

    vars(gossip.router)["publish"] = publish
    vars(gossip.router)["gossip_heartbeat"] = offer_nothing


async def flood_gossip(services: RunningNode, seed: int) -> None:
    """Fills every topic that the node is in, for ever."""
    flooder, gossip = GossipFlooder(seed), services.network._gossip  # noqa: SLF001
    while True:
        for topic in tuple(gossip.pubsub.topic_ids):
            with contextlib.suppress(SwarmError):
                await gossip.pubsub.publish(topic, flooder.message())
        await trio.sleep(1 / PER_S)


class _Anybody:
    """Lets everybody in: what strangers do not protect, nobody can take from them."""

    def peer_class(self, _peer: PeerKey) -> PeerClass:
        """A member, as far as slots go."""
        return PeerClass.MEMBER

    def may_connect(self, _peer: PeerKey) -> bool:
        """Always."""
        return True

    def may_open(self, _peer: PeerKey, _protocol: str) -> bool:
        """Never: strangers offer nothing."""
        return False

    def may_gossip(self, _peer: PeerKey) -> bool:
        """Never."""
        return False


async def flood_strangers(services: RunningNode, targets: Sequence[PeerAddress], seed: int) -> None:
    """Comes as many strangers at once, each under a new key again and again, for ever.

    Args:
        services: says which chain it is.
        targets: whom to bother, in turn.
        seed: decides keys and nonsense.
    """
    flooder = StrangerFlooder(seed)
    protocol = protocol_id(services.ledger.chain_id, ProtocolName.HELLO)
    async with trio.open_nursery() as nursery:
        for number in range(STRANGERS if targets else 0):
            nursery.start_soon(_be_stranger, flooder, targets, number, protocol)


async def _be_stranger(
    flooder: StrangerFlooder, targets: Sequence[PeerAddress], number: int, protocol: str
) -> None:
    while True:
        number += 1
        config = NetworkConfig(seed=flooder.seed())
        with contextlib.suppress(SwarmError):
            async with open_network(config, admission=_Anybody()) as network:
                await _bother(network, targets[number % len(targets)], protocol, flooder)
        await trio.sleep(PAUSE_S)


async def _bother(
    network: Network, target: PeerAddress, protocol: str, flooder: StrangerFlooder
) -> None:
    """Says hello badly until it is shown the door."""
    await network.connect((target,))
    while True:
        stream = await network.open_stream(target.peer, protocol)
        said = flooder.hello()
        if said is None:
            with trio.move_on_after(_IDLE_S):
                await stream.receive_frame()
        else:
            await stream.send_frame((said,))
            with trio.move_on_after(_IDLE_S):
                await stream.receive_frame()
        await stream.reset()
        await trio.sleep(PAUSE_S)
