"""What a metered gateway costs on the wire while nothing happens, over a whole simulated day.

    python benchmarks/metered_day.py [--hours 24]

Four validators, a publisher and two gateways, whole daemons on simulated time, a block every ten
minutes; the second gateway is metered. Counted are the bytes of its connections in both directions
from a minute after the start; headers of TCP and IP come on top, estimated: 52 bytes for each
piece sent and as many for its acknowledgement. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio

from swarmd.config_template import render_config
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.daemons.swarm import DaemonPlan, DaemonSwarm, daemon_swarm

METERED = "gateway-2"
SETTLE_S = 60.0
HEADER_BYTES = 52
"""IPv4 and TCP with timestamps."""


def meter(swarm: DaemonSwarm) -> None:
    """Makes the gateway a metered one."""
    directory = swarm.directory(METERED)
    config = directory.load_config()
    network = dataclasses.replace(config.network, metered=True)
    directory.config.write_text(render_config(dataclasses.replace(config, network=network)))


async def measure(hours: float, folder: Path) -> dict[str, object]:
    """Runs the time and counts."""
    plan = DaemonPlan(gateways=2, degree=6, heartbeat_ms=600_000, peer_exchange=True)
    async with daemon_swarm(plan, folder, seed=1) as swarm:
        meter(swarm)
        await swarm.start()
        await trio.sleep(SETTLE_S)
        before = swarm.network.carried(METERED)
        await trio.sleep(hours * 3600)
        after = swarm.network.carried(METERED)
        carried, pieces = after.bytes - before.bytes, after.pieces - before.pieces
        to_day = 24 / hours / 1e6
        return {
            "hours": hours,
            "mb_per_day": round(carried * to_day, 3),
            "with_headers_mb_per_day": round((carried + 2 * HEADER_BYTES * pieces) * to_day, 3),
            "pieces": pieces,
            "blocks": max((final.height for final in swarm.finals), default=0),
            "trace": swarm.network.trace_hash,
        }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=24.0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="metered-"))
    try:
        found = run_simulated(lambda: measure(options.hours, folder / "lab"), seed=1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"benchmark": "node.metered_day", **found}))


if __name__ == "__main__":
    main()
