"""`swarmd sim --level processes` and `--level namespaces`: what is said, what is refused."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from swarmd.simulation.processes import scenario_run
from swarmd.simulation.processes.support import Isolation
from swarmd.simulation.scenario import Scenario
from swarmd.simulation.swarm import OnStep, run_scenario
from swarmd.simulation.swarm_outcome import Outcome
from tests.swarmd.cli.conftest import Run

SMALL = """
summary = "small"
duration_s = 10
[gateways]
count = 2
[image]
size_kib = 16
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Scenario, Isolation, Path]]:
    """Runs of processes, answered by what machines came to."""
    calls: list[tuple[Scenario, Isolation, Path]] = []

    def run(
        scenario: Scenario,
        seed: int,
        folder: Path,
        isolation: Isolation,
        *,
        on_step: OnStep | None = None,
    ) -> Outcome:
        if on_step is not None:
            on_step(2.5, 0.25)
        calls.append((scenario, isolation, folder))
        return replace(
            run_scenario(replace(scenario, adversaries=()), seed),
            trace_hash="",
            event_count=0,
            level=isolation.value,
            cpu_share=0.42,
            notes=("loopback has no links",),
        )

    monkeypatch.setattr(scenario_run, "run_processes", run)
    return calls


@pytest.mark.parametrize("level", ["processes", "namespaces"])
def test_a_run_of_processes_says_what_it_was(
    swarmd: Run, small: Path, ran: list[tuple[Scenario, Isolation, Path]], level: str
) -> None:
    ended = swarmd("sim", small, "--level", level, "--nodes", 3)
    assert ended.code == 0
    first, second, *_ = ended.out.splitlines()
    assert re.fullmatch(
        r"small, seed 1: 3 gateways, 4 validators, [\d.]+ real s, \d+ blocks", first
    )
    assert second == f"level {level}: no trace, real time does not repeat; processors busy to 42%"
    assert "note: loopback has no links" in ended.out
    (scenario, isolation, folder), *more = ran
    assert not more
    assert (scenario.gateways.count, isolation.value) == (3, level)
    assert not folder.parent.exists(), "the nodes' data went with the run"


def test_a_terminal_sees_real_seconds(
    swarmd: Run,
    small: Path,
    ran: list[tuple[Scenario, Isolation, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    ended = swarmd("sim", small, "--level", "processes", "--json")
    assert "small: 2.5 real s" in ended.err
    assert ended.document["passed"] is True
    assert ran


def test_json_has_level_notes_and_no_trace(
    swarmd: Run, small: Path, ran: list[tuple[Scenario, Isolation, Path]]
) -> None:
    ended = swarmd(
        "sim", small, "--level", "processes", "--adversary", "push_corrupter=1", "--json"
    )
    document = ended.document
    assert document["trace_hash"] is None
    assert (document["level"], document["cpu_share"]) == ("processes", 0.42)
    assert document["notes"] == ["loopback has no links"]
    assert document["replay"].endswith("--adversary push_corrupter=1 --level processes")
    assert len(ran) == 1


def test_a_report_of_processes_says_that_nothing_repeats(
    swarmd: Run, small: Path, ran: list[tuple[Scenario, Isolation, Path]], tmp_path: Path
) -> None:
    report = tmp_path / "report.html"
    assert swarmd("sim", small, "--level", "namespaces", "--report", report).code == 0
    text = report.read_text()
    assert "none: real time does not repeat" in text
    assert "loopback has no links" in text
    assert ran


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--level", "threads"), "--level"),
        (("--level", "processes", "--until", "2"), "--until replays machines only"),
        (("--level", "processes", "--nodes", "20"), "gateways.count: 25 processes"),
        (
            ("--level", "processes", "--adversary", "certificate_forger=1"),
            "adversaries[0].name: 'certificate_forger' is no process; there are: boaster, ",
        ),
    ],
)
def test_what_processes_cannot_do_is_one_line(
    swarmd: Run, small: Path, arguments: tuple[str, ...], reason: str
) -> None:
    ended = swarmd("sim", small, *arguments)
    assert ended.code == 2
    assert reason in ended.err
    assert ended.out == ""


def test_loopback_refuses_partitions_and_names_the_levels_that_have_them(swarmd: Run) -> None:
    ended = swarmd("sim", "revocation-race", "--level", "processes", "--nodes", 2)
    assert ended.code == 2
    assert "faults[0].kind: partition: loopback has no links to disturb" in ended.err
    assert "namespaces, daemons or machines" in ended.err


def test_namespaces_need_root(swarmd: Run, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    ended = swarmd("sim", small, "--level", "namespaces")
    assert ended.code == 2
    assert "level namespaces: needs root" in ended.err


def test_help_tells_the_levels_apart(swarmd: Run) -> None:
    text = " ".join(swarmd("sim", "--help").out.split())
    assert "[machines|daemons|processes|namespaces]" in text
    assert "real time" in text
