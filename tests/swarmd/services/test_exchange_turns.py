"""The exchange service shares its uplink by need: peers that ask again and again, and others."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chunks.memory_store import MemoryStore
from chunks.store import ImageState
from protocol.digest import sha256
from protocol.errors import TransportError
from protocol.exchange_messages import Chunks, Reject, Request, decode_exchange, encode_exchange
from protocol.relay_events import RelaySettings
from protocol.relay_messages import is_relay_kind
from protocol.runs import Runs
from tests.support.exchange_nodes import Network, Node, Uplink, open_memory_network, stream_pair
from tests.support.exchange_release import Release, make_release

SIZE = 1_500_000
RATE = 500_000.0
FASTER = 2_500_000.0
GREEDY = 4


class GreedyPlayer:
    """A member that asks a node for the whole image, and for each answer again."""

    def __init__(self, number: int, release: Release, node: Node) -> None:
        self.key = b"greedy %d" % number + bytes(24)
        self.release = release
        self.node = node
        self.got_bytes = 0
        self._asked = 0

    async def run(self, network: Network) -> None:
        ours, theirs = stream_pair(self.key, self.node.key)
        theirs.uplink = self.node.uplink
        network.nursery.start_soon(self.node.service.serve_stream, theirs)
        try:
            for _ in range(8):
                await ours.send_frame(self._request())
            while (body := await ours.receive_frame()) is not None:
                if is_relay_kind(body[0]):
                    continue
                answer = decode_exchange(body)
                if isinstance(answer, Chunks):
                    self.got_bytes += answer.payload_bytes
                if isinstance(answer, Chunks | Reject):
                    await ours.send_frame(self._request())
        except TransportError:
            pass  # the network is closed

    def _request(self) -> bytes:
        count = len(self.release.images[0].chunks)
        self._asked += 1
        first = 16 * self._asked % count
        return encode_exchange(
            Request(
                request_id=self._asked,
                manifest_id=self.release.authorised.manifest_id,
                component=0,
                indices=Runs.of(range(first, min(first + 16, count))),
            )
        )


async def add(
    network: Network, name: str, release: Release, *, holds: bool, rate: float = RATE
) -> Node:
    store = MemoryStore()
    if holds:
        release.hold_all(store)
    node = await network.add(name, store, relays=RelaySettings())
    node.uplink = Uplink(rate)
    if holds:
        await node.service.offer(release.authorised)
    return node


def holds(node: Node, release: Release) -> bool:
    return node.store.record(sha256(release.images[0].data)).state is ImageState.COMPLETE


@pytest.mark.slow
async def test_a_newcomer_is_served_beside_members_that_were_given_everything(
    autojump_clock: MockClock,
) -> None:
    release = make_release(5, (SIZE,), chunk_bytes=8192)
    async with open_memory_network() as network:
        seeder = await add(network, "seeder", release, holds=True)
        greedy = [GreedyPlayer(number, release, seeder) for number in range(GREEDY)]
        for player in greedy:
            network.nursery.start_soon(player.run, network)
        await trio.sleep(1.5 * GREEDY * SIZE / RATE)
        assert all(player.got_bytes > 1.2 * SIZE for player in greedy)
        before = sum(player.got_bytes for player in greedy)
        newcomer = await add(network, "newcomer", release, holds=False)
        network.connect_all()
        started = trio.current_time()
        await newcomer.service.fetch(release.authorised)
        took = trio.current_time() - started
        assert holds(newcomer, release)
        # What is under way takes a second. A fifth of the uplink would make it more than 15 s.
        assert took < 3.5 * SIZE / RATE
        given = sum(player.got_bytes for player in greedy) - before
        assert given > 0
        await trio.sleep(4.0)
        later = sum(player.got_bytes for player in greedy) - before - given
        assert later > 2.0 * RATE, "what nobody needs is not kept back"
        assert not seeder.score.blames


@pytest.mark.slow
async def test_a_relay_is_not_held_up_by_members_that_ask_for_everything(
    autojump_clock: MockClock,
) -> None:
    release = make_release(6, (SIZE,), chunk_bytes=8192)
    async with open_memory_network() as network:
        seeder = await add(network, "seeder", release, holds=True, rate=FASTER)
        greedy = [GreedyPlayer(number, release, seeder) for number in range(GREEDY)]
        leechers = [
            await add(network, f"leech{n}", release, holds=False, rate=FASTER) for n in range(4)
        ]
        network.connect_all()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for player in greedy:
                network.nursery.start_soon(player.run, network)
            for leecher in leechers:
                nursery.start_soon(leecher.service.fetch, release.authorised)
        took = trio.current_time() - started
        assert all(holds(leecher, release) for leecher in leechers)
        pushed = [
            statistics.pushed_bytes
            for leecher in leechers
            for _, statistics in leecher.service.relay_statistics()
        ]
        assert min(pushed) > 0.5 * SIZE
        # Frames of before the relay began leave first: 2 MiB. Without turns it takes four times as
        # long.
        assert took < 7.0 * SIZE / FASTER
