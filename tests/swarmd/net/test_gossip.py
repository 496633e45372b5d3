"""Gossip between members, and what strangers and vandals get out of it."""

from collections import Counter
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from libp2p.crypto.rsa import create_new_key_pair as new_rsa
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.pubsub.pb import rpc_pb2

from protocol.errors import LocalProtocolError
from swarmd.net.address import PeerKey
from swarmd.net.config import GossipConfig
from swarmd.net.gossip import GossipMessage, SeenMessages
from swarmd.net.gossip_router import GOSSIP_PROTOCOL
from swarmd.net.memory import MemoryWire
from swarmd.net.network import Network
from tests.support.network_attacker import Attacker, attack, attacker_keys, rpc, subscription
from tests.support.network_nodes import ECHO, HELLO, LIMIT_S, Rules, assert_echoes, node, until

TOPIC = "/swarmd/test/announce/group-of-secret-pumps"


def accept(_: PeerKey, __: bytes) -> bool:
    return True


async def meshed(*networks: Network) -> None:
    """Waits until each knows that its peers subscribed, and has some of them in its mesh."""
    for network in networks:
        gossip = network._gossip
        await until(
            lambda network=network, gossip=gossip: (
                len(gossip.pubsub.peer_topics.get(TOPIC, ())) >= len(network.peers())
                and len(gossip.router.mesh.get(TOPIC, ())) >= 1
            )
        )


async def next_data(channel: trio.MemoryReceiveChannel[GossipMessage]) -> bytes:
    return (await channel.receive()).data


async def connect_all(networks: list[Network]) -> None:
    for index, network in enumerate(networks):
        for other in networks[:index]:
            await network.connect(other.listen_addresses)
    for network in networks:
        await until(lambda network=network: len(network.peers()) == len(networks) - 1)


@pytest.mark.slow
async def test_delivered_once_everywhere_with_relayer() -> None:
    calls: Counter[tuple[int, bytes]] = Counter()
    delivered: Counter[tuple[int, bytes]] = Counter()
    with trio.fail_after(LIMIT_S):
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(node(n)) for n in range(1, 6)]
            await connect_all(nodes)
            nursery = await stack.enter_async_context(trio.open_nursery())
            for index, network in enumerate(nodes):

                def validator(_: PeerKey, data: bytes, index: int = index) -> bool:
                    calls[index, data] += 1
                    return True

                async def drain(
                    channel: trio.MemoryReceiveChannel[GossipMessage], index: int = index
                ) -> None:
                    async for message in channel:
                        assert message.topic == TOPIC
                        assert message.relayer in {n.peer for n in nodes} - {nodes[index].peer}
                        delivered[index, message.data] += 1

                nursery.start_soon(drain, await network.subscribe(TOPIC, validator))
            await meshed(*nodes)
            for number in range(20):
                await nodes[number % 5].publish(TOPIC, b"message %d" % number)
            for publisher in (0, 1, 0, 1):
                await nodes[publisher].publish(TOPIC, b"same content, four times")
            await until(lambda: sum(delivered.values()) >= 20 * 4 + 3)
            await assert_echoes(nodes[0], nodes[1])
            nursery.cancel_scope.cancel()
    assert set(calls.values()) == {1}
    assert set(delivered.values()) == {1}
    assert len([key for key in delivered if key[1].startswith(b"message")]) == 80


async def test_works_in_memory() -> None:
    wire = MemoryWire()
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as one, node(2, wire=wire) as two:
            await two.connect(one.listen_addresses)
            channel = await one.subscribe(TOPIC, accept)
            await two.subscribe(TOPIC, accept)
            await meshed(one, two)
            await two.publish(TOPIC, b"hello")
            assert await next_data(channel) == b"hello"


async def test_validator_exception_refuses_one_message() -> None:
    def picky(_: PeerKey, data: bytes) -> bool:
        if data == b"bad":
            raise ZeroDivisionError
        return data != b"never"

    with trio.fail_after(LIMIT_S):
        async with node(1) as one, node(2) as two:
            await two.connect(one.listen_addresses)
            channel = await one.subscribe(TOPIC, picky)
            await two.subscribe(TOPIC, accept)
            await meshed(one, two)
            for data in (b"bad", b"never", b"good"):
                await two.publish(TOPIC, data)
            assert await next_data(channel) == b"good"
            assert one.statistics().gossip_rejected == 2
            assert one.statistics().gossip_faults == 1


async def test_full_subscription_drops_and_counts() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1, gossip=GossipConfig(queue_messages_max=2)) as one, node(2) as two:
            await two.connect(one.listen_addresses)
            channel = await one.subscribe(TOPIC, accept)
            await two.subscribe(TOPIC, accept)
            await meshed(one, two)
            for number in range(5):
                await two.publish(TOPIC, bytes([number]))
            await until(lambda: one.statistics().gossip_dropped == 3)
            assert await next_data(channel) == b"\0"


async def test_subscribe_and_publish_bounds() -> None:
    async with node(1) as one:
        channel = await one.subscribe(TOPIC, accept)
        with pytest.raises(LocalProtocolError):
            await one.subscribe(TOPIC, accept)
        for size in (0, GossipConfig().message_bytes_max + 1):
            with pytest.raises(LocalProtocolError):
                await one.publish(TOPIC, bytes(size))
        await one.unsubscribe(TOPIC)
        await one.unsubscribe(TOPIC)
        with pytest.raises(trio.EndOfChannel):
            await channel.receive()
        await one.subscribe(TOPIC, accept)


@pytest.mark.slow
async def test_burst_of_one_publisher_arrives() -> None:
    """libp2p's default silently stops at 10 messages a second."""
    received = 0
    with trio.fail_after(LIMIT_S):
        async with node(1) as one, node(2) as two, node(3) as three:
            await two.connect(one.listen_addresses)
            await two.connect(three.listen_addresses)
            await until(lambda: len(two.peers()) == 2)
            channel = await one.subscribe(TOPIC, accept)
            for network in (two, three):
                await network.subscribe(TOPIC, accept)
            await meshed(one, two, three)
            async with trio.open_nursery() as nursery:

                async def publish() -> None:
                    for number in range(60):
                        await three.publish(TOPIC, b"burst %d" % number)
                        await until(
                            lambda number=number: one.statistics().gossip_delivered > number - 16
                        )

                nursery.start_soon(publish)
                while received < 60:
                    await channel.receive()
                    received += 1


async def vandalise(attacker: Attacker, data: bytes) -> None:
    stream = await attacker.select(GOSSIP_PROTOCOL)
    await stream.write(data)


def garbage_key_message() -> bytes:
    """libp2p re-raises the decoding error of `key`, which ends its pubsub service."""
    rsa_id = ID.from_pubkey(new_rsa(1024).public_key)
    message = rpc_pb2.Message(
        from_id=rsa_id.to_bytes(),
        seqno=b"\0" * 8,
        data=b"boom",
        topicIDs=[TOPIC],
        signature=b"s" * 64,
        key=b"\xff\xff\xff",
    )
    return rpc(rpc_pb2.RPC(publish=[message]))


def control(**fields: object) -> bytes:
    return rpc(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(**fields)))


VANDALISM = {
    "garbage-key": garbage_key_message(),
    "unparseable-rpc": b"\x05\xff\xff\xff\xff\xff",
    "huge-length": b"\xff\xff\xff\xff\x7f" + bytes(1000),
    "endless-varint": b"\xff" * 40,
    "unsigned": rpc(
        rpc_pb2.RPC(publish=[rpc_pb2.Message(from_id=b"x", data=b"y", topicIDs=[TOPIC])])
    ),
    "empty-message": rpc(rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=[TOPIC])])),
    "bad-record": rpc(rpc_pb2.RPC(senderRecord=b"\xff\xfe")),
    "many-subscriptions": rpc(
        rpc_pb2.RPC(
            subscriptions=[
                rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"t{n}") for n in range(5000)
            ]
        )
    ),
    "ihave": control(ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"\xff"] * 500)]),
    "iwant": control(iwant=[rpc_pb2.ControlIWant(messageIDs=[b"zz", b"\xff" * 40])]),
    "graft-flood": control(graft=[rpc_pb2.ControlGraft(topicID=TOPIC)] * 200),
    "prune": control(prune=[rpc_pb2.ControlPrune(topicID=TOPIC, backoff=2**60)]),
    "px": control(
        prune=[
            rpc_pb2.ControlPrune(
                topicID=TOPIC, peers=[rpc_pb2.PeerInfo(peerID=b"\0", signedPeerRecord=b"\xff")] * 9
            )
        ]
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(VANDALISM))
async def test_vandal_member_does_not_stop_gossip(name: str) -> None:
    """Each of these, sent by a member, must leave the node and its gossip alive."""
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, node(2) as honest:
            await honest.connect(victim.listen_addresses)
            channel = await victim.subscribe(TOPIC, accept)
            await honest.subscribe(TOPIC, accept)
            await meshed(victim, honest)
            async with attack(victim.listen_addresses[0]) as attacker:
                await until(lambda: victim._gossip.is_admitted(attacker.key))
                await vandalise(attacker, VANDALISM[name])
                await honest.publish(TOPIC, b"during")
                assert await next_data(channel) == b"during"
                await vandalise(attacker, VANDALISM[name])
            await until(lambda: not victim.is_connected(attacker.key))
            await honest.publish(TOPIC, b"after")
            assert await next_data(channel) == b"after"
            await assert_echoes(honest, victim)
            await honest.disconnect(victim.peer)
            await honest.connect(victim.listen_addresses)
            await until(lambda: victim.is_connected(honest.peer))
            await until(lambda: honest._gossip.pubsub.peer_topics.get(TOPIC) is not None)
            await honest.publish(TOPIC, b"after reconnect")
            assert await next_data(channel) == b"after reconnect"


async def test_forged_author_is_dropped() -> None:
    """A message that claims another member's key, signed by the attacker's."""
    keys, _ = attacker_keys(666)
    with trio.fail_after(LIMIT_S):
        async with node(1) as victim, node(2) as honest:
            await honest.connect(victim.listen_addresses)
            channel = await victim.subscribe(TOPIC, accept)
            await honest.subscribe(TOPIC, accept)
            await meshed(victim, honest)
            message = rpc_pb2.Message(
                from_id=honest._gossip.host.get_id().to_bytes(),
                seqno=b"\0" * 8,
                data=b"forged",
                topicIDs=[TOPIC],
            )
            message.signature = keys.private_key.sign(
                b"libp2p-pubsub:" + message.SerializeToString()
            )
            async with attack(victim.listen_addresses[0]) as attacker:
                await until(lambda: victim._gossip.is_admitted(attacker.key))
                await vandalise(attacker, rpc(rpc_pb2.RPC(publish=[message])))
                await assert_echoes(honest, victim)
                await honest.publish(TOPIC, b"true")
                assert await next_data(channel) == b"true"


SECRETS = [TOPIC.encode(), b"group", b"meshsub", b"gossip", b"echo", b"identify", b"ipfs", b"py-"]


async def test_stranger_learns_nothing() -> None:
    """Every byte a stranger receives, decrypted: no topic, no protocol but hello, no address."""
    rules = Rules()
    with trio.fail_after(LIMIT_S):
        async with node(1, rules) as victim, node(2) as member:
            rules.strangers.add(attacker_keys(666)[1])
            await member.connect(victim.listen_addresses)
            await victim.subscribe(TOPIC, accept)
            channel = await member.subscribe(TOPIC, accept)
            await meshed(victim, member)
            async with attack(victim.listen_addresses[0]) as attacker:
                assert await attacker.list_protocols() == [HELLO]
                probes = [
                    GOSSIP_PROTOCOL,
                    "/meshsub/1.0.0",
                    "/meshsub/1.2.0",
                    "/floodsub/1.0.0",
                    ECHO,
                    "/ipfs/id/1.0.0",
                    "/ipfs/id/push/1.0.0",
                    "/ipfs/ping/1.0.0",
                    "/ipfs/kad/1.0.0",
                    "",
                ]
                for protocol in probes:
                    before = attacker.learned
                    with pytest.raises(MultiselectClientError):
                        await attacker.select(protocol)
                    assert b"na\n" in attacker.learned[len(before) :]
                stream = await attacker.select(HELLO)
                await stream.write(b"\0\0\0\x02hi")
                assert await stream.read(6) == b"\0\0\0\x02hi"
                await victim.publish(TOPIC, b"a secret announcement")
                assert await next_data(channel) == b"a secret announcement"
                await victim.admit_to_gossip(attacker.key)
                assert not victim._gossip.is_admitted(attacker.key)
                assert await attacker.list_protocols() == [HELLO]
                learned = attacker.learned.replace(HELLO.encode(), b"")
            assert b"secret" not in learned
            for secret in SECRETS:
                assert secret not in learned, secret
            for address in victim.listen_addresses + member.listen_addresses:
                assert address.peer not in learned
                assert str(address.port).encode() not in learned


async def test_stranger_that_pushes_gossip_first_is_refused() -> None:
    """Optimistic attacker: sends the subscription without waiting for the protocol's answer."""
    rules = Rules()
    with trio.fail_after(LIMIT_S):
        async with node(1, rules) as victim:
            rules.strangers.add(attacker_keys(666)[1])
            await victim.subscribe(TOPIC, accept)
            async with attack(victim.listen_addresses[0]) as attacker:
                stream = await attacker.mux.open_stream()
                hello = b"\x13/multistream/1.0.0\n\x0f/meshsub/1.1.0\n"
                await stream.write(hello + subscription(TOPIC))
                await until(lambda: attacker.learned.count(b"na\n") >= 1)
                await stream.reset()
                assert victim._gossip.pubsub.peer_topics == {}
                assert b"pumps" not in attacker.learned


async def test_promotion_starts_gossip_and_expulsion_ends_it() -> None:
    one_rules, two_rules = Rules(everyone_is_stranger=True), Rules(everyone_is_stranger=True)
    with trio.fail_after(LIMIT_S):
        async with node(1, one_rules) as one, node(2, two_rules) as two:
            channel = await one.subscribe(TOPIC, accept)
            await two.subscribe(TOPIC, accept)
            await two.connect(one.listen_addresses)
            await until(lambda: one.is_connected(two.peer))
            assert one._gossip.pubsub.peers == {}
            one_rules.everyone_is_stranger = two_rules.everyone_is_stranger = False
            await one.admit_to_gossip(two.peer)
            await two.admit_to_gossip(one.peer)
            await meshed(one, two)
            await two.publish(TOPIC, b"welcome")
            assert await next_data(channel) == b"welcome"

            one_rules.everyone_is_stranger = True
            await one.expel(two.peer)
            assert one.is_connected(two.peer)
            await until(lambda: one._gossip.pubsub.peers == {})
            await until(lambda: one._gossip.pubsub.peer_topics == {})
            await one.publish(TOPIC, b"not for you")
            await two.publish(TOPIC, b"not from you")
            with trio.move_on_after(0.1):
                await channel.receive()
                raise AssertionError("gossip from an expelled peer")


async def test_gossip_survives_the_loss_of_a_duplicate_connection() -> None:
    with trio.fail_after(LIMIT_S):
        async with node(1) as one, node(2) as two:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.connect, two.listen_addresses)
                nursery.start_soon(two.connect, one.listen_addresses)
            channel = await one.subscribe(TOPIC, accept)
            await two.subscribe(TOPIC, accept)
            await until(lambda: len(one._swarm.get_connections()) == 1)
            await until(lambda: len(two._swarm.get_connections()) == 1)
            await meshed(one, two)
            await two.publish(TOPIC, b"still here")
            assert await next_data(channel) == b"still here"


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_topics_subscribed_to_while_a_peer_registers_are_announced(steps: int) -> None:
    """libp2p builds its first message before it registers the peer and would miss these."""
    wire = MemoryWire()
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as one, node(2, wire=wire) as two:
            await two.connect(one.listen_addresses)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            channel = await one.subscribe(TOPIC, accept)
            await until(lambda: TOPIC in two._gossip.pubsub.peer_topics)
            await two.publish(TOPIC, b"hello")
            assert await next_data(channel) == b"hello"


async def test_own_messages_reach_subscribers_outside_the_mesh() -> None:
    wire = MemoryWire()
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as one, node(2, wire=wire) as two:
            await two.connect(one.listen_addresses)
            channel = await one.subscribe(TOPIC, accept)
            await two.subscribe(TOPIC, accept)
            await meshed(one, two)
            two._gossip.router.mesh[TOPIC].clear()
            await two.publish(TOPIC, b"no mesh")
            assert await next_data(channel) == b"no mesh"


@pytest.mark.slow
async def test_message_numbers_do_not_repeat_after_a_restart_without_a_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """gossipsub takes one number with two contents for equivocation and punishes it."""
    monkeypatch.setattr("time.time", lambda: 1000.0)
    wire = MemoryWire()
    with trio.fail_after(LIMIT_S):
        async with node(1, wire=wire) as relay, node(3, wire=wire) as far:
            await far.connect(relay.listen_addresses)
            channel = await far.subscribe(TOPIC, accept)
            await relay.subscribe(TOPIC, accept)
            await meshed(far, relay)
            for life in range(3):
                async with node(2, wire=wire) as two:
                    await two.connect(relay.listen_addresses)
                    await until(lambda two=two: TOPIC in two._gossip.pubsub.peer_topics)
                    await two.publish(TOPIC, b"life %d" % life)
                    assert await next_data(channel) == b"life %d" % life
            scorer = far._gossip.router.scorer
            assert scorer is not None
            assert not any(scorer.equivocation_penalties.values())


async def test_seen_messages_are_bounded(autojump_clock: trio.testing.MockClock) -> None:
    seen = SeenMessages(entries_max=3, seconds=10.0)
    assert [seen.add(bytes([n])) for n in range(5)] == [True] * 5
    assert seen.length() == 3
    assert not seen.has(b"\0")
    assert not seen.add(b"\x04")
    await trio.sleep(11)
    assert not seen.has(b"\x04")
    assert seen.add(b"\x04")
    assert seen.length() == 1
    seen.stop()
