"""The exchange service takes part in relays: one copy from the seeder reaches everybody."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from chunks.memory_store import MemoryStore
from chunks.store import ImageState
from protocol.digest import sha256
from protocol.relay_events import RelaySettings
from swarmd.services import exchange_fetch
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


@pytest.mark.slow
async def test_receivers_of_fast_links_leave_the_relay_and_serve_each_other_by_asking(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 2_000_000
    release = make_release(13, (size,), chunk_bytes=4096)
    async with open_memory_network() as network:
        seeder = await add(network, "seeder", release, holds=True)
        leechers = [await add(network, f"leech{n}", release, holds=False) for n in range(3)]
        network.connect_all()
        monkeypatch.setattr(exchange_fetch, "PUSHED_BYTES_PER_S_MAX", RATE / 4)
        with trio.fail_after(3 * size / RATE):
            async with trio.open_nursery() as nursery:
                for leecher in leechers:
                    nursery.start_soon(leecher.service.fetch, release.authorised)
        assert all(holds(leecher, release) for leecher in leechers)
        pushed = [
            statistics.pushed_bytes
            for leecher in leechers
            for _, statistics in leecher.service.relay_statistics()
        ]
        assert 0 < sum(pushed) < size
        assert seeder.service.statistics().sent_bytes < 2.5 * size


async def test_who_refuses_pushes_midway_is_told_what_everybody_holds(
    autojump_clock: MockClock,
) -> None:
    size = 400_000
    release = make_release(14, (size,), chunk_bytes=4096)
    async with open_memory_network() as network:
        await add(network, "seeder", release, holds=True)
        leechers = [await add(network, f"leech{n}", release, holds=False) for n in range(3)]
        network.connect_all()
        with trio.fail_after(6 * size / RATE):
            async with trio.open_nursery() as nursery:
                for leecher in leechers:
                    nursery.start_soon(leecher.service.fetch, release.authorised)
                await trio.sleep(0.5 * size / RATE)
                leechers[0].service.refuse_pushes()
        assert all(holds(leecher, release) for leecher in leechers)
