"""The adversary campaign: every way to lie, every planted defect, thousands of seeds, one time box.

    python benchmarks/campaign.py                                  as `make campaign-ci` runs it
    python benchmarks/campaign.py --endless --state FILE           as `make campaign` runs it
    python benchmarks/campaign.py --replay mix:17 [--stop 4.05]    one seed again

Prints one JSON line for each phase and one at the end. Exit code 1: an invariant broke, a planted
defect was not found, what must break did not, two runs of a seed differed, or time ran out below
the floor. A failing seed prints itself, the command that replays it and the shortest prefix that
still fails. SIGINT and SIGTERM end a campaign after the seed under way: it writes its state and
sums, and exits with 130. Killed, it repeats at most the last fifty seeds and counts none twice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmd.simulation.byzantine.catalogue import ADVERSARIES, Plane, of_plane
from swarmd.simulation.consensus_campaign import FAULTY_SHARE, Outcome, Plan, run_seed
from swarmd.simulation.consensus_cluster import Epochs
from tests.support.consensus_mutants import MUTANTS

NAMES = tuple(item.name for item in of_plane(Plane.CONSENSUS))
"""Adversaries that take a validator's seat."""
BEYOND = {"twin": 16.0, "mute_validator": 60.0, "clock_ahead": 60.0}
"""What f + 1 of break agreement or progress, with the simulated seconds it takes at most."""
BEYOND_SEEDS = 12
"""Within how many seeds they do."""
BISECTIONS = 6
"""Runs spent on the shortest prefix of a seed that stands still."""
STATE_EVERY = 50
"""Seeds between two writes of the state file."""


@dataclass(frozen=True, slots=True)
class Task:
    """One seed of one phase, or one planted defect."""

    phase: str
    """`mix`, `real`, `trace`, `beyond NAME`, `NAME n=4`, `mutant NAME`; names its plan."""
    seed: int
    """Replays it."""

    @property
    def name(self) -> str:
        """How the command line calls it."""
        return f"{self.phase}:{self.seed}"


@dataclass(frozen=True, slots=True)
class Result:
    """What a task came to."""

    task: Task
    outcome: Outcome | None
    """None for planted defects."""
    fault: str | None
    """What went wrong; None: nothing."""
    seeds: int = 1
    """Seeds run for it."""


@dataclass(slots=True)
class Totals:
    """Sums over what was run so far."""

    tasks: int = 0
    seeds_oracle: int = 0
    seeds_real: int = 0
    simulated_s: float = 0.0
    events: int = 0
    blocks: int = 0
    restarts: int = 0
    mutants_found: int = 0
    traces_equal: int = 0
    broke_as_expected: int = 0
    heal_s_max: float = 0.0
    wall_s: float = 0.0
    phases: dict[str, list[int]] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    convicted: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Adds one result."""
        self.tasks += 1
        count = self.phases.setdefault(result.task.phase, [0, 0])
        count[0] += result.seeds
        count[1] += result.fault is not None
        if result.fault is not None:
            self.faults.append(f"{result.task.name}: {result.fault}")
        kind = result.task.phase.split()[0]
        outcome = result.outcome
        self.mutants_found += kind == "mutant" and result.fault is None
        self.broke_as_expected += kind == "beyond" and result.fault is None
        if outcome is None or kind == "beyond":
            return
        self.traces_equal += kind == "trace" and result.fault is None
        self.seeds_real += kind == "real"
        self.seeds_oracle += result.seeds * (kind != "real")
        self.simulated_s += outcome.simulated_s
        self.events += outcome.event_count
        self.blocks += outcome.height
        self.restarts += outcome.restarts
        self.heal_s_max = max(self.heal_s_max, outcome.heal_s)
        if len(set(outcome.adversaries)) == 1:
            name = outcome.adversaries[0]
            self.refused[name] = self.refused.get(name, 0) + outcome.refused
            self.convicted[name] = self.convicted.get(name, 0) + len(outcome.convicted)


# -- what a task runs ------------------------------------------------------------------------------


def plan_of(task: Task) -> Plan:
    """The run that a task names."""
    seed = task.seed
    words = task.phase.split()
    base = Plan(
        block_interval_s=(0.25, 0.5, 1.0, 1.0)[seed % 4],
        epochs=Epochs(length_ms=(3000, 6000)[seed % 2], reserves=seed % 3)
        if seed % 3 == 0
        else None,
    )
    if words[0] == "mutant":
        return next(item for item in MUTANTS if item.name == words[1]).plan()
    if words[0] == "beyond":
        duration_s = BEYOND[words[1]]
        return Plan(byzantine=words[1], faulty=2, duration_s=duration_s, power_failures=False)
    if words[0] == "real":
        return replace(base, real_signatures=True, block_interval_s=(0.5, 1.0)[seed % 2])
    if words[0] in NAMES:
        is_about_epochs = words[0] in ("stale_epoch", "retired_keys")
        epochs = Epochs(length_ms=4000, reserves=1) if is_about_epochs else base.epochs
        return replace(base, byzantine=words[0], count=int(words[1][2:]), epochs=epochs)
    if words[0] == "mix":
        return replace(base, count=int(words[1][2:]) if len(words) > 1 else 4)
    return base


def run(task: Task) -> Result:
    """Runs a task and judges it; whatever it raises is a finding like any other."""
    try:
        return _judged(task)
    except Exception as error:  # noqa: BLE001 - a seed that crashes must not end the campaign
        return Result(task, None, f"raised {error!r}")


def _judged(task: Task) -> Result:
    kind = task.phase.split()[0]
    if kind == "mutant":
        mutant = next(item for item in MUTANTS if item.name == task.phase.split()[1])
        found = mutant.first_seed()
        fault = None if found is not None else f"not found within {mutant.seeds} seeds"
        return Result(task, None, fault, mutant.seeds if found is None else found + 1)
    plan = plan_of(task)
    if kind == "beyond":
        for seed in range(BEYOND_SEEDS):
            outcome = run_seed(seed, plan)
            if outcome.is_forked or outcome.is_stuck:
                return Result(task, outcome, None, seed + 1)
        return Result(task, None, "expected to break, did not", BEYOND_SEEDS)
    outcome = run_seed(task.seed, plan)
    fault = fault_of(outcome)
    if kind == "trace":
        if run_seed(task.seed, plan) != outcome:
            fault = "two runs of one seed differ"
        return Result(task, outcome, fault, 2)
    return Result(task, outcome, fault)


def fault_of(outcome: Outcome) -> str | None:
    """What an outcome within the fault bound must not show."""
    if outcome.violations:
        return outcome.violations[0]
    return "no ten new final blocks after healing" if outcome.is_stuck else None


def shortest(task: Task, outcome: Outcome) -> float:
    """The shortest simulated time after which a failing seed still fails, seconds.

    A broken invariant is noted when it breaks; where the chain stands still, faults end earlier and
    earlier until it no longer does.
    """
    if outcome.broken_at_s is not None:
        return outcome.broken_at_s + 0.001  # it was rounded to a millisecond
    plan = plan_of(task)
    low, high = 0.0, plan.duration_s * FAULTY_SHARE
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if run_seed(task.seed, replace(plan, faults_end_s=middle)).is_stuck:
            high = middle
        else:
            low = middle
    return high


# -- which tasks there are -------------------------------------------------------------------------


def ci_tasks(oracle: int, real: int, scale: float) -> Iterator[Task]:
    """The bounded campaign: what is proven by few runs first, mixtures up to the floor last."""
    for mutant in MUTANTS:
        yield Task(f"mutant {mutant.name}", 0)
    for name in BEYOND:
        yield Task(f"beyond {name}", 0)
    for seed in range(max(2, round(20 * scale))):
        yield Task("trace", seed)
    count = 2 * max(2, round(20 * scale))
    for seed in range(max(1, round(20 * scale))):
        for name in NAMES:
            yield Task(f"{name} n=4", seed)
            count += 1
            if seed * 4 < 20 * scale:
                yield Task(f"{name} n=7", seed)
                count += 1
    for seed in range(real):
        yield Task("real", seed)
    for seed in range(max(0, oracle - count)):
        yield Task("mix n=7" if seed % 40 == 39 else "mix n=4", seed)


def endless_tasks(seeds: int) -> Iterator[Task]:
    """The open-ended campaign: mixtures at n = 4, 7 and 10, now and then with real signatures."""
    for seed in range(seeds):
        if seed % 50 == 49:
            yield Task("real", seed)
        elif seed % 4 == 3:
            yield Task(f"{NAMES[seed // 4 % len(NAMES)]} n={(4, 7, 10)[seed // 4 % 3]}", seed)
        else:
            # Mixtures alone are numbered: of all seeds, every fourth is somebody else's.
            yield Task(f"mix n={(4, 4, 7, 4, 4, 7, 4, 10)[(seed - seed // 4) % 8]}", seed)


# -- running ---------------------------------------------------------------------------------------


def report(result: Result) -> None:
    """Says what failed, how to see it again, and how early it shows."""
    line = {"failed": result.task.name, "fault": result.fault}
    command = f"python benchmarks/campaign.py --replay '{result.task.name}'"
    if result.outcome is not None and not result.task.phase.startswith(("beyond", "trace")):
        prefix_s = shortest(result.task, result.outcome)
        line["prefix_s"] = str(round(prefix_s, 3))
        option = "--stop" if result.outcome.violations else "--heal"
        command += f" {option} {prefix_s:.3f}"
    print(json.dumps({**line, "replay": command}), flush=True)


def unproven(totals: Totals) -> list[str]:
    """Adversaries that were run and left no trace, although they must."""
    missing = []
    for name, refused in totals.refused.items():
        item = ADVERSARIES[name]
        if item.is_refused and not refused:
            missing.append(f"nothing of {name} was refused")
        if item.is_convicted and not totals.convicted[name]:
            missing.append(f"no {name} was convicted")
    return missing


def replay(arguments: argparse.Namespace) -> int:
    """Runs one seed again."""
    phase, _, seed = arguments.replay.rpartition(":")
    task = Task(phase, int(seed))
    plan = replace(plan_of(task), stop_s=arguments.stop, faults_end_s=arguments.heal)
    outcome = run_seed(task.seed, plan)
    print(json.dumps(asdict(outcome), indent=1))
    return 1 if outcome.is_broken else 0


def follow(parent: int) -> None:
    """Prepares a worker: it leaves ^C to its parent and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def until_told() -> list[int]:
    """Signals that came and ask for the end; none of them interrupts anything."""
    told: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda came, _: told.append(came))
    return told


def campaign(arguments: argparse.Namespace) -> int:
    """Runs all tasks within the time box."""
    told = until_told()
    totals = Totals()
    state: Path | None = arguments.state
    if state is not None and state.exists():
        totals = Totals(**json.loads(state.read_text("utf-8")))
    before, begin = totals.wall_s, time.monotonic()
    tasks = (
        endless_tasks(arguments.seeds)
        if arguments.endless
        else ci_tasks(arguments.oracle, arguments.real, arguments.scale)
    )
    is_late = False
    if arguments.verbose:
        print(f"begins after {totals.tasks} tasks", file=sys.stderr, flush=True)
    with multiprocessing.Pool(arguments.processes, follow, (os.getpid(),)) as pool:
        for result in pool.imap(run, islice(tasks, totals.tasks, None), chunksize=4):
            totals.add(result)
            totals.wall_s = round(before + time.monotonic() - begin, 1)
            if result.fault is not None:
                report(result)
            if totals.tasks % STATE_EVERY == 0:
                save(state, totals)
                if arguments.verbose:
                    print(f"{totals.tasks} tasks, {totals.wall_s} s", file=sys.stderr)
            is_late = not arguments.endless and totals.wall_s > arguments.minutes * 60
            if is_late or told:
                pool.terminate()
                break
    save(state, totals)
    status = summarise(totals, is_late=is_late, is_endless=arguments.endless)
    return 130 if told else status


def summarise(totals: Totals, *, is_late: bool, is_endless: bool) -> int:
    """Prints the sums; the exit code."""
    missing = [] if is_endless else unproven(totals)
    sums = asdict(totals)
    for phase, (seeds, faults) in sums.pop("phases").items():
        print(json.dumps({"phase": phase, "seeds": seeds, "faults": faults}))
    line = {"benchmark": "consensus.campaign", **sums, "unproven": missing}
    print(json.dumps({**line, "out_of_time": is_late}))
    return 1 if totals.faults or missing or is_late else 0


def save(path: Path | None, totals: Totals) -> None:
    """Writes the state, whole or not at all."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(totals)), "utf-8")
        draft.replace(path)


def main() -> int:
    """Runs the campaign, or one seed of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--oracle", type=int, default=3000, help="floor: seeds with the oracle")
    parser.add_argument("--real", type=int, default=200, help="floor: seeds with Ed25519")
    parser.add_argument(
        "--scale", type=float, default=0.8, help="seeds of each adversary, times 20"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="time box")
    parser.add_argument("--endless", action="store_true", help="mixtures at n = 4, 7, 10; no box")
    parser.add_argument("--seeds", type=int, default=1_000_000, help="seeds of --endless")
    parser.add_argument("--state", type=Path, help="file to resume from and to write")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="say how far it is")
    parser.add_argument("--replay", metavar="PHASE:SEED", help="run one seed again")
    parser.add_argument("--stop", type=float, help="with --replay: stop so early, seconds")
    parser.add_argument("--heal", type=float, help="with --replay: end faults so early, seconds")
    arguments = parser.parse_args()
    return replay(arguments) if arguments.replay else campaign(arguments)


if __name__ == "__main__":
    sys.exit(main())
