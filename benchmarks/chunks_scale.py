"""The chunk store at its limits: publishing, many chunks, a large image.

Run by path: `PYTHONPATH=. python benchmarks/chunks_scale.py [--publish-mib 1024] [--large-mib 4096]
[--images 4] [--runs 3] [--dir /dev/shm]`. Prints one line a figure,
`chunks.<operation>/<parameter>=<value>`. What a rate is compared with is measured in the same run,
right before it: hashing a buffer, copying the file, cutting.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from chunks.chunker import cut_block
from chunks.file_store import FileStore
from chunks.layout import fixed_parameters
from protocol.limits import CHUNKS_PER_COMPONENT_MAX, KIB, MIB
from protocol.manifest import DEFAULT_CHUNKER

BLOCK = 16 * MIB


def fill(path: Path, mib: int, seed: str) -> None:
    """Writes a file of bytes that do not repeat."""
    with path.open("wb") as file:
        for index in range(-(-mib // 16)):
            block = hashlib.shake_128(f"{seed} {index}".encode()).digest(min(mib, 16) * MIB)
            file.write(block)


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor seconds that `action` takes."""
    wall, processor = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - processor


def copy_file(source: Path, target: Path) -> None:
    """What a plain copy costs."""
    target.unlink(missing_ok=True)
    buffer = memoryview(bytearray(4 * MIB))
    with source.open("rb", buffering=0) as original, target.open("wb", buffering=0) as copy:
        while count := original.readinto(buffer):
            copy.write(buffer[:count])


def publish(directory: Path, mib: int, runs: int) -> None:
    """Staging against the limits of the machine, run by run."""
    source = directory / "source"
    fill(source, mib, "publish")
    with source.open("rb") as file:
        buffer = memoryview(file.read(64 * MIB))
    share = mib / 64
    rows: list[dict[str, float]] = []
    for _ in range(runs):
        row = {
            "hash": timed(lambda: hashlib.sha256(buffer).digest())[1] * share,
            "cut": timed(lambda: cut_block(buffer, DEFAULT_CHUNKER, is_last=True))[1] * share,
        }
        row["copy"], row["copy-cpu"] = timed(lambda: copy_file(source, directory / "copy"))
        (directory / "copy").unlink()
        store = FileStore.open(directory / "store")
        row["stage"], row["stage-cpu"] = timed(
            lambda: store.stage(source, DEFAULT_CHUNKER)  # noqa: B023
        )
        (staged,) = store.staged_images()
        row["promote"], _ = timed(lambda: store.promote(staged.image))  # noqa: B023
        store.close()
        shutil.rmtree(directory / "store")
        row["limit"] = max((2 * row["hash"] + row["cut"] + row["copy-cpu"]) / 2, row["copy-cpu"])
        rows.append(row)
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    parameter = f"mib={mib}"
    print(f"chunks.publish/{parameter}: {mib / middle['stage']:.0f} MiB/s")
    print(f"chunks.publish-cpu/{parameter}: {middle['stage-cpu']:.2f} s")
    print(f"chunks.publish-copy/{parameter}: {mib / middle['copy']:.0f} MiB/s, a plain copy")
    print(f"chunks.publish-hash/{parameter}: {mib / middle['hash']:.0f} MiB/s, one SHA-256")
    print(f"chunks.publish-cut/{parameter}: {mib / middle['cut']:.0f} MiB/s, cutting alone")
    ratio = statistics.median(row["stage"] / row["limit"] for row in rows)
    print(f"chunks.publish-ratio/{parameter}: {ratio:.2f} of two hashes, cut and copy on two cores")
    print(f"chunks.promote/{parameter}: {middle['promote']:.2f} s")
    source.unlink()


def open_timed(path: Path, opened: list[FileStore]) -> float:
    """Opens a store; seconds."""
    return timed(lambda: opened.append(FileStore.open(path)))[0]


def open_many(directory: Path, images: int, runs: int) -> None:
    """Opening a store whose images have as many chunks as allowed."""
    store = FileStore.open(directory / "store")
    for index in range(images):
        fill(directory / "source", CHUNKS_PER_COMPONENT_MAX * KIB // MIB, f"many {index}")
        staged = store.stage(directory / "source", fixed_parameters(KIB))
        store.promote(staged.image)
    (directory / "source").unlink()
    chunks = sum(record.chunk_count for record in store.images())
    # What a killed process leaves: its log is yet to be brought in.
    shutil.copytree(directory / "store", directory / "killed")
    store.close()
    for kind in ("store", "killed"):
        times = []
        for _ in range(runs if kind == "store" else 1):
            opened: list[FileStore] = []
            times.append(open_timed(directory / kind, opened))
            if kind == "store":
                record = opened[0].images()[-1]
                first = timed(lambda: opened[0].read_chunk(record.image, 0))[0]  # noqa: B023
            opened[0].close()
        name = "open" if kind == "store" else "open-killed"
        print(f"chunks.{name}/chunks={chunks}: {statistics.median(times):.3f} s")
    print(f"chunks.first-read/chunks={record.chunk_count}: {first:.3f} s, the recipe is read")
    shutil.rmtree(directory / "store")
    shutil.rmtree(directory / "killed")


LARGE_STEPS = ("stage", "verify", "serve", "download")


def large_step(directory: Path, step: str) -> None:
    """One step with a large image in a process of its own; prints what it took."""
    store = FileStore.open(directory / "store")

    def act() -> None:
        match step:
            case "stage":
                store.promote(store.stage(directory / "source", fixed_parameters(16 * KIB)).image)
            case "verify":
                assert store.verify_image(store.images()[0].image) == ()
            case "serve":
                record = store.images()[0]
                for index in range(record.chunk_count):
                    store.read_chunk(record.image, index)
            case _:
                download(store, directory)

    wall, processor = timed(act)
    store.close()
    # Not getrusage: its maximum counts what the parent was before this program was loaded.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * KIB
    print(json.dumps([wall, processor, peak]))


def download(store: FileStore, directory: Path) -> None:
    """Fetches the large image from the other store's file, chunk by chunk."""
    record = store.images()[0]
    recipe = store.recipe(record.image)
    other = FileStore.open(directory / "other")
    handle = other.begin(record.image, record.size_bytes, recipe)
    for index in range(recipe.chunk_count):
        other.write_chunk(handle, index, store.read_chunk(record.image, index))
    other.finish(handle)
    other.close()


def large(directory: Path, mib: int) -> None:
    """Memory of each step with an image of many chunks."""
    fill(directory / "source", mib, "large")
    for step in LARGE_STEPS:
        done = subprocess.run(
            [sys.executable, __file__, "--step", step, "--dir", str(directory)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": "."},
        )
        wall, processor, peak = json.loads(done.stdout)
        print(
            f"chunks.{step}/mib={mib}: {mib / wall:.0f} MiB/s, {processor:.1f} s of processor, "
            f"{peak / MIB:.0f} MiB resident at most"
        )
        if step == "stage":
            (directory / "source").unlink()


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--publish-mib", type=int, default=1024, help="0 leaves it out")
    parser.add_argument("--large-mib", type=int, default=4096, help="0 leaves it out")
    parser.add_argument("--images", type=int, default=4, help="of 2^18 chunks each; 0: leave out")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--step", choices=LARGE_STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        large_step(arguments.dir, arguments.step)
        return
    print(
        f"# {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    )
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        directory = Path(name)
        if arguments.publish_mib:
            publish(directory, arguments.publish_mib, arguments.runs)
        if arguments.images:
            open_many(directory, arguments.images, arguments.runs)
        if arguments.large_mib:
            large(directory, arguments.large_mib)


if __name__ == "__main__":
    main()
