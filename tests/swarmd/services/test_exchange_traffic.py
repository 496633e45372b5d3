"""Rates and the off switch, with whole exchange services over streams in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from chunks.memory_store import MemoryStore
from protocol.digest import ManifestId
from protocol.exchange_events import Send
from protocol.exchange_messages import BITFIELD_BYTES_MAX, BitfieldMessage
from protocol.limits import KIB
from swarmd.limits.rates import RatePlan, Rates
from swarmd.limits.service import TrafficService
from tests.support.exchange_nodes import Network, Node, open_memory_network, stream_pair
from tests.support.exchange_release import Release, make_release


def limits(folder: Path, rates: Rates) -> TrafficService:
    return TrafficService(
        RatePlan(general=rates), folder=folder, time_ms=lambda: 0, is_near=lambda _peer: False
    )


async def seeders(network: Network, release: Release, count: int) -> list[Node]:
    nodes = []
    for number in range(count):
        store = MemoryStore()
        release.hold_all(store)
        nodes.append(await network.add(f"seeder{number}", store))
        await nodes[-1].service.offer(release.authorised)
    return nodes


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("chunk_bytes", [16_000, 60_000])
async def test_a_download_takes_as_long_as_its_rate_says(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, count: int, chunk_bytes: int
) -> None:
    rate, size = 256 * KIB, 256 * KIB * 20
    release = make_release(1, (size,), chunk_bytes=chunk_bytes)
    async with open_memory_network() as network:
        await seeders(network, release, count)
        leecher = await network.add(
            "leecher", MemoryStore(), traffic=limits(tmp_path, Rates(down=rate))
        )
        network.connect_all()
        started = trio.current_time()
        await leecher.service.fetch(release.authorised)
        assert size / (trio.current_time() - started) == pytest.approx(rate, rel=0.05)
        assert not leecher.score.blames
        assert leecher.service.statistics().fetched_bytes == size


async def test_a_pause_ends_exchange_and_a_resumption_completes_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    release = make_release(2, (2_000_000,), chunk_bytes=10_000)
    async with open_memory_network() as network:
        (seeder,) = await seeders(network, release, 1)
        leecher = await network.add("leecher", MemoryStore())
        network.connect_all()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leecher.service.fetch, release.authorised)
            while not leecher.service.statistics().fetched_bytes:
                await trio.lowlevel.checkpoint()
            leecher.service.pause()
            await trio.sleep(1)
            paused_at = leecher.service.statistics().fetched_bytes
            assert paused_at < 2_000_000
            assert leecher.service.statistics().peers == ()
            await trio.sleep(3600)
            assert leecher.service.statistics().fetched_bytes == paused_at
            # Whoever opens a stream to a paused node is turned away, too.
            other = await network.open(seeder, leecher.key)
            assert await other.receive_frame() is None or other.is_broken
            leecher.service.resume()
        assert leecher.service.statistics().fetched_bytes == 2_000_000
        assert not leecher.score.blames
        assert not seeder.score.blames


@pytest.mark.parametrize("up", [None, 16 * KIB])
async def test_who_cannot_read_because_of_our_own_rate_is_not_blamed(
    tmp_path: Path, up: int | None
) -> None:
    async with open_memory_network() as network:
        node = await network.add("node", MemoryStore(), traffic=limits(tmp_path, Rates(up=up)))
        near, _ = stream_pair(node.key, b"peer".ljust(32, b"."))
        link = node.service.make_link(near, is_ours=True)
        message = BitfieldMessage(
            manifest_id=ManifestId(bytes(32)), component=0, bits=bytes(BITFIELD_BYTES_MAX)
        )
        while not link.is_closed:
            link.send(Send(peer=link.peer, message=message))
        assert (link.offence is None) is (up is not None)
