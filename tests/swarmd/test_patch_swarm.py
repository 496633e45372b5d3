"""Updates by patch through whole nodes: published, authorised, fetched, applied, withdrawn."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio

from chunks.store import ImageState
from protocol.digest import Digest, sha256
from protocol.errors import ConfigError, PolicyError
from protocol.manifest import PatchReference, SignedManifest
from swarmd.patch_making import LATEST, PATCH_CHUNKER
from swarmd.publisher import Release
from tests.support.swarm import GROUP, PRODUCT, Swarm, swarm, until

SIZE = 600_000
NODES = ("validator-1", "validator-2", "validator-3", "validator-4", "publisher-1", "gateway-1")

pytestmark = pytest.mark.slow


def image(number: int) -> bytes:
    """Version `number`: noise, of which each version alters a byte in every few KiB."""
    data = bytearray(hashlib.shake_256(b"rootfs").digest(SIZE))
    for version in range(1, number):
        for position in range(7 * version, SIZE, 9000):
            data[position] ^= version
    return bytes(data)


async def release(lab: Swarm, number: int, *patch_from: str, path: Path | None = None) -> Release:
    path = lab.path / f"image-{number}" if path is None else path
    await trio.Path(path).write_bytes(image(number))
    return Release(
        path=path,
        product=PRODUCT,
        version=f"{number}.0",
        groups=(GROUP,),
        metadata={},
        patch_from=patch_from,
    )


async def publish(lab: Swarm, number: int, *patch_from: str) -> SignedManifest:
    publisher = lab["publisher-1"].publisher
    assert publisher is not None
    signed = await publisher.stage(await release(lab, number, *patch_from))
    transaction = await publisher.propose(signed)
    await lab["publisher-1"].submission.wait_final(transaction, 60)
    await lab.approve(signed)
    return signed


def digest(signed: SignedManifest) -> Digest:
    return signed.manifest.components[0].digest


def patches(signed: SignedManifest) -> tuple[PatchReference, ...]:
    return signed.manifest.components[0].patches


async def arrives(lab: Swarm, name: str, signed: SignedManifest) -> None:
    await until(lambda: lab.holds(name, digest(signed)), f"{name} has {signed.manifest.version}")


async def test_a_fleet_is_updated_by_patches(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=2) as lab:
        await lab.start(*NODES)
        await lab.until_met(*NODES)
        first = await publish(lab, 1, LATEST)
        assert patches(first) == ()  # there was no latest
        await arrives(lab, "gateway-1", first)
        before = lab["gateway-1"].exchange.statistics()

        await arrives(lab, "publisher-1", first)
        second = await publish(lab, 2, LATEST)
        (patch,) = patches(second)
        assert patch.base == digest(first)
        assert patch.size < SIZE // 50
        await arrives(lab, "gateway-1", second)
        after = lab["gateway-1"].exchange.statistics()
        assert after.fetched_bytes - before.fetched_bytes == patch.size
        assert after.patched_bytes > SIZE // 2

        # A gateway that joins now has no base: it gets chunks, and the patch was not in its way.
        await lab.start("gateway-2")
        await arrives(lab, "gateway-2", second)
        assert lab["gateway-2"].exchange.statistics().patched_bytes == 0

        # The patch is no image for devices, and it goes with its manifest.
        services = lab["gateway-1"].images
        answer = services.permit_for_digest(patch.digest)
        assert getattr(answer, "rule", None) == "image.unknown"
        assert patch.digest in held(lab, "gateway-1")
        await lab.until_height(await lab.revoke(second), "gateway-1", "publisher-1")
        for name in ("gateway-1", "publisher-1"):
            await until(lambda name=name: patch.digest not in held(lab, name), f"{name}: gone")


def held(lab: Swarm, name: str) -> set[Digest]:
    return {record.image for record in lab[name].store.images()}


async def test_bases_are_manifests_or_files(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*NODES[:-1])
        await lab.until_met(*NODES[:-1])
        first = await publish(lab, 1)
        second = await publish(lab, 2)
        await arrives(lab, "publisher-1", second)  # it was staged until then
        file = lab.path / "other.img"
        await trio.Path(file).write_bytes(image(3))
        publisher, store = lab["publisher-1"].publisher, lab["publisher-1"].store
        assert publisher is not None
        asked = (first.manifest_id.hex(), LATEST, str(file), str(file))
        signed, made = await publisher.stage_with_patches(await release(lab, 4, *asked))
        bases = sorted((digest(first), digest(second), sha256(image(3))))
        assert [patch.base for patch in patches(signed)] == bases
        assert [one.base for one in made] == bases
        for patch in patches(signed):
            assert patch.chunker == PATCH_CHUNKER
            record = store.record(patch.digest, staged=True)
            assert (record.state, record.recipe_root) == (ImageState.STAGED, patch.recipe_root)
        # The image itself is no base; of something else altogether no patch is published.
        await trio.Path(file).write_bytes(hashlib.shake_256(b"else").digest(SIZE))
        same = lab.path / "same.img"
        await trio.Path(same).write_bytes(image(5))
        signed, made = await publisher.stage_with_patches(
            await release(lab, 5, str(same), str(file))
        )
        assert patches(signed) == ()
        assert [one.reference for one in made] == [None]
        assert not (tmp_path / "publisher-1" / "patches").exists()
        await refusals(lab)


async def refusals(lab: Swarm) -> None:
    publisher, store = lab["publisher-1"].publisher, lab["publisher-1"].store
    assert publisher is not None
    before = {record.image for record in store.staged_images()}
    for base in ("ab" * 32, "latest?", "xy" * 32):
        with pytest.raises(PolicyError) as refused:
            await publisher.stage(await release(lab, 6, base))
        assert refused.value.rule == "patch.base"
    for absent in (str(lab.path / "absent"), str(lab.path)):
        with pytest.raises(ConfigError):
            await publisher.stage(await release(lab, 6, LATEST, absent))
    assert {record.image for record in store.staged_images()} == before
