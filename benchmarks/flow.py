"""The flow model: what a release costs a fleet, and how far the model is from the simulations.

    python benchmarks/flow.py --gateways 1000000 --mib 64
    python benchmarks/flow.py --ledger --gateways 1000000
    python benchmarks/flow.py --check

Prints one line of JSON a case. `--check` compares with event-driven transfers of 16, 64 and 256
nodes; it takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocol.limits import KIB, MIB
from swarmd.simulation.flow import THIN, FlowFigures, FlowScenario, FlowStage, LinkClass
from swarmd.simulation.flow_ledger import LedgerScenario, run_ledger
from swarmd.simulation.flow_run import run_flow
from swarmd.simulation.links import NodeLink
from swarmd.simulation.transfer import link
from swarmd.simulation.transfer_scenarios import mixed_links, run_simple

FLEET_CLASSES = (
    LinkClass(share=0.1, uplink_bytes_per_s=THIN / 4, downlink_bytes_per_s=THIN / 4),
    LinkClass(share=0.1, uplink_bytes_per_s=THIN * 10, downlink_bytes_per_s=THIN * 10),
    LinkClass(share=0.7),
    LinkClass(share=0.1, uploads=False, is_polling=True),
)
"""A tenth slow, a tenth fast, a tenth metered, the rest of 20 Mbit/s."""
FLEET_STAGES = (
    FlowStage(share=0.01, soak_s=3600.0),
    FlowStage(share=0.1, soak_s=3600.0),
    FlowStage(share=1.0),
)
"""One in a hundred, one in ten, all; an hour each."""


def _emit(case: str, figures: FlowFigures, cpu_s: float) -> None:
    line = figures.as_dict()
    for name in ("curve", "origin_curve"):
        del line[name]
    line |= {
        "case": case,
        "makespan": round(figures.makespan, 3),
        "cpu_s": round(cpu_s, 2),
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(line), flush=True)


def _run(case: str, scenario: FlowScenario) -> None:
    start = time.process_time()
    figures = run_flow(scenario)
    _emit(case, figures, time.process_time() - start)


def _run_fleets(gateways: int, mib: float, seed: int) -> None:
    size = int(mib * MIB)
    _run("flash crowd", FlowScenario(gateways=gateways, image_bytes=size, seed=seed))
    _run(
        "staged fleet",
        FlowScenario(
            gateways=gateways,
            image_bytes=size,
            seed=seed,
            classes=FLEET_CLASSES,
            stages=FLEET_STAGES,
            gateways_per_site=3.0,
            gossip_hop_s=0.5,
        ),
    )


def _run_ledgers(gateways: int) -> None:
    for anchors in (0.0, 1.0, 24.0):
        figures = run_ledger(LedgerScenario(gateways=gateways, anchors_per_day=anchors))
        line = {"gateways": gateways, "anchors_per_day": anchors, **figures.as_dict()}
        print(json.dumps(line), flush=True)


def _classes_of(links: Sequence[NodeLink]) -> tuple[LinkClass, ...]:
    counts = Counter((each.uplink_bytes_per_s, each.downlink_bytes_per_s) for each in links)
    return tuple(
        LinkClass(share=count, uplink_bytes_per_s=up, downlink_bytes_per_s=down)
        for (up, down), count in counts.items()
    )


def _compare(
    case: str, links: Sequence[NodeLink], *, mib: int, seeder: float = THIN, chunk_kib: int = 16
) -> None:
    size = mib * MIB
    start = time.process_time()
    transfer = run_simple(
        1, size, links, seeders=[link(seeder)], chunk_bytes=chunk_kib * KIB
    ).figures()
    cpu_s = time.process_time() - start
    flow = run_flow(
        FlowScenario(
            gateways=len(links),
            image_bytes=size,
            classes=_classes_of(links),
            origin_uplink_bytes_per_s=seeder,
            peers=len(links),
            unit_bytes=chunk_kib * KIB,
        )
    )
    times = sorted(time for time in transfer.finished_s if time is not None)
    p50_s = times[(len(times) + 1) // 2 - 1]
    line = {
        "case": case,
        "mib": mib,
        "simulated": {"p50_s": p50_s, "max_s": times[-1], "origin": transfer.seeder_share},
        "flow": {"p50_s": flow.p50_s, "max_s": flow.makespan_s, "origin": flow.origin_bytes / size},
        "p50_off": round(flow.p50_s / p50_s - 1, 3),
        "max_off": round(flow.makespan_s / times[-1] - 1, 3),
        "cpu_s": round(cpu_s, 1),
    }
    print(json.dumps(line), flush=True)


def _check() -> None:
    _compare("equal 16", [link()] * 16, mib=16)
    _compare("mixed 16", mixed_links(16), mib=16)
    _compare("seeder 4x", [link()] * 16, mib=16, seeder=4 * THIN)
    _compare("down 5x, seeder 4x", [link(THIN, 5 * THIN)] * 16, mib=16, seeder=4 * THIN)
    _compare("equal 64", [link()] * 64, mib=4, chunk_kib=8)
    _compare("mixed 64", mixed_links(64), mib=16)
    _compare("equal 256", [link()] * 256, mib=4, chunk_kib=8)


def main() -> None:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gateways", type=int, default=100_000)
    parser.add_argument("--mib", type=float, default=64, help="size of the image")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ledger", action="store_true", help="chain and anchors instead")
    parser.add_argument("--check", action="store_true", help="compare with transfers instead")
    options = parser.parse_args()
    if options.check:
        _check()
    elif options.ledger:
        _run_ledgers(options.gateways)
    else:
        _run_fleets(options.gateways, options.mib, options.seed)


if __name__ == "__main__":
    main()
