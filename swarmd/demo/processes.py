"""Node processes of the demonstration: started, watched, killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

from protocol.errors import TransportError
from swarmd.clock import SystemClock
from swarmd.control.client import ControlClient
from swarmd.control.protocol import JSON

CLOCK: Final = SystemClock()
"""Measures how long things take."""
READY_S: Final = 60.0
"""How long a node may take until it is ready, seconds; ten processes share two cores."""
STOP_S: Final = 10.0
"""How long a node may take to stop in order, seconds."""
PORT_FIRST: Final = 20_000
"""First port tried for a network."""
PORT_LAST: Final = 60_000
"""Last port tried."""
SLOT_PORTS: Final = 32
"""Ports claimed together."""
_CLAIMS: Final[list[socket.socket]] = []


class NodeProcess:
    """One node as an operating-system process."""

    def __init__(self, directory: Path, command: list[str] | None = None) -> None:
        """Names a node; `command` replaces `swarmd run` (for the malicious member)."""
        self.directory: Final = directory
        self.name: Final = directory.name
        self._command = command or [
            sys.executable,
            "-m",
            "swarmd",
            "run",
            "-C",
            str(directory),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def log_path(self) -> Path:
        """Where its diagnostic log goes."""
        return self.directory.parent / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        assert self._process is not None, "the node runs"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended since."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process; `wait_ready` waits for it."""
        self._log = self.log_path.open("ab")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )

    def wait_ready(self) -> None:
        """Waits for the line READY.

        Raises:
            TransportError: the node ended or was not ready in time; the message quotes its log.
        """
        process = self._process
        assert process is not None, "the node was started"
        assert process.stdout is not None, "its stdout is a pipe"
        os.set_blocking(process.stdout.fileno(), False)
        deadline = CLOCK.monotonic() + READY_S
        seen = b""
        while b"READY" not in seen:
            if process.poll() is not None or CLOCK.monotonic() > deadline:
                raise TransportError(f"{self.name} did not become ready: {self.last_words()}")
            time.sleep(0.02)
            seen += process.stdout.read() or b""

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log_path.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "it said nothing"

    def kill(self) -> None:
        """Ends the process as a power failure would: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Asks the process to stop, and kills it if it does not."""
        self._end(signal.SIGTERM)

    def signal_stop(self) -> None:
        """Asks the process to stop without waiting; `stop` waits."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def signal_kill(self) -> None:
        """Kills the process without waiting; `stop` waits."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if self._log is not None:
            self._log.close()
        self._process = None

    def call(self, method: str, params: Mapping[str, JSON] | None = None) -> JSON:
        """Asks the node over its control socket."""
        with ControlClient(self.directory / "run" / "control.sock") as client:
            return client.call(method, params or {})


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a `swarmd` command as a user would and returns its exit code and output."""
    return subprocess.run(
        [sys.executable, "-m", "swarmd", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=False,
    )


def free_ports(count: int) -> int:
    """Claims `count` consecutive free ports on the loopback address for the life of this process.

    Ports are found free now and bound later by other processes; a second demonstration in between
    must not find the same ones. So they are claimed in slots, each by an abstract Unix socket.

    Returns:
        The first of them.

    Raises:
        TransportError: there is no such range.
    """
    slots = -(-count // SLOT_PORTS)
    for first in range(PORT_FIRST, PORT_LAST - slots * SLOT_PORTS, SLOT_PORTS):
        claims = [_claim(first + number * SLOT_PORTS) for number in range(slots)]
        held = [claim for claim in claims if claim is not None]
        if len(held) == slots and all(_is_free(port) for port in range(first, first + count)):
            _CLAIMS.extend(held)
            return first
        for claim in held:
            claim.close()
    raise TransportError(f"no {count} consecutive free ports on this machine")


def _claim(first: int) -> socket.socket | None:
    """Claims a slot of ports; None: another process has it. It ends with the process."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0swarmd-demo-ports-{first}")
    except OSError:
        claim.close()
        return None
    return claim


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
