"""Compares the branch coverage of each package with its floor.

Usage: `python .ci/coverage_floors.py coverage.json`; exit status 1 if a package is below its floor.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FLOORS_PERCENT: Final = {"protocol": 90, "chunks": 90, "ledger": 90, "swarmd": 80}
"""Least share of branches taken. The pure packages have no excuse; swarmd talks to the system."""


@dataclass
class Tally:
    """What was measured in one package."""

    branches: int = 0
    """Branches in the source."""
    branches_covered: int = 0
    """Branches that some test took."""
    statements: int = 0
    """Statements in the source."""
    statements_covered: int = 0
    """Statements that some test ran."""

    @property
    def branch_percent(self) -> float:
        """Share of branches taken; a package without any branch counts by its statements."""
        if self.branches:
            return 100 * self.branches_covered / self.branches
        return 100 * self.statements_covered / max(self.statements, 1)


def tally_packages(report: dict[str, Any]) -> dict[str, Tally]:
    """Adds up the files of a coverage report by top-level package."""
    tallies = {package: Tally() for package in FLOORS_PERCENT}
    for name, entry in report["files"].items():
        tally = tallies.get(Path(name).parts[0])
        if tally is None:
            continue
        summary = entry["summary"]
        tally.branches += summary["num_branches"]
        tally.branches_covered += summary["covered_branches"]
        tally.statements += summary["num_statements"]
        tally.statements_covered += summary["covered_lines"]
    return tallies


def main(arguments: list[str]) -> int:
    """Prints one line a package; returns the exit status."""
    report = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    status = 0
    for package, tally in tally_packages(report).items():
        floor = FLOORS_PERCENT[package]
        # A package of which nothing was measured is a fault of the measurement, not a pass.
        is_low = tally.statements == 0 or tally.branch_percent < floor
        status |= is_low
        print(
            f"{package:9} branches {tally.branch_percent:5.1f} % "
            f"({tally.branches_covered}/{tally.branches}), floor {floor} %"
            + ("  TOO LOW" if is_low else "")
        )
        if is_low:
            _print_gaps(report, package)
    return status


def _print_gaps(report: dict[str, Any], package: str) -> None:
    """Names the files with the most branches not taken."""
    gaps = sorted(
        (
            (entry["summary"]["missing_branches"], name)
            for name, entry in report["files"].items()
            if Path(name).parts[0] == package
        ),
        reverse=True,
    )
    for missing, name in gaps[:8]:
        if missing:
            print(f"    {missing:4} branches never taken in {name}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
