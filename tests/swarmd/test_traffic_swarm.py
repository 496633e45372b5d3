"""Whole nodes that keep their bytes together: the off switch, and a metered gateway."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest

from swarmd.config import METERED_PEERS, NetworkSection
from swarmd.limits.service import TrafficOrders
from swarmd.services.exchange_relay_mode import RelayMode
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"an image").digest(300_000)


async def released(lab: Swarm, version: str) -> bytes:
    """Releases the image; returns its digest."""
    proposal = await lab.propose(IMAGE + version.encode(), version=version)
    await lab.approve(proposal)
    return proposal.manifest.components[0].digest


@pytest.mark.slow
async def test_off_means_off_also_after_a_restart(tmp_path: Path) -> None:
    everyone = (*VALIDATORS, "publisher-1", "gateway-1", "gateway-2")
    async with swarm(tmp_path) as lab:
        await lab.start(*everyone)
        await lab.until_met(*everyone)
        await lab["gateway-1"].data_plane.traffic.order(TrafficOrders(is_off=True))
        digest = await released(lab, "1.0")
        await until(lambda: lab.holds("gateway-2", digest), "gateway-2 has it")
        assert not lab.holds("gateway-1", digest)
        await lab.stop("gateway-1")
        await lab.start("gateway-1")
        await lab.until_met("gateway-1", "gateway-2")
        await lab.until_height(lab.height("publisher-1"), "gateway-1")
        assert lab["gateway-1"].data_plane.traffic.is_off
        assert lab["gateway-1"].exchange.statistics().peers == ()
        assert not lab.holds("gateway-1", digest), "the ledger is followed, the image is not"
        await lab["gateway-1"].data_plane.traffic.order(TrafficOrders())
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 has it, too")


@pytest.mark.slow
async def test_a_metered_gateway_keeps_to_two_peers_and_fetches_all_the_same(
    tmp_path: Path,
) -> None:
    others = (*VALIDATORS, "publisher-1", "gateway-1")
    async with swarm(tmp_path, heartbeat_ms=2000) as lab:
        lab.configure(
            "gateway-2",
            lambda config: dataclasses.replace(
                config, network=dataclasses.replace(config.network, metered=True)
            ),
        )
        await lab.start(*others)
        await lab.until_met(*others)
        await lab.start("gateway-2")
        node = lab["gateway-2"]
        await until(lambda: len(node.network.peers()) == METERED_PEERS, "two peers and no more")
        digest = await released(lab, "1.0")
        await until(lambda: lab.holds("gateway-2", digest), "it asked and fetched")
        await until(lambda: len(node.network.peers()) == METERED_PEERS, "two are enough again")
        assert node.network.listen_addresses == ()
        assert node.network.statistics().gossip_delivered == 0
        # A peer that goes is replaced by another one.
        gone = node.network.peers()[0]
        await node.network.disconnect(gone)
        await until(lambda: len(node.network.peers()) == METERED_PEERS, "two peers again")


def test_metering_leaves_nothing_on_that_serves_others() -> None:
    section = NetworkSection(metered=True, forward=True, peers_wanted=100)
    effective = section.effective()
    assert effective.listen == ()
    assert effective.peers_wanted == METERED_PEERS
    assert not effective.forward
    assert not effective.peer_exchange
    assert effective.relay is RelayMode.LEAF
    off = dataclasses.replace(section, relay=RelayMode.OFF)
    assert off.effective().relay is RelayMode.OFF
    free = NetworkSection()
    assert free.effective() is free
