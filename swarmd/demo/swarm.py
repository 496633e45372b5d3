"""A demonstration network: its nodes as processes, and questions to them from outside."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from protocol.did import SubjectKind
from protocol.errors import SwarmError, TransportError
from swarmd.clock import SystemClock
from swarmd.config import LogLevel
from swarmd.demo.processes import CLOCK, NodeProcess, free_ports, run_command
from swarmd.entropy import SystemEntropy
from swarmd.network_creation import Lab, LabOptions, create_lab

WAIT_S: Final = 60.0
"""How long one step of the demonstration may take, seconds."""
POLL_S: Final = 0.05
"""Pause between two looks, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Where the bytes of images on gateways came from."""

    fetched: int
    """From peers, patches included."""
    reused: int
    """Copied from images already held, or made from one by a patch."""


class Swarm:
    """The processes of one demonstration."""

    def __init__(self, folder: Path, *, validators: int, gateways: int) -> None:
        """Creates the network in `folder`; two gateways more than asked for are malicious."""
        options = LabOptions(
            validators=validators,
            gateways=gateways + 2,
            base_port=free_ports(validators + 2 * (gateways + 2) + 1),
            log_level=LogLevel.INFO,
        )
        self.lab: Final[Lab] = create_lab(folder, options, SystemEntropy(), SystemClock())
        self.group: Final = options.group
        self.validators: Final = self._processes(SubjectKind.VALIDATOR)
        self.publisher: Final = self._processes(SubjectKind.PUBLISHER)[0]
        *honest, liar, corrupter = self._processes(SubjectKind.GATEWAY)
        self.gateways: Final = tuple(honest)
        self.liar = liar
        """Announces what nobody authorised."""
        self.corrupter = corrupter
        """Serves every chunk with one bit wrong."""
        self._running: list[NodeProcess] = []
        self._ended: list[dict[str, int]] = []

    def _processes(self, kind: SubjectKind) -> tuple[NodeProcess, ...]:
        return tuple(NodeProcess(node.directory.path) for node in self.lab.of_kind(kind))

    def start(self, images: Sequence[Path], *, with_malicious: bool = True) -> None:
        """Starts every node; the corrupter gets all images beforehand."""
        command = [sys.executable, "-m", "swarmd.demo.malicious"]
        self.liar = NodeProcess(
            self.liar.directory, [*command, str(self.liar.directory), "--announce"]
        )
        paths = [str(image) for image in images]
        self.corrupter = NodeProcess(
            self.corrupter.directory, [*command, str(self.corrupter.directory), *paths]
        )
        nodes = [*self.validators, self.publisher, *self.gateways]
        if with_malicious:
            nodes += [self.liar, self.corrupter]
        for node in nodes:
            self._running.append(node)
            node.start()
        for node in nodes:
            node.wait_ready()

    def stop(self) -> None:
        """Ends every process."""
        for node in self._running:
            node.signal_stop()
        for node in self._running:
            node.stop()

    # -- commands as a user gives them ---------------------------------------------------------

    def command(self, *arguments: str) -> dict[str, Any]:
        """Runs a `swarmd` command with `--json`.

        Raises:
            SwarmError: it failed; the message is its own line.
        """
        done = run_command(*arguments, "--json")
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines() or ["no reason given"]
            raise SwarmError(f"swarmd {arguments[0]}: {reason[-1]}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def publish(self, image: Path, product: str, version: str) -> str:
        """Publishes an image and returns its manifest id."""
        result = self.command(
            "publish", str(image), "-C", str(self.publisher.directory),
            "--product", identifier(product), "--version", version, "--group", self.group,
        )  # fmt: skip
        return str(result["manifest"])

    def decide(self, verb: str, owner: int, manifest: str, image: Path | None = None) -> None:
        """Approves or revokes as one of the owners, counted from 0, through a gateway."""
        arguments = [
            verb, manifest, "-C", str(self.gateways[0].directory),
            "--key", str(self.lab.owner_keys[owner]), "--yes",
        ]  # fmt: skip
        self.command(*arguments, *(("--image", str(image)) if image else ()))

    # -- questions to nodes --------------------------------------------------------------------

    def wait(self, node: NodeProcess, manifest: str, goal: str) -> None:
        """Waits until a manifest is `authorised`, `complete` or `revoked` at a node."""
        node.call("wait", {"manifest": manifest, "for": goal, "timeout_s": WAIT_S})

    def status(self, node: NodeProcess) -> dict[str, Any]:
        """A node's status."""
        result = node.call("status")
        assert isinstance(result, dict), "status is an object"
        return dict(result)

    def downloaded(self, node: NodeProcess, digest: str) -> bytes | None:
        """What a device gets from a gateway for an image; None when it is not offered."""
        url = f"{self.status(node)['http']}/v1/images/{digest}"
        try:
            with urllib.request.urlopen(url, timeout=WAIT_S) as response:  # noqa: S310
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            error.close()
            return None

    def is_offered(self, node: NodeProcess, digest: str) -> bool:
        """Whether a device gets the right image from a gateway."""
        content = self.downloaded(node, digest)
        return content is not None and hashlib.sha256(content).hexdigest() == digest

    def transfer(self) -> Transfer:
        """Bytes fetched and reused by all gateways, those of killed processes included."""
        counts = [self.status(node)["exchange"] for node in self.gateways] + self._ended
        return Transfer(
            fetched=sum(count["fetched_bytes"] for count in counts),
            reused=sum(count["reused_bytes"] + count["patched_bytes"] for count in counts),
        )

    def kill_gateway(self, node: NodeProcess) -> None:
        """Kills a gateway as a power failure would; its counters so far are remembered."""
        self._ended.append(self.status(node)["exchange"])
        node.kill()

    def offences(self, node: NodeProcess) -> dict[str, int]:
        """What a node holds against the liar."""
        peers = node.call("peers")
        assert isinstance(peers, list), "peers is a list"
        mine: list[dict[str, Any]] = [
            dict(peer)
            for peer in peers
            if isinstance(peer, dict) and peer.get("name") == self.liar.name
        ]
        return dict(mine[0]["offences"]) if mine else {}

    def convictions(self, node: NodeProcess) -> dict[str, str]:
        """Members that the ledger of a node convicted, with their offences."""
        known = node.call("quarantines")
        assert isinstance(known, dict), "quarantines is an object"
        rows = known["convictions"]
        assert isinstance(rows, list), "convictions is a list"
        return {str(row["name"]): str(row["offence"]) for row in rows if isinstance(row, dict)}

    def receipts(self, node: NodeProcess) -> list[dict[str, Any]]:
        """A node's newest receipts."""
        entries = node.call("receipts", {"count": 1000})
        assert isinstance(entries, list), "receipts is a list"
        return [dict(entry) for entry in entries if isinstance(entry, dict)]


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> float:
    """Looks again and again until a condition holds; returns the seconds it took.

    Raises:
        TransportError: it did not hold in time.
    """
    started = CLOCK.monotonic()
    while not condition():
        if CLOCK.monotonic() - started > timeout_s:
            raise TransportError(f"{what}: not within {timeout_s:g} s")
        time.sleep(POLL_S)
    return CLOCK.monotonic() - started


def identifier(name: str) -> str:
    """The product identifier of a firmware's name: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:64]
