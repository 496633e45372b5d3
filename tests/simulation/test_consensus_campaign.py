"""A small campaign, and proof that the campaign finds planted defects."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.simplex.engine import Simplex
from swarmd.simulation.consensus_campaign import Outcome, Plan, run_seed
from swarmd.simulation.defective_engines import NoQuestion
from swarmd.simulation.restored_journal import run_restore

ROOT = Path(__file__).resolve().parent.parent.parent


def is_bad(outcome: Outcome) -> bool:
    return bool(outcome.violations) or outcome.is_stuck


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_no_seed_disagrees_or_gets_stuck(first: int) -> None:
    outcomes = [run_seed(seed) for seed in range(first, first + 20)]
    assert [outcome for outcome in outcomes if is_bad(outcome)] == []
    assert sum(outcome.restarts for outcome in outcomes) > 40
    assert sum(outcome.height for outcome in outcomes) > 1000


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("count", [5, 7, 10])
def test_other_sizes(count: int) -> None:
    plan = Plan(count=count, duration_s=30.0)
    assert [seed for seed in range(4) if is_bad(run_seed(seed, plan))] == []


@pytest.mark.slow
@pytest.mark.untraced
def test_real_signatures_and_wire_formats() -> None:
    plan = Plan(duration_s=20.0, real_signatures=True)
    assert [seed for seed in range(6) if is_bad(run_seed(seed, plan))] == []


@pytest.mark.slow
def test_one_seed_gives_one_trace() -> None:
    plan = Plan(duration_s=20.0)
    assert run_seed(11, plan) == run_seed(11, plan)
    assert run_seed(11, plan).trace_hash != run_seed(12, plan).trace_hash


@pytest.mark.slow
def test_without_the_question_a_restored_journal_convicts_an_honest_validator() -> None:
    """The control is the same seeds with the question: nobody is ever convicted."""
    seeds = range(20)
    assert [seed for seed in seeds if run_restore(seed, Simplex).violations] == []
    assert any(
        "convicted" in item for seed in seeds for item in run_restore(seed, NoQuestion).violations
    )


@pytest.mark.slow
def test_the_benchmark_reports_one_line_and_resumes(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "consensus_campaign.py"),
        *("--duration", "4", "--processes", "1", "--state", str(state)),
    ]
    for seeds, expected in (("2", 2), ("3", 3)):
        done = subprocess.run(
            [*command, "--seeds", seeds], capture_output=True, text=True, check=True, timeout=120
        )
        report = json.loads(done.stdout)
        assert report["seeds"] == expected
        assert report["disagreements"] == report["stuck"] == 0


@pytest.mark.slow
def test_the_adversary_campaign_counts_resumes_and_replays(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "campaign.py"), "--processes", "1"]
    state = tmp_path / "state.json"
    endless = [*command, "--endless", "--state", str(state), "--seeds"]
    for seeds in (2, 3):
        done = subprocess.run(
            [*endless, str(seeds)], capture_output=True, text=True, check=True, timeout=120
        )
        report = json.loads(done.stdout.splitlines()[-1])
        assert (report["tasks"], report["seeds_oracle"]) == (seeds, seeds)
        assert report["faults"] == []
    prefix = [*command, "--replay", "mix n=4:1", "--stop", "5"]
    done = subprocess.run(prefix, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["simulated_s"] == 5.0


@pytest.mark.slow
def test_an_interrupted_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "campaign.py"), "--endless", "--verbose"]
    command += ["--processes", "1", "--state", str(state), "--seeds"]
    with subprocess.Popen(
        [*command, "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begins after 0 tasks\n"
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    count = json.loads(out.splitlines()[-1])["tasks"]
    assert 0 < count < 1000
    assert json.loads(state.read_text("utf-8"))["tasks"] == count
    done = subprocess.run(
        [*command, str(count + 2)], capture_output=True, text=True, check=True, timeout=120
    )
    *phases, report = (json.loads(line) for line in done.stdout.splitlines())
    assert sum(phase["seeds"] for phase in phases) == report["tasks"] == count + 2


@pytest.mark.slow
def test_the_adversary_campaign_fails_below_its_floor() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "campaign.py"), "--processes", "1"]
    done = subprocess.run(
        [*command, "--minutes", "0.0001"], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[-1])["out_of_time"] is True
