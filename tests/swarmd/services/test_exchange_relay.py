"""The exchange service takes part in relays: one copy from the seeder reaches everybody."""

from __future__ import annotations

import trio
from trio.testing import MockClock

from chunks.memory_store import MemoryStore
from chunks.store import ImageState
from protocol.digest import sha256
from protocol.relay_events import RelaySettings
from tests.support.exchange_nodes import Network, Node, Uplink, open_memory_network
from tests.support.exchange_release import Release, make_release

RATE = 250_000.0
SETTINGS = RelaySettings()


async def add(network: Network, name: str, release: Release, *, holds: bool) -> Node:
    store = MemoryStore()
    if holds:
        release.hold_all(store)
    node = await network.add(name, store, relays=SETTINGS)
    node.uplink = Uplink(RATE)
    if holds:
        await node.service.offer(release.authorised)
    return node


def holds(node: Node, release: Release) -> bool:
    return node.store.record(sha256(release.images[0].data)).state is ImageState.COMPLETE


async def test_a_seeder_sends_one_copy_and_the_others_the_rest(autojump_clock: MockClock) -> None:
    release = make_release(3, (400_000,), chunk_bytes=4096)
    async with open_memory_network() as network:
        seeder = await add(network, "seeder", release, holds=True)
        leechers = [await add(network, f"leech{n}", release, holds=False) for n in range(4)]
        network.connect_all()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for leecher in leechers:
                nursery.start_soon(leecher.service.fetch, release.authorised)
        took = trio.current_time() - started
        sent = seeder.service.statistics().sent_bytes
        assert all(holds(leecher, release) for leecher in leechers)
        assert sent < 1.3 * 400_000
        assert took < 1.5 * 400_000 / RATE
