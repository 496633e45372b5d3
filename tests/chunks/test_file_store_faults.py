"""Power cuts and I/O errors at every call a small life of a store makes (design promise G5)."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from chunks.file_store import FileStore
from chunks.store import DiskFullError, ImageState, StoreOpenError
from protocol.digest import Digest
from protocol.errors import StorageError
from tests.chunks.chunk_images import FIXED_1000, Sample, generated
from tests.chunks.faulty_backend import Fault, FaultyBackend, PowerCutError

OLD = Sample(generated("old", 3_000))
NEW = Sample(generated("new", 3_000) + OLD.data[:1_000] + bytes(2_000) + b"end")
STAGED = Sample(generated("staged", 2_500))
SAMPLES = {sample.image: sample for sample in (OLD, NEW, STAGED)}


class Witness:
    """What the store has acknowledged so far, hence must survive."""

    def __init__(self) -> None:
        self.held: dict[Digest, set[int]] = {OLD.image: set(OLD.indices)}
        self.complete: set[Digest] = {OLD.image}
        self.gone: set[Digest] = set()
        self.leaving: set[Digest] = set()

    def check(self, store: FileStore) -> None:
        """Every chunk counted reads back right; nothing acknowledged is missing."""
        records = {record.image: record for record in store.images()}
        for image, record in records.items():
            sample = SAMPLES[image]
            if record.state is ImageState.LOCKED:
                assert image in self.leaving
                continue
            for index in set(sample.indices) - set(sample.missing(store)):
                assert store.read_chunk(image, index) == sample.chunk(index)
        assert store.statistics().chunks_rotten == 0
        assert not self.gone & set(records)
        for image in self.complete - self.leaving:
            assert records[image].state is ImageState.COMPLETE
        for image, indices in self.held.items():
            if image not in self.leaving:
                assert not indices & set(SAMPLES[image].missing(store))


def calm(root: Path) -> FileStore:
    """Opens a store without faults, which does not wait for the real disk."""
    return FileStore.open(root, backend=FaultyBackend(graves=root.parent / "calm"))


def prepare(directory: Path) -> Path:
    store = calm(directory / "store")
    OLD.install(store)
    store.close()
    STAGED.file(directory)
    return directory / "store"


def live(store: FileStore, directory: Path, witness: Witness) -> None:
    """Each step is skipped if it was done before a fault, so a life can be gone on with."""
    complete = {record.image for record in store.images() if record.state is ImageState.COMPLETE}
    if NEW.image not in complete:
        download = NEW.begin(store)
        store.reuse(download)
        for count, index in enumerate(NEW.missing(store)):
            store.write_chunk(download, index, NEW.chunk(index))
            if count == 1:
                written = set(NEW.indices) - set(NEW.missing(store))
                store.checkpoint(download)
                witness.held[NEW.image] = written
        store.finish(download)
        witness.complete.add(NEW.image)
    if STAGED.image not in complete:
        if not store.staged_images():
            store.stage(directory / f"{STAGED.image.hex()[:8]}.img", FIXED_1000)
        store.promote(STAGED.image)
        witness.complete.add(STAGED.image)
    witness.leaving.add(OLD.image)
    store.withdraw(OLD.image)
    witness.gone.add(OLD.image)
    store.export(NEW.image, directory / "exported")
    assert (directory / "exported").read_bytes() == NEW.data


def count_calls(directory: Path) -> int:
    backend = FaultyBackend(graves=directory / "graves")
    root = prepare(directory)
    store = FileStore.open(root, backend=backend)
    live(store, directory, Witness())
    store.close()
    return len(backend.calls)


CALLS = 130
"""At least as many calls as a life makes; `test_the_life_is_covered` holds it against the truth."""


def test_the_life_is_covered(tmp_path: Path) -> None:
    calls = count_calls(tmp_path)
    assert CALLS - 20 < calls <= CALLS


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.CUT_BEFORE, Fault.CUT_AFTER])
@pytest.mark.parametrize("block", range(CALLS // 10))
def test_power_cut_at_every_call(tmp_path: Path, fault: Fault, block: int) -> None:
    for at in range(block * 10, block * 10 + 10):
        directory = tmp_path / f"{at}"
        directory.mkdir()
        cut_power(directory, fault, at, Random(f"{fault.name} {at}"))


def cut_power(directory: Path, fault: Fault, at: int, random: Random) -> None:
    root = prepare(directory)
    backend = FaultyBackend(fault=fault, at=at, graves=directory / "graves")
    witness = Witness()
    with suppress(PowerCutError):
        live(FileStore.open(root, backend=backend), directory, witness)
    assert backend.tripped or at >= len(backend.calls)
    backend.lose_unsynced(root, random)
    # The next start may be cut off as well.
    second = FaultyBackend(
        fault=Fault.CUT_AFTER, at=random.randrange(12), graves=directory / "graves2"
    )
    with suppress(PowerCutError):
        FileStore.open(root, backend=second)
    second.lose_unsynced(root, random)
    store = calm(root)
    witness.check(store)
    live(store, directory, witness)
    witness.check(store)
    store.close()
    names = {path.name for path in (root / "images").iterdir()}
    assert names == {NEW.image.hex(), STAGED.image.hex()}
    assert list((root / "staging").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC])
@pytest.mark.parametrize("block", range(CALLS // 10))
def test_error_at_every_call(tmp_path: Path, fault: Fault, block: int) -> None:
    for at in range(block * 10, block * 10 + 10):
        directory = tmp_path / f"{at}"
        directory.mkdir()
        fail_once(directory, fault, at)


def attempt(store: FileStore, directory: Path, witness: Witness) -> StorageError | None:
    try:
        live(store, directory, witness)
    except StorageError as error:
        return error
    return None


def fail_once(directory: Path, fault: Fault, at: int) -> None:
    root = prepare(directory)
    backend = FaultyBackend(fault=fault, at=at, graves=directory / "graves")
    witness = Witness()
    try:
        store = FileStore.open(root, backend=backend)
    except StoreOpenError:
        store = FileStore.open(root, backend=backend)
    failure = attempt(store, directory, witness)
    if failure is not None:
        # Reads are how rot shows, and a file that cannot be read has rotted.
        assert (
            fault is Fault.EIO
            or backend.calls[at] == "read"
            or (isinstance(failure, DiskFullError))
        )
    backend.disarm()
    rotten = store.statistics().chunks_rotten
    assert rotten <= (1 if backend.calls[at : at + 1] == ["read"] else 0)
    if not rotten:
        witness.check(store)
    failure = attempt(store, directory, witness)
    # A failed index takes no more until the store is opened again.
    assert failure is None or "open the store again" in str(failure)
    store.close()
    store = calm(root)
    live(store, directory, witness)
    if not rotten:
        witness.check(store)
    store.close()


def test_a_failed_sync_closes_the_download_and_falls_back(tmp_path: Path) -> None:
    image = Sample(generated("x", 4_000))
    backend = FaultyBackend(graves=tmp_path / "graves")
    store = FileStore.open(tmp_path / "store", backend=backend)
    download = image.begin(store)
    store.write_chunk(download, 0, image.chunk(0))
    store.checkpoint(download)
    store.write_chunk(download, 1, image.chunk(1))
    opened = backend.calls.count("open")
    backend.arm(Fault.EIO)
    with pytest.raises(StorageError):
        store.checkpoint(download)
    assert backend.calls[-1] == "sync data" or backend.calls[-2:] == ["sync data", "close"]
    assert image.missing(store) == [1, 2, 3]
    with pytest.raises(StorageError):
        store.write_chunk(download, 2, image.chunk(2))
    image.install(store)
    # Never a second try on the descriptor whose sync failed.
    assert backend.calls.count("open") == opened + 1
    store.close()
