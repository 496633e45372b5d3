"""Kills a downloading gateway at random moments and measures what it fetches again.

    PYTHONPATH=. python benchmarks/store_kills.py [--kills 200] [--mib 64] [--seed 1]

A child process, forked for each life, runs a gateway (the real exchange service on a real store,
with worker threads) that fetches an image from a seeder in the same process. The parent kills it
after a random number of received bytes or a random time, opens the store, and compares what came in
with what is held: the difference has to be fetched again. What a kill leaves is in the system's
cache, as after any end of a process; power loss is the matter of `tests/chunks/crash`.

Prints one JSON line; the exit code is 1 if an image is not right, a counted chunk is rotten, or a
kill costs more than 8 MiB. The same seed kills at the same received bytes; what the scheduler makes
of them differs from run to run.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import time
import traceback
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NoReturn

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chunks.bitmap import Bitmap
from chunks.file_store import FileStore
from chunks.store import ImageMissingError, ImageState
from protocol.digest import sha256
from protocol.limits import KIB, MIB
from tests.support.exchange_nodes import MemoryFrameStream, open_memory_network
from tests.support.exchange_release import Release, make_release

REFETCHED_BYTES_MAX = 8 * MIB
"""A checkpoint's window, and as much again for what was on its way."""
CHUNK_BYTES = 16 * KIB
LIFE_S_MAX = 60.0
"""A child that needs longer hangs."""
STARTUP_SHARE = 0.2
"""Share of the lives that are killed by time, from their first moment on."""
FINISH_SHARE = 0.5
"""Share of the lives with nothing left to fetch that are not killed while they check the image."""
STARTUP_S_MAX = 0.08
"""Within this a child opens its stores and asks for the first chunks."""
AFTER_S_MAX = 0.02
"""A life killed by bytes received goes on so long at most; at the end it checks the image."""
POLL_S = 0.0005
"""Pause between two looks at a child."""
SEEDER, GATEWAY = "seeder", "gateway"
"""Directories of the stores, and names of the nodes."""


@dataclass
class KillReport:
    """What a campaign saw."""

    kills: int = 0
    refetched_bytes: list[int] = field(default_factory=list)
    """For each kill: bytes received in that life that the next does not hold."""
    images: int = 0
    """Images that were completed, each checked byte by byte."""
    wrong: list[str] = field(default_factory=list)
    """What was not as promised."""


class KillCampaign:
    """See the module's docstring; one seed decides when everything is killed."""

    def __init__(self, directory: Path, seed: int, *, mib: int = 32) -> None:
        """Works in `directory`; images have `mib` MiB."""
        self._directory = directory
        self._random = Random(seed)
        self._seed = seed
        self._mib = mib
        self._received = mmap.mmap(-1, mmap.PAGESIZE)
        self.report = KillReport()

    def run(self, kills: int) -> KillReport:
        """Kills that often, image after image; the last image is completed too."""
        while self.report.kills < kills:
            self._download(self._seed * 1_000 + self.report.images, kills)
        return self.report

    def _download(self, seed: int, kills: int) -> None:
        """Fetches one image, through as many lives as it takes."""
        release = make_release(seed, (self._mib * MIB,), chunk_bytes=CHUNK_BYTES)
        digest = sha256(release.images[0].data)
        with closing(FileStore.open(self._directory / SEEDER)) as store:
            release.hold_all(store)
        held, is_complete = 0, False
        while not is_complete:
            is_last = self.report.kills >= kills
            has_ended = self._live(release, None if is_last else self._plan(held))
            received = struct.unpack_from("Q", self._received)[0]
            now_held, is_complete = self._inspect(release)
            if not has_ended:
                self.report.kills += 1
                self.report.refetched_bytes.append(max(0, received - (now_held - held)))
            elif not is_complete:
                self.report.wrong.append(f"image {seed}: a whole life did not complete it")
                break
            held = now_held
        path = self._directory / GATEWAY / "images" / digest.hex()
        if not path.is_file() or sha256(path.read_bytes()) != digest:
            self.report.wrong.append(f"image {seed} is not right")
        self.report.images += 1
        for name in (SEEDER, GATEWAY):
            shutil.rmtree(self._directory / name)

    def _plan(self, held: int) -> tuple[int, float] | None:
        """When to kill: after so many received bytes, and so many seconds more; None for never."""
        missing = self._mib * MIB - held
        if not missing and self._random.random() < FINISH_SHARE:
            return None
        if not missing or self._random.random() < STARTUP_SHARE:
            return 0, self._random.uniform(0, STARTUP_S_MAX)
        return self._random.randint(1, missing), self._random.uniform(0, AFTER_S_MAX)

    def _live(self, release: Release, plan: tuple[int, float] | None) -> bool:
        """Runs one life; whether it ended by itself."""
        struct.pack_into("Q", self._received, 0, 0)
        child = os.fork()
        if child == 0:
            self._be_child(release)
        deadline = time.monotonic() + LIFE_S_MAX
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                if status:
                    self.report.wrong.append(f"a child ended with status {status}")
                return True
            is_late = time.monotonic() > deadline
            if is_late:
                self.report.wrong.append("a child hung")
            if is_late or (
                plan is not None and struct.unpack_from("Q", self._received)[0] >= plan[0]
            ):
                time.sleep(0 if plan is None else plan[1])
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return False
            time.sleep(POLL_S)

    def _be_child(self, release: Release) -> NoReturn:
        status = 1
        try:
            trio.run(self._fetch, release)
            status = 0
        finally:
            if status:
                traceback.print_exc()
            os._exit(status)

    async def _fetch(self, release: Release) -> None:
        counter = self._received
        receive = MemoryFrameStream.receive_frame

        async def counting(stream: MemoryFrameStream) -> bytes | None:
            body = await receive(stream)
            if body is not None and stream.peer.startswith(SEEDER.encode()):
                struct.pack_into("Q", counter, 0, struct.unpack_from("Q", counter)[0] + len(body))
            return body

        MemoryFrameStream.receive_frame = counting  # type: ignore[method-assign]
        stores = [FileStore.open(self._directory / name) for name in (SEEDER, GATEWAY)]
        async with open_memory_network() as network:
            seeder = await network.add(SEEDER, stores[0], has_threads=True)
            gateway = await network.add(GATEWAY, stores[1], has_threads=True)
            network.connect(seeder, gateway)
            await seeder.service.offer(release.authorised)
            await gateway.service.fetch(release.authorised)
        for store in stores:
            store.close()

    def _inspect(self, release: Release) -> tuple[int, bool]:
        """Bytes that the gateway holds, each chunk verified, and whether the image is complete."""
        (image,) = release.images
        digest = sha256(image.data)
        with closing(FileStore.open(self._directory / GATEWAY)) as store:
            try:
                record = store.record(digest)
            except ImageMissingError:
                return 0, False
            if record.state is ImageState.PARTIAL:
                # As a resumed fetch does: what was written and not noted is found again.
                store.reuse(store.begin(digest, record.size_bytes, image.recipe))
            rotten = store.verify_image(digest)
            if rotten:
                self.report.wrong.append(f"counted chunks are rotten: {rotten}")
            have = Bitmap.decode(store.have(digest), record.chunk_count)
            held = sum(image.recipe.length(index) for index in range(len(have)) if index in have)
            return held, record.state is ImageState.COMPLETE


def main() -> int:
    """Runs the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mib", type=int, default=64, help="of each image")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        campaign = KillCampaign(Path(name), arguments.seed, mib=arguments.mib)
        report = campaign.run(arguments.kills)
    refetched = sorted(report.refetched_bytes)
    result = {
        "name": f"store.kills/mib={arguments.mib}",
        "seed": arguments.seed,
        "kills": report.kills,
        "images": report.images,
        "refetched_mib_median": round(statistics.median(refetched) / MIB, 2),
        "refetched_mib_max": round(refetched[-1] / MIB, 2),
        "wrong": report.wrong,
    }
    print(json.dumps(result))
    return bool(report.wrong) or refetched[-1] > REFETCHED_BYTES_MAX


if __name__ == "__main__":
    sys.exit(main())
