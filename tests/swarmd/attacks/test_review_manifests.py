"""Approved manifests that lie about themselves: approvers see the image's digest and size only."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from chunks.store import ChunkStore, ImageRecord
from ledger.bodies.manifest import ProposeManifest
from protocol.digest import Digest, sha256
from protocol.manifest import sign_manifest
from swarmd.datadir import KeyName
from tests.support.swarm import swarm, until

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")


class Alias:
    """A store that shows one image under another digest as well."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.true = self.false = Digest(b"")

    def _digest(self, image: Digest) -> Digest:
        return self.true if image == self.false else image

    def __getattr__(self, name: str) -> object:
        method = getattr(self._store, name)
        if name not in {"record", "have", "recipe", "read_chunk", "read_chunks"}:
            return method
        return lambda image, *rest, **more: method(self._digest(image), *rest, **more)

    def images(self) -> tuple[ImageRecord, ...]:
        held = self._store.images()
        return held + tuple(replace(r, image=self.false) for r in held if r.image == self.true)


@pytest.mark.slow
async def test_an_image_that_its_chunks_do_not_make_is_fetched_once(tmp_path: Path) -> None:
    image = random.Random(1).randbytes(400_000)
    async with swarm(tmp_path) as lab:
        aliases: list[Alias] = []

        def wrap(store: ChunkStore) -> ChunkStore:
            aliases.append(Alias(store))
            return aliases[0]  # type: ignore[return-value]

        await lab.start(*VALIDATORS)
        await lab.start("publisher-1", wrap_store=wrap)
        await lab.until_met(*VALIDATORS, "publisher-1")
        honest = await lab.release(image, version="1")
        component = honest.manifest.components[0]
        (alias,) = aliases
        alias.true, alias.false = component.digest, Digest(sha256(b"another image"))
        lie = replace(component, digest=alias.false)
        manifest = replace(honest.manifest, version="2", sequence=2, components=(lie,))
        signed = sign_manifest(manifest, lab.key("publisher-1", KeyName.PERSON), lab.chain)
        await lab.submit(ProposeManifest(manifest=signed.signed.raw))
        await lab.approve(signed)
        await lab.start("gateway-1")
        exchange = lab["gateway-1"].exchange
        await until(lambda: exchange.statistics().fetched_bytes >= len(image), "fetched once")
        for number in range(3):
            product = f"other-{number}"
            other = await lab.release(image[number:], version=f"3.{number}", product=product)
            digest = other.manifest.components[0].digest
            await until(lambda digest=digest: lab.holds("gateway-1", digest))  # type: ignore[misc]
        statistics = exchange.statistics()
        assert statistics.fetched_bytes + statistics.reused_bytes < 5 * len(image)
        assert all(item.manifest_id != signed.manifest_id for item in statistics.fetches)


@pytest.mark.slow
async def test_a_wrong_count_of_chunks_stops_no_node_that_holds_the_image(tmp_path: Path) -> None:
    nodes = (*VALIDATORS, "publisher-1", "gateway-1")
    image = bytes(range(256)) * 800
    async with swarm(tmp_path) as lab:
        await lab.start(*nodes)
        await lab.until_met(*nodes)
        honest = await lab.release(image, version="1")
        component = honest.manifest.components[0]
        await until(lambda: lab.holds("gateway-1", component.digest), "the image arrived")
        lie = replace(component, chunk_count=component.chunk_count + 9)
        manifest = replace(honest.manifest, version="2", sequence=2, components=(lie,))
        signed = sign_manifest(manifest, lab.key("publisher-1", KeyName.PERSON), lab.chain)
        await lab.submit(ProposeManifest(manifest=signed.signed.raw))
        await lab.approve(signed)
        digest = (await lab.release(image[::-1], version="3")).manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "the next release arrived")
        assert all(lab.is_alive(name) for name in nodes)
