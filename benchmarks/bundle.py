"""Speed and memory of offline bundles: export of an image, import, import again.

    python benchmarks/bundle.py [--mib 1024] [--folder DIR]

Store, export and import are the real ones, over a ledger of one block; what the daemon would answer
over its socket is answered here. Prints one line a step, with the peak memory of the process then.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import trio

from chunks.file_store import FileStore
from chunks.layout import default_parameters
from chunks.recipe_page import RecipePager
from chunks.store import ImageState, StagedImage
from chunks.store_recovery import image_path
from ledger.proof_make import make_proof
from protocol.limits import MIB
from protocol.manifest import SignedManifest
from swarmd.bundle_export import BundleExport
from swarmd.bundle_format import SectionReader
from swarmd.services.bundle_import import BundleImport, Outcome, Surroundings
from tests.support.authority import Bench, make_bench
from tests.support.ledger import FLEET


def write_image(path: Path, mib: int) -> None:
    """An image of bytes that repeat nowhere."""
    with path.open("wb") as file:
        for part in range(mib // 16):
            file.write(hashlib.shake_256(b"part %d" % part).digest(16 * MIB))


class Answers:
    """What a daemon would answer to an export."""

    def __init__(
        self, bench: Bench, signed: SignedManifest, staged: StagedImage, folder: Path
    ) -> None:
        """Of one manifest and its image."""
        self._bench = bench
        self._signed = signed
        self._pager = RecipePager(staged.recipe)
        self._path = image_path(folder, staged.image, ImageState.COMPLETE)

    def __call__(self, method: str, params: Mapping[str, Any]) -> Any:
        """Answers one method."""
        match method:
            case "bundle_plan":
                planned = {
                    "manifest": self._signed.manifest_id.hex(),
                    "raw": self._signed.signed.raw.hex(),
                    "paths": [str(self._path)],
                    "rings": [],
                }
                chain = self._bench.lab.chain_id.hex()
                return {"chain": chain, "era": 0, "checkpoint": None, "manifests": [planned]}
            case "bundle_blocks":
                return {"last": params["from"] - 1, "blocks": ""}
            case "bundle_page":
                return {"page": self._pager.page(params["page"]).encode().hex()}
            case _:
                proof = make_proof(self._bench.chain, self._signed.manifest_id, FLEET)
                return {"proof": proof.hex()}


async def take(bench: Bench, store: FileStore, path: Path) -> Outcome:
    """Imports a bundle."""

    async def progress(_offset: int) -> None:
        await trio.lowlevel.checkpoint()

    async def no_ring(_raw: bytes) -> None:
        await trio.lowlevel.checkpoint()

    around = Surroundings(
        ledger=bench.ledger,
        genesis=bench.lab.genesis,
        authority=bench.authority,
        store=store,
        take_ring=no_ring,
        confirm=lambda _answer: False,
        wake=lambda: None,
        note_use=lambda _image: None,
    )
    with path.open("rb") as file:
        job = BundleImport(around, SectionReader(file), trio.CapacityLimiter(1))
        return await job.run(progress)


class Watch:
    """Prints what each step took."""

    def __init__(self, mib: int) -> None:
        """Starts the watch; rates are of `mib`."""
        self._mib = mib
        self._began = (time.perf_counter(), time.process_time())

    def lap(self, name: str) -> None:
        """Ends a step."""
        wall = time.perf_counter() - self._began[0]
        cpu = time.process_time() - self._began[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {self._mib / wall:.0f} | {peak} |", flush=True)
        self._began = (time.perf_counter(), time.process_time())


async def run(mib: int, folder: Path) -> None:
    """All steps."""
    source, target = folder / "image", folder / "out.bundle"
    write_image(source, mib)
    bench = make_bench()
    first = FileStore.open(folder / "first")
    print("| step | seconds | CPU seconds | MiB/s | peak RSS, MiB |\n|---|---|---|---|---|")
    watch = Watch(mib)
    staged = first.stage(source, default_parameters(mib * MIB))
    first.promote(staged.image)
    watch.lap("stage")
    component = replace(
        bench.lab.manifest().manifest.components[0],
        size=staged.size_bytes,
        digest=staged.image,
        chunker=default_parameters(mib * MIB),
        chunk_count=staged.recipe.chunk_count,
        recipe_root=staged.recipe.root,
    )
    signed = await bench.authorise(bench.lab.manifest(components=(component,)))
    watch.lap("authorise")
    job = BundleExport(
        Answers(bench, signed, staged, folder / "first"),
        genesis=bench.lab.genesis.encode(),
        target=target,
        have=None,
        progress=lambda _fields: None,
    )
    await trio.to_thread.run_sync(partial(job.run, ()))
    watch.lap("export")
    second = FileStore.open(folder / "second")
    outcome = await take(bench, second, target)
    assert outcome.complete == [signed.manifest_id.hex()], outcome
    watch.lap("import")
    again = await take(bench, second, target)
    assert again.chunks == 0, again
    watch.lap("import again")
    first.close()
    second.close()


def main() -> None:
    """Reads the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        trio.run(run, options.mib, Path(folder))


if __name__ == "__main__":
    main()
