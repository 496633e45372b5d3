"""The demonstration as a user runs it, and its parts that a good run never shows."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from protocol.errors import ConfigError, TransportError
from swarmd.demo import DemoOptions, DemoReport, run_demo
from swarmd.demo.processes import NodeProcess, free_ports
from swarmd.demo.scenario import CHECKS
from swarmd.demo.swarm import identifier, wait_until
from swarmd.demo.table import render

DEMO_S = 240
"""A run takes under a minute on two free cores, seconds."""


def image(path: Path, seed: bytes, size: int = 200_000) -> Path:
    path.write_bytes(hashlib.shake_256(seed).digest(size))
    return path


@pytest.mark.slow
@pytest.mark.network
def test_the_demonstration_holds_every_check_and_reports_in_json(tmp_path: Path) -> None:
    old = image(tmp_path / "old.bin", b"old")
    new = tmp_path / "new.bin"
    new.write_bytes(old.read_bytes() + hashlib.shake_256(b"new").digest(50_000))
    command = [
        sys.executable, "-m", "swarmd", "demo", "--json", "--gateways", "2",
        "--image", str(old), "--image", str(new), "--keep", str(tmp_path / "network"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEMO_S, check=False)
    assert done.returncode == 0, done.stderr
    report: DemoReport = json.loads(done.stdout)
    assert report["checks"] == dict.fromkeys(CHECKS, True)
    assert (report["validators"], report["gateways"]) == (4, 2)
    first, second = report["images"]
    assert first["sha256"] == hashlib.sha256(old.read_bytes()).hexdigest()
    assert second["bytes"] == new.stat().st_size
    assert first["bytes_reused"] == 0
    assert second["bytes_reused"] > old.stat().st_size // 2
    assert 0 < second["bytes_fetched"] < 2 * second["bytes"]
    logs = [path.read_text() for path in (tmp_path / "network").glob("*.log")]
    assert len(logs) == 9
    assert not any("Traceback" in log for log in logs)


def test_equal_images_are_refused_before_anything_starts(tmp_path: Path) -> None:
    one, two = image(tmp_path / "1", b"same"), image(tmp_path / "2", b"same")
    with pytest.raises(ConfigError, match="same"):
        run_demo(DemoOptions(images=(one, two), keep=tmp_path / "network"))
    assert not (tmp_path / "network").exists()


def test_the_table_shows_a_failed_check() -> None:
    report: DemoReport = {
        "elapsed_s": 1.0,
        "validators": 4,
        "gateways": 2,
        "source": "generated",
        "images": [],
        "checks": {**dict.fromkeys(CHECKS, True), "proof_verified": False},
    }
    lines = render(report).splitlines()
    assert sum("FAILED" in line for line in lines) == 1
    assert any("FAILED" in line and "proof" in line for line in lines)


def test_names_become_product_identifiers() -> None:
    assert identifier("MicroPython for micro:bit (uflash)") == "micropython-for-micro-bit-uflash"
    assert len(identifier("x" * 200)) == 64


def test_waiting_ends_with_what_was_awaited() -> None:
    with pytest.raises(TransportError, match="the sky falls"):
        wait_until(lambda: False, "the sky falls", timeout_s=0.01)


@pytest.mark.slow
def test_a_node_that_does_not_start_is_quoted(tmp_path: Path) -> None:
    process = NodeProcess(tmp_path / "node", [sys.executable, "-c", "raise SystemExit('no disk')"])
    process.start()
    with pytest.raises(TransportError, match="no disk"):
        process.wait_ready()
    process.stop()


def test_ports_are_free_and_consecutive() -> None:
    first = free_ports(5)
    assert 20_000 <= first < 60_000
