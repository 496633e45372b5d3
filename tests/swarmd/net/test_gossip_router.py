"""What the gossipsub router does beyond libp2p's: names by content, offers to those it pruned."""

from __future__ import annotations

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2

from swarmd.net.gossip_router import OFFERED_IDS_MAX, ContentCache, message_id
from swarmd.net.guards import id_of
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.gossip_world import GENUINE, TOPIC, HonestNode, gossip_world


def mesh_of(node: HonestNode) -> set[object]:
    mesh: set[object] = node.gossip.router.mesh[TOPIC]
    return mesh


def test_the_cache_names_a_message_as_the_table_of_seen_ones_does() -> None:
    cache = ContentCache(3, 5)
    first = rpc_pb2.Message(data=b"news", topicIDs=[TOPIC], from_id=b"one", seqno=b"1")
    again = rpc_pb2.Message(data=b"news", topicIDs=[TOPIC], from_id=b"two", seqno=b"2")
    cache.put(first)
    cache.put(again)
    assert cache.window(TOPIC) == [message_id(first)]
    assert cache.get(message_id(again)) == first
    for _ in range(3):
        cache.shift()
    assert cache.window(TOPIC) == []
    assert cache.get(message_id(first)) == first
    for _ in range(2):
        cache.shift()
    assert cache.get(message_id(first)) is None


def test_what_a_node_has_it_does_not_ask_for_again() -> None:
    async def run() -> int:
        asked = 0
        async with gossip_world(1) as world:
            one, two = await world.add(), await world.add()
            await world.connect(one, two)
            await trio.sleep(2.0)
            router = two.gossip.router
            ask = router.emit_iwant

            async def counting(names: list[bytes], peer: object) -> None:
                nonlocal asked
                asked += 1
                await ask(names, peer)

            vars(router)["emit_iwant"] = counting
            await one.publish(GENUINE + b"news")
            await trio.sleep(0.5)
            mesh_of(one).clear()  # so that it offers what the other has
            await trio.sleep(4.0)
            assert GENUINE + b"news" in two.heard.at_s
        return asked

    assert run_simulated(run, seed=1) == 0


def test_a_peer_that_was_pruned_is_offered_what_is_new_all_the_same() -> None:
    async def run() -> float:
        async with gossip_world(1) as world:
            one, two = await world.add(), await world.add()
            await world.connect(one, two)
            await trio.sleep(2.0)
            for here, there in ((one, two), (two, one)):
                mesh_of(here).clear()
                here.gossip.router._add_back_off(id_of(there.key), TOPIC, False)
            vars(one.gossip.router)["publish"] = _keep_for_offers(one)
            started = trio.current_time()
            await one.publish(GENUINE + b"news")
            await trio.sleep(3.0)
            return two.heard.at_s[GENUINE + b"news"] - started

    assert run_simulated(run, seed=1) < 1.5


def _keep_for_offers(node: HonestNode) -> object:
    async def keep(_: object, message: rpc_pb2.Message) -> None:
        await trio.lowlevel.checkpoint()
        node.gossip.router.mcache.put(message)

    return keep


@pytest.mark.slow
def test_much_news_is_offered_to_a_quarter() -> None:
    async def run() -> tuple[int, int]:
        async with gossip_world(1) as world:
            nodes = [await world.add() for _ in range(41)]
            for other in nodes[1:]:
                await world.connect(other, nodes[0])
            await trio.sleep(0.5)
            router = nodes[0].gossip.router
            mesh_of(nodes[0]).clear()
            counts = []
            for count in (1, OFFERED_IDS_MAX):
                for number in range(count):
                    data = GENUINE + b"%d" % number
                    router.mcache.put(rpc_pb2.Message(data=data, topicIDs=[TOPIC]))
                counts.append(len(router.gossip_heartbeat()))
            return counts[0], counts[1]

    assert run_simulated(run, seed=1) == (40, 10)
