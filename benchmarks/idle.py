"""What a network costs while nothing happens: CPU, memory, wire and disk of each role.

    python benchmarks/idle.py [--minutes 10] [--gateways 2] [--metered]

Starts four validators, a publisher and gateways as processes on loopback, lets them settle, and
then reads the operating system's own accounts (/proc) and the nodes' wire counters over the given
time. Prints one JSON line with, for each role, the largest figure of any node: CPU in per cent of
one core, resident MiB, and bytes on the wire and written to disk extrapolated to a day.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from protocol.did import SubjectKind
from swarmd.clock import SystemClock
from swarmd.config_template import render_config
from swarmd.demo.processes import NodeProcess, free_ports
from swarmd.entropy import SystemEntropy
from swarmd.network_creation import Lab, LabOptions, create_lab

SETTLE_S = 30.0
"""Connections, hello and the first block are over by then."""
DAY_S = 24 * 3600
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What a process has used so far."""

    cpu_s: float
    rss_bytes: int
    written_bytes: int
    wire_bytes: int


def account(node: NodeProcess) -> Account:
    """Reads one process's accounts."""
    pid = node.pid
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    status = node.call("status")
    assert isinstance(status, dict), "status is an object"
    return Account(
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        rss_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        written_bytes=int(io["write_bytes"]),
        wire_bytes=int(str(status["bytes_in"])) + int(str(status["bytes_out"])),
    )


def meter(lab: Lab) -> str:
    """Makes the last gateway a metered one; returns its name."""
    directory = lab.of_kind(SubjectKind.GATEWAY)[-1].directory
    config = directory.load_config()
    network = dataclasses.replace(config.network, metered=True)
    directory.config.write_text(render_config(dataclasses.replace(config, network=network)))
    return directory.path.name


def measure(
    nodes: list[NodeProcess], minutes: float, metered: str | None
) -> dict[str, dict[str, float]]:
    """Measures all nodes over the given time; returns the worst figures of each role."""
    time.sleep(SETTLE_S)
    before = [account(node) for node in nodes]
    started = time.monotonic()
    time.sleep(minutes * 60)
    elapsed = time.monotonic() - started
    worst: dict[str, dict[str, float]] = {}
    for node, first in zip(nodes, before, strict=True):
        last = account(node)
        figures = {
            "cpu_percent": round((last.cpu_s - first.cpu_s) / elapsed * 100, 2),
            "rss_mib": round(last.rss_bytes / 2**20, 1),
            "wire_mb_per_day": round(
                (last.wire_bytes - first.wire_bytes) / elapsed * DAY_S / 1e6, 2
            ),
            "disk_mb_per_day": round(
                (last.written_bytes - first.written_bytes) / elapsed * DAY_S / 1e6, 2
            ),
        }
        name_of_role = "metered" if node.name == metered else node.name.rsplit("-", 1)[0]
        role = worst.setdefault(name_of_role, dict.fromkeys(figures, 0.0))
        for name, value in figures.items():
            role[name] = max(role[name], value)
    return worst


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--metered", action="store_true", help="the last gateway is metered")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarmd-idle-") as name:
        options = LabOptions(gateways=arguments.gateways, base_port=free_ports(20))
        lab = create_lab(Path(name) / "network", options, SystemEntropy(), SystemClock())
        nodes = [NodeProcess(item.directory.path) for item in lab.nodes]
        metered = meter(lab) if arguments.metered else None
        try:
            for node in nodes:
                node.start()
            for node in nodes:
                node.wait_ready()
            worst = measure(nodes, arguments.minutes, metered)
        finally:
            for node in nodes:
                node.stop()
    result = {"name": "node.idle", "minutes": arguments.minutes, **worst}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
