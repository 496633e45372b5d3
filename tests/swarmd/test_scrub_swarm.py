"""A gateway with a failing disk, on whole nodes: rot is found and mended, and it is no liar."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from chunks.store import ImageState
from protocol.digest import Digest
from protocol.manifest import SignedManifest
from swarmd.receipts import ReceiptKind
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"image").digest(600_000)
FIRST, SECOND = "gateway-1", "gateway-2"

pytestmark = pytest.mark.slow


def digest(signed: SignedManifest) -> Digest:
    return signed.manifest.components[0].digest


def rot(lab: Swarm, name: str, image: Digest, *offsets: int) -> None:
    """Flips bytes on a node's disk."""
    with (lab.directory(name).images / "images" / image.hex()).open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 255]))


async def test_rot_is_found_and_fetched_again_before_anybody_asks(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*VALIDATORS, "publisher-1", FIRST)
        signed = await lab.release(IMAGE)
        image = digest(signed)
        await until(lambda: lab.holds(FIRST, image), "it is fetched")
        node = lab[FIRST]
        rot(lab, FIRST, image, 10, 300_000, 599_999)
        scrub = node.data_plane.storage.scrub
        while not scrub.statistics().rotten_chunks:
            await scrub.step()
        await until(lambda: lab.holds(FIRST, image), "it is whole again")
        assert scrub.statistics().rotten_chunks == 3
        assert node.store.verify_image(image) == ()
        await node.receipts.flush()
        (entry,) = [e for e in node.receipts.newest(50) if e.kind is ReceiptKind.ROTTED]
        assert (entry.manifest, entry.detail) == (signed.manifest_id, "chunks: 3")


async def test_a_peer_with_a_bad_sector_is_asked_and_not_banned(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=2) as lab:
        lab.only_peers(SECOND, *VALIDATORS, FIRST, "publisher-1")
        await lab.start(*VALIDATORS, "publisher-1", FIRST)
        signed = await lab.release(IMAGE)
        image = digest(signed)
        await until(lambda: lab.holds(FIRST, image), "it is fetched")
        await lab.stop("publisher-1")
        node = lab[FIRST]
        # Verified while it was fetched, bad since.
        rot(lab, FIRST, image, 100_000)
        node.store.distrust()
        await lab.start(SECOND)
        other = lab[SECOND]
        await until(
            lambda: any(
                record.image == image and record.have_count == record.chunk_count - 1
                for record in other.store.images()
            ),
            "all but the bad chunk came",
        )
        assert node.store.record(image).state is ImageState.PARTIAL
        assert not other.exchange.statistics().blames
        assert lab.class_of(SECOND, FIRST) is not None
        assert all(not peer.offences for peer in other.registry)
        await lab.start("publisher-1")
        await until(lambda: lab.holds(SECOND, image), "it is complete")
        await until(lambda: lab.holds(FIRST, image), "the other is mended")
        assert not other.exchange.statistics().blames
        assert node.store.verify_image(image) == ()
