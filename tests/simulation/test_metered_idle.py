"""A metered gateway while nothing happens: what it sends, and how news reaches it all the same."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import trio

from ledger.records.manifest import ManifestStatus
from protocol.manifest import SignedManifest
from swarmd.config_template import render_config
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.daemons.swarm import GROUP, DaemonPlan, DaemonSwarm, daemon_swarm
from swarmd.simulation.daemons.wire import Carried

METERED = "gateway-2"
HEARTBEAT_S = 600
SILENCE_S = 1.5 * HEARTBEAT_S
IMAGE = hashlib.shake_256(b"metered").digest(60_000)
HOUR_S = 3600.0
DAY_BYTES = 500_000
"""All of a day, headers included (docs/spec/traffic.md, M17)."""
HEADER_BYTES = 52
KEEPALIVE_BYTES = 24 * 12 * 2 * 2 * HEADER_BYTES
"""Of a day: a probe and its answer every 300 s on two connections, though there were silence."""
PIECES_PER_HOUR = 30
"""Four rounds of two questions and two answers, and one of freshness: 20; and some spare."""


def meter(swarm: DaemonSwarm) -> None:
    directory = swarm.directory(METERED)
    config = directory.load_config()
    network = dataclasses.replace(config.network, metered=True)
    directory.config.write_text(render_config(dataclasses.replace(config, network=network)))


def is_revoked(swarm: DaemonSwarm, name: str, release: SignedManifest) -> bool:
    record = swarm[name].ledger.chain.state.manifest(release.manifest_id, GROUP)
    return record is not None and record.status is ManifestStatus.REVOKED


async def spend(swarm: DaemonSwarm, seconds: float) -> Carried:
    """Lets time pass; returns what the metered gateway's connections carried meanwhile."""
    before = swarm.network.carried(METERED)
    await trio.sleep(seconds)
    after = swarm.network.carried(METERED)
    return Carried(after.bytes - before.bytes, after.pieces - before.pieces)


async def scenario(swarm: DaemonSwarm) -> None:
    meter(swarm)
    await swarm.start()
    release = await swarm.release(IMAGE)
    await swarm.until(lambda: swarm.holds(METERED, release), "it fetched", limit_s=SILENCE_S + 60)
    metered = swarm[METERED]
    await swarm.until(lambda: not metered.submission._waiting, "its receipt is final")
    await trio.sleep(60)
    assert metered.freshness.is_current
    idle = await spend(swarm, HOUR_S)
    assert idle.pieces <= PIECES_PER_HOUR
    day_bytes = 24 * (idle.bytes + 2 * HEADER_BYTES * idle.pieces) + KEEPALIVE_BYTES
    assert day_bytes <= DAY_BYTES
    # Started anew, with the rest of a day, it keeps the limit, too.
    await swarm.stop(METERED)
    before = swarm.network.carried(METERED)
    await swarm.start(METERED)
    await swarm.until(lambda: swarm[METERED].freshness.is_current, "it knows that it is current")
    await trio.sleep(60)
    after = swarm.network.carried(METERED)
    again = after.bytes - before.bytes + 2 * HEADER_BYTES * (after.pieces - before.pieces)
    assert day_bytes + again <= DAY_BYTES
    # News comes in time, also when the first of its two peers keeps silent about it.
    first = swarm[METERED].network.peers()[0]
    silent = next(name for name in swarm.names if swarm.peer(name) == first)
    swarm.network.cut({silent}, {METERED})
    await swarm.revoke(release)
    took_s = await swarm.until(
        lambda: is_revoked(swarm, METERED, release), "it knows", limit_s=SILENCE_S + 60
    )
    assert took_s <= SILENCE_S + 60, "one round and the patience for one answer"
    await swarm.until(lambda: not swarm.complete_images(METERED), "and keeps the image no more")
    assert swarm.disagreements() == ()
    assert swarm.offences() == 0


@pytest.mark.slow
def test_a_metered_gateway_is_quiet_and_hears_of_a_revocation_in_time(tmp_path: Path) -> None:
    plan = DaemonPlan(gateways=2, degree=6, heartbeat_ms=HEARTBEAT_S * 1000, peer_exchange=True)

    async def main() -> None:
        async with daemon_swarm(plan, tmp_path / "lab", seed=3) as swarm:
            await scenario(swarm)

    run_simulated(main, seed=3)
