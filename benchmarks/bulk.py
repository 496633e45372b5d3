"""One image to one gateway over loopback, beside libtorrent in the same run.

    python benchmarks/bulk.py [--mib 256] [--runs 3]

swarmd: a real network (four validators, a publisher, a gateway); timed from the moment the gateway
knows the image as authorised until it is complete and verified. libtorrent: one seeder and one
leecher, plain TCP, no encryption, until the torrent is finished. Reported are medians of MiB/s,
processor seconds of both ends per GiB delivered, and the receiver's peak memory. Needs the package
libtorrent; without it only swarmd is measured, and the result says so.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from idle import account

from swarmd.demo.swarm import Swarm

LIBTORRENT = """
import os, sys, time
import libtorrent as lt

role, folder, torrent = sys.argv[1:4]
session = lt.session({
    "listen_interfaces": "127.0.0.1:0", "enable_dht": False, "enable_lsd": False,
    "enable_upnp": False, "enable_natpmp": False, "allow_multiple_connections_per_ip": True,
    "out_enc_policy": 2, "in_enc_policy": 2, "enable_incoming_utp": False,
    "enable_outgoing_utp": False, "max_out_request_queue": 1500, "hashing_threads": 2,
    "send_buffer_watermark": 4 << 20, "connection_speed": 200,
})
if role == "seed":
    files = lt.file_storage()
    files.add_file("image", os.path.getsize(os.path.join(folder, "image")))
    maker = lt.create_torrent(files, piece_size=1 << 20)
    lt.set_piece_hashes(maker, folder)
    with open(torrent, "wb") as out:
        out.write(lt.bencode(maker.generate()))
params = lt.load_torrent_file(torrent)
params.save_path = folder
params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
handle = session.add_torrent(params)
while not session.is_listening() or "check" in str(handle.status().state):
    time.sleep(0.01)
print(session.listen_port(), flush=True)
port = sys.stdin.readline().strip()
if port:
    handle.connect_peer(("127.0.0.1", int(port)))
while not handle.status().is_seeding:
    time.sleep(0.005)
print("DONE", flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One transfer."""

    seconds: float
    cpu_s: float
    rss_mib: float


def generate(path: Path, mib: int, seed: bytes) -> None:
    """Writes bytes that do not compress and differ for each seed."""
    with path.open("wb") as file:
        for number in range(mib):
            block = hashlib.shake_256(seed + number.to_bytes(4, "big")).digest(2**20)
            file.write(block)


def peak_mib(pid: int) -> float:
    """Peak resident memory of a process, MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError(f"no VmHWM of process {pid}")


def measure_swarmd(folder: Path, mib: int, runs: int) -> list[Figures]:
    """Fetches `runs` different images in one network."""
    swarm = Swarm(folder / "network", validators=4, gateways=1)
    figures = []
    try:
        swarm.start([], with_malicious=False)
        ends = (swarm.publisher, swarm.gateways[0])
        for run in range(runs):
            image = folder / f"image-{run}"
            generate(image, mib, bytes([run]))
            manifest = swarm.publish(image, "bulk", f"1.{run}")
            swarm.decide("approve", 0, manifest)
            before = [account(node) for node in ends]
            started = time.perf_counter()
            swarm.decide("approve", 1, manifest)
            swarm.wait(swarm.gateways[0], manifest, "authorised")
            started = max(started, time.perf_counter())
            swarm.wait(swarm.gateways[0], manifest, "complete")
            seconds = time.perf_counter() - started
            after = [account(node) for node in ends]
            cpu_s = sum(b.cpu_s - a.cpu_s for a, b in zip(before, after, strict=True))
            rss_mib = peak_mib(swarm.gateways[0].pid)
            figures.append(Figures(seconds=seconds, cpu_s=cpu_s, rss_mib=rss_mib))
            image.unlink()
    finally:
        swarm.stop()
    return figures


def measure_libtorrent(folder: Path, mib: int, runs: int) -> list[Figures]:
    """Transfers `runs` times between two processes."""
    figures = []
    for run in range(runs):
        seed, leech = folder / f"seed-{run}", folder / f"leech-{run}"
        seed.mkdir()
        leech.mkdir()
        generate(seed / "image", mib, bytes([run]))
        torrent = str(folder / f"{run}.torrent")
        peers = []
        try:
            for role, place in (("seed", seed), ("leech", leech)):
                command = [sys.executable, "-c", LIBTORRENT, role, str(place), torrent]
                peers.append(
                    subprocess.Popen(
                        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
                    )
                )
                port = _line(peers[-1])
                if role == "seed":
                    seeder_port = port
            before = sum(_cpu_s(peer.pid) for peer in peers)
            started = time.perf_counter()
            _say(peers[1], seeder_port)
            _line(peers[1])
            seconds = time.perf_counter() - started
            cpu_s = sum(_cpu_s(peer.pid) for peer in peers) - before
            figures.append(Figures(seconds=seconds, cpu_s=cpu_s, rss_mib=peak_mib(peers[1].pid)))
        finally:
            for peer in peers:
                peer.kill()
                peer.wait()
    return figures


def _line(peer: subprocess.Popen[str]) -> str:
    assert peer.stdout is not None, "its stdout is a pipe"
    return peer.stdout.readline().strip()


def _say(peer: subprocess.Popen[str], text: str) -> None:
    assert peer.stdin is not None, "its stdin is a pipe"
    peer.stdin.write(text + "\n")
    peer.stdin.flush()


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def summary(figures: list[Figures], mib: int) -> dict[str, float]:
    """Medians of several transfers."""
    return {
        "mib_per_s": round(mib / statistics.median(item.seconds for item in figures), 1),
        "cpu_s_per_gib": round(statistics.median(item.cpu_s for item in figures) / mib * 1024, 2),
        "receiver_rss_mib": round(max(item.rss_mib for item in figures), 1),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    result: dict[str, object] = {"name": f"exchange.bulk/mib={arguments.mib}"}
    with tempfile.TemporaryDirectory(prefix="swarmd-bulk-") as name:
        ours = summary(measure_swarmd(Path(name), arguments.mib, arguments.runs), arguments.mib)
        result["swarmd"] = ours
        if importlib.util.find_spec("libtorrent") is None:
            result["libtorrent"] = "not installed"
        else:
            figures = measure_libtorrent(Path(name), arguments.mib, arguments.runs)
            theirs = summary(figures, arguments.mib)
            result["libtorrent"] = theirs
            result["time_ratio"] = round(theirs["mib_per_s"] / ours["mib_per_s"], 2)
            result["cpu_ratio"] = round(ours["cpu_s_per_gib"] / theirs["cpu_s_per_gib"], 2)
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
