"""What an update costs on the wire: a root file system with one upgraded package, three ways.

    python benchmarks/updates.py [--folder DIR] [--old FILE --new FILE]

The images are made of Debian packages that a small gateway would carry; `openssl` and `libssl3` are
taken in two versions that apt offers (a release and its security update), everything else once. As
a tar archive, and as an ext4 file system of 96 MiB with fixed identifiers where mke2fs is there.
Where apt offers no second version, the benchmark says so and ends; any other pair can be named.

Each update is fetched by the real exchange service between two file stores. Counted is every byte
of every frame in both directions, with its length field: chunks, recipe pages with their proofs,
requests, possession news; not TLS and TCP below it (2 % in a lane). As chunks, as packed chunks, by
a patch; `--patch-from` of the zstd program, where it is installed, says how much a single frame
over the whole base would take.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import trio

from chunks.byte_source import StoreSource
from chunks.file_store import FileStore
from chunks.patch_builder import build_patch, fitting_plan
from chunks.store import StagedImage
from protocol.digest import Digest
from protocol.errors import TransportError
from protocol.exchange_messages import MessageKind
from protocol.manifest import ChunkerParameters, Component, PatchReference
from swarmd.demo.client_process import run_client
from swarmd.demo.rootfs import parse_madison
from swarmd.patch_making import PATCH_CHUNKER
from swarmd.publisher import chunker_for
from swarmd.services.exchange_packing import PackingMode
from tests.support.exchange_nodes import open_memory_network
from tests.support.exchange_release import authorised_release

UPGRADED = ("libssl3", "openssl")
"""Taken in two versions."""
PACKAGES = (
    "base-files", "bash", "busybox", "curl", "dnsmasq-base", "dosfstools", "dropbear-bin",
    "e2fsprogs", "gzip", "iproute2", "kmod", "libc-bin", "libc6", "libcurl4", "libext2fs2",
    "libgcc-s1", "libgmp10", "libgnutls30", "libhogweed6", "libjansson4", "libmnl0", "libnettle8",
    "libnftables1", "libnftnl11", "libnl-3-200", "libsqlite3-0", "libstdc++6", "nftables",
    "parted", "sqlite3", "zlib1g",
)  # fmt: skip
"""Taken once: 52 MB with the upgraded ones, as in small gateways."""
EXT4_MIB = 96
"""Size of the file system."""
UUID = "7b1ee83c-0a4f-4be5-9d6c-5c5b9c1f5a01"
"""Fixed, so that both file systems differ by their files only."""
CLIENT_S = 120.0
"""How long one package client may take."""
PLAN = {"chunks": (PackingMode.NEVER, False), "packed": (PackingMode.ALWAYS, False),
        "patch": (PackingMode.ALWAYS, True)}  # fmt: skip
"""How to fetch: (packing, whether there is a patch)."""


def download(package: str, version: str | None, folder: Path) -> Path:
    """Downloads one package."""
    wanted = package if version is None else f"{package}={version}"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        run_client(
            ["apt-get", "download", "--quiet=2", "-o", "APT::Sandbox::User=", wanted],
            timeout_s=CLIENT_S,
            folder=Path(name),
        )
        (archive,) = Path(name).glob("*.deb")
        return Path(shutil.copy(archive, folder / f"{package}-{version or 'any'}.deb"))


def versions_of(package: str) -> tuple[str, ...]:
    """Versions that apt could download, newest first."""
    output = run_client(["apt-cache", "madison", package], timeout_s=CLIENT_S)
    return parse_madison(output.decode("utf-8", "replace"))


def make_pair(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Makes the images; (old, new) by kind."""
    offered = [versions_of(package) for package in UPGRADED]
    common = [version for version in offered[0] if version in offered[1]]
    if len(common) < 2:
        raise TransportError(f"apt offers no two versions of {' and '.join(UPGRADED)}: {common}")
    once = [download(package, None, folder) for package in PACKAGES]
    images: dict[str, list[Path]] = {}
    for name, version in (("old", common[1]), ("new", common[0])):
        root = folder / name
        for archive in (*once, *(download(package, version, folder) for package in UPGRADED)):
            run_client(["dpkg-deb", "-x", str(archive), str(root)], timeout_s=CLIENT_S)
        images.setdefault("tar", []).append(make_tar(root))
        if shutil.which("mke2fs"):
            images.setdefault("ext4", []).append(make_ext4(root))
        print(f"{name}: {' '.join(UPGRADED)} {version}", file=sys.stderr)
    return {kind: (paths[0], paths[1]) for kind, paths in images.items()}


def make_tar(root: Path) -> Path:
    """Packs a tree, members by name."""
    path = root.with_suffix(".tar")
    options = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]
    run_client(["tar", *options, "-C", str(root), "-cf", str(path), "."], timeout_s=CLIENT_S)
    return path


def make_ext4(root: Path) -> Path:
    """Makes a file system of a tree."""
    path = root.with_suffix(".ext4")
    options = ["-U", UUID, "-E", f"hash_seed={UUID},root_owner=0:0"]
    run_client(
        [
            "env",
            "E2FSPROGS_FAKE_TIME=1700000000",
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            *options,
            "-d",
            str(root),
            str(path),
            f"{EXT4_MIB}M",
        ],
        timeout_s=CLIENT_S,
    )
    return path


def component(staged: StagedImage, parameters: ChunkerParameters) -> Component:
    """Describes a staged image."""
    return Component(
        name="image",
        size=staged.size_bytes,
        digest=staged.image,
        chunker=parameters,
        chunk_count=staged.recipe.chunk_count,
        recipe_root=staged.recipe.root,
    )


def make_patch(store: FileStore, base: Digest, staged: StagedImage, folder: Path) -> StagedImage:
    """Builds a patch from an image of the store to a staged one, and stages it."""
    path = folder / "patch"
    with path.open("wb") as output, (folder / "frames").open("w+b") as frames:
        build_patch(
            fitting_plan(store.recipe(base), staged.recipe),
            base=StoreSource(store, base),
            target=StoreSource(store, staged.image, staged=True),
            output=output,
            frames=frames,
        )
    return store.stage(path, PATCH_CHUNKER)


def prepare(folder: Path, old: Path, new: Path) -> tuple[FileStore, Component, Component, float]:
    """A publisher's store: both images, and the patch; with the processor seconds it took."""
    store = FileStore.open(folder / "publisher")
    parameters = chunker_for(new.stat().st_size)
    first = store.stage(old, parameters)
    store.promote(first.image)
    second = store.stage(new, parameters)
    started = time.process_time()
    patch = make_patch(store, first.image, second, folder)
    took_s = time.process_time() - started
    store.promote(second.image)
    store.promote(patch.image)
    made = component(patch, PATCH_CHUNKER)
    reference = PatchReference(
        base=first.image,
        size=made.size,
        digest=made.digest,
        chunker=made.chunker,
        chunk_count=made.chunk_count,
        recipe_root=made.recipe_root,
    )
    whole = replace(component(second, parameters), patches=(reference,))
    return store, component(first, parameters), whole, took_s


async def fetch(
    source: FileStore, folder: Path, old: Path, wanted: Component, mode: PackingMode
) -> dict[str, int | float]:
    """Fetches an image to a gateway that has the old one; counts the bytes of all frames."""
    kinds: dict[str, int] = {}

    def watch(body: bytes) -> None:
        kind = MessageKind(body[0]).name.lower()
        kinds[kind] = kinds.get(kind, 0) + 4 + len(body)

    store = FileStore.open(folder)
    store.promote(store.stage(old, wanted.chunker).image)
    release = authorised_release((wanted,))
    async with open_memory_network() as network:
        network.watch = watch
        publisher = await network.add("publisher", source, has_threads=True, packing=mode)
        await publisher.service.offer(release)
        gateway = await network.add("gateway", store, has_threads=True)
        network.connect_all()
        started = time.process_time()
        await gateway.service.fetch(release)
        cpu_s = time.process_time() - started
        statistics = gateway.service.statistics()
    store.close()
    return {
        "wire_bytes": sum(kinds.values()),
        "percent": round(100 * sum(kinds.values()) / wanted.size, 2),
        "recipe_bytes": kinds.get("recipe_page", 0),
        "chunk_frame_bytes": kinds.get("chunks", 0),
        "other_bytes": sum(kinds.values()) - kinds.get("recipe_page", 0) - kinds.get("chunks", 0),
        "reused_bytes": statistics.reused_bytes,
        "patched_bytes": statistics.patched_bytes,
        "cpu_s": round(cpu_s, 2),
    }


def by_program(old: Path, new: Path) -> int | None:
    """Bytes of the zstd program's patch, level 19 over the whole base; None without it."""
    if shutil.which("zstd") is None:
        return None
    command = ["zstd", "-19", "--long=31", "-q", "-c", f"--patch-from={old}", str(new)]
    return len(subprocess.run(command, check=True, capture_output=True).stdout)


def measure(kind: str, old: Path, new: Path, folder: Path) -> dict[str, object]:
    """Measures one pair."""
    folder.mkdir()
    source, _, wanted, build_s = prepare(folder, old, new)
    result: dict[str, object] = {
        "image": kind,
        "bytes": wanted.size,
        "chunks": wanted.chunk_count,
        "patch_bytes": wanted.patches[0].size,
        "patch_build_cpu_s": round(build_s, 1),
        "zstd_patch_from_bytes": by_program(old, new),
    }
    for name, (mode, has_patch) in PLAN.items():
        fetched = wanted if has_patch else replace(wanted, patches=())
        result[name] = trio.run(fetch, source, folder / f"gateway-{name}", old, fetched, mode)
    source.close()
    return result


def main() -> int:
    """Measures and prints one JSON document a pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where images are made; needs 1 GiB")
    parser.add_argument("--old", type=Path)
    parser.add_argument("--new", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="swarmd-updates-", dir=arguments.folder) as name:
        folder = Path(name)
        if arguments.old and arguments.new:
            pairs = {arguments.new.name: (arguments.old, arguments.new)}
        else:
            try:
                pairs = make_pair(folder)
            except TransportError as error:
                print(f"no pair of images: {error}", file=sys.stderr)
                return 3
        for kind, (old, new) in pairs.items():
            print(json.dumps(measure(kind, old, new, folder / f"stores-{kind}")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
