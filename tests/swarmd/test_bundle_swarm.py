"""A gateway without a network: it says what it has, and a file brings what it lacks."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chunks.store import ChunkStore
from protocol.catchup import FreshnessAnswer, decode_ledger_message, encode_ledger_message
from protocol.digest import ManifestId, sha256
from protocol.errors import PolicyError
from protocol.manifest import SignedManifest
from swarmd.bundle_export import BundleExport, Exported
from swarmd.bundle_format import MAGIC, SectionKind, SectionReader, begin_bundle, decode_have
from swarmd.control.client import ControlClient
from swarmd.control.protocol import ControlError
from swarmd.net.memory import MemoryWire
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm, until
from tests.swarmd.attacks.test_bad_data import FillingStore

IMAGE = hashlib.shake_256(b"air gap").digest(400_000)
CONNECTED = (*VALIDATORS, "publisher-1", "gateway-1")


def ask(lab: Swarm, name: str, method: str, params: Any) -> Any:
    """Asks a node's daemon over its socket, from a worker thread."""
    with ControlClient(lab.directory(name).control_socket) as client:
        return client.call(method, dict(params))


async def control(lab: Swarm, name: str, method: str, **params: Any) -> Any:
    return await trio.to_thread.run_sync(partial(ask, lab, name, method, params))


async def have_file(lab: Swarm, name: str) -> Path:
    answer = await control(lab, name, "bundle_wanted")
    return Path(answer["path"])


async def export(lab: Swarm, target: Path, have: Path | None, *manifests: ManifestId) -> Exported:
    """What `swarmd bundle export` does, by gateway-1."""
    raw = None if have is None else await trio.Path(have).read_bytes()
    job = BundleExport(
        partial(ask, lab, "gateway-1"),
        genesis=(lab.path / "genesis.cbor").read_bytes(),
        target=target,
        have=None if raw is None else (decode_have(raw), sha256(raw)),
        progress=lambda _fields: None,
    )
    return await trio.to_thread.run_sync(job.run, manifests)


async def take(lab: Swarm, name: str, path: Path) -> Any:
    return await control(lab, name, "bundle_import", path=str(path))


async def refused(lab: Swarm, name: str, path: Path) -> str:
    with pytest.raises(ControlError) as caught:
        await take(lab, name, path)
    return str(caught.value)


def sections(path: Path) -> list[tuple[SectionKind, bytes]]:
    with path.open("rb") as file:
        reader = SectionReader(file)
        found = []
        while not found or found[-1][0] is not SectionKind.END:
            section = reader.next()
            found.append((section.kind, section.body))
        return found


def rewritten(path: Path, target: Path, parts: list[tuple[SectionKind, bytes]]) -> Path:
    """A bundle of other sections, right in form."""
    with target.open("wb") as file:
        writer = begin_bundle(file)
        for kind, body in parts:
            if kind is not SectionKind.END:
                writer.write(kind, body)
        writer.finish()
    return target


@pytest.mark.slow
async def test_a_cut_off_gateway_is_brought_up_to_date_by_files(tmp_path: Path) -> None:
    async with swarm(tmp_path, http=("gateway-2",)) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        await lab.start("gateway-2", wire=MemoryWire())  # alone on a wire of its own
        first = await lab.release(IMAGE, version="1")
        digest = first.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds it")

        # a bundle for nobody in particular brings blocks, but no proof that they are the newest
        whole = await export(lab, tmp_path / "whole.bundle", None)
        assert (whole.from_height, whole.statements, whole.is_resumed) == (1, 0, False)
        outcome = await take(lab, "gateway-2", whole.file)
        # Where time passed meanwhile, a heartbeat's block has come with the others.
        assert outcome["blocks"] == lab.height("gateway-2") >= whole.to_height > 0
        assert outcome["refused"] == {first.manifest_id.hex(): "freshness"}
        assert not lab.holds("gateway-2", digest)

        # with a nonce of its own it knows how old its knowledge is
        have = await have_file(lab, "gateway-2")
        asked = await export(lab, tmp_path / "asked.bundle", have)
        assert asked.statements == 4
        outcome = await take(lab, "gateway-2", asked.file)
        assert (outcome["is_fresh"], outcome["proofs"]) == (True, 1)
        assert outcome["complete"] == [first.manifest_id.hex()]
        assert lab.holds("gateway-2", digest)
        again = await take(lab, "gateway-2", asked.file)
        assert (again["chunks"], again["complete"]) == (0, [first.manifest_id.hex()])
        path = await control(lab, "gateway-2", "fetch", manifest=first.manifest_id.hex())
        assert await trio.Path(path["path"]).read_bytes() == IMAGE

        # an update brings what changed, and a revocation ends the old one
        changed = IMAGE[:100_000] + b"a small change" + IMAGE[100_000:]
        second = await lab.release(changed, version="2")
        digest_2 = second.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest_2), "gateway-1 holds the second")
        have = await have_file(lab, "gateway-2")
        update = await export(lab, tmp_path / "update.bundle", have)
        assert update.from_height == lab.height("gateway-2") + 1
        assert update.chunks <= 4 < update.chunks_left_out
        assert update.size_bytes < len(IMAGE) // 2
        outcome = await take(lab, "gateway-2", update.file)
        assert second.manifest_id.hex() in outcome["complete"]
        assert lab.holds("gateway-2", digest_2)

        # a third one comes with a revocation: what the revoked one would give is in the bundle
        await lab.revoke(second)
        await until(lambda: not lab.holds("gateway-1", digest_2), "withdrawn at gateway-1")
        await lab.revoke(first)
        await until(lambda: not lab.holds("gateway-1", digest), "withdrawn at gateway-1")
        third = await lab.release(changed[::-1] + changed, version="3")
        digest_3 = third.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest_3), "gateway-1 holds the third")
        have = await have_file(lab, "gateway-2")
        update = await export(lab, tmp_path / "update.bundle", have)
        assert update.size_bytes > 2 * len(IMAGE)
        outcome = await take(lab, "gateway-2", update.file)
        assert outcome["complete"] == [third.manifest_id.hex()]
        await until(lambda: not lab.holds("gateway-2", digest), "withdrawn at gateway-2")

        # what was exported before the revocation is not taken any more
        late = await take(lab, "gateway-2", asked.file)
        assert late["refused"] == {first.manifest_id.hex(): "manifest.revoked"}
        assert not lab.holds("gateway-2", digest)


def flipped(body: bytes, at: int = -1) -> bytes:
    out = bytearray(body)
    out[at] ^= 1
    return bytes(out)


class Spoiler:
    """A good bundle and what can be made of it."""

    def __init__(self, good: Path) -> None:
        self.good = good
        self.bad = good.with_name("bad.bundle")
        self.data, self.parts = good.read_bytes(), sections(good)
        kinds = [kind for kind, _ in self.parts]
        self.first = {kind: kinds.index(kind) for kind in kinds}

    def body(self, place: int) -> bytes:
        return self.parts[place][1]

    def replaced(self, place: int, *bodies: bytes) -> Path:
        """Other bodies, or none, in the place of one section."""
        kind = self.parts[place][0]
        inserted = [(kind, body) for body in bodies]
        return self.of([*self.parts[:place], *inserted, *self.parts[place + 1 :]])

    def of(self, parts: list[tuple[SectionKind, bytes]]) -> Path:
        return rewritten(self.good, self.bad, parts)

    def raw(self, data: bytes) -> Path:
        self.bad.write_bytes(data)
        return self.bad


async def spoilable(lab: Swarm, path: Path) -> tuple[Spoiler, SignedManifest]:
    """A bundle for gateway-2, which is alone."""
    await lab.start(*CONNECTED)
    await lab.until_met(*CONNECTED)
    await lab.start("gateway-2", wire=MemoryWire())
    signed = await lab.release(IMAGE)
    digest = signed.manifest.components[0].digest
    await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds it")
    have = await have_file(lab, "gateway-2")
    return Spoiler((await export(lab, path / "good.bundle", have)).file), signed


@pytest.mark.slow
async def test_spoilt_facts_change_nothing(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        spoiler, _ = await spoilable(lab, tmp_path)
        for content, said in (
            (b"", "ends at byte 0"),
            (spoiler.data[:20], "ends at byte 20"),
            (b"another file, quite long", "not an offline bundle"),
            (MAGIC + b"\x03" + b"\xff" * 4, "section BLOCKS of 4294967295 bytes"),
            (MAGIC + b"\x63\x00\x00\x00\x01\x00", "unknown kind 99"),
            (MAGIC + b"\x09\x00\x00\x00\x00", "section CHUNK of 0 bytes"),
        ):
            assert said in await refused(lab, "gateway-2", spoiler.raw(content))
        for place, at in ((spoiler.first[SectionKind.BLOCKS], 60), (0, 20)):
            bad = spoiler.replaced(place, flipped(spoiler.body(place), at))
            await refused(lab, "gateway-2", bad)
        assert lab.height("gateway-2") == 0
        place = spoiler.first[SectionKind.PROOF]
        await refused(lab, "gateway-2", spoiler.replaced(place, flipped(spoiler.body(place), -40)))
        assert 2 <= lab.height("gateway-2") <= lab.height("gateway-1"), "the blocks before it count"
        place = spoiler.first[SectionKind.FRESHNESS]
        answer = decode_ledger_message(spoiler.body(place))
        assert isinstance(answer, FreshnessAnswer)
        for forgeries, is_fresh in ((3, False), (2, True)):  # f + 1 are two of four
            statements = tuple(
                (flipped(raw) if number < forgeries else raw, *rest)
                for number, (raw, *rest) in enumerate(answer.statements)
            )
            changed = FreshnessAnswer(statements=statements)  # type: ignore[arg-type]
            forged = spoiler.replaced(place, encode_ledger_message(changed))
            assert (await take(lab, "gateway-2", forged))["is_fresh"] is is_fresh
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo)
        for path in (fifo, tmp_path, tmp_path / "absent"):
            error = await refused(lab, "gateway-2", path)
            assert "cannot read" in error or "not a regular file" in error


@pytest.mark.slow
async def test_spoilt_images_leave_what_was_right_and_go_on_from_there(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        spoiler, signed = await spoilable(lab, tmp_path)
        digest = signed.manifest.components[0].digest
        place = spoiler.first[SectionKind.PAGE]
        page = spoiler.body(place)
        for bodies in ((flipped(page, 300),), (page, page), ()):
            await refused(lab, "gateway-2", spoiler.replaced(place, *bodies))
        third = spoiler.first[SectionKind.CHUNK] + 3
        body = spoiler.body(third)
        bad = spoiler.replaced(third, flipped(body))
        assert "expected sha256" in await refused(lab, "gateway-2", bad)
        assert lab["gateway-2"].store.record(digest).have_count == 3, "what came before stays"
        for wrong, said in (
            ((2**17).to_bytes(4, "big") + body[4:], "chunk 131072 behind chunk 2"),
            ((2**31).to_bytes(4, "big") + body[4:], "index 2147483648"),
            (bytes(4) + body[4:], "chunk 0 behind chunk 2"),
            (body[:-1], "chunk 3 of"),
            (body + b"x", "chunk 3 of"),
            (body[:4], "chunk section of 4 bytes"),
        ):
            assert said in await refused(lab, "gateway-2", spoiler.replaced(third, wrong))
        await _out_of_order(lab, spoiler)
        error = await refused(lab, "gateway-2", spoiler.raw(spoiler.data[: len(spoiler.data) // 2]))
        assert "ends at byte" in error
        outcome = await take(lab, "gateway-2", spoiler.good)
        assert outcome["complete"] == [signed.manifest_id.hex()]
        assert lab.holds("gateway-2", digest)
        assert lab["gateway-2"].ledger.alarm is None


async def _out_of_order(lab: Swarm, spoiler: Spoiler) -> None:
    parts, chunk = spoiler.parts, spoiler.first[SectionKind.CHUNK]
    for changed in (
        [*parts[:chunk], parts[1], *parts[chunk:]],  # back to the facts
        [*parts[:-1], *parts[spoiler.first[SectionKind.OBJECT] :]],  # an object twice
        [*parts[:1], *parts],  # a second head
        [parts[chunk], *parts],  # a chunk of nothing
    ):
        await refused(lab, "gateway-2", spoiler.of(changed))
    error = await refused(lab, "gateway-2", spoiler.raw(spoiler.data + b"more"))
    assert "behind the bundle's last section" in error


def _images(parts: list[tuple[SectionKind, bytes]]) -> list[tuple[SectionKind, bytes]]:
    """Objects, pages and chunks."""
    return [part for part in parts if SectionKind.OBJECT <= part[0] <= SectionKind.CHUNK]


@pytest.mark.slow
async def test_an_export_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        signed = await lab.release(IMAGE)
        digest = signed.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds it")
        target = tmp_path / "fleet.bundle"
        whole = (await export(lab, target, None)).file.read_bytes()
        part = target.with_name("fleet.bundle.part")
        assert not part.exists()
        sections_whole = sections(target)
        kinds = [kind for kind, _ in sections_whole]
        facts = kinds.index(SectionKind.OBJECT)
        ends = []
        with target.open("rb") as file:
            reader = SectionReader(file)
            for _ in kinds:
                reader.next()
                ends.append(reader.offset)
        for cut in (
            0,
            7,
            30,
            ends[facts - 1],
            ends[facts],
            ends[facts + 1],
            ends[-3] + 5,
            ends[-2],
        ):
            target.unlink()
            part.write_bytes(whole[:cut])
            done = await export(lab, target, None)
            assert done.is_resumed is (cut >= ends[facts])
            if done.is_resumed:
                assert target.read_bytes() == whole
            else:  # begun anew, with the ledger as it is now
                assert _images(sections(target)) == _images(sections_whole)
        part.write_bytes(whole[: ends[-3]] + b"garbage behind the last whole chunk")
        assert (await export(lab, target, None)).is_resumed
        assert target.read_bytes() == whole
        # holes that a power cut left behind the last sync are written again
        for hole in (ends[-4] + 50, ends[facts] + 20):
            part.write_bytes(whole[:hole] + bytes(100) + whole[hole + 100 : -500])
            assert (await export(lab, target, None)).is_resumed
            assert target.read_bytes() == whole
        # a part of another export is begun anew
        other = await lab.release(IMAGE[::-1], version="2")
        digest = other.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds the second")
        part.write_bytes(whole[: ends[-3]])
        assert not (await export(lab, target, None)).is_resumed
        with pytest.raises(ControlError, match="no manifest"):
            await export(lab, target, None, ManifestId(bytes(32)))
        await lab.revoke(signed)
        await until(
            lambda: lab["gateway-1"].data_plane.images.permit_for_digest(digest), "a verdict"
        )
        with pytest.raises(ControlError, match="revoked"):
            await export(lab, target, None, signed.manifest_id)


@pytest.mark.slow
async def test_files_of_another_chain_or_era_are_refused(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        signed = await lab.release(IMAGE)
        digest = signed.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds it")
        await lab.start("gateway-2", wire=MemoryWire())
        have = await have_file(lab, "gateway-2")
        content = decode_have(have.read_bytes())
        good = (await export(lab, tmp_path / "good.bundle", have)).file
        parts = sections(good)
        for number, change in enumerate(({"chain": bytes(32)}, {"era": 1})):
            path = tmp_path / f"{number}.have"
            path.write_bytes(replace(content, **change).encode())  # type: ignore[arg-type]
            with pytest.raises(PolicyError, match=r"bundle\.(chain|era)"):
                await export(lab, tmp_path / "other.bundle", path)
        from swarmd.bundle_format import decode_head

        head = decode_head(parts[0][1])
        for change, said in (
            ({"chain": bytes(32)}, "bundle.chain"),
            ({"era": 1}, "bundle.era"),
            ({"from_height": head.to_height}, "bundle.gap"),
        ):
            body = replace(head, **change).encode()  # type: ignore[arg-type]
            bad = rewritten(good, tmp_path / "bad", [(parts[0][0], body), *parts[1:]])
            assert said in await refused(lab, "gateway-2", bad)
        assert lab.height("gateway-2") == 0
        # images of manifests that no block authorises are read over
        others = [part for part in parts if part[0] is not SectionKind.BLOCKS]
        outcome = await take(lab, "gateway-2", rewritten(good, tmp_path / "bad", others))
        assert outcome["refused"] == {signed.manifest_id.hex(): "manifest.unknown"}
        assert (outcome["chunks"], outcome["is_fresh"]) == (0, False)
        assert lab["gateway-2"].store.images() == ()


@pytest.mark.slow
async def test_rings_travel_along_and_open_for_who_is_in_them(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*CONNECTED)
        await lab.until_met(*CONNECTED)
        await lab.start("gateway-2", wire=MemoryWire())
        statement = (await control(lab, "gateway-2", "sealing_key"))["statement"]
        await control(lab, "publisher-1", "sealing_ring", group=GROUP, members=[statement])
        path = lab.path / "secret"
        path.write_bytes(IMAGE)
        published = await control(
            lab, "publisher-1", "publish",
            path=str(path), product="pump", version="1", groups=[GROUP], seal=GROUP,
        )  # fmt: skip
        manifest = ManifestId(bytes.fromhex(published["manifest"]))
        signed = lab["publisher-1"].ledger.manifests[manifest]
        await lab.approve(signed)
        digest = signed.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest), "gateway-1 holds it")
        shelf = lab["gateway-1"].data_plane.sealing.service.shelf
        await until(shelf.views, "gateway-1 carries the ring, too")
        assert not shelf.views()[0].is_open
        have = await have_file(lab, "gateway-2")
        file = (await export(lab, tmp_path / "sealed.bundle", have)).file
        assert IMAGE[:64] not in await trio.Path(file).read_bytes()
        parts = sections(file)
        place = [kind for kind, _ in parts].index(SectionKind.RING)
        forged = bytearray(parts[place][1])
        forged[-1] ^= 1
        bad = [*parts[:place], (SectionKind.RING, bytes(forged)), *parts[place + 1 :]]
        assert "signature" in await refused(
            lab, "gateway-2", rewritten(file, tmp_path / "bad", bad)
        )
        outcome = await take(lab, "gateway-2", file)
        assert (outcome["rings"], outcome["complete"]) == (1, [manifest.hex()])
        copy = await control(lab, "gateway-2", "fetch", manifest=manifest.hex())
        assert await trio.Path(copy["path"]).read_bytes() == IMAGE


@pytest.mark.slow
async def test_a_restart_forgets_nonces_and_a_full_disk_only_stops(tmp_path: Path) -> None:
    stores: list[FillingStore] = []

    def filling(store: ChunkStore) -> ChunkStore:
        stores.append(FillingStore(store))
        return stores[-1]  # type: ignore[return-value]

    async with swarm(tmp_path) as lab:
        spoiler, signed = await spoilable(lab, tmp_path)
        digest = signed.manifest.components[0].digest
        await lab.stop("gateway-2")
        await lab.start("gateway-2", wire=MemoryWire(), wrap_store=filling)
        outcome = await take(lab, "gateway-2", spoiler.good)
        assert (outcome["is_fresh"], outcome["refused"]) == (
            False,
            {signed.manifest_id.hex(): "freshness"},
        )
        assert outcome["notes"] == ["the statements do not show that this copy is current"]
        have = await have_file(lab, "gateway-2")
        again = (await export(lab, tmp_path / "again.bundle", have)).file
        assert "no space" in await refused(lab, "gateway-2", again)
        held = lab["gateway-2"].store.record(digest).have_count
        assert (held, lab.is_alive("gateway-2")) == (3, True)
        stores[0].room = 10**6
        outcome = await take(lab, "gateway-2", again)
        assert outcome["complete"] == outcome["stored"] == [signed.manifest_id.hex()]
        assert lab.holds("gateway-2", digest)
