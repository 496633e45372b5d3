"""Directories, disks and stores that are not what they should be: one line, or a pause; no loss."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from chunks.chunk_batches import RunBytes, WriteOutcome
from chunks.store import ChunkStore, DiskFullError, Download
from ledger.bodies.manifest import ApproveManifest, ProposeManifest
from protocol.approval import Action
from protocol.errors import ConfigError, StorageError, SwarmError, VerificationError
from protocol.runs import Runs
from swarmd.datadir import DataDir, KeyName
from swarmd.publisher import Release
from swarmd.receipts import ReceiptKind
from tests.support.forge import Forge
from tests.support.swarm import GROUP, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"image").digest(200_000)


async def start_error(lab: Swarm, name: str) -> SwarmError:
    """The one error with which a start fails."""
    try:
        async with trio.open_nursery() as nursery:
            await lab.start(name)
            nursery.cancel_scope.cancel()
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            assert len(error.exceptions) == 1
            error = error.exceptions[0]
        assert isinstance(error, SwarmError), error
        assert "\n" not in str(error)
        return error
    except SwarmError as error:
        return error
    raise AssertionError("it started")


def of_another_chain(directory: DataDir) -> None:
    directory.chain_file.write_text("00" * 32 + "\n")


def readable_key(directory: DataDir) -> None:
    directory.key_path(KeyName.NODE).chmod(0o644)


def missing_key(directory: DataDir) -> None:
    directory.key_path(KeyName.TRANSPORT).unlink()


def unknown_setting(directory: DataDir) -> None:
    directory.config.write_text(directory.config.read_text() + "\n[netwrok]\nlisten = []\n")


def damaged_genesis(directory: DataDir) -> None:
    directory.genesis.write_bytes(b"junk")


def damaged_join(directory: DataDir) -> None:
    directory.join.write_text("{}")


def damaged_ledger(directory: DataDir) -> None:
    (directory.ledger / "ledger.db").write_bytes(b"no database, but long enough to be one" * 99)


def damaged_images(directory: DataDir) -> None:
    (directory.images / "chunks.db").write_bytes(b"no database, but long enough to be one" * 99)


def foreign_receipts(directory: DataDir) -> None:
    database = sqlite3.connect(directory.receipts / "receipts.db")
    database.executescript("PRAGMA user_version = 9")
    database.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (of_another_chain, StorageError, "belongs to chain"),
        (readable_key, StorageError, "chmod 600"),
        (missing_key, StorageError, "No such file"),
        (unknown_setting, ConfigError, "network"),
        (damaged_genesis, StorageError, "genesis"),
        (damaged_join, VerificationError, "join"),
        (damaged_ledger, StorageError, "ledger"),
        (damaged_images, StorageError, "chunks.db|chunk store"),
        (foreign_receipts, StorageError, "newer version"),
    ],
)
async def test_a_start_fails_with_one_line(
    tmp_path: Path, spoil: Callable[[DataDir], None], error: type[SwarmError], words: str
) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        spoil(lab.directory("gateway-1"))
        found = await start_error(lab, "gateway-1")
        assert isinstance(found, error)
        import re

        assert re.search(words, str(found)), str(found)


@pytest.mark.slow
async def test_an_address_in_use(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        address = lab.address("gateway-1")
        await lab.wire.listen(address.host, address.port)
        assert "in use" in str(await start_error(lab, "gateway-1"))


# -- a disk that fills up ----------------------------------------------------------------------


class FillingStore:
    """A store without room for more than some chunks, until somebody makes room."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self.room = 3
        self.refusals = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write_chunk(self, download: Download, index: int, data: bytes) -> tuple[int, ...]:
        if self.room <= 0:
            self.refusals += 1
            raise DiskFullError("no space")
        self.room -= 1
        return self._store.write_chunk(download, index, data)

    def write_chunks(self, download: Download, runs: Sequence[RunBytes]) -> WriteOutcome:
        taken: list[RunBytes] = []
        full: list[int] = []
        for first, data in runs:
            index, start = first, 0
            while start < len(data):
                end = start + download.recipe.length(index)
                if self.room > 0:
                    taken.append((index, data[start:end]))
                    self.room -= 1
                else:
                    full.append(index)
                index, start = index + 1, end
        self.refusals += len(full)
        return replace(self._store.write_chunks(download, taken), full=Runs.of(full))


@pytest.mark.slow
async def test_a_full_disk_pauses_a_fetch_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmd.services.exchange_fetch.DISK_FULL_RETRY_S", 0.05)
    monkeypatch.setattr("swarmd.services.images.RETRY_S", 0.05)
    async with swarm(tmp_path, gateways=1) as lab:
        stores: list[FillingStore] = []

        def filling(store: ChunkStore) -> ChunkStore:
            stores.append(FillingStore(store))
            return stores[-1]  # type: ignore[return-value]

        await lab.start("publisher-1")
        await lab.start("gateway-1", wrap_store=filling)
        await lab.until_met("publisher-1", "gateway-1")
        forge = Forge(lab)
        digest = await release(lab, forge, "publisher-1", "gateway-1")
        await until(lambda: stores[0].refusals, "the disk is full")
        services = lab["gateway-1"]
        assert lab.is_alive("gateway-1")
        await forge.give(services, forge.advance())  # the ledger goes on
        held = {record.image: record.have_count for record in services.store.images()}
        assert held[digest] == 3
        stores[0].room = 10**6
        await until(lambda: lab.holds("gateway-1", digest), "it goes on when there is room")
        forge.close()


async def release(lab: Swarm, forge: Forge, *names: str) -> bytes:
    publisher = lab["publisher-1"].publisher
    assert publisher is not None
    path = lab.path / "image"
    path.write_bytes(IMAGE)
    signed = await publisher.stage(
        Release(path=path, product="pump", version="1", groups=(GROUP,), metadata={})
    )
    approvals = lab.approvals(Action.AUTHORISE, signed.manifest_id)
    body = ApproveManifest(manifest=signed.manifest_id, group=GROUP, approvals=approvals)
    runs = [forge.advance(ProposeManifest(manifest=signed.signed.raw)), forge.advance(body)]
    for name in names:
        services = lab[name]
        services.time.age.confirm(services._clock.monotonic())
        await forge.give(services, *runs)
    return signed.manifest.components[0].digest


@pytest.mark.slow
async def test_a_store_that_fails_is_asked_again_and_kills_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarmd.services.images.RETRY_S", 0.05)
    async with swarm(tmp_path, gateways=1) as lab:
        failing = True

        class Failing:
            def __init__(self, store: ChunkStore) -> None:
                self._store = store

            def __getattr__(self, name: str) -> object:
                return getattr(self._store, name)

            def promote(self, image: object) -> None:
                if failing:
                    raise StorageError("input/output error")
                self._store.promote(image)  # type: ignore[arg-type]

        await lab.start("publisher-1", wrap_store=Failing)  # type: ignore[arg-type]
        forge = Forge(lab)
        digest = await release(lab, forge, "publisher-1")
        await until(lambda: lab["publisher-1"].images._settled, "the review ran")
        assert lab.is_alive("publisher-1")
        assert not lab.holds("publisher-1", digest)
        failing = False
        await until(lambda: lab.holds("publisher-1", digest), "promoted in the end")
        forge.close()


@pytest.mark.slow
async def test_disks_full_for_age_and_receipts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start("gateway-1")
        services = lab["gateway-1"]
        log = services._receipt_log
        log._database.execute("PRAGMA max_page_count = 1")
        for number in range(300):
            services.receipts.note_nowait(ReceiptKind.FAILED, detail=str(number))
        await until(lambda: "receipts wait for the disk" in caplog.text, "receipts wait")
        age = lab.directory("gateway-1").path / "freshness.cbor"
        services.time.age.confirm(services._clock.monotonic())
        await services.freshness.save_now()
        assert age.exists()
        services.time._path = Path("/nonexistent/freshness.cbor")
        await services.freshness.save_now()
        assert "was not saved" in caplog.text
        services.time._path = age
        log._database.execute("PRAGMA max_page_count = 100000")
        await services.receipts.flush()
        assert services.receipts.size >= 300
        assert lab.is_alive("gateway-1")


@pytest.mark.slow
async def test_a_follower_that_cannot_store_blocks_lives_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start("gateway-1", "gateway-2")
        await lab.until_met("gateway-1", "gateway-2")
        forge = Forge(lab)
        await forge.give(lab["gateway-2"], forge.advance())
        chain = lab["gateway-1"].ledger.chain
        store, commit = chain._store, chain._store.commit

        def full(*_arguments: object, **_more: object) -> None:
            raise StorageError("database or disk is full")

        store.commit = full  # type: ignore[method-assign]
        lab["gateway-1"].follower.hear(lab.peer("gateway-2"), 1)
        await until(lambda: "blocks cannot be stored" in caplog.text, "it notices")
        assert lab.is_alive("gateway-1")
        assert lab.height("gateway-1") == 0
        store.commit = commit  # type: ignore[method-assign]
        lab["gateway-1"].follower.hear(lab.peer("gateway-2"), 1)
        await lab.until_height(1, "gateway-1")
        forge.close()
