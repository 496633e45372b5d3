"""Runs the consensus campaign over many seeds and prints one JSON line.

    python benchmarks/consensus_campaign.py --seeds 2000 --n 4 --real-signatures 50

Uses all processors. With `--state FILE` an interrupted campaign goes on where it stopped. A failing
seed prints itself and the command that replays it; the exit code is then 1.
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

from swarmd.simulation.byzantine.catalogue import Plane, of_plane
from swarmd.simulation.consensus_campaign import Outcome, Plan, run_seed
from swarmd.simulation.consensus_cluster import Epochs

NAMES = tuple(item.name for item in of_plane(Plane.CONSENSUS))
"""Adversaries that take a validator's seat."""
STATE_EVERY = 50
"""Seeds between two writes of the state file."""


@dataclass(slots=True)
class Totals:
    """Sums over the seeds run so far."""

    seeds: int = 0
    simulated_s: float = 0.0
    events: int = 0
    blocks: int = 0
    restarts: int = 0
    epochs: int = 0
    disagreements: int = 0
    violations: int = 0
    stuck: int = 0
    heal_s_max: float = 0.0
    wall_s: float = 0.0
    failed: list[int] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Adds one seed."""
        self.seeds += 1
        self.simulated_s += outcome.simulated_s
        self.events += outcome.event_count
        self.blocks += outcome.height
        self.restarts += outcome.restarts
        self.epochs += outcome.epochs
        self.disagreements += any("disagreement" in item for item in outcome.violations)
        self.violations += bool(outcome.violations)
        self.stuck += outcome.is_stuck
        self.heal_s_max = max(self.heal_s_max, outcome.heal_s)
        if outcome.violations or outcome.is_stuck:
            self.failed.append(outcome.seed)


def _run(task: tuple[int, Plan]) -> Outcome:
    return run_seed(*task)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2000, help="seeds with the oracle")
    parser.add_argument("--n", type=int, default=4, help="validators")
    parser.add_argument("--start", type=int, default=0, help="first seed")
    parser.add_argument("--duration", type=float, default=60.0, help="simulated seconds of a seed")
    parser.add_argument("--real-signatures", type=int, default=0, help="further seeds with Ed25519")
    parser.add_argument("--byzantine", choices=[*NAMES, "none"], help="instead of by seed")
    parser.add_argument("--epoch", type=float, help="seconds of an epoch; none: it never ends")
    parser.add_argument("--reserves", type=int, default=2, help="processes that replace others")
    parser.add_argument("--state", type=Path, help="file to resume from and to write")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


def _epochs(arguments: argparse.Namespace) -> Epochs | None:
    if arguments.epoch is None:
        return None
    return Epochs(length_ms=round(arguments.epoch * 1000), reserves=arguments.reserves)


def _tasks(arguments: argparse.Namespace, done: int) -> list[tuple[int, Plan]]:
    oracle, real = (
        Plan(
            count=arguments.n,
            duration_s=arguments.duration,
            byzantine=arguments.byzantine,
            real_signatures=flag,
            epochs=_epochs(arguments),
        )
        for flag in (False, True)
    )
    tasks = [(arguments.start + i, oracle) for i in range(arguments.seeds)]
    tasks += [(arguments.start + i, real) for i in range(arguments.real_signatures)]
    return tasks[done:]


def _load(path: Path | None) -> Totals:
    if path is None or not path.exists():
        return Totals()
    return Totals(**json.loads(path.read_text("utf-8")))


def _save(path: Path | None, totals: Totals, since: float) -> None:
    totals.wall_s = round(since, 1)
    if path is not None:
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(totals)), "utf-8")
        draft.replace(path)


def _report(outcome: Outcome, arguments: argparse.Namespace, *, real: bool) -> None:
    seeds = "--seeds 0 --real-signatures 1" if real else "--seeds 1"
    byzantine = f" --byzantine {arguments.byzantine}" if arguments.byzantine else ""
    if arguments.epoch is not None:
        byzantine += f" --epoch {arguments.epoch} --reserves {arguments.reserves}"
    print(
        f"seed {outcome.seed} failed: stuck={outcome.is_stuck} {outcome.violations[:3]}\n"
        f"replay: python benchmarks/consensus_campaign.py {seeds} --start {outcome.seed}"
        f" --n {arguments.n} --duration {arguments.duration}{byzantine}",
        file=sys.stderr,
    )


def main() -> int:
    """Runs the campaign."""
    arguments = _arguments()
    totals = _load(arguments.state)
    before, begin = totals.wall_s, time.monotonic()
    tasks = _tasks(arguments, totals.seeds)
    with multiprocessing.Pool(arguments.processes) as pool:
        results = pool.imap(_run, tasks, chunksize=4)
        for task, outcome in zip(tasks, results, strict=True):
            totals.add(outcome)
            if outcome.violations or outcome.is_stuck:
                _report(outcome, arguments, real=task[1].real_signatures)
            if totals.seeds % STATE_EVERY == 0:
                _save(arguments.state, totals, before + time.monotonic() - begin)
    _save(arguments.state, totals, before + time.monotonic() - begin)
    print(json.dumps({"benchmark": "consensus.campaign", "n": arguments.n, **asdict(totals)}))
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
