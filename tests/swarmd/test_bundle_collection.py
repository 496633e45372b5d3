"""While a bundle is taken in: nothing is collected under its hands, nothing revoked is finished."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chunks.store import ChunkStore
from protocol.digest import ManifestId
from protocol.errors import PolicyError
from swarmd import bundle_export
from swarmd.authority import Authority
from swarmd.net.memory import MemoryWire
from swarmd.questions import Denial, Verdict
from tests.support.swarm import Swarm, swarm, until
from tests.swarmd.test_bundle_swarm import CONNECTED, IMAGE, export, have_file, take

pytestmark = pytest.mark.slow


class CollectingStore:
    """A store whose node collects as soon as the first chunk of a download was written."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.lab: Swarm | None = None
        self.collected = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write_chunk(self, *arguments: object) -> object:
        written = self._store.write_chunk(*arguments)  # type: ignore[arg-type]
        if self.lab is not None and self.collected < 4:
            self.collected += 1
            trio.from_thread.run(self.lab["gateway-2"].data_plane.storage.keeping.collect)
        return written


async def test_an_older_release_is_not_collected_while_a_bundle_brings_it(tmp_path: Path) -> None:
    stores: list[CollectingStore] = []

    def collecting(store: ChunkStore) -> ChunkStore:
        stores.append(CollectingStore(store))
        return stores[-1]  # type: ignore[return-value]

    async with swarm(tmp_path) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        await lab.start("gateway-2", wire=MemoryWire(), wrap_store=collecting)
        digests = []
        for version in ("1", "2"):
            signed = await lab.release(IMAGE + version.encode() * 5000, version=version)
            digests.append(signed.manifest.components[0].digest)
            await until(lambda: lab.holds("gateway-1", digests[-1]), "gateway-1 holds it")
        have = await have_file(lab, "gateway-2")
        bundle = await export(lab, tmp_path / "both.bundle", have)
        stores[0].lab = lab
        outcome = await take(lab, "gateway-2", bundle.file)
        assert len(outcome["complete"]) == 2
        assert all(lab.holds("gateway-2", digest) for digest in digests)


class NotingStore(CollectingStore):
    """A store whose node learns of a revocation while the last chunks are written."""

    is_revoked = False

    def write_chunk(self, *arguments: object) -> object:
        self.is_revoked = self.lab is not None
        return self._store.write_chunk(*arguments)  # type: ignore[arg-type]


async def test_what_is_revoked_with_the_last_chunk_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores: list[NotingStore] = []

    def noting(store: ChunkStore) -> ChunkStore:
        stores.append(NotingStore(store))
        return stores[-1]  # type: ignore[return-value]

    async with swarm(tmp_path) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        await lab.start("gateway-2", wire=MemoryWire(), wrap_store=noting)
        signed = await lab.release(IMAGE)
        digest = signed.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds it")
        bundle = await export(lab, tmp_path / "one.bundle", await have_file(lab, "gateway-2"))
        asked = Authority.may_fetch

        def may_fetch(authority: Authority, manifest: ManifestId) -> Verdict:
            if any(store.is_revoked for store in stores):
                return Denial("manifest.revoked", "it was revoked")
            return asked(authority, manifest)

        monkeypatch.setattr(Authority, "may_fetch", may_fetch)
        stores[0].lab = lab
        outcome = await take(lab, "gateway-2", bundle.file)
        assert outcome["refused"] == {signed.manifest_id.hex(): "manifest.revoked"}
        assert outcome["complete"] == []
        assert not lab.holds("gateway-2", digest)


async def test_what_is_revoked_while_it_is_exported_makes_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        signed = await lab.release(IMAGE)
        digest = signed.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds it")
        read, revoked = bundle_export._read_chunk, []

        async def revoke() -> None:
            await lab.revoke(signed)
            await until(lambda: not lab.holds("gateway-1", digest), "withdrawn")

        def read_chunk(*arguments: object) -> bytes:
            if not revoked:
                revoked.append(True)
                trio.from_thread.run(revoke)
            return read(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(bundle_export, "_read_chunk", read_chunk)
        with pytest.raises(PolicyError, match="revoked"):
            await export(lab, tmp_path / "late.bundle", None)
        assert revoked
        assert not (tmp_path / "late.bundle").exists()
