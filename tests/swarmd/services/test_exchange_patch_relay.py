"""Patches and relays together: who waits for a patch is pushed no chunks of its component."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from chunks.memory_store import MemoryStore
from chunks.store import ImageState
from protocol.digest import sha256
from protocol.relay_events import RelaySettings
from tests.chunks.chunk_images import FIXED_1000, Sample
from tests.chunks.patches import patch_between
from tests.support.exchange_nodes import Network, Node, Uplink, open_memory_network
from tests.support.exchange_release import Image, Release, release_of
from tests.swarmd.services.test_exchange_patch import altered

pytestmark = pytest.mark.slow

RATE = 250_000.0
SETTINGS = RelaySettings()
OLD = random.Random(5).randbytes(400_000)
NEW = altered(OLD, every=600)
PATCH = patch_between(Sample(OLD, FIXED_1000), Sample(NEW, FIXED_1000))
RELEASE = release_of(2, (Image(NEW, 1000),), patches=((Image(PATCH, 512), sha256(OLD)),))


async def add(network: Network, name: str, *held: Release) -> Node:
    store = MemoryStore()
    for release in held:
        release.hold_all(store)
        release.hold_patches(store)
    node = await network.add(name, store, relays=SETTINGS)
    node.uplink = Uplink(RATE)
    return node


def is_whole(node: Node) -> bool:
    return node.store.record(sha256(NEW)).state is ImageState.COMPLETE


@pytest.fixture(params=[1, 2, 3])
def one_order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks that could run at once do so in one order each time: how long a fleet takes depends on
    it by a tenth, and Trio shuffles them."""
    monkeypatch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
    monkeypatch.setattr("trio._core._run._r", random.Random(request.param))


@pytest.mark.usefixtures("one_order")
async def test_a_fleet_of_which_some_have_the_base(autojump_clock: MockClock) -> None:
    older = release_of(1, (Image(OLD, 1000),))
    async with open_memory_network() as network:
        seeder = await add(network, "seeder", RELEASE)
        await seeder.service.offer(RELEASE.authorised)
        updated = [await add(network, f"updated{n}", older) for n in range(4)]
        fresh = [await add(network, f"fresh{n}") for n in range(2)]
        network.connect_all()
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            for node in (*updated, *fresh):
                nursery.start_soon(node.service.fetch, RELEASE.authorised)
        assert trio.current_time() - started < 2.5 * len(NEW) / RATE
        assert all(is_whole(node) for node in (*updated, *fresh))
        for node in updated:
            statistics = node.service.statistics()
            assert statistics.fetched_bytes == len(PATCH) < len(NEW) // 50
            assert statistics.blames == {}
        assert seeder.service.statistics().sent_bytes < 1.6 * len(NEW)


async def test_a_patch_is_relayed_like_any_object(autojump_clock: MockClock) -> None:
    older = release_of(1, (Image(OLD, 1000),))
    new = altered(OLD, every=12)
    patch = patch_between(Sample(OLD, FIXED_1000), Sample(new, FIXED_1000))
    release = release_of(2, (Image(new, 1000),), patches=((Image(patch, 4096), sha256(OLD)),))
    assert 50_000 < len(patch) < len(new) // 3
    async with open_memory_network() as network:
        seeder = await add(network, "seeder", release)
        await seeder.service.offer(release.authorised)
        gateways = [await add(network, f"gateway{n}", older) for n in range(6)]
        network.connect_all()
        async with trio.open_nursery() as nursery:
            for node in gateways:
                nursery.start_soon(node.service.fetch, release.authorised)
        assert all(node.store.record(sha256(new)).state is ImageState.COMPLETE for node in gateways)
        # Six of them, and the seeder did not send a patch to each.
        assert seeder.service.statistics().sent_bytes < 3 * len(patch)
