"""Finality of four validator processes on loopback, beside what the machine allows.

    python benchmarks/finality.py [--transactions 40]

One validator runs inside this process, three as processes of their own. Each transaction is
submitted here and timed until its block is final here. The limit is measured in the same run: three
loopback round trips of 512 bytes (one for each message delay, counted generously) and two fsyncs of
a 4 KiB append. Prints one JSON line with medians in milliseconds and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from ledger.bodies.receipt import AnchorReceipts
from protocol.digest import sha256
from swarmd.clock import SystemClock
from swarmd.datadir import DataDir
from swarmd.demo.processes import NodeProcess, free_ports
from swarmd.entropy import SystemEntropy
from swarmd.network_creation import LabOptions, create_lab
from swarmd.node import Node
from swarmd.peers import PeerClass

MESSAGE_BYTES = 512
"""Size of a consensus message: a vote or a small proposal."""
PROBES = 200
"""Measurements of each limit."""


ECHO = f"""
import socket
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := connection.recv({MESSAGE_BYTES}):
    connection.sendall(data)
"""
"""The other end of the round trip, as a process of its own."""


def loopback_round_trip_ms() -> float:
    """Median of a request and answer between two processes over TCP on loopback."""
    times = []
    command = [sys.executable, "-c", ECHO]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as echo:
        assert echo.stdout is not None, "its stdout is a pipe"
        port = int(echo.stdout.readline())
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(PROBES):
            started = time.perf_counter()
            client.sendall(bytes(MESSAGE_BYTES))
            received = 0
            while received < MESSAGE_BYTES:
                received += len(client.recv(MESSAGE_BYTES))
            times.append(time.perf_counter() - started)
        client.close()
    return statistics.median(times) * 1000


def fsync_ms(folder: Path) -> float:
    """Median of appending 4 KiB and flushing it to the disk that holds the ledgers."""
    times = []
    with (folder / "fsync.probe").open("wb", buffering=0) as file:
        for _ in range(PROBES):
            started = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


async def finality_ms(directory: Path, count: int) -> list[float]:
    """Runs one validator here and times `count` transactions, one after the other."""
    node = Node(DataDir(directory), clock=SystemClock(), entropy=SystemEntropy(), stop=lambda: None)
    times = []
    async with node.running():
        services = node.services
        assert services is not None, "the node runs"
        while len(services.registry.at_least(PeerClass.VALIDATOR)) < 3:  # noqa: ASYNC110
            await trio.sleep(0.1)
        for number in range(count + 5):
            body = AnchorReceipts(size=number + 1, root=sha256(number.to_bytes(4, "big")))
            started = time.perf_counter()
            transaction = await services.submission.submit(body)
            await services.submission.wait_final(transaction, 60)
            times.append((time.perf_counter() - started) * 1000)
            await trio.sleep(0.3)  # beyond the least block interval, so that it is not measured
    return times[5:]


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--transactions", type=int, default=40)
    count = parser.parse_args().transactions
    with tempfile.TemporaryDirectory(prefix="swarmd-finality-") as name:
        folder = Path(name)
        options = LabOptions(gateways=0, publishers=0, base_port=free_ports(8))
        lab = create_lab(folder / "network", options, SystemEntropy(), SystemClock())
        processes = [NodeProcess(item.directory.path) for item in lab.nodes[1:]]
        try:
            for process in processes:
                process.start()
            times = trio.run(finality_ms, lab.nodes[0].directory.path, count)
        finally:
            for process in processes:
                process.stop()
        round_trip, fsync = loopback_round_trip_ms(), fsync_ms(folder)
    limit = 3 * round_trip + 2 * fsync
    times.sort()
    p50 = statistics.median(times)
    result = {
        "name": "consensus.finality/n=4",
        "transactions": count,
        "p50_ms": round(p50, 2),
        "p90_ms": round(times[len(times) * 9 // 10], 2),
        "max_ms": round(times[-1], 2),
        "round_trip_ms": round(round_trip, 3),
        "fsync_ms": round(fsync, 3),
        "limit_ms": round(limit, 2),
        "ratio_p50": round(p50 / limit, 2),
        "machine": f"{os.cpu_count()} cpus, python {sys.version.split()[0]}",
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    try:
        main()
    except subprocess.SubprocessError as error:
        sys.exit(str(error))
