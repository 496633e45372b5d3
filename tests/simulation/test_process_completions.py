"""Moments of completion, from daemons' logs."""

from __future__ import annotations

import logging
import time
from io import StringIO
from pathlib import Path

from swarmd.config import LogLevel
from swarmd.logs import configure_logging
from swarmd.simulation.daemons.outside import View
from swarmd.simulation.daemons.timeline import Record, ReleaseProgress, draw_images
from swarmd.simulation.processes.completions import completions
from swarmd.simulation.scenario import ReleasePlan, Scenario


def test_what_the_daemon_writes_is_read_and_dated_on_the_other_clock(tmp_path: Path) -> None:
    """The line is written by the service's logger, through the daemon's own set-up of logs."""
    text, before = StringIO(), logging.getLogger().handlers[:]
    try:
        configure_logging(LogLevel.INFO, text)
        log = logging.getLogger("swarmd.services.images")
        log.info("fetching %s %s (%s)", "simulated", "1.0", "0011")
        wall_s = time.time()
        log.info("%s %s is complete", "simulated", "1.0")
    finally:
        logging.getLogger().handlers[:] = before
    path = tmp_path / "gateway-1.log"
    again = text.getvalue().replace(" 1.0 is", " 1.1 is").splitlines()[-1]
    path.write_text(f"{text.getvalue()}a line of something else\n{again}\n{again}\n")
    logs = [("gateway-1", path), ("gateway-2", tmp_path / "missing.log")]
    found = completions(logs, time.time() - wall_s + 1000.0)
    assert sorted(found) == [("gateway-1", "1.0"), ("gateway-1", "1.1")]
    assert all(abs(at_s - 1000.0) < 0.1 for at_s in found.values())


def test_a_moment_that_is_known_counts_instead_of_the_look_after_it() -> None:
    scenario = Scenario(releases=(ReleasePlan(), ReleasePlan()))
    images = draw_images(scenario, 1)
    releases = [ReleaseProgress(ReleasePlan(), image) for image in images]
    empty = View(heights={}, complete={}, seeder_bytes=0, gateway_bytes=0)
    record = Record(scenario, 1, releases, empty, zero_s=100.0)
    releases[1].finished_s = {"gateway-1": 5.0, "gateway-2": 5.5, "gateway-3": 6.0}
    known = {
        ("gateway-1", "1.1"): 104.75,
        ("gateway-2", "1.0"): 101.0,
        ("gateway-3", "1.1"): 109.0,
    }
    assert record.finished_s(releases[1], known) == {
        "gateway-1": 4.75,
        "gateway-2": 5.5,
        "gateway-3": 6.0,
    }
