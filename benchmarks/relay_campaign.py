"""Runs every named transfer over several seeds in the simulator and prints a table.

    python benchmarks/relay_campaign.py --seeds 5 --state .cache/relay.json

Makespans are in fluid bounds (`swarmd/simulation/transfer.py`); of the seeds, the median and the
worst are shown. With `--state FILE` an interrupted campaign goes on where it stopped. `--only` and
`--mib` choose; the exit code is 1 if a transfer did not complete.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocol.limits import MIB
from swarmd.simulation.transfer_scenarios import SCENARIOS


@dataclass(frozen=True, slots=True)
class Row:
    """One run of one scenario."""

    name: str
    seed: int
    mib: float
    main: float
    makespan: float
    mean: float
    seeder: float
    duplicates: float
    control: float
    pipe: float
    cpu_s: float


def _run(task: tuple[str, int, float | None]) -> Row:
    name, seed, mib = task
    scenario, size = SCENARIOS[name]
    image_bytes = size if mib is None else int(mib * MIB)
    start = time.process_time()
    outcome = scenario(seed, image_bytes)
    figures = outcome.figures
    return Row(
        name=name,
        seed=seed,
        mib=image_bytes / MIB,
        main=outcome.main,
        makespan=figures.makespan,
        mean=figures.mean,
        seeder=figures.seeder_share,
        duplicates=figures.duplicate_share,
        control=figures.control_share,
        pipe=figures.pipe_share,
        cpu_s=time.process_time() - start,
    )


def _load(path: Path | None) -> list[Row]:
    if path is None or not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]


def _save(path: Path | None, rows: list[Row]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
        fresh.replace(path)


def _print_table(rows: list[Row]) -> None:
    print(f"{'scenario':24} main  worst  all    mean  seeder  dup    ctl    pipe  seeds  cpu s")
    for name in dict.fromkeys(row.name for row in rows):
        chosen = [row for row in rows if row.name == name]

        def median(field: str, chosen: list[Row] = chosen) -> float:
            return float(statistics.median(getattr(row, field) for row in chosen))

        print(
            f"{name:24} {median('main'):.3f} {max(row.main for row in chosen):.3f} "
            f"{median('makespan'):.3f} {median('mean'):.3f} {median('seeder'):.3f} "
            f"{median('duplicates'):6.2%} {median('control'):6.2%} {median('pipe'):.2f} "
            f"{len(chosen):5} {median('cpu_s'):7.1f}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each scenario")
    parser.add_argument("--only", nargs="*", default=[], help="names, or beginnings of names")
    parser.add_argument("--mib", type=float, help="size of the image; default: the scenario's own")
    parser.add_argument("--state", type=Path, help="file to resume from and to write")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def main() -> int:
    """Runs the campaign as the command line says."""
    options = _arguments()
    chosen = [
        name
        for name in SCENARIOS
        if not options.only or any(name.startswith(start) for start in options.only)
    ]
    rows = _load(options.state)
    done = {(row.name, row.seed, row.mib) for row in rows}
    tasks = [
        (name, seed, options.mib)
        for seed in range(1, options.seeds + 1)
        for name in chosen
        if (name, seed, options.mib or SCENARIOS[name][1] / MIB) not in done
    ]
    with multiprocessing.Pool(options.processes) as pool:
        for row in pool.imap_unordered(_run, tasks):
            rows.append(row)
            _save(options.state, rows)
    rows.sort(key=lambda row: (list(SCENARIOS).index(row.name), row.seed))
    _print_table(rows)
    return 1 if any(row.main == float("inf") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
