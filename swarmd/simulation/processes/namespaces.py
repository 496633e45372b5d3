"""Network namespaces joined by links with rates, delays and losses, for processes on one machine.

Each node has a namespace of its own with one device; `netns_link.c`, compiled when it is needed,
passes the frames on, since not every kernel can delay them. Needs root, iproute2, a C compiler and
/dev/net/tun. Nothing in these namespaces reaches any other network.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from protocol.errors import ConfigError, TransportError

PORTS_MAX: Final = 200
"""Nodes of one set of namespaces."""
QUEUE_MS: Final = 100.0
"""What a port may hold back, each way, before it drops: a router's buffer, milliseconds."""
COMMAND_S: Final = 30.0
"""How long `ip`, the compiler and the link program may take, seconds."""
_NETWORK: Final = "10.78.0"
"""Addresses of the nodes; they exist in the namespaces only."""
_DEVICE: Final = "e0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """How one node is attached."""

    up_mbit: float
    """Rate of its uplink, Mbit/s on the wire."""
    down_mbit: float
    """Rate of its downlink, Mbit/s on the wire."""
    latency_ms: float = 0.0
    """One way between the node and all others, milliseconds; a path has both ends' together."""
    jitter_ms: float = 0.0
    """Added to that, uniform from 0 to this, milliseconds; frames stay in order."""
    loss: float = 0.0
    """Probability that a frame is lost between the node and the middle, in each direction."""
    duplication: float = 0.0
    """Probability that a frame comes twice, likewise."""
    reorder: float = 0.0
    """Probability that a frame is held back so that others overtake it, likewise."""
    reorder_ms: float = 0.0
    """How long, milliseconds."""
    queue_ms: float = QUEUE_MS
    """What its routers hold back before they drop, milliseconds."""
    site: int = 0
    """Where it stands: between ports of one site there are only rates and queues. 0: alone."""
    is_closed: bool = False
    """Whether only nodes of its site can call it."""

    @property
    def text(self) -> str:
        """As the link program reads it."""
        numbers = (
            self.up_mbit,
            self.down_mbit,
            self.latency_ms,
            self.jitter_ms,
            self.loss,
            self.duplication,
            self.reorder,
            self.reorder_ms,
            self.queue_ms,
        )
        return ":".join(
            [*(f"{each:g}" for each in numbers), str(self.site), str(int(self.is_closed))]
        )


@dataclass(frozen=True, slots=True)
class PortCount:
    """What passed one port."""

    sent_bytes: int
    """By its node, headers of Ethernet included."""
    received_bytes: int
    """By its node."""
    drops: int
    """Frames that found a queue full."""


def why_not() -> str | None:
    """Why there can be no namespaces here; None: there can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root"
    for program, source in (("ip", "iproute2"), ("cc", "a C compiler")):
        if shutil.which(program) is None:
            return f"needs {source} ({program} is not on PATH)"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun"
    return None


class Namespaces:
    """A set of namespaces, a context manager: made on entry, removed at the end whatever happens.

    Names begin with `sw` and this process's id.
    """

    def __init__(
        self,
        ports: Sequence[Port],
        *,
        delay_ms: float = 0.0,
        queue_ms: float = QUEUE_MS,
        loss: float = 0.0,
    ) -> None:
        """Plans namespaces; entering the context makes them.

        Args:
            ports: one for each namespace.
            delay_ms: one way, of every path besides its ends' own, milliseconds.
            queue_ms: see `QUEUE_MS`.
            loss: probability that a frame is lost.

        Raises:
            ConfigError: too many, or this machine cannot.
        """
        if len(ports) > PORTS_MAX:
            raise ConfigError(f"{len(ports)} namespaces, at most {PORTS_MAX}")
        if reason := why_not():
            raise ConfigError(f"network namespaces: {reason}")
        self._ports = ports
        self._settings = [f"{value:g}" for value in (delay_ms, queue_ms, loss)]
        self._prefix: Final = f"sw{os.getpid()}"
        self._made: list[str] = []
        self._program: subprocess.Popen[str] | None = None

    def name(self, number: int) -> str:
        """The namespace of a port."""
        return f"{self._prefix}n{number}"

    @staticmethod
    def address(number: int) -> str:
        """The IPv4 address of a port."""
        return f"{_NETWORK}.{number + 1}"

    def command(self, number: int) -> list[str]:
        """What to put before a command that shall run in a namespace."""
        return ["ip", "netns", "exec", self.name(number)]

    # Life ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Makes all.

        Raises:
            TransportError: the compiler, `ip` or the kernel refused.
        """
        try:
            self._start_links()
            for number in range(len(self._ports)):
                self._make(number)
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes all."""
        self.remove()

    def _start_links(self) -> None:
        with tempfile.TemporaryDirectory(prefix="swarmd-link-") as folder:
            program = Path(folder) / "netns_link"
            source = resources.files(__package__).joinpath("netns_link.c")
            with resources.as_file(source) as path:
                _run("cc", "-O2", "-o", str(program), str(path))
            rates = [port.text for port in self._ports]
            self._program = subprocess.Popen(
                [str(program), f"{self._prefix}t", *self._settings, *rates],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            self._answer("READY")

    def _make(self, number: int) -> None:
        name, device = self.name(number), f"{self._prefix}t{number}"
        _run("ip", "netns", "add", name)
        self._made.append(name)
        _run("ip", "link", "set", device, "netns", name, "name", _DEVICE)
        steps = (
            f"link set {_DEVICE} address 02:00:00:00:{number // 256:02x}:{number % 256:02x}",
            f"addr add {self.address(number)}/24 dev {_DEVICE}",
            f"link set {_DEVICE} up",
            "link set lo up",
        )
        _run("ip", "-n", name, "-batch", "-", given="\n".join(steps) + "\n")

    def remove(self) -> list[PortCount]:
        """Removes all; may be called again.

        Returns:
            What the links counted until then, by port; empty the second time.
        """
        counts: list[PortCount] = []
        program, self._program = self._program, None
        try:
            if program is not None:
                counts = _end(program)
        finally:
            while self._made:
                command = ["ip", "netns", "del", self._made.pop()]
                subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_S)
        return counts

    # Disturbances --------------------------------------------------------------------------------

    def cut(self, numbers: Iterable[int]) -> None:
        """Lets nothing pass between these ports and the others; ends an earlier cut."""
        self._say("cut", *map(str, numbers))

    def mute(self, numbers: Iterable[int]) -> None:
        """Lets nothing pass from these ports to the others; ends an earlier cut."""
        self._say("mute", *map(str, numbers))

    def heal(self) -> None:
        """Ends cuts."""
        self._say("heal")

    def set_loss(self, loss: float) -> None:
        """Changes the probability that a frame is lost."""
        self._say("loss", f"{loss:g}")

    def counts(self) -> list[PortCount]:
        """What passed so far, by port."""
        return [_count(line) for line in self._say("counts")]

    def _say(self, *words: str) -> list[str]:
        assert self._program is not None, "the namespaces exist"
        assert self._program.stdin is not None, "its input is a pipe"
        try:
            self._program.stdin.write(" ".join(words) + "\n")
            self._program.stdin.flush()
        except OSError as error:
            raise TransportError(f"the link program ended: {error.strerror or error}") from error
        return self._answer("OK")

    def _answer(self, last: str) -> list[str]:
        """Reads lines until `last`, and returns those before."""
        assert self._program is not None, "the namespaces exist"
        assert self._program.stdout is not None, "its output is a pipe"
        lines: list[str] = []
        for line in self._program.stdout:
            if line.strip() == last:
                return lines
            lines.append(line)
        raise TransportError(f"the link program ended before it said {last}")


def _end(program: subprocess.Popen[str]) -> list[PortCount]:
    """Ends the link program; returns its counts, if it still says them."""
    try:
        said, _ = program.communicate("", timeout=COMMAND_S)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        program.kill()
        program.wait()
        return []
    return [_count(line) for line in said.splitlines()]


def _count(line: str) -> PortCount:
    _, sent, received, up_drops, down_drops = (int(word) for word in line.split())
    return PortCount(sent, received, up_drops + down_drops)


def _run(*command: str, given: str | None = None) -> None:
    """Runs a command that must succeed.

    Raises:
        TransportError: it does not.
    """
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransportError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        reason = done.stderr.strip().splitlines() or ["no reason given"]
        raise TransportError(f"{' '.join(command)[:200]}: {reason[-1][:300]}")


def leftovers(pid: int) -> list[str]:
    """Names of namespaces that a process made and did not remove."""
    folder = Path("/run/netns")
    with contextlib.suppress(OSError):
        return sorted(path.name for path in folder.iterdir() if path.name.startswith(f"sw{pid}n"))
    return []
