"""What a real metered gateway sends and is sent, counted by the kernel, beside the simulated one.

    python benchmarks/metered_gateway.py [--minutes 15] [--heartbeat-s 60]      (root, Linux)

Seven processes as in `benchmarks/metered_day.py`; the metered gateway runs in a network namespace
of its own, reached by one pair of virtual interfaces, whose counters tell packets and bytes. The
first minute is not counted. Then the same time is simulated with the same heartbeat, and what the
model of TCP makes of it stands beside. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.metered_day import SETTLE_S, measure
from protocol.did import SubjectKind
from swarmd.clock import SystemClock
from swarmd.demo.processes import NodeProcess, free_ports
from swarmd.entropy import SystemEntropy
from swarmd.network_creation import Lab, LabOptions, create_lab
from swarmd.simulation.daemons.runtime import run_simulated

SPACE: Final = "swarmd-metered"
OUTSIDE: Final = "swm-out"
INSIDE: Final = "swm-in"
HOST: Final = "10.213.7.1"
GATEWAY: Final = "10.213.7.2"
ETHERNET_BYTES: Final = 14
"""Header of a frame, which interfaces count and mobile networks do not."""


def run(*command: str) -> str:
    """Runs a command; returns what it prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def inside(*command: str) -> tuple[str, ...]:
    """A command within the namespace."""
    return ("ip", "netns", "exec", SPACE, *command)


def make_space() -> None:
    """Makes the namespace; neighbours are set, so that no packet but those of IP passes."""
    run("ip", "netns", "add", SPACE)
    run("ip", "link", "add", OUTSIDE, "type", "veth", "peer", "name", INSIDE, "netns", SPACE)
    for prefix, name, address in (((), OUTSIDE, HOST), (inside(), INSIDE, GATEWAY)):
        run(*prefix, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        run(*prefix, "ip", "addr", "add", f"{address}/24", "dev", name)
        run(*prefix, "ip", "link", "set", name, "up")
    run(*inside("ip", "link", "set", "lo", "up"))
    for prefix, name, address, hardware in (
        ((), OUTSIDE, GATEWAY, mac(inside(), INSIDE)),
        (inside(), INSIDE, HOST, mac((), OUTSIDE)),
    ):
        run(
            *prefix, "ip", "neigh", "replace", address,
            "lladdr", hardware, "dev", name, "nud", "permanent",
        )  # fmt: skip


def mac(prefix: tuple[str, ...], name: str) -> str:
    """An interface's hardware address."""
    return str(json.loads(run(*prefix, "ip", "-j", "link", "show", name))[0]["address"])


def counters() -> dict[str, int]:
    """Packets and bytes of IP in both directions, and what TCP says about them."""
    shown = json.loads(run(*inside("ip", "-s", "-j", "link", "show", INSIDE)))[0]["stats64"]
    found = {"packets": shown["rx"]["packets"] + shown["tx"]["packets"]}
    raw = shown["rx"]["bytes"] + shown["tx"]["bytes"]
    found["bytes"] = raw - ETHERNET_BYTES * found["packets"]
    text = run(*inside("cat", "/proc/net/netstat")).splitlines()
    names, values = (line.split() for line in text[:2])
    tcp = dict(zip(names, values, strict=True))
    for name in ("TCPKeepAlive", "DelayedACKs", "TCPPureAcks"):
        found[name] = int(tcp.get(name, "0"))
    return found


def arrange(lab: Lab) -> Path:
    """Has the others listen where the namespace reaches them; returns the metered one's folder."""
    metered = lab.of_kind(SubjectKind.GATEWAY)[-1].directory
    for item in lab.nodes:
        path = item.directory.config
        network, rest = path.read_text().split("\n[http]\n", 1)
        network = network.replace("127.0.0.1", HOST)
        if item.directory.path == metered.path:
            network = network.replace("metered = false", "metered = true")
        path.write_text(f"{network}\n[http]\n{rest}")
    return metered.path


def real(minutes: float, heartbeat_ms: int, folder: Path) -> dict[str, int]:
    """Runs real processes; returns what the kernel counted."""
    options = LabOptions(gateways=2, base_port=free_ports(20), heartbeat_ms=heartbeat_ms)
    lab = create_lab(folder, options, SystemEntropy(), SystemClock())
    metered = arrange(lab)
    command = [*inside(sys.executable, "-m", "swarmd", "run", "-C", str(metered))]
    nodes = [
        NodeProcess(item.directory.path, command if item.directory.path == metered else None)
        for item in lab.nodes
    ]
    try:
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready()
        time.sleep(SETTLE_S)
        before = counters()
        time.sleep(minutes * 60)
        after = counters()
    finally:
        for node in nodes:
            node.stop()
    return {name: after[name] - before[name] for name in after}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--heartbeat-s", type=int, default=60)
    options = parser.parse_args()
    folder, heartbeat_ms = Path(tempfile.mkdtemp(prefix="metered-")), options.heartbeat_s * 1000
    try:
        make_space()
        counted = real(options.minutes, heartbeat_ms, folder / "real")
        hours = options.minutes / 60
        simulated = partial(measure, hours, folder / "lab", heartbeat_ms=heartbeat_ms)
        model = run_simulated(simulated, seed=1)
    finally:
        subprocess.run(("ip", "netns", "del", SPACE), check=False)
        shutil.rmtree(folder, ignore_errors=True)
    found = {"minutes": options.minutes, "heartbeat_s": options.heartbeat_s, "kernel": counted}
    print(json.dumps({"benchmark": "node.metered_gateway", **found, "model": model}))


if __name__ == "__main__":
    main()
