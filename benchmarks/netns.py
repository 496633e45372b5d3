"""Measures a swarm of real processes behind thin links, against the fluid bound and the simulation.

    sudo python benchmarks/netns.py --leechers 16 --mbit 20 --delay-ms 20 --mib 16 --runs 3

One seeder and N leechers run in network namespaces of their own, joined by links with a rate, a
delay and a tail-drop queue for each port (`swarmd/simulation/processes/namespaces.py`). Needs root,
iproute2, a C compiler and /dev/net/tun. Whole daemons: `benchmarks/levels.py`.

A peer is a program that takes `--role seed|leech --dir D --mib N --opt JSON` (in it `listen`, an
"IP:PORT"). Leechers' folders are in the seeder's. The seeder makes D/fw.bin available and prints
`READY ADDRESS`; a leecher prints `READY ADDRESS`, reads `GO ADDRESS...` from its standard input,
and prints `DONE` when D/fw.bin is complete and verified. Times run from the first GO. One JSON line
is printed. A run in which the machine used more than 70 % of its processors is void: the
processors were measured, not the links.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmd.simulation.links import LinkModel, NodeLink
from swarmd.simulation.processes.interruption import terminable
from swarmd.simulation.processes.namespaces import Namespaces, Port
from swarmd.simulation.processes.processors import ProcessorWatch
from swarmd.simulation.transfer import Transfer, fluid_bound_s

HERE = Path(__file__).resolve().parent
CPU_SHARE_MAX = 0.7
"""Above this the processors, not the links, may have decided."""
READY_TIMEOUT_S = 120.0
"""How long processes may take to start, seconds."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run."""

    finished_s: list[float]
    """For each leecher, from GO to DONE."""
    seeder_sent: float
    """Bytes on the seeder's uplink, in sizes of the image."""
    received: float
    """Bytes on all leechers' downlinks, in sizes of the image, for each leecher."""
    cpu_share: float
    """Of all processors of the machine."""
    drops: int
    """Frames that found a queue full."""


class Peer:
    """A process in a namespace."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        quiet = None if os.environ.get("NETNS_DEBUG") else subprocess.DEVNULL
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=quiet,
            text=True,
            bufsize=1,
        )

    def wait_line(self, prefix: str) -> str:
        """Reads lines until one begins with `prefix`; returns the rest of it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(prefix):
                return line.removeprefix(prefix).strip()
        raise RuntimeError(f"ended before it said {prefix}: {' '.join(self.command)}")

    def say(self, line: str) -> None:
        """Writes a line to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Ends it without notice."""
        self.process.kill()
        self.process.wait()


def links_of(options: argparse.Namespace) -> list[NodeLink]:
    """Links of the seeder and of each leecher."""
    count, slow = options.leechers, options.slow
    rates = [options.mbit / (4 if number > count - slow else 1) for number in range(count + 1)]
    return [
        NodeLink(uplink_bytes_per_s=rate * 125_000, downlink_bytes_per_s=rate * 125_000)
        for rate in rates
    ]


def namespaces_of(options: argparse.Namespace) -> Namespaces:
    """Namespaces of the seeder and of each leecher."""
    return Namespaces(
        [
            Port(
                up_mbit=each.uplink_bytes_per_s / 125_000,
                down_mbit=each.downlink_bytes_per_s / 125_000,
            )
            for each in links_of(options)
        ],
        delay_ms=options.delay_ms,
        queue_ms=options.queue_ms,
        loss=options.loss,
    )


class Run:
    """One transfer of a fresh file."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._namespaces = namespaces_of(options)
        self._folder = folder
        self._peers: dict[int, Peer] = {}

    def measure(self) -> Outcome:
        """Runs it."""
        with self._namespaces:
            try:
                return self._measure()
            finally:
                for peer in self._peers.values():
                    with contextlib.suppress(OSError):
                        peer.kill()

    def _measure(self) -> Outcome:
        options = self._options
        numbers = range(1, options.leechers + 1)
        for number in numbers:
            self._folder_of(number).mkdir()
        with (self._folder_of(0) / "fw.bin").open("wb") as file:
            for _ in range(options.mib):
                file.write(os.urandom(1 << 20))
        addresses = {0: self._start(0).wait_line("READY")}
        for number in numbers:
            self._start(number)
        for number in numbers:
            addresses[number] = self._peers[number].wait_line("READY")
        time.sleep(options.settle)
        processors = ProcessorWatch()
        start = time.perf_counter()
        for number in numbers:
            self._go(number, [addresses[other] for other in range(number)])
        if options.churn:
            self._churn(start, addresses)
        finished = self._wait_done(start, numbers)
        cpu_share = processors.share()
        for peer in self._peers.values():
            peer.kill()
        self._peers = {}
        counts = self._namespaces.remove()
        size = options.mib << 20
        return Outcome(
            finished_s=finished,
            seeder_sent=counts[0].sent_bytes / size,
            received=sum(count.received_bytes for count in counts[1:]) / (size * options.leechers),
            cpu_share=cpu_share,
            drops=sum(count.drops for count in counts),
        )

    def _folder_of(self, number: int) -> Path:
        return self._folder / f"l{number}" if number else self._folder

    def _start(self, number: int) -> Peer:
        options = self._options
        opt = {**json.loads(options.opt), "listen": f"{self._namespaces.address(number)}:6881"}
        command = [
            sys.executable, str(options.peer), "--role", "leech" if number else "seed",
            "--dir", str(self._folder_of(number)), "--mib", str(options.mib),
            "--leechers", str(options.leechers), "--opt", json.dumps(opt),
        ]  # fmt: skip
        peer = self._peers[number] = Peer([*self._namespaces.command(number), *command])
        return peer

    def _go(self, number: int, addresses: Sequence[str]) -> None:
        self._peers[number].say(f"GO {' '.join(addresses)}")

    def _churn(self, start: float, addresses: dict[int, str]) -> None:
        """Kills a third at half the bound and starts it again at once, with what it has on disk."""
        time.sleep(max(0.0, start + bound_s(self._options) / 2 - time.perf_counter()))
        victims = list(range(1, self._options.leechers + 1, 3))[: self._options.leechers // 3]
        for number in victims:
            self._peers[number].kill()
        for number in victims:
            self._start(number)
        for number in victims:
            addresses[number] = self._peers[number].wait_line("READY")
            self._go(number, [addresses[other] for other in addresses if other != number])

    def _wait_done(self, start: float, numbers: Sequence[int]) -> list[float]:
        finished: dict[int, float] = {}

        def wait(number: int) -> None:
            with contextlib.suppress(RuntimeError):
                self._peers[number].wait_line("DONE")
                finished[number] = time.perf_counter() - start

        threads = [threading.Thread(target=wait, args=(number,), daemon=True) for number in numbers]
        for thread in threads:
            thread.start()
        limit = time.monotonic() + self._options.timeout
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))
        if len(finished) < len(numbers):
            raise RuntimeError(f"only {sorted(finished)} finished in {self._options.timeout} s")
        return [finished[number] for number in numbers]


def bound_s(options: argparse.Namespace) -> float:
    """The fluid bound of the scenario, seconds."""
    seeder, *others = links_of(options)
    return fluid_bound_s(options.mib << 20, [seeder], others)


def simulated(options: argparse.Namespace) -> float:
    """Makespan of the same transfer in the simulator, in bounds: median of three seeds.

    Churn is not simulated; loss is of segments, the recipe is fetched as in reality.
    """
    model = LinkModel(delay_s=options.delay_ms / 1000, loss=options.loss)
    makespans = []
    for seed in (1, 2, 3):
        transfer = Transfer(seed, image_bytes=options.mib << 20, model=model, knows_recipe=False)
        seeder, *others = links_of(options)
        transfer.add_seeder(seeder)
        for each in others:
            transfer.add_leecher(each)
        transfer.run()
        makespans.append(transfer.figures().makespan)
    return statistics.median(makespans)


def _report(options: argparse.Namespace, outcomes: Sequence[Outcome]) -> dict[str, object]:
    bound, links = bound_s(options), links_of(options)
    fast_count = options.leechers - options.slow
    total = sum(each.uplink_bytes_per_s for each in links)
    size = options.mib << 20
    fast_bound = max(size / links[0].uplink_bytes_per_s, options.leechers * size / total)
    makespans = [max(outcome.finished_s) for outcome in outcomes]
    median = statistics.median(makespans)
    fast = statistics.median(max(outcome.finished_s[:fast_count]) for outcome in outcomes)
    shown = {
        key: value
        for key, value in vars(options).items()
        if key in ("mib", "leechers", "mbit", "delay_ms", "queue_ms", "loss", "slow", "churn")
    }
    return {
        "bench": "netns",
        "peer": Path(options.peer).name,
        **shown,
        "bound_s": round(bound, 2),
        "makespans_s": [round(value, 2) for value in makespans],
        "makespan": round(median / bound, 3),
        "mean": round(
            statistics.median(statistics.fmean(each.finished_s) for each in outcomes) / bound, 3
        ),
        "fast_makespan": round(fast / fast_bound, 3),
        "seeder_sent": round(statistics.median(each.seeder_sent for each in outcomes), 3),
        "received": round(statistics.median(each.received for each in outcomes), 3),
        "drops": round(statistics.median(each.drops for each in outcomes)),
        "cpu_share": [round(each.cpu_share, 2) for each in outcomes],
        "is_void": any(each.cpu_share > CPU_SHARE_MAX for each in outcomes),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, default=HERE / "peer_swarmd.py", help="the program")
    parser.add_argument("--opt", default="{}", help="JSON handed to it")
    parser.add_argument("--mib", type=int, default=16, help="size of the image")
    parser.add_argument("--leechers", type=int, default=16)
    parser.add_argument("--mbit", type=float, default=20.0, help="rate of each link, both ways")
    parser.add_argument("--delay-ms", type=float, default=20.0, help="one way")
    parser.add_argument("--queue-ms", type=float, default=100.0, help="of each port, each way")
    parser.add_argument("--loss", type=float, default=0.0, help="probability for each frame")
    parser.add_argument("--slow", type=int, default=0, help="leechers with a quarter of the rate")
    parser.add_argument("--churn", action="store_true", help="kill a third half way, restart it")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--simulate", action="store_true", help="also run it in the simulator")
    parser.add_argument("--settle", type=float, default=1.0, help="pause before GO, seconds")
    parser.add_argument("--timeout", type=float, default=300.0, help="of one run, seconds")
    return parser.parse_args()


def main() -> None:
    """Measures as the command line says."""
    options = _arguments()
    outcomes: list[Outcome] = []
    for _ in range(options.runs):
        base = "/dev/shm" if Path("/dev/shm").is_dir() else None
        folder = Path(tempfile.mkdtemp(prefix="netns-", dir=base))
        try:
            with terminable():
                outcomes.append(Run(options, folder).measure())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    report = _report(options, outcomes)
    if options.simulate:
        report["simulated"] = round(simulated(options), 3)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
