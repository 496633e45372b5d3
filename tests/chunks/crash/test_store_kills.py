"""SIGKILL at random moments of a download: a short form of the campaign."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path("benchmarks/store_kills.py")


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(scratch: Path) -> None:
    # In a process of its own: it forks, which one with threads should not do.
    options = ["--kills", "6", "--mib", "16", "--seed", "7", "--dir", str(scratch)]
    done = subprocess.run(
        [sys.executable, str(CAMPAIGN), *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == []
    assert report["images"] >= 1
    assert report["kills"] >= 6
    assert report["refetched_mib_max"] <= 8
