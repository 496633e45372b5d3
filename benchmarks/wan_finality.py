"""Finality of simulated validators over links of 50 to 150 ms, from proposal to final everywhere.

    python benchmarks/wan_finality.py [--seconds 60] [--n 4 7 16 32]

Production engine, oracle signatures, delays of disk and processor drawn as for an SSD. Each block
is timed from when its leader was asked for it until it is final at each validator. Prints one JSON
line for each size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ledger.block import Block
from ledger.simplex.interface import Build
from protocol.digest import BlockId
from swarmd.simulation.consensus_cluster import Cluster
from swarmd.simulation.consensus_events import fingerprint
from swarmd.simulation.consensus_host import ConsensusHost
from swarmd.simulation.consensus_store import Disk, Run
from swarmd.simulation.world import Link, World

WAN = Link(latency_s=0.05, jitter_s=0.1)
"""50 to 150 ms, uniform."""
SSD = Disk(sync_s=0.002, commit_s=0.0, compute_s=0.01)
"""A flush of up to 2 ms, 10 ms to execute a block."""


class TimedHost(ConsensusHost):
    """Notes when a block was asked for, and when it became final here."""

    asked_at: dict[BlockId, float]
    latencies_s: list[float]

    def _build(self, request: Build) -> Block | None:
        block = super()._build(request)
        if block is not None:
            self.asked_at[block.block_id] = self.cluster.world.now
        return block

    def _adopt(self, blocks: tuple[Block, ...], fillers: tuple[Block, ...], run: Run) -> None:
        super()._adopt(blocks, fillers, run)
        self.latencies_s += [
            self.cluster.world.now - self.asked_at[block.block_id] for block in blocks
        ]


def latencies_s(count: int, seconds: float, seed: int = 1) -> tuple[list[float], int]:
    """Times every block at every validator; returns the sorted times and the height reached."""
    world = World(seed, WAN, fingerprint)
    cluster = Cluster(world, count, disk=SSD)
    asked_at: dict[BlockId, float] = {}
    found: list[float] = []
    hosts = [TimedHost(cluster, process) for process in range(count)]
    for host in hosts:
        host.asked_at, host.latencies_s = asked_at, found
        host.set_pending(True)
        host.start()
    world.run_until(seconds)
    return sorted(found), hosts[0].final.height


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated")
    parser.add_argument("--n", type=int, nargs="+", default=[4, 7, 16, 32])
    arguments = parser.parse_args()
    for count in arguments.n:
        found, height = latencies_s(count, arguments.seconds)
        result = {
            "name": f"consensus.wan_finality/n={count}",
            "p50_s": round(statistics.median(found), 3),
            "p99_s": round(found[len(found) * 99 // 100], 3),
            "blocks_per_s": round(height / arguments.seconds, 2),
        }
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
