"""One scenario at level 1 (machines, simulated) and at level 3 (daemons in namespaces, measured).

    sudo python benchmarks/levels.py [sixteen-sites] [--mib 8] [--mbit R] [--nodes N] [--runs 1]

Prints one JSON line: makespans of both in fluid bounds, simulated ones as the median of the seeds;
the ratio of measured to simulated; and how busy the processors were while it was measured. A run in
which they were busier than 70 % is void: the processors were measured, not the links.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmd.simulation.processes.scenario_run import run_processes
from swarmd.simulation.processes.support import Isolation, check_processes
from swarmd.simulation.processes.swarm import BUSY_SHARE
from swarmd.simulation.scenario import LinkClass, Scenario
from swarmd.simulation.scenario_file import load_scenario, override
from swarmd.simulation.swarm import adapt, run_scenario
from swarmd.simulation.swarm_outcome import Outcome


def figures(outcome: Outcome) -> dict[str, float | None]:
    """Time until half, and until all, had the first release; what its seeder sent; finality."""
    release = outcome.releases[0]
    honest = outcome.nodes - outcome.bad_members
    times = [time / release.bound_s for time in release.finished_s]
    is_complete = len(times) >= honest
    final = release.final_s
    return {
        "p50": round(statistics.median(times), 3) if is_complete else None,
        "makespan": round(times[-1], 3) if is_complete else None,
        "seconds": round(times[-1] * release.bound_s, 2) if is_complete else None,
        "finality_s": None if final is None else round(final - release.published_s, 2),
        "seeder_images": seeder_images(outcome),
    }


def seeder_images(outcome: Outcome) -> float | None:
    """What the seeder sent, in sizes of the image."""
    try:
        measured = outcome.verdict("seeder-images").measured
    except KeyError:
        return None
    return None if measured is None else round(measured, 3)


def measured(scenario: Scenario, seed: int) -> Outcome:
    """Runs daemons in namespaces, their data in memory."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="levels-", dir=base))
    try:
        return run_processes(scenario, seed, folder / "network", Isolation.NAMESPACES)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_rate(link: LinkClass, mbit: float) -> LinkClass:
    return dataclasses.replace(link, up_mbit=mbit, down_mbit=mbit)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenario", nargs="?", default="sixteen-sites", help="a name or a file")
    parser.add_argument("--mib", type=int, default=8, help="size of the image; 0: the scenario's")
    parser.add_argument("--mbit", type=float, help="rate of all links instead of the scenario's")
    parser.add_argument("--nodes", type=int, help="gateways instead of the scenario's")
    parser.add_argument("--runs", type=int, default=1, help="measured runs")
    parser.add_argument("--seeds", type=int, default=3, help="simulated runs")
    options = parser.parse_args()
    scenario = adapt(load_scenario(options.scenario), nodes=options.nodes)
    if options.mib:
        scenario = override(scenario, {"image": {"size_kib": options.mib * 1024}})
    if options.mbit is not None:
        links = {name: _with_rate(each, options.mbit) for name, each in scenario.links.items()}
        scenario = dataclasses.replace(scenario, links=links)
    check_processes(scenario, Isolation.NAMESPACES)
    simulated = [figures(run_scenario(scenario, seed + 1)) for seed in range(options.seeds)]
    outcomes = [measured(scenario, seed + 1) for seed in range(options.runs)]
    real = [figures(outcome) for outcome in outcomes]
    shares = [outcome.cpu_share or 0.0 for outcome in outcomes]
    expected = statistics.median(each["makespan"] or float("inf") for each in simulated)
    found = statistics.median(each["makespan"] or float("inf") for each in real)
    report = {
        "benchmark": "simulation.levels",
        "scenario": scenario.name,
        "nodes": scenario.gateways.count,
        "mbit": [each.up_mbit for each in scenario.links.values()],
        "mib": scenario.image.size_kib / 1024,
        "bound_s": round(outcomes[0].releases[0].bound_s, 2),
        "simulated": simulated,
        "measured": real,
        "ratio": round(found / expected, 3) if found < float("inf") else None,
        "cpu_share": [round(share, 2) for share in shares],
        "nodes_cpu_s": [round(outcome.cpu_s or 0.0, 1) for outcome in outcomes],
        "measured_s": [round(outcome.simulated_s, 1) for outcome in outcomes],
        "is_void": any(share > BUSY_SHARE for share in shares),
        "broken": sorted({verdict.name for each in outcomes for verdict in each.failures}),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
