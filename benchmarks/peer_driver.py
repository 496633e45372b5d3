"""Runs peers side by side: one seeder, several leechers, each a process, one run after the other.

A peer is a script that speaks in lines (benchmarks/peer_swarmd.py says which). Timed from `GO`
until the last leecher said `DONE`; processor seconds are those of all processes in that span, so
that neither the making of an image nor the start of an interpreter counts. Trust ratios of one
call.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TORRENT_OPTIONS = {"piece_kib": 4096}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run."""

    seconds: float
    """From `GO` to the last `DONE`."""
    cpu_s: float
    """Processor seconds of all processes meanwhile."""
    seeder_mib: float
    """Peak memory of the seeder, MiB."""
    leecher_mib: float
    """Largest peak memory of a leecher, MiB."""


class Process:
    """A peer in its role."""

    def __init__(self, script: str, role: str, folder: Path, leechers: int, options: str) -> None:
        """Starts it."""
        mib = (folder if role == "seed" else folder.parent).joinpath("fw.bin").stat().st_size >> 20
        command = [
            *(sys.executable, str(HERE / script), "--role", role, "--dir", str(folder)),
            *("--mib", str(mib), "--leechers", str(leechers), "--opt", options),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def line(self, word: str) -> str:
        """Waits for a line that begins with a word; gives the rest."""
        assert self._process.stdout is not None, "its output is a pipe"
        for line in self._process.stdout:
            if line.startswith(word):
                return line[len(word) :].strip()
        raise RuntimeError(f"a peer ended before it said {word}")

    def say(self, line: str) -> None:
        """Gives it a line."""
        assert self._process.stdin is not None, "its input is a pipe"
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def cpu_s(self) -> float:
        """Processor seconds so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Peak resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
        raise OSError("no VmHWM")

    def kill(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()


def make_image(path: Path, mib: int) -> None:
    """Writes bytes that do not compress."""
    with path.open("wb") as file:
        for number in range(mib):
            file.write(hashlib.shake_256(number.to_bytes(4, "big")).digest(2**20))


def transfer(script: str, image: Path, leechers: int, options: str) -> Outcome:
    """One run; leechers know the seeder and the leechers before them."""
    with tempfile.TemporaryDirectory(prefix="swarmd-peers-") as name:
        folder = Path(name)
        shutil.copy(image, folder / "fw.bin")
        processes: list[Process] = []
        try:
            processes.append(Process(script, "seed", folder, leechers, options))
            addresses = [processes[0].line("READY")]
            for number in range(leechers):
                place = folder / f"l{number}"
                place.mkdir()
                processes.append(Process(script, "leech", place, leechers, options))
            addresses += [process.line("READY") for process in processes[1:]]
            before = sum(process.cpu_s() for process in processes)
            started = time.perf_counter()
            for number, process in enumerate(processes[1:], 1):
                process.say("GO " + " ".join(addresses[:number]))
            for process in processes[1:]:
                process.line("DONE")
            return Outcome(
                seconds=time.perf_counter() - started,
                cpu_s=sum(process.cpu_s() for process in processes) - before,
                seeder_mib=processes[0].peak_mib(),
                leecher_mib=max(process.peak_mib() for process in processes[1:]),
            )
        finally:
            for process in processes:
                process.kill()


def summary(runs: list[Outcome], mib: int, leechers: int) -> dict[str, float]:
    """Medians of several runs, and the largest memory."""
    seconds = statistics.median(run.seconds for run in runs)
    cpu_s = statistics.median(run.cpu_s for run in runs)
    return {
        "seconds": round(seconds, 3),
        "mib_per_s": round(mib * leechers / seconds, 1),
        "cpu_s_per_gib": round(cpu_s / (mib * leechers) * 1024, 2),
        "seeder_rss_mib": round(max(run.seeder_mib for run in runs)),
        "leecher_rss_mib": round(max(run.leecher_mib for run in runs)),
    }


def measure(*, mib: int, leechers: int, runs: int) -> None:
    """Measures swarmd, beside libtorrent if there is one; prints one line of JSON."""
    peers = {"swarmd": ("peer_swarmd.py", "{}")}
    if importlib.util.find_spec("libtorrent") is not None:
        peers["libtorrent"] = ("peer_torrent.py", json.dumps(TORRENT_OPTIONS))
    outcomes: dict[str, list[Outcome]] = {name: [] for name in peers}
    with tempfile.TemporaryDirectory(prefix="swarmd-image-") as name:
        image = Path(name) / "image"
        make_image(image, mib)
        for _ in range(runs):
            for peer, (script, options) in peers.items():
                outcomes[peer].append(transfer(script, image, leechers, options))
    result: dict[str, object] = {"name": f"exchange.peers/mib={mib},leechers={leechers}"}
    summaries = {peer: summary(found, mib, leechers) for peer, found in outcomes.items()}
    result |= summaries
    if "libtorrent" in summaries:
        ours, theirs = summaries["swarmd"], summaries["libtorrent"]
        result["time_ratio"] = round(ours["seconds"] / theirs["seconds"], 2)
        result["cpu_ratio"] = round(ours["cpu_s_per_gib"] / theirs["cpu_s_per_gib"], 2)
    else:
        result["libtorrent"] = "not installed"
    sys.stdout.write(json.dumps(result) + "\n")
