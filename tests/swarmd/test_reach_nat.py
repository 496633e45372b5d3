"""Real processes behind real NAT: an image gets from one home to another through a public member.

Needs root, network namespaces and nftables in the kernel; elsewhere it is skipped with the reason.
Nothing leaves the namespaces: they have no way out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarmd.clock import SystemClock
from swarmd.config import Config, Endpoint
from swarmd.config_template import render_config
from swarmd.datadir import DataDir, KeyName, write_atomic
from swarmd.demo.processes import NodeProcess
from swarmd.demo.swarm import wait_until
from swarmd.entropy import SeededEntropy
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.network_creation import LabOptions, create_lab
from tests.support.nat import Internet, internet, reason_to_skip

pytestmark = pytest.mark.slow
PORT = 7001
HUB = 10
"""Last number of the public host's address."""
WAIT_S = 120.0
CUT_S = 2.0
"""A suspension cuts within one second of the block; the rest is what asking takes."""
VALIDATORS = tuple(f"validator-{number}" for number in range(1, 5))
IMAGE = SeededEntropy(3, "image").token(1 << 20)
"""1 MiB that no compression makes smaller."""


class Homes:
    """A laboratory: validators on a public host, the publisher and a gateway at home."""

    def __init__(self, path: Path, net: Internet) -> None:
        self.path = path
        self.net = net
        self.hub = net.host("hub", HUB)
        net.home("one", 11)
        net.home("two", 12)
        options = LabOptions(gateways=1, publishers=1)
        self.lab = create_lab(path, options, SeededEntropy(7, "nat"), SystemClock())
        self.places = dict.fromkeys(VALIDATORS, "hub") | {"publisher-1": "one", "gateway-1": "two"}
        for name in self.places:
            self._configure(name)
        self.running: dict[str, NodeProcess] = {}

    def peer(self, name: str) -> PeerKey:
        return PeerKey(DataDir(self.path / name).load_key(KeyName.TRANSPORT).public.raw)

    def _configure(self, name: str) -> None:
        """Validators are called at the public address; whoever is at home is not called at all."""
        directory = DataDir(self.path / name)
        config = directory.load_config()
        bootstrap = tuple(
            PeerAddress(self.peer(other), self.hub, PORT + number)
            for number, other in enumerate(VALIDATORS)
            if other != name
        )
        number = VALIDATORS.index(name) if name in VALIDATORS else 0
        host = self.hub if name in VALIDATORS else "0.0.0.0"
        changed: Config = dataclasses.replace(
            config,
            network=dataclasses.replace(
                config.network,
                listen=(Endpoint(host, PORT + number),),
                bootstrap=bootstrap,
                forward=name == VALIDATORS[0],
            ),
            http=dataclasses.replace(config.http, listen=None),
        )
        write_atomic(directory.config, render_config(changed).encode())

    def place(self, name: str, host: str, label: str, **settings: object) -> None:
        """Puts a node elsewhere, with other settings."""
        self.places[name] = label
        directory = DataDir(self.path / name)
        config = directory.load_config()
        fields = {"listen": (Endpoint(host, PORT),), **settings}
        section = dataclasses.replace(config.network, **fields)  # type: ignore[arg-type]
        changed = dataclasses.replace(config, network=section)
        write_atomic(directory.config, render_config(changed).encode())

    def suspend(self, name: str, draft: Path) -> float:
        """Suspends a gateway; returns how long after the block its detour was cut, seconds."""
        hub = str(self.path / VALIDATORS[1])
        status: Any = self.running[name].call("status")
        did = str(status["did"])
        self.command("did", "suspend", did, "--group", "fleet", "-C", hub, "-o", str(draft))
        for key in self.lab.owner_keys[:2]:
            self.command("did", "sign", str(draft), "--key", str(key), "--yes")
        self.command("did", "submit", str(draft), "-C", hub)
        return wait_until(lambda: self.route("publisher-1", name) == "none", "the detour is cut")

    def start(self, *names: str) -> None:
        for name in names:
            command = ["ip", "netns", "exec", self.net.name(self.places[name])]
            command += [sys.executable, "-m", "swarmd", "run", "-C", str(self.path / name)]
            self.running[name] = NodeProcess(self.path / name, command)
            self.running[name].start()
        for name in names:
            self.running[name].wait_ready()

    def stop(self) -> None:
        for node in self.running.values():
            node.signal_stop()
        for node in self.running.values():
            node.stop()

    def command(self, *arguments: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "swarmd", *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def route(self, name: str, other: str) -> str:
        rows: Any = self.running[name].call("peers")
        found = [row["route"] for row in rows if row["peer"] == self.peer(other).hex()]
        return found[0] if found else "none"

    def until(self, name: str, other: str, route: str) -> None:
        wait_until(lambda: self.route(name, other) == route, f"{name} reaches {other}: {route}")


@contextlib.contextmanager
def homes(path: Path) -> Iterator[Homes]:
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    with internet() as net:
        made = Homes(path, net)
        try:
            yield made
        finally:
            made.stop()


def test_an_image_gets_from_one_home_to_another(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(IMAGE)
    with homes(tmp_path / "lab") as network:
        network.start(*VALIDATORS, "publisher-1", "gateway-1")
        network.until("gateway-1", "publisher-1", "forwarded")
        for name in ("gateway-1", "publisher-1"):
            reach: Any = network.running[name].call("reach")
            assert reach["reachability"] == "unreachable"
            assert reach["stated"] == []
            for validator in VALIDATORS:
                network.until(name, validator, "direct")
        publisher, gateway = (str(network.path / name) for name in ("publisher-1", "gateway-1"))
        published = network.command(
            *("publish", str(image), "-C", publisher, "--product", "pump"),
            *("--version", "1.0", "--group", "fleet"),
        )
        for key in network.lab.owner_keys[:2]:
            network.command(
                *("approve", published["manifest"], "-C", gateway, "--key", str(key), "--yes")
            )
        network.running["gateway-1"].call(
            "wait", {"manifest": published["manifest"], "for": "complete", "timeout_s": WAIT_S}
        )
        fetched = tmp_path / "fetched"
        network.command("fetch", published["manifest"], "-o", str(fetched), "-C", gateway)
        digest = hashlib.sha256(fetched.read_bytes()).digest()
        assert digest == hashlib.sha256(IMAGE).digest()
        hub: Any = network.running[VALIDATORS[0]].call("reach")
        assert hub["forwarding"]["connections"] >= 1
        assert hub["forwarding"]["passed_bytes"] > len(IMAGE)
        # Forwarding ends with the forwarder, and comes back with it.
        network.running[VALIDATORS[0]].kill()
        network.until("gateway-1", "publisher-1", "none")
        network.start(VALIDATORS[0])
        network.until("gateway-1", "publisher-1", "forwarded")
        assert network.suspend("gateway-1", tmp_path / "draft") <= CUT_S


def test_gateways_on_one_network_find_each_other_by_multicast(tmp_path: Path) -> None:
    """On a real interface, whose network the kernel names; nobody told them of anybody."""
    with homes(tmp_path / "lab") as network:
        settings = {"bootstrap": (), "lan_interface": "eth0"}
        network.place("gateway-1", network.net.host("three", 13), "three", **settings)
        network.place("publisher-1", network.net.host("four", 14), "four", **settings)
        network.start("gateway-1", "publisher-1")
        network.until("gateway-1", "publisher-1", "lan")
        network.until("publisher-1", "gateway-1", "lan")
