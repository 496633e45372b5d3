"""The exchange over lanes: real networks, real lanes, stores in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from chunks.memory_store import MemoryStore
from protocol.keys import PrivateKey
from swarmd.entropy import SeededEntropy
from swarmd.net.address import PeerKey
from swarmd.net.lane_service import LaneService, LaneSettings, LaneSurroundings
from swarmd.net.network import Network
from swarmd.services.exchange import ExchangeService
from swarmd.services.exchange_ports import StreamLike
from tests.support.exchange_nodes import Rules, Score
from tests.support.exchange_release import make_release
from tests.support.lanes import CHAIN, LIMIT_S
from tests.support.network_nodes import Rules as Admissions
from tests.support.network_nodes import node, seed, until

EXCHANGE = "/test/exchange/1"


class Gateway:
    """A network, lanes and an exchange, wired as a daemon wires them."""

    def __init__(self, number: int, network: Network, folder: Path, *, has_lanes: bool) -> None:
        self.network = network
        self.store = MemoryStore()
        self.score = Score()
        self.exchange = ExchangeService(
            own_key=network.peer,
            store=self.store,
            authority=Rules(),
            score=self.score,
            open_stream=self._open,
            entropy=SeededEntropy(number),
        )
        settings = LaneSettings(hosts=("127.0.0.1",), port=0, folder=folder)
        around = LaneSurroundings(
            network=network,
            chain=CHAIN,
            era=lambda: 0,
            key=PrivateKey(seed(number)),
            entropy=SeededEntropy(number),
            may_use=lambda _peer: True,
        )
        self.lanes = LaneService(
            settings if has_lanes else None, around, self.exchange.serve_stream
        )

    async def _open(self, peer: bytes) -> StreamLike:
        async def fall_back(peer: PeerKey) -> StreamLike:
            return await self.network.open_stream(peer, EXCHANGE)

        return await self.lanes.open_or(PeerKey(peer), fall_back)  # type: ignore[arg-type]

    def meet(self, other: Gateway) -> None:
        self.exchange.peer_connected(other.network.peer)
        other.exchange.peer_connected(self.network.peer)

    def suspend(self, other: Gateway) -> None:
        """What a daemon does when a peer loses its standing."""
        self.exchange.peer_disconnected(other.network.peer)
        self.lanes.peer_gone(other.network.peer)


@asynccontextmanager
async def gateway(number: int, folder: Path, *, has_lanes: bool = True) -> AsyncIterator[Gateway]:
    async with node(number, Admissions()) as network:
        one = Gateway(number, network, folder, has_lanes=has_lanes)
        network.handle(EXCHANGE, one.exchange.serve_stream, streams_per_peer_max=2, deadline_s=None)
        one.lanes.serve_protocol()
        await one.lanes.bind()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.lanes.run)
            await nursery.start(lambda task_status: one.exchange.run(task_status=task_status))
            yield one
            nursery.cancel_scope.cancel()


@pytest.mark.slow
@pytest.mark.parametrize("lacking", [(), (1,), (2,), (1, 2)])
async def test_an_image_comes_over_a_lane_or_without_one(
    tmp_path: Path, lacking: tuple[int, ...]
) -> None:
    release = make_release(1, (3_000_000, 5_000), chunk_bytes=16_000)
    with trio.fail_after(LIMIT_S):
        async with (
            gateway(1, tmp_path, has_lanes=1 not in lacking) as seeder,
            gateway(2, tmp_path, has_lanes=2 not in lacking) as leecher,
        ):
            release.hold_all(seeder.store)
            await seeder.exchange.offer(release.authorised)
            await leecher.network.connect(seeder.network.listen_addresses)
            seeder.meet(leecher)
            await leecher.exchange.fetch(release.authorised)
            statistics = leecher.exchange.statistics()
            assert statistics.fetched_bytes == 3_005_000
            assert not leecher.score.blames
            by_lane = leecher.lanes.statistics().received_bytes
            assert by_lane > 3_000_000 if not lacking else by_lane == 0


@pytest.mark.slow
@pytest.mark.parametrize("who", ["seeder", "leecher"])
async def test_a_suspension_in_full_transfer_ends_it_within_a_second(
    tmp_path: Path, who: str
) -> None:
    release = make_release(2, (60_000_000,), chunk_bytes=60_000)
    with trio.fail_after(3 * LIMIT_S):
        async with gateway(1, tmp_path) as seeder, gateway(2, tmp_path) as leecher:
            release.hold_all(seeder.store)
            await seeder.exchange.offer(release.authorised)
            await leecher.network.connect(seeder.network.listen_addresses)
            seeder.meet(leecher)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leecher.exchange.fetch, release.authorised)
                await until(lambda: leecher.exchange.statistics().fetched_bytes > 0)
                started = trio.current_time()
                if who == "seeder":
                    seeder.suspend(leecher)
                else:
                    leecher.suspend(seeder)
                await until(lambda: not seeder.exchange.statistics().peers)
                await until(lambda: seeder.lanes.statistics().open == 0)
                assert trio.current_time() - started <= 1.0
                sent = seeder.lanes.statistics().sent_bytes
                assert sent < 60_000_000
                nursery.cancel_scope.cancel()
            assert not leecher.score.blames
            assert not seeder.score.blames
