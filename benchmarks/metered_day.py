"""What a metered gateway costs on the wire while nothing happens, over a whole simulated day.

    python benchmarks/metered_day.py [--hours 24] [--image]

Four validators, a publisher and two gateways, whole daemons on simulated time, a block every ten
minutes; the second gateway is metered. Its connections are counted in both directions from a minute
after the start: by protocol and cause (`benchmarks/wire_tap.py`), and as packets of TCP
(`benchmarks/tcp_cost.py` states what is assumed). At the end it is started anew, and what that
costs within a minute is told, too. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio

from benchmarks.tcp_cost import ENDING_BYTES, HEADER_BYTES, OPENING_BYTES, Cost, cost
from benchmarks.wire_tap import Tally, Timeline, tapped
from swarmd.config_template import render_config
from swarmd.net.keepalive import KEEPALIVE_ACCEPTED_IDLE_S, KEEPALIVE_METERED_IDLE_S
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.daemons.swarm import DaemonPlan, DaemonSwarm, daemon_swarm

METERED = "gateway-2"
SETTLE_S = 60.0
"""Connections and hello are over by then."""
IMAGE = hashlib.shake_256(b"an image").digest(300_000)
_IDLE_S = (KEEPALIVE_METERED_IDLE_S, KEEPALIVE_ACCEPTED_IDLE_S)


def meter(swarm: DaemonSwarm) -> None:
    """Makes the gateway a metered one."""
    directory = swarm.directory(METERED)
    config = directory.load_config()
    network = dataclasses.replace(config.network, metered=True)
    directory.config.write_text(render_config(dataclasses.replace(config, network=network)))


def causes(tally: Tally) -> dict[str, list[int]]:
    """Pieces and bytes of each cause, the greatest first."""
    return {cause: [tally.pieces[cause], size] for cause, size in tally.bytes.most_common() if size}


def packets(found: Cost) -> dict[str, int]:
    """How many packets of which kind."""
    return {
        "payload_bytes": found.payload_bytes,
        "segments": found.segments,
        "acknowledgements": found.acknowledgements,
        "acknowledgements_at_most": found.segments,
        "keepalive": found.probes,
        "bytes": found.bytes,
        "bytes_at_most": found.bound_bytes,
    }


async def measure(
    hours: float, folder: Path, *, heartbeat_ms: int = 600_000, has_image: bool = False
) -> dict[str, object]:
    """Runs the time and counts."""
    plan = DaemonPlan(gateways=2, degree=6, heartbeat_ms=heartbeat_ms, peer_exchange=True)
    trip_s, timeline = 2 * plan.link.latency_s, Timeline()
    async with daemon_swarm(plan, folder, seed=1) as swarm:
        meter(swarm)
        network = swarm.network
        network.wire_of(METERED, plan.link)  # the first one: its number is 0
        carry = network.carry

        def noted(source: Any, target: Any, size_bytes: int) -> float:
            timeline.note(0, source.number, target.number, size_bytes)
            return carry(source, target, size_bytes)

        def costs(start_s: float) -> Cost:
            now = trio.current_time()
            others = [name for name in swarm.names if name != METERED]  # started in this order
            open_now = set(swarm[METERED].network.peers())
            still = {n for n, name in enumerate(others, 1) if swarm.peer(name) in open_now}
            sent = timeline.used(start_s, still)
            return cost(sent, start_s=start_s, end_s=now, trip_s=trip_s, idle_s=_IDLE_S)

        with mock.patch.object(network, "carry", noted), tapped(swarm.peer(METERED)) as tally:
            await swarm.start()
            if has_image:
                release = await swarm.release(IMAGE)
                await swarm.until(lambda: swarm.holds(METERED, release), "it is fetched")
            await trio.sleep(SETTLE_S)
            first, start_s = tally.copy(), trio.current_time()
            await trio.sleep(hours * 3600)
            day, found = tally.since(first), costs(start_s)
            blocks = max((final.height for final in swarm.finals), default=0)
            before, again_s = tally.copy(), trio.current_time()
            await swarm.stop(METERED)
            await swarm.start(METERED)
            await trio.sleep(SETTLE_S)
            again, anew = costs(again_s), tally.since(before)
        to_day = 24 / hours / 1e6
        turned = anew.connections * (OPENING_BYTES + ENDING_BYTES)
        return {
            "hours": hours,
            "mb_per_day": round(found.payload_bytes * to_day, 3),
            "with_headers_mb_per_day": round(found.bytes * to_day, 3),
            "at_most_mb_per_day": round(found.bound_bytes * to_day, 3),
            "packets": packets(found),
            "header_bytes": HEADER_BYTES,
            "framing_bytes": day.framing_bytes,
            "causes": causes(day),
            "restart_at_most_bytes": again.bound_bytes + turned,
            "restart_causes": causes(anew),
            "new_connections": day.connections,
            "blocks": blocks,
            "trace": network.trace_hash,
        }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--image", action="store_true", help="it fetches one before")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="metered-"))
    try:
        found = run_simulated(
            lambda: measure(options.hours, folder / "lab", has_image=options.image), seed=1
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"benchmark": "node.metered_day", **found}))


if __name__ == "__main__":
    main()
