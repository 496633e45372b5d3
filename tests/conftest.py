"""What all tests share: deterministic Hypothesis profiles, vectors, a report of slow tests, and how
long runs go unmeasured."""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest
from coverage.exceptions import CoverageWarning
from hypothesis import HealthCheck, settings

SLOW_S = 0.25
"""Tests above this carry the `slow` marker, seconds."""

settings.register_profile(
    "default",
    derandomize=True,
    database=None,
    deadline=None,  # wall-clock deadlines fail on a loaded machine, not on a defect
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "search", parent=settings.get_profile("default"), derandomize=False, max_examples=2000
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """Registers what only this file knows of."""
    config.addinivalue_line(
        "markers", "untraced: long run of what others cover; measuring would triple its time"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Runs `untraced` tests without measuring their coverage."""
    measured = None
    if item.get_closest_marker("untraced") is not None:
        measured = coverage.Coverage.current()
    if measured is None:
        return (yield)
    measured.stop()
    try:
        return (yield)
    finally:
        with warnings.catch_warnings():
            # It says that modules were imported before: while it measured, that is.
            warnings.simplefilter("ignore", CoverageWarning)
            measured.start()


@pytest.fixture(scope="session")
def vectors_path() -> Path:
    """The folder of third-party test vectors; they are not part of this repository."""
    value = os.environ.get("SWARMD_VECTORS")
    if not value:
        pytest.skip("needs SWARMD_VECTORS")
    return Path(value)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes on a report whether its test may be slow, for the summary."""
    report = yield
    if report.when == "call" and item.get_closest_marker("slow") is None:
        report.user_properties.append(("duration_unmarked_s", report.duration))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lists tests that should be marked slow; a hint only, because machines differ."""
    late: list[tuple[float, str]] = []
    for report in terminalreporter.stats.get("passed", []):
        for name, value in report.user_properties:
            if name == "duration_unmarked_s" and value > SLOW_S:
                late.append((value, report.nodeid))
    if not late:
        return
    terminalreporter.section(f"over {SLOW_S} s without the slow marker")
    for duration_s, node in sorted(late, reverse=True)[:20]:
        terminalreporter.write_line(f"{duration_s:6.2f} s  {node}")
