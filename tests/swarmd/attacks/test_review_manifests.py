"""Approved manifests that lie about themselves: approvers see the image's digest and size only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ledger.transaction import ProposeManifest
from protocol.manifest import sign_manifest
from swarmd.datadir import KeyName
from tests.support.swarm import swarm, until

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")


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
