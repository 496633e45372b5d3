"""How much faster than reality a swarm of whole daemons runs on simulated time.

    python benchmarks/daemon_swarm.py [--gateways 45] [--seconds 600] [--seed 1] [--mib 1]

Four validators, a publisher and gateways, all of them the daemon's own code with libp2p, gossip and
stores on disk, in one process. Prints one JSON line: simulated and real seconds of joining, of one
release reaching everybody, and of idling; and the trace's hash, which is equal for equal seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio

from swarmd.simulation.daemons.runtime import replayable, run_simulated
from swarmd.simulation.daemons.swarm import DaemonPlan, daemon_swarm


class Watch:
    """Real and simulated seconds of each phase."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self._real, self._simulated = time.perf_counter(), trio.current_time()

    def note(self, name: str) -> None:
        """Ends a phase."""
        real, simulated = time.perf_counter(), trio.current_time()
        self.phases[name] = {
            "simulated_s": round(simulated - self._simulated, 3),
            "real_s": round(real - self._real, 2),
        }
        self._real, self._simulated = real, simulated


async def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Runs the phases."""
    plan = DaemonPlan(gateways=options.gateways)
    image = hashlib.shake_256(b"%d" % options.seed).digest(options.mib << 20)
    async with daemon_swarm(plan, folder, seed=options.seed) as swarm:
        watch = Watch()
        await swarm.start()
        await trio.sleep(10)
        watch.note("join")
        release = await swarm.release(image)
        everybody = set(swarm.gateways)
        await swarm.until(lambda: set(swarm.holders(release)) == everybody, "all hold it")
        watch.note("release")
        await trio.sleep(options.seconds)
        watch.note("idle")
        return {
            "nodes": len(swarm.names),
            "phases": watch.phases,
            "blocks": max(final.height for final in swarm.finals),
            "disagreements": len(swarm.disagreements()),
            "sent_mib": round(swarm.network.sent_bytes / 2**20, 2),
            "trace": swarm.network.trace_hash,
        }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gateways", type=int, default=45)
    parser.add_argument("--seconds", type=float, default=600.0, help="simulated, idle at the end")
    parser.add_argument("--mib", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not replayable():
        # Before anything is imported that keeps a set of strings.
        os.execve(
            sys.executable, [sys.executable, *sys.argv], {**os.environ, "PYTHONHASHSEED": "0"}
        )
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="daemons-", dir=base))
    try:
        found = run_simulated(lambda: measure(options, folder / "lab"), seed=options.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({"benchmark": "simulation.daemons", "seed": options.seed, **found}))


if __name__ == "__main__":
    main()
