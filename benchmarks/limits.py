"""Whether rates hold: real daemons on loopback, measured over spans of 10 s.

    python benchmarks/limits.py [--rates 64,512,4096] [--spans 2]

A network of four validators, a publisher and two gateways. For each rate, once as a limit of what
the publisher sends and once as a limit of what one gateway fetches, an image is released that takes
long enough, and the bytes of frames that this node sends or receives are counted over spans of
10 s, after the first 3 s. Reported is the rate of each span in percent of the limit, and what TCP
and IP add to that for packets of 1,448 bytes (estimated, 4.5 %).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from bulk import generate

from swarmd.demo.processes import NodeProcess
from swarmd.demo.swarm import Swarm

SPAN_S = 10.0
SETTLE_S = 3.0


def moved(node: NodeProcess, way: str) -> int:
    """Bytes of frames that a node sent or received over lanes."""
    status = node.call("status")
    assert isinstance(status, dict)
    lanes = status["lanes"]
    assert isinstance(lanes, dict)
    return int(str(lanes["sent_bytes" if way == "up" else "received_bytes"]))


def release(swarm: Swarm, folder: Path, name: str, mib: int) -> str:
    """Publishes and approves an image of random bytes; returns its manifest."""
    image = folder / name
    generate(image, mib, name.encode())
    # A product of its own: nothing to make patches from, which takes its time.
    manifest = swarm.publish(image, f"limits.{name}", "1.0")
    image.unlink()
    time.sleep(SETTLE_S)  # until the gateway that owners ask knows the proposal
    for owner in (0, 1):
        swarm.decide("approve", owner, manifest)
    return manifest


def spans(node: NodeProcess, way: str, count: int) -> list[float]:
    """Bytes per second over consecutive spans."""
    time.sleep(SETTLE_S)
    rates = []
    before, started = moved(node, way), time.monotonic()
    for _ in range(count):
        time.sleep(max(0.0, started + SPAN_S - time.monotonic()))
        after, ended = moved(node, way), time.monotonic()
        rates.append((after - before) / (ended - started))
        before, started = after, ended
    return rates


def measure(folder: Path, rates_kib: list[int], count: int) -> dict[str, list[float]]:
    """Runs every case in one network."""
    swarm = Swarm(folder / "network", validators=4, gateways=2)
    results: dict[str, list[float]] = {}
    try:
        swarm.start([], with_malicious=False)
        for number, kib in enumerate(rates_kib):
            for way in ("up", "down"):
                node = swarm.publisher if way == "up" else swarm.gateways[0]
                node.call("traffic.limit", {f"{way}_kib_s": kib})
                mib = max(2, int(kib * (SPAN_S * count + 10) / 1024))
                manifest = release(swarm, folder, f"{way}.{number}", mib)
                percent = [100 * rate / (kib * 1024) for rate in spans(node, way, count)]
                results[f"{way}/{kib}"] = [round(value, 1) for value in percent]
                print(f"{way}/{kib}: {results[f'{way}/{kib}']}", file=sys.stderr)
                node.call("traffic.limit", {})
                for gateway in swarm.gateways:
                    swarm.wait(gateway, manifest, "complete")
    finally:
        swarm.stop()
    return results


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rates", default="64,512,4096", help="KiB per second")
    parser.add_argument("--spans", type=int, default=2)
    options = parser.parse_args()
    rates = [int(text) for text in options.rates.split(",")]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        results = measure(Path(folder), rates, options.spans)
    worst = max((max(values) for values in results.values()), default=0.0)
    document = {
        "name": "limits.hold/span_s=10",
        "percent_of_limit": results,
        "worst_with_headers": round(worst * 1.045, 1),
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
