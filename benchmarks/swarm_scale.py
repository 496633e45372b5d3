"""One image to thousands of nodes, by the production machines: one line of JSON.

    python benchmarks/swarm_scale.py --pull --nodes 2600 --mib 2862 --uplink-mbit 2400 --processes 2

Times are simulated and in fluid bounds; `cpu_s`, `us_per_delivery` and `rss_mib` say what the
simulation cost. One seed and one number of processes give one `trace`. The exit code is 1 if a node
did not finish.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocol.limits import KIB, MIB
from swarmd.simulation.crowd import Crowd, CrowdScenario
from swarmd.simulation.large_pages import ask_for_large_pages
from swarmd.simulation.links import NodeLink


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--mib", type=float, default=256, help="size of the image")
    parser.add_argument("--unit-kib", type=int, default=1024, help="size of its chunks")
    parser.add_argument("--uplink-mbit", type=float, default=200)
    parser.add_argument("--downlink-mbit", type=float, help="default: as the uplink")
    parser.add_argument("--seeder-mbit", type=float, help="uplink of the seeder; default: the same")
    parser.add_argument("--delay-ms", type=float, default=20, help="one way")
    parser.add_argument("--peers", type=int, default=16, help="of each node")
    parser.add_argument("--seeder-peers", type=int, default=64)
    parser.add_argument("--pull", action="store_true", help="nobody relays")
    parser.add_argument("--tick-ms", type=float, default=20, help="how late timers may be")
    parser.add_argument("--processes", type=int, default=1, help="1 or 2")
    parser.add_argument("--until-s", type=float, default=3600, help="simulated; when to give up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--large-pages", action="store_true", help="ask Linux for them")
    parser.add_argument("--progress", action="store_true", help="on standard error")
    return parser.parse_args()


def _tell(now: float, share: float) -> None:
    print(
        f"{now:9.2f} s simulated, {share:7.2%} held, cpu {time.process_time():.0f} s",
        file=sys.stderr,
    )


def _cpu_s() -> float:
    """Processor time of this process and those that ended, seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _rss_mib() -> int:
    """Peak memory, of both processes together where there were two."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(kind).ru_maxrss for kind in kinds) // 1024


def main() -> int:
    """Runs one transfer as the command line says."""
    options = _arguments()
    up = options.uplink_mbit * 125_000
    down = up if options.downlink_mbit is None else options.downlink_mbit * 125_000
    given = up if options.seeder_mbit is None else options.seeder_mbit * 125_000
    wall, cpu = time.perf_counter(), _cpu_s()
    # Machines and events make no cycles: looking for some among millions of objects costs a fifth.
    gc.disable()
    crowd = Crowd(
        CrowdScenario(
            nodes=options.nodes,
            image_bytes=int(options.mib * MIB),
            unit_bytes=options.unit_kib * KIB,
            links=(NodeLink(uplink_bytes_per_s=up, downlink_bytes_per_s=down),),
            seeder=NodeLink(uplink_bytes_per_s=given, downlink_bytes_per_s=down),
            peers=options.peers,
            seeder_peers=options.seeder_peers,
            delay_s=options.delay_ms / 1000,
            is_relayed=not options.pull,
            tick_s=options.tick_ms / 1000,
            processes=options.processes,
            seed=options.seed,
        )
    )
    gc.freeze()
    tune = ask_for_large_pages if options.large_pages else None
    crowd.run(options.until_s, _tell if options.progress else None, tune)
    figures = crowd.figures()
    cpu_s, wall_s = _cpu_s() - cpu, time.perf_counter() - wall
    line = {
        "nodes": options.nodes,
        "mib": options.mib,
        "unit_kib": options.unit_kib,
        "uplink_mbit": options.uplink_mbit,
        "delay_ms": options.delay_ms,
        "peers": options.peers,
        "relayed": not options.pull,
        "seed": options.seed,
        "processes": options.processes,
        "complete": figures.is_complete,
        "finished": len(figures.finished_s),
        "bound_s": round(figures.bound_s, 3),
        "p50": round(figures.ratio(0.5), 3),
        "p99": round(figures.ratio(0.99), 3),
        "max": round(figures.ratio(1.0), 3),
        "seeder_share": round(figures.seeder_share, 3),
        "origin_share": round(figures.seeder_share / options.nodes, 5),
        "duplicates": round(figures.duplicate_share, 5),
        "control": round(figures.control_share, 5),
        "deliveries": figures.deliveries,
        "events": figures.events,
        "events_per_cpu_s": round(figures.events / cpu_s),
        "us_per_delivery": round(cpu_s / figures.deliveries * 1e6),
        "cpu_s": round(cpu_s, 1),
        "wall_s": round(wall_s, 1),
        "rss_mib": _rss_mib(),
        "trace": figures.trace_hash,
    }
    print(json.dumps(line), flush=True)
    return 0 if figures.is_complete else 1


if __name__ == "__main__":
    sys.exit(main())
