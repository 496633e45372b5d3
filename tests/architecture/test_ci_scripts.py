"""The build scripts: what is missing is said in one line, floors and counts are judged right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.source_tree import ROOT

SHELL_TOOLS = ("sh", "dirname")


def preflight(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the preflight check with nothing on PATH but what lies in `path`."""
    for tool in SHELL_TOOLS:
        target = shutil.which(tool)
        assert target
        (path / tool).symlink_to(target)
    return subprocess.run(
        [str(ROOT / ".ci" / "preflight"), *arguments],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_a_bare_machine_gets_one_line_with_the_packages(tmp_path: Path) -> None:
    result = preflight(tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.endswith(
        "apt-get install python3 python3-venv python3-dev gcc libc6-dev libgmp-dev make"
    )


def test_the_names_alone_are_for_scripts(tmp_path: Path) -> None:
    result = preflight(tmp_path, "--names")
    assert (result.returncode, result.stderr) == (1, "")
    assert result.stdout.split()[0] == "python3"


def test_a_compiler_without_headers_is_noticed(tmp_path: Path) -> None:
    script(tmp_path / "gcc", "exit 1")
    script(tmp_path / "make", "exit 0")
    result = preflight(tmp_path, sys.executable)
    assert result.stderr.strip().endswith("apt-get install libc6-dev libgmp-dev")


def test_an_interpreter_without_venv_is_noticed(tmp_path: Path) -> None:
    script(tmp_path / "make", "exit 0")
    script(tmp_path / "cc", "exit 0")
    script(
        tmp_path / "python3",
        f'case "$2" in *ensurepip*) exit 1 ;; esac; exec {sys.executable} "$@"',
    )
    result = preflight(tmp_path)
    assert result.stderr.strip().endswith("apt-get install python3-venv")


def test_an_old_interpreter_is_named(tmp_path: Path) -> None:
    script(tmp_path / "python3", "exit 1")
    result = preflight(tmp_path)
    assert result.returncode == 1
    assert "3.11" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_complete_machine_gets_no_line(tmp_path: Path) -> None:
    script(tmp_path / "make", "exit 0")
    script(tmp_path / "cc", "exit 0")
    result = preflight(tmp_path, sys.executable)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def floors(
    tmp_path: Path, packages: dict[str, tuple[int, int]]
) -> subprocess.CompletedProcess[str]:
    files = {
        f"{package}/a.py": {
            "summary": {
                "num_branches": total,
                "covered_branches": covered,
                "missing_branches": total - covered,
                "num_statements": 10,
                "covered_lines": 10,
            }
        }
        for package, (covered, total) in packages.items()
    }
    report = tmp_path / "coverage.json"
    report.write_text(json.dumps({"files": files}), encoding="utf-8")
    return subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "coverage_floors.py"), str(report)],
        capture_output=True,
        text=True,
        check=False,
    )


GOOD = {"protocol": (90, 100), "chunks": (90, 100), "ledger": (90, 100), "swarmd": (80, 100)}


def test_coverage_at_the_floor_passes(tmp_path: Path) -> None:
    assert floors(tmp_path, GOOD).returncode == 0


@pytest.mark.parametrize("package", GOOD)
def test_coverage_below_the_floor_fails(tmp_path: Path, package: str) -> None:
    covered, total = GOOD[package]
    result = floors(tmp_path, {**GOOD, package: (covered - 1, total)})
    assert result.returncode == 1
    assert f"never taken in {package}/a.py" in result.stdout


def test_coverage_of_nothing_fails(tmp_path: Path) -> None:
    partial = {package: values for package, values in GOOD.items() if package != "ledger"}
    assert floors(tmp_path, partial).returncode == 1


@pytest.mark.parametrize(
    ("suite", "line", "status"),
    [
        ('tests="5" failures="0" errors="0" skipped="1"', "4 passed, 0 failed, 1 skipped", 0),
        ('tests="5" failures="1" errors="1" skipped="0"', "3 passed, 2 failed, 0 skipped", 1),
        ('tests="0" failures="0" errors="0" skipped="0"', "0 passed, 0 failed, 0 skipped", 1),
        (None, "0 passed, 1 failed (pytest wrote no report)", 1),
    ],
)
def test_tests_are_counted(tmp_path: Path, suite: str | None, line: str, status: int) -> None:
    report = tmp_path / "junit.xml"
    if suite is not None:
        report.write_text(f"<testsuites><testsuite {suite}/></testsuites>", encoding="utf-8")
    result = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "count_tests.py"), str(report)],
        env={**os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout.strip(), result.returncode) == (line, status)
