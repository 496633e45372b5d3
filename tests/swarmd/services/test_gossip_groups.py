"""Which topics a node follows while the groups it belongs to change."""

from __future__ import annotations

from collections.abc import Callable

import trio
from trio.testing import wait_all_tasks_blocked

from ledger.chain import Chain
from protocol.announcement import Announcement, SignedAnnouncement, sign_announcement
from protocol.did import KeyPurpose
from protocol.digest import Digest, ManifestId, sha256
from protocol.version import group_topic, heads_topic, transactions_topic
from swarmd.clock import ManualClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import GossipMessage
from swarmd.peers import PeerRegistry
from swarmd.services.gossip import GossipHooks, GossipService
from tests.support.ledger import FLEET, GENESIS_MS, Lab, make_lab

RELAYER = PeerKey(bytes([7]) * 32)
MANIFEST = ManifestId(Digest(sha256(b"never authorised")))


class Topics:
    """The network as far as gossip subscribes to it."""

    def __init__(self) -> None:
        self.channels: dict[str, trio.MemorySendChannel[GossipMessage]] = {}

    async def subscribe(
        self, topic: str, _validator: Callable[[PeerKey, bytes], bool]
    ) -> trio.MemoryReceiveChannel[GossipMessage]:
        assert topic not in self.channels, "subscribed twice"
        send, receive = trio.open_memory_channel[GossipMessage](8)
        self.channels[topic] = send
        return receive

    async def unsubscribe(self, topic: str) -> None:
        self.channels.pop(topic).close()


class Listener:
    """A gossip service whose groups a test decides."""

    def __init__(self) -> None:
        self.lab: Lab = make_lab()
        self.chain: Chain = self.lab.open_chain()
        self.groups: tuple[str, ...] = ()
        self.network = Topics()
        self.false: list[SignedAnnouncement] = []
        gateway = self.lab.gateways[0]
        self.author = self.lab.gateways[1]
        self.service = GossipService(
            network=self.network,  # type: ignore[arg-type]
            ledger=LedgerHost(self.chain, lambda: GENESIS_MS),
            registry=PeerRegistry(self.lab.chain_id, ManualClock(), lambda _peer, _offence: None),
            author=(gateway.did, gateway.key(KeyPurpose.NODE)),
            groups=lambda: self.groups,
            is_validator=False,
            hooks=GossipHooks(
                head_heard=lambda _peer, _height: None,
                manifest_announced=lambda _manifest: None,
                mempool_changed=lambda: None,
                falsehood_seen=self.false.append,
            ),
        )

    def topics(self) -> set[str]:
        """Group topics that are followed; the two of the whole chain always are."""
        chain = self.lab.chain_id
        always = {transactions_topic(chain), heads_topic(chain)}
        assert always <= set(self.network.channels)
        return set(self.network.channels) - always

    async def moves(self, *groups: str) -> None:
        """A block becomes final after which this node belongs to other groups."""
        self.groups = groups
        self.service.review()
        await wait_all_tasks_blocked()

    def announcement(self, topic: str, *, height: int = 0) -> SignedAnnouncement:
        head = self.chain.head
        content = Announcement(
            era=head.era,
            author=self.author.did,
            topic=topic,
            manifest=MANIFEST,
            height=height,
            block_id=head.block_id,
        )
        return sign_announcement(content, self.author.key(KeyPurpose.NODE), self.lab.chain_id)


async def test_topics_follow_the_groups(nursery: trio.Nursery) -> None:
    bench = Listener()
    nursery.start_soon(bench.service.run)
    await wait_all_tasks_blocked()
    assert bench.topics() == set()  # a newcomer, not in its own copy of the ledger yet
    names = {name: group_topic(bench.lab.chain_id, name) for name in (FLEET, "zone")}
    await bench.moves(FLEET)
    assert bench.topics() == {names[FLEET]}
    await bench.moves(FLEET)
    await bench.moves(FLEET, "zone")
    assert bench.topics() == set(names.values())
    await bench.moves("zone")
    assert bench.topics() == {names["zone"]}
    await bench.moves(FLEET)
    await bench.moves()
    assert bench.topics() == set()


async def test_nobody_pays_for_a_group_that_this_node_left(nursery: trio.Nursery) -> None:
    bench = Listener()
    nursery.start_soon(bench.service.run)
    await bench.moves(FLEET)
    topic, heads = group_topic(bench.lab.chain_id, FLEET), heads_topic(bench.lab.chain_id)
    false = bench.announcement(topic)
    bench.service._take_announcement(RELAYER, false)
    assert len(bench.false) == 1  # a member is told of a release that nobody authorised
    ahead = bench.announcement(topic, height=5)
    bench.service._take_announcement(RELAYER, ahead)
    assert len(bench.service._parked) == 1
    await bench.moves()
    assert bench.service._parked == {}
    bench.service._take_announcement(RELAYER, false)
    assert len(bench.false) == 1
    bench.service._take_announcement(RELAYER, bench.announcement(heads))
    assert len(bench.false) == 2  # no manifest is announced there, whoever belongs to what
