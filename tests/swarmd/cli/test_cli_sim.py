"""`swarmd sim`: what it prints, how it exits, and how a failing run is seen again."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest

from swarmd.simulation.attacks import table as attack_table
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, never
from tests.swarmd.cli.conftest import Run

SMALL = """
summary = "small"
duration_s = 10
[gateways]
count = 3
[image]
size_kib = 32
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_a_passing_run_is_a_table_of_verdicts(swarmd: Run, small: Path) -> None:
    ended = swarmd("sim", small, "--seed", 4)
    assert ended.code == 0
    assert ended.out.startswith("small, seed 4: 3 gateways, 4 validators, ")
    assert re.search(r"^complete +1 +>= 1 +- +kept$", ended.out, re.MULTILINE)
    assert ended.out.endswith("passed\n")
    assert ended.err == "", "no bar where there is no terminal"


def test_a_terminal_sees_a_bar_and_stdout_does_not(
    swarmd: Run, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    ended = swarmd("sim", small, "--json")
    assert ended.document["passed"] is True
    assert "small: " in ended.err
    assert "simulated s" in ended.err


def test_json_is_one_document_with_everything(swarmd: Run, small: Path) -> None:
    one = swarmd("sim", small, "--json", "--nodes", 2).document
    again = swarmd("sim", small, "--json", "--nodes", 2).document
    assert one == again
    assert (one["nodes"], one["passed"], len(one["trace_hash"])) == (2, True, 64)
    assert one["replay"] == f"swarmd sim {small} --seed 1 --nodes 2"


@pytest.mark.slow
def test_a_failing_run_says_how_to_see_it_again(swarmd: Run, small: Path) -> None:
    small.write_text(SMALL + "[expect]\nmakespan_max = 0.5\n")
    ended = swarmd("sim", small, "--seed", 3)
    assert ended.code == 1
    assert "FAILED" in ended.out
    reason, replay = ended.err.splitlines()
    assert reason == "swarmd: sim: broken bounds: makespan-max"
    found = re.fullmatch(r"seed 3; replay: swarmd (.* --until \d\.\d\d)", replay)
    assert found is not None
    again = swarmd(*shlex.split(found[1]))
    assert again.code == 1
    assert "broken bounds: makespan-max" in again.err
    assert len(swarmd("sim", small, "--json").document["verdicts"]) == 8


def test_what_must_break_and_breaks_has_passed(swarmd: Run, small: Path) -> None:
    ended = swarmd("sim", small, "--adversary", "mute_validator=2")
    assert ended.code == 0
    assert "expected to break: 2 validators break the rules" in ended.out


def test_adversaries_are_added_by_share_and_number(swarmd: Run, small: Path) -> None:
    ended = swarmd(
        "sim", small, "--adversary", "mute_relayer=0.34", "--adversary", "twin=1", "--json"
    )
    assert ended.document["adversaries"] == [["mute_relayer", 1], ["twin", 1]]


def test_the_list_names_scenarios_and_adversaries(swarmd: Run) -> None:
    document = swarmd("sim", "--list", "--json").document
    names = [each["name"] for each in document["scenarios"]]
    assert len(names) >= 8
    assert "revocation-race" in names
    places = {each["name"]: each["place"] for each in document["adversaries"]}
    assert (places["twin"], places["push_corrupter"]) == ("validator", "gateway")


def test_the_report_is_written(swarmd: Run, small: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    assert swarmd("sim", small, "--report", report).code == 0
    assert report.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "name a SCENARIO"),
        (("nowhere",), "no scenario 'nowhere'"),
        (("./nowhere.toml",), "nowhere.toml: No such file"),
        (("flash-crowd", "--nodes", "0"), "gateways.count: 0, allowed 1 to"),
        (("flash-crowd", "--adversary", "twin"), "is not NAME=SHARE"),
        (("flash-crowd", "--adversary", "twin=much"), "is not NAME=SHARE"),
        (("flash-crowd", "--adversary", "twin=nan"), "adversaries[0].share: nan"),
        (("flash-crowd", "--adversary", "twins=1"), "no adversary 'twins'"),
        (("flash-crowd", "--seed", "-1"), "--seed"),
        (("flash-crowd", "--until", "0"), "--until"),
    ],
)
def test_wrong_usage_is_one_error_and_exit_code_2(
    swarmd: Run, arguments: tuple[str, ...], reason: str
) -> None:
    ended = swarmd("sim", *arguments)
    assert ended.code == 2
    assert reason in ended.err
    assert ended.out == ""


@pytest.mark.slow
def test_whole_daemons_run_the_same_file(swarmd: Run, small: Path) -> None:
    ended = swarmd("sim", small, "--level", "daemons", "--nodes", 1)
    assert ended.code == 0
    assert re.search(r"^agreement +0 +<= 0 +- +kept$", ended.out, re.MULTILINE)
    assert re.search(r"^complete +1 +>= 1 +- +kept$", ended.out, re.MULTILINE)


def test_what_whole_daemons_cannot_do_is_said(swarmd: Run, small: Path) -> None:
    ended = swarmd("sim", small, "--level", "daemons", "--adversary", "mute_relayer=1")
    assert ended.code == 2
    assert "adversaries: whole daemons all keep the rules" in ended.err
    ended = swarmd("sim", small, "--level", "daemons", "--until", 2)
    assert ended.code == 2


# Attacks ------------------------------------------------------------------------------------------


def _attack(monkeypatch: pytest.MonkeyPatch, *, measured: float, control: float | None) -> None:
    """Lets the program know one attack more, `probe`."""

    def result(count: float) -> AttackResult:
        return AttackResult(verdicts=(never("kept", count),), attempts=7)

    probe = Attack(
        name="probe",
        family=Family.UPDATE,
        known_as="a test",
        attacker="Nobody.",
        counter="Nothing.",
        run=lambda _seed: result(measured),
        control=None if control is None else lambda _seed: result(control),
    )
    monkeypatch.setattr(attack_table, "ATTACKS", {**attack_table.ATTACKS, "probe": probe})


def test_an_attack_is_a_table_and_its_control(swarmd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _attack(monkeypatch, measured=0, control=2)
    ended = swarmd("sim", "--attack", "probe", "--seed", 3)
    assert ended.code == 0
    assert ended.out.startswith("probe, seed 3: 7 attempts\n")
    assert re.search(r"^kept +0 +<= 0 +- +kept$", ended.out, re.MULTILINE)
    assert "without the defence: loses (kept)\n" in ended.out
    assert ended.out.endswith("withstood\n")
    document = swarmd("sim", "--attack", "probe", "--json").document
    assert (document["attack"], document["seed"], document["held"]) == ("probe", 1, True)
    assert document["control"]["held"] is False
    assert document["replay"] == "swarmd sim --attack probe --seed 1"


@pytest.mark.parametrize(
    ("measured", "control", "reason"),
    [(1, 1, "broken bounds: kept"), (0, 0, "the attack fails without the defence, too")],
)
def test_an_attack_that_goes_wrong_says_how_to_see_it_again(
    swarmd: Run, monkeypatch: pytest.MonkeyPatch, measured: float, control: float, reason: str
) -> None:
    _attack(monkeypatch, measured=measured, control=control)
    ended = swarmd("sim", "--attack", "probe", "--seed", 9)
    assert ended.code == 1
    assert reason in ended.err
    assert ended.err.endswith("seed 9; replay: swarmd sim --attack probe --seed 9\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--attack", "none"), "no attack 'none'"),
        (("--attack", "probe", "flash-crowd"), "--attack takes only --seed and --json"),
        (("--attack", "probe", "--nodes", "3", "--until", "2"), "not --nodes, --until"),
    ],
)
def test_attacks_take_no_scenario(swarmd: Run, arguments: tuple[str, ...], reason: str) -> None:
    ended = swarmd("sim", *arguments)
    assert ended.code == 2
    assert reason in ended.err


def test_the_list_names_attacks(swarmd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    _attack(monkeypatch, measured=0, control=None)
    attacks = swarmd("sim", "--list", "--json").document["attacks"]
    assert attacks[-1] == {
        "name": "probe",
        "family": "Updates (TUF, Uptane)",
        "attacker": "Nobody.",
    }
