"""Forks chains with f+1 to 2f liars and checks that every fork convicts more than f, nobody honest.

    python benchmarks/accountability.py --seeds 400 --n 4 --state accountability-4.json

Half of the seeds have epochs of three seconds, so that chains fork across edges too. Uses all
processors; with `--state FILE` an interrupted run goes on where it stopped. Prints one JSON line; a
seed that breaks the promise prints itself, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmd.simulation.consensus_campaign import Outcome, Plan, run_seed
from swarmd.simulation.consensus_cluster import Epochs

DURATION_S = 16.0
"""Simulated seconds of a seed."""
EPOCH_MS = 3000
"""Length of epochs in every other seed."""
STATE_EVERY = 20
"""Seeds between two writes of the state file."""


@dataclass(slots=True)
class Totals:
    """Sums over the seeds run so far."""

    seeds: int = 0
    forks: int = 0
    forks_with_epochs: int = 0
    convictions_min: int = 99
    convictions: int = 0
    honest_convicted: int = 0
    wall_s: float = 0.0
    failed: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome, fault_limit: int) -> None:
        """Adds one seed."""
        self.seeds += 1
        if outcome.is_forked:
            self.forks += 1
            self.forks_with_epochs += has_epochs(outcome.seed)
            self.convictions += len(outcome.culprits)
            self.convictions_min = min(self.convictions_min, len(outcome.culprits))
        self.honest_convicted += bool(set(outcome.culprits) - set(outcome.faulty))
        reason = outcome.unaccounted(fault_limit)
        if reason is not None:
            self.failed.append(outcome.seed)
            print(f"seed {outcome.seed}: {reason}", file=sys.stderr)


def has_epochs(seed: int) -> bool:
    """Whether validators hand over in this seed's run."""
    return seed % 2 == 1


def plan_of(seed: int, count: int) -> Plan:
    """The run of a seed: f+1 to 2f twins, in turn."""
    fault_limit = (count - 1) // 3
    return Plan(
        count=count,
        duration_s=DURATION_S,
        byzantine="twin",
        faulty=fault_limit + 1 + seed // 2 % fault_limit,
        epochs=Epochs(length_ms=EPOCH_MS) if has_epochs(seed) else None,
        power_failures=False,
    )


def _run(task: tuple[int, int]) -> Outcome:
    return run_seed(task[0], plan_of(*task))


def main() -> int:
    """Runs the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=400)
    parser.add_argument("--n", type=int, default=4, help="validators")
    parser.add_argument("--state", type=Path, help="file to resume from and to write")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    state: Path | None = arguments.state
    totals = Totals()
    if state is not None and state.exists():
        totals = Totals(**json.loads(state.read_text("utf-8")))
    before, begin = totals.wall_s, time.monotonic()
    tasks = [(seed, arguments.n) for seed in range(totals.seeds, arguments.seeds)]
    with multiprocessing.Pool(arguments.processes) as pool:
        for outcome in pool.imap(_run, tasks, chunksize=2):
            totals.add(outcome, (arguments.n - 1) // 3)
            totals.wall_s = round(before + time.monotonic() - begin, 1)
            if state is not None and totals.seeds % STATE_EVERY == 0:
                state.write_text(json.dumps(asdict(totals)), "utf-8")
    if state is not None:
        state.write_text(json.dumps(asdict(totals)), "utf-8")
    print(json.dumps({"benchmark": "consensus.accountability", "n": arguments.n, **asdict(totals)}))
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
