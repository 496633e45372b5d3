"""Fetching the state from real ledger services: several peers, liars, stalls, restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ledger.block_store import BlockStore, Durability
from ledger.chain import Chain
from ledger.header import decode_header
from ledger.state_range import decode_state_page
from protocol.catchup import (
    LedgerMessage,
    decode_ledger_message,
    encode_ledger_message,
)
from protocol.digest import sha256
from protocol.errors import PolicyError
from protocol.state_messages import (
    HeaderAnswer,
    ManifestsAnswer,
    StateHeadAnswer,
    StatePageAnswer,
    StatePageRequest,
)
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.services.follower import FollowerService
from swarmd.services.ledger_service import ANSWER_S_MAX, PRUNED_RULE, LedgerService
from swarmd.services.pruning import PruningService
from swarmd.services.state_sync import StateSyncService
from tests.support.ledger import advance, authorise, make_lab

INTERVAL = 4
KEYS = 1300


class Clock:
    """Trio's clock, mocked by the tests."""

    def monotonic(self) -> float:
        return trio.current_time()

    def wall_ms(self) -> int:
        return 0


class Wire:
    """A stream to another node's ledger service; frames pass as bytes, answers may be changed."""

    def __init__(self, node: Node, asker: PeerKey) -> None:
        self.node = node
        self.peer = node.peer
        self._asker = asker
        self._answers: list[bytes | None] = []

    async def send_frame(self, frame: bytes) -> None:
        request = decode_ledger_message(frame)
        reply = await self.node.service._reply(self._asker, request)
        self.node.asked.append(type(request).__name__)
        self._answers.append(await self.node.twist(request, reply))

    async def receive_frame(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._answers.pop(0)

    async def close_write(self) -> None:
        pass

    async def reset(self) -> None:
        pass


class Net:
    """Opens wires to the nodes of a test."""

    def __init__(self, own: PeerKey) -> None:
        self.own = own
        self.nodes: dict[PeerKey, Node] = {}

    async def open_stream(self, peer: PeerKey, _protocol: str, *, frame_bytes_max: int) -> Wire:
        assert frame_bytes_max
        return Wire(self.nodes[peer], self.own)

    def is_connected(self, _peer: PeerKey) -> bool:
        return True


class Node:
    """Chain, host, registry and the two services, as a daemon wires them."""

    def __init__(self, lab, name: str, path: Path | str = ":memory:") -> None:
        self.peer = PeerKey(sha256(name.encode()))
        store = BlockStore(Path(path), Durability.BATCHED, snapshot_interval=INTERVAL)
        self.chain = Chain.open(store, lab.genesis)
        self.host = LedgerHost(self.chain, lambda: self.chain.head.time_ms)
        self.banned: list[PeerKey] = []
        self.registry = PeerRegistry(
            lab.chain_id, Clock(), lambda peer, _offence: self.banned.append(peer)
        )
        self.net = Net(self.peer)
        self.service = LedgerService(
            network=self.net,  # type: ignore[arg-type]
            ledger=self.host,
            registry=self.registry,
            freshness=None,  # type: ignore[arg-type]
            on_pending=lambda: None,
        )
        self.sync = StateSyncService(
            ledger=self.host,
            registry=self.registry,
            service=self.service,
            store=self.chain.fetches(),
            anchor=lambda: self.chain.current_anchor,
        )
        self.asked: list[str] = []
        self.lie: Callable[[LedgerMessage, LedgerMessage], LedgerMessage] | None = None
        self.stalls_after: int | None = None
        self.stalled = trio.Event()

    async def twist(self, request: LedgerMessage, reply: LedgerMessage) -> bytes | None:
        """What really goes out: the truth, a lie, or nothing for ever."""
        pages = self.asked.count("StatePageRequest")
        if self.stalls_after is not None and pages > self.stalls_after:
            self.stalled.set()
            await trio.sleep_forever()
        if self.lie is not None:
            reply = self.lie(request, reply)
        return encode_ledger_message(reply)

    def meets(self, *others: Node) -> None:
        for other in others:
            self.net.nodes[other.peer] = other
            known = self.registry.connected(other.peer)
            known.peer_class = PeerClass.MEMBER
            known.height = other.chain.head.height

    def adopt_writes(self, count: int) -> None:
        """Lets the state be large, behind the rules' back; equal at every node that does it."""
        tree = self.chain.state.tree
        grown = tree.update({b"z/%d" % number: bytes(2000) for number in range(count)})
        tree._root, tree._base, tree._writes = grown._root, grown._base, grown._writes


def make_sources(lab, names, *, keys: int = KEYS, blocks: int = 6) -> list[Node]:
    """Nodes with the same chain: two manifests, a large state, a version kept at height 4."""
    nodes = [Node(lab, name) for name in names]
    for node in nodes:
        lab.nonces.clear()
        authorise(lab, node.chain, lab.manifest())
        node.adopt_writes(keys)
        for _ in range(blocks - 2):
            advance(lab, node.chain)
        assert node.chain.head == nodes[0].chain.head
    return nodes


@pytest.fixture
def lab():
    return make_lab()


async def check_arrival(newcomer: Node, source: Node) -> None:
    assert newcomer.chain.head.height == 4
    assert newcomer.chain.state.tree.root == source.chain.header_at(4).state_root
    known = [manifest for manifest, _group, _record in source.chain.manifest_records()]
    assert list(newcomer.host.manifests) == known
    await newcomer.service.catch_up(source.peer)
    assert newcomer.chain.head == source.chain.head
    newcomer.chain._store.check()


@pytest.mark.slow
async def test_a_newcomer_fetches_from_several_peers_and_follows(lab):
    sources = make_sources(lab, "abc")
    newcomer = Node(lab, "new")
    newcomer.meets(*sources)
    heard: list[int] = []
    newcomer.host.listen(lambda result: heard.append(result.header.height))
    assert await newcomer.sync.fetch()
    assert heard == [4], "listeners hear of the state as of a block"
    assert sum("StatePageRequest" in node.asked for node in sources) == 3, "all delivered pages"
    await check_arrival(newcomer, sources[0])
    assert newcomer.banned == []
    assert not await newcomer.sync.fetch(), "there is nothing newer to fetch"


def forge_page(request, reply):
    if not isinstance(reply, StatePageAnswer):
        return reply
    page = decode_state_page(reply.page)
    leaves = ((page.leaves[0][0], b"forged"), *page.leaves[1:])
    return StatePageAnswer(page=replace(page, leaves=leaves).encode())


def omit_leaf(request, reply):
    if not isinstance(reply, StatePageAnswer):
        return reply
    page = decode_state_page(reply.page)
    return StatePageAnswer(page=replace(page, leaves=page.leaves[1:]).encode())


def empty_rest(request, reply):
    if not isinstance(reply, StatePageAnswer):
        return reply
    page = decode_state_page(reply.page)
    return StatePageAnswer(page=replace(page, leaves=(), is_last=True).encode())


def other_kind(request, reply):
    return ManifestsAnswer(manifests=()) if isinstance(request, StatePageRequest) else reply


def garbage(request, reply):
    return StatePageAnswer(page=b"\xa0") if isinstance(reply, StatePageAnswer) else reply


@pytest.mark.slow
@pytest.mark.parametrize("lie", [forge_page, omit_leaf, empty_rest, other_kind, garbage])
async def test_liars_about_pages_are_blamed_and_replaced(lab, lie):
    honest, liar = make_sources(lab, "ab")
    liar.lie = lie
    newcomer = Node(lab, "new")
    newcomer.meets(liar, honest)
    assert await newcomer.sync.fetch()
    offences = newcomer.registry.get(liar.peer).offences
    assert sum(offences.values()) == 1, "it is asked no more after the first lie"
    assert newcomer.registry.get(honest.peer).offences == {}
    await check_arrival(newcomer, honest)


def forged_root(request, reply):
    if not isinstance(reply, StateHeadAnswer):
        return reply
    header = replace(decode_header(reply.headers[0]), state_root=sha256(b"mine"), height=400)
    return replace(reply, headers=(header.encoded, *reply.headers[1:]))


def forged_log(request, reply):
    if not isinstance(reply, StateHeadAnswer):
        return reply
    return replace(reply, log=b"\xa2\x00\x00\x01\x80")


@pytest.mark.parametrize("lie", [forged_root, forged_log])
@pytest.mark.slow
async def test_liars_about_the_version_are_blamed(lab, lie):
    honest, liar = make_sources(lab, "ab", keys=10)
    liar.lie = lie
    newcomer = Node(lab, "new")
    newcomer.meets(liar, honest)
    assert await newcomer.sync.fetch()
    assert newcomer.banned == [liar.peer]
    assert "StatePageRequest" not in liar.asked
    await check_arrival(newcomer, honest)


@pytest.mark.slow
async def test_a_version_of_another_chain_is_refused(lab):
    other = make_lab(gateways=3)
    stranger = make_sources(other, "x", keys=10)[0]
    newcomer = Node(lab, "new")
    newcomer.meets(stranger)
    assert not await newcomer.sync.fetch()
    assert newcomer.banned == [stranger.peer]
    assert newcomer.chain.head.height == 0


async def fetch_with_stalls(newcomer: Node, staller: Node, clock: MockClock) -> bool:
    """Fetches while time stands still but for the wait for an answer that does not come."""
    found: list[bool] = []

    async def fetch() -> None:
        found.append(await newcomer.sync.fetch())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch)
        await staller.stalled.wait()
        while len(newcomer.sync._store.plan._regions) > 1 and len(newcomer.net.nodes) > 1:
            await newcomer.sync._changed.wait()  # others do what they can meanwhile
        clock.jump(ANSWER_S_MAX + 1)
    return found[0]


@pytest.mark.slow
async def test_a_peer_that_stalls_is_passed_over(lab, mock_clock):
    honest, staller = make_sources(lab, "ab")
    staller.stalls_after = 0
    newcomer = Node(lab, "new")
    newcomer.meets(staller, honest)
    assert await fetch_with_stalls(newcomer, staller, mock_clock)
    assert newcomer.registry.get(staller.peer).offences == {"stalled": 1}
    assert newcomer.banned == [], "thin links are no offence"
    await check_arrival(newcomer, honest)


@pytest.mark.slow
async def test_what_was_fetched_survives_a_restart(lab, mock_clock, tmp_path):
    (source,) = make_sources(lab, "a")
    source.stalls_after = 2
    newcomer = Node(lab, "new", tmp_path / "ledger.db")
    newcomer.meets(source)
    assert not await fetch_with_stalls(newcomer, source, mock_clock)
    assert newcomer.chain.head.height == 0
    newcomer.chain._store.close()
    source.stalls_after = None
    first = source.asked.count("StatePageRequest")
    newcomer = Node(lab, "new", tmp_path / "ledger.db")
    newcomer.meets(source)
    assert await newcomer.sync.fetch()
    resumed = source.asked.count("StatePageRequest") - first
    alone = Node(lab, "other")
    alone.meets(source)
    assert await alone.sync.fetch()
    whole = source.asked.count("StatePageRequest") - first - resumed
    assert resumed == whole - 2, "two pages had been stored"
    await check_arrival(newcomer, source)


@pytest.mark.slow
async def test_missing_manifests_come_from_another_peer(lab):
    def hide(_request, reply):
        if isinstance(reply, ManifestsAnswer):
            return ManifestsAnswer(manifests=(b"",) * len(reply.manifests))
        return reply

    def forge(_request, reply):
        if isinstance(reply, ManifestsAnswer):
            return ManifestsAnswer(manifests=(b"forged",) * len(reply.manifests))
        return reply

    honest, hider, forger = make_sources(lab, "abc", keys=10)
    hider.lie, forger.lie = hide, forge
    newcomer = Node(lab, "new")
    newcomer.meets(hider, forger, honest)
    assert await newcomer.sync.fetch()
    assert newcomer.registry.get(hider.peer).offences == {}
    assert newcomer.banned in ([forger.peer], []), "it depends on whom is asked first"
    await check_arrival(newcomer, honest)
    alone = Node(lab, "alone")
    alone.meets(hider, forger)
    assert not await alone.sync.fetch()
    assert alone.chain.head.height == 0


@pytest.mark.slow
async def test_pruned_blocks_and_lost_versions_are_refused_by_rule(lab):
    (source,) = make_sources(lab, "a", keys=10, blocks=9)
    newcomer = Node(lab, "new")
    newcomer.meets(source)
    assert await PruningService(source.host, 1).prune() == 3
    with pytest.raises(PolicyError) as refusal:
        await newcomer.service.catch_up(source.peer)
    assert refusal.value.rule == PRUNED_RULE
    request = StatePageRequest(height=2, start=sha256(b""))
    with pytest.raises(PolicyError) as refusal:
        await newcomer.service.ask(source.peer, request)
    assert refusal.value.rule == "state.gone"


@pytest.mark.slow
async def test_a_follower_fetches_the_state_once_nobody_has_its_blocks(lab, mock_clock):
    sources = make_sources(lab, "ab", keys=0, blocks=9)
    newcomer = Node(lab, "new")
    newcomer.meets(*sources)
    mock_clock.rate = 20  # it pauses between peers
    follower = FollowerService(
        ledger=newcomer.host,
        registry=newcomer.registry,
        service=newcomer.service,
        fetch_state=newcomer.sync.fetch,
    )
    await PruningService(sources[0].host, 1).prune()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        for source in sources:
            follower.hear(source.peer, source.chain.head.height)
        with trio.fail_after(60):
            while newcomer.chain.head != sources[0].chain.head:
                await newcomer.host.wait_advanced()
        assert newcomer.chain.first_block == 1, "one of them still had all blocks"
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_follower_fetches_the_state_when_all_have_pruned(lab, mock_clock):
    sources = make_sources(lab, "ab", keys=10, blocks=9)
    newcomer = Node(lab, "new")
    newcomer.meets(*sources)
    mock_clock.rate = 20  # it pauses between peers
    follower = FollowerService(
        ledger=newcomer.host,
        registry=newcomer.registry,
        service=newcomer.service,
        fetch_state=newcomer.sync.fetch,
    )
    for source in sources:
        await PruningService(source.host, 1).prune()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        for source in sources:
            follower.hear(source.peer, source.chain.head.height)
        with trio.fail_after(60):
            while newcomer.chain.head != sources[0].chain.head:
                await newcomer.host.wait_advanced()
        assert newcomer.chain.first_block == 8
        nursery.cancel_scope.cancel()
    newcomer.chain._store.check()


@pytest.mark.slow
async def test_neither_a_liar_nor_a_failed_fetch_keeps_a_follower_from_the_state(lab, mock_clock):
    """One peer promises a height, gives nothing and tells of no more; the first fetch fails."""
    sources = make_sources(lab, "ab", keys=10, blocks=9)
    honest, liar = sources
    newcomer = Node(lab, "new")
    newcomer.meets(*sources)
    newcomer.registry.get(liar.peer).height = 1 << 40
    liar.lie = lambda _request, _reply: ManifestsAnswer(manifests=())
    mock_clock.rate = 20  # it pauses between peers
    tries = 0

    async def fetch() -> bool:
        nonlocal tries
        tries += 1
        return tries > 1 and await newcomer.sync.fetch()

    follower = FollowerService(
        ledger=newcomer.host,
        registry=newcomer.registry,
        service=newcomer.service,
        fetch_state=fetch,
    )
    await PruningService(honest.host, 1).prune()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        with trio.fail_after(60):
            while newcomer.chain.head != honest.chain.head:
                follower.hear(honest.peer, honest.chain.head.height)
                await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    assert tries == 2


@pytest.mark.slow
async def test_pruning_follows_the_chain_and_keeps_all_if_told_so(lab):
    (source,) = make_sources(lab, "a", keys=0, blocks=9)
    await PruningService(source.host, 0).run()
    assert source.chain.first_block == 1
    service = PruningService(source.host, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await wait_all_tasks_blocked()
        await source.host.run(lambda: None)
        nursery.cancel_scope.cancel()
    assert source.chain.first_block == 4, "a kept version needs what follows it"


# -- a token's checkpoint (I77) ----------------------------------------------------------------


@pytest.mark.slow
async def test_a_state_is_fetched_beyond_a_true_checkpoint(lab):
    (source,) = make_sources(lab, "a", keys=10)
    newcomer = Node(lab, "new")
    newcomer.meets(source)
    newcomer.chain.expected = (2, source.chain.header_at(2).block_id)
    assert await newcomer.sync.fetch()
    assert source.asked.count("HeaderRequest") == 1
    await check_arrival(newcomer, source)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "changes"),
    [(2, {"validators": sha256(b"set")}), (2, {"epoch": 7}), (4, {"time_ms": 1})],
    ids=["another set", "an epoch not passed", "another block of the version"],
)
async def test_a_state_of_another_history_than_the_checkpoints(lab, height, changes):
    """The peers' chain is certified well; the header vouched for says that it is the false one."""
    (source,) = make_sources(lab, "a", keys=10)
    vouched = replace(source.chain.header_at(height), **changes)

    def shown(_request, reply):
        return HeaderAnswer(header=vouched.encoded) if isinstance(reply, HeaderAnswer) else reply

    source.lie = shown
    newcomer = Node(lab, "new")
    newcomer.meets(source)
    newcomer.chain.expected = (height, vouched.block_id)
    assert not await newcomer.sync.fetch()
    assert "chain.checkpoint" in newcomer.host.alarm
    assert "StatePageRequest" not in source.asked
    assert newcomer.chain.head.height == 0


@pytest.mark.slow
@pytest.mark.parametrize("raw", ["", "other", "junk"])
async def test_without_the_checkpoints_header_no_state_is_fetched(lab, raw):
    (source,) = make_sources(lab, "a", keys=0)
    header = {"": b"", "other": source.chain.header_at(3).encoded, "junk": b"junk"}[raw]

    def shown(_request, reply):
        return HeaderAnswer(header=header) if isinstance(reply, HeaderAnswer) else reply

    source.lie = shown
    newcomer = Node(lab, "new")
    newcomer.meets(source)
    newcomer.chain.expected = (2, sha256(b"vouched for"))
    assert not await newcomer.sync.fetch()
    assert newcomer.host.alarm is None, "one peer's silence or lie proves nothing"
    assert "StatePageRequest" not in source.asked
    source.lie = None
    await newcomer.service.catch_up(source.peer)
    assert "chain.checkpoint" in newcomer.host.alarm, "by blocks the contradiction is certified"
    assert newcomer.chain.head.height == 0
