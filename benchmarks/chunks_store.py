"""Throughput of the chunk store: staging, downloading, reading, reuse.

Run by path: `PYTHONPATH=. python benchmarks/chunks_store.py [--mib 64] [--runs 3] [--dir DIR]`.
Prints one line an operation, `chunks.<operation>/<parameter>=<value>`, with the median of the runs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chunks.file_store import FileStore
from chunks.store import StagedImage
from protocol.manifest import DEFAULT_CHUNKER, LARGE_CHUNKER, ChunkerParameters


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def download(store: FileStore, staged: StagedImage, data: bytes) -> None:
    """Fetches an image chunk by chunk from memory."""
    recipe = staged.recipe
    handle = store.begin(staged.image, staged.size_bytes, recipe)
    for index in range(recipe.chunk_count):
        start = recipe.offset(index)
        store.write_chunk(handle, index, data[start : start + recipe.length(index)])
    store.finish(handle)


def read_all(store: FileStore, staged: StagedImage) -> None:
    """Reads every chunk once."""
    for index in range(staged.recipe.chunk_count):
        store.read_chunk(staged.image, index)


def reuse(store: FileStore, other: StagedImage) -> None:
    """Makes an image that differs in its last chunk from one already held."""
    handle = store.begin(other.image, other.size_bytes, other.recipe)
    store.reuse(handle)


def one_run(directory: Path, data: bytes, chunker: ChunkerParameters) -> dict[str, float]:
    """Times each operation once in a fresh store; seconds by operation."""
    source, changed = directory / "source", directory / "changed"
    source.write_bytes(data)
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    publisher = FileStore.open(directory / "publisher")
    gateway = FileStore.open(directory / "gateway")
    staged = publisher.stage(source, chunker)
    other = publisher.stage(changed, chunker)
    publisher.remove(staged.image, staged=True)
    times = {
        "stage": timed(lambda: publisher.stage(source, chunker)),
        "download": timed(lambda: download(gateway, staged, data)),
        "read": timed(lambda: read_all(gateway, staged)),
        "reuse": timed(lambda: reuse(gateway, other)),
    }
    gateway.close()
    gateway = FileStore.open(directory / "gateway")
    times["read-unverified"] = timed(lambda: read_all(gateway, staged))
    gateway.close()
    publisher.close()
    return times


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=None, help="a directory on the disk to measure")
    arguments = parser.parse_args()
    seed = hashlib.sha256(b"chunks_store").digest()
    data = hashlib.shake_128(seed).digest(arguments.mib * 2**20)
    print(
        f"# {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    for average, chunker in ((16, DEFAULT_CHUNKER), (64, LARGE_CHUNKER)):
        runs = []
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory(dir=arguments.dir) as directory:
                runs.append(one_run(Path(directory), data, chunker))
        for operation in runs[0]:
            seconds = statistics.median(run[operation] for run in runs)
            print(f"chunks.{operation}/average_kib={average}: {arguments.mib / seconds:.0f} MiB/s")


if __name__ == "__main__":
    main()
