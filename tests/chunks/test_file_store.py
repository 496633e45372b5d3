"""What only the file store does: opening, recovery, durability, threads, SIGKILL."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from chunks import image_table
from chunks.bitmap import Bitmap
from chunks.file_backend import OSFileBackend
from chunks.file_store import FileStore
from chunks.index_database import APPLICATION_ID, SCHEMA_VERSION
from chunks.layout import fixed_parameters
from chunks.store import (
    CHECKPOINT_BYTES,
    ChunkMissingError,
    ChunkRottenError,
    DiskFullError,
    DownloadClosedError,
    ImageLockedError,
    ImageMissingError,
    ImageState,
    StoreOpenError,
)
from protocol.errors import DigestMismatchError, StorageError
from protocol.limits import MIB
from tests.chunks.chunk_images import FIXED_1000, Sample, generated, sample
from tests.chunks.faulty_backend import Fault, FaultyBackend


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def edit_database(root: Path, *statements: str) -> None:
    connection = sqlite3.connect(root / "chunks.db", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


# --- opening ---


def test_open_without_a_store(root: Path) -> None:
    with pytest.raises(StoreOpenError, match="no chunk store"):
        FileStore.open(root, create=False)
    assert not root.exists()


def test_open_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreOpenError):
        FileStore.open(tmp_path / "file" / "store")


def test_open_while_another_has_it(root: Path) -> None:
    first = FileStore.open(root)
    with pytest.raises(StoreOpenError, match="locked"):
        FileStore.open(root)
    first.close()
    FileStore.open(root, create=False).close()


def test_open_a_foreign_database(root: Path) -> None:
    root.mkdir()
    edit_database(root, "CREATE TABLE other (x)")
    with pytest.raises(StoreOpenError, match="another program"):
        FileStore.open(root)


def test_open_a_newer_store(root: Path) -> None:
    FileStore.open(root).close()
    edit_database(root, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreOpenError, match="newer"):
        FileStore.open(root)


def test_open_what_is_no_database(root: Path) -> None:
    root.mkdir()
    (root / "chunks.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StoreOpenError):
        FileStore.open(root)


def test_the_database_is_marked(root: Path) -> None:
    FileStore.open(root).close()
    connection = sqlite3.connect(root / "chunks.db")
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_index_waits_for_the_disk(root: Path) -> None:
    store = FileStore.open(root)
    connection = store._index._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)
    store.close()


def test_the_backend_syncs_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fdatasync", lambda _: synced.append("data"))
    monkeypatch.setattr(os, "fsync", lambda _: synced.append("directory"))
    OSFileBackend().sync_data(0)
    OSFileBackend().sync_directory(tmp_path)
    assert synced == ["data", "directory"]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE image SET state = 9",
        "UPDATE image SET have = x'0000000000'",
        "ALTER TABLE image RENAME TO lost",
    ],
)
def test_open_a_damaged_index(root: Path, damage: str) -> None:
    store = FileStore.open(root)
    sample().begin(store)
    store.close()
    edit_database(root, damage)
    with pytest.raises(StoreOpenError, match="damaged"):
        FileStore.open(root)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE recipe SET lengths = zeroblob(32)",
        "DELETE FROM recipe",
        "ALTER TABLE recipe RENAME TO lost",
    ],
)
def test_a_damaged_recipe_is_not_used(root: Path, damage: str) -> None:
    store = FileStore.open(root)
    image = sample()
    image.install(store)
    store.close()
    edit_database(root, damage)
    store = FileStore.open(root)
    with pytest.raises(StorageError, match="damaged"):
        store.read_chunk(image.image, 0)
    store.close()


# --- recovery ---


def test_downloads_resume_from_their_last_checkpoint(root: Path) -> None:
    image = sample()
    store = FileStore.open(root)
    download = image.begin(store)
    store.write_chunk(download, 2, image.chunk(2))
    store.checkpoint(download)
    store.write_chunk(download, 3, image.chunk(3))
    store.close()
    store = FileStore.open(root)
    assert 2 not in image.missing(store)
    assert 3 in image.missing(store)
    assert store.read_chunk(image.image, 2) == image.chunk(2)
    image.install(store)
    store.close()


def test_a_chunk_written_during_a_sync_is_not_claimed_by_it(root: Path, tmp_path: Path) -> None:
    image = sample()

    class WriteDuringSync(FaultyBackend):
        during: Callable[[], object] | None = None

        def sync_data(self, descriptor: int) -> None:
            super().sync_data(descriptor)
            hook, self.during = self.during, None
            if hook is not None:
                hook()

    backend = WriteDuringSync(graves=tmp_path / "graves")
    store = FileStore.open(root, backend=backend)
    download = image.begin(store)
    store.write_chunk(download, 0, image.chunk(0))
    backend.during = lambda: store.write_chunk(download, 1, image.chunk(1))
    store.checkpoint(download)
    assert image.missing(store)[0] == 2
    backend.lose_unsynced(root, Random(0))
    store = FileStore.open(root)
    assert image.missing(store)[0] == 1
    store.close()


@pytest.mark.slow
def test_every_4_mib_are_made_durable_unasked(root: Path) -> None:
    image = Sample(generated("large", CHECKPOINT_BYTES + 1), fixed_parameters(MIB))
    store = FileStore.open(root)
    download = image.begin(store)
    for index in range(3):
        store.write_chunk(download, index, image.chunk(index))
    assert store.statistics().checkpoints == 0
    store.write_chunk(download, 3, image.chunk(3))
    assert store.statistics().checkpoints == 1
    store.close()
    store = FileStore.open(root)
    assert image.missing(store) == [4]
    store.close()


def test_names_follow_the_index(root: Path) -> None:
    done, half = sample("done"), sample("half")
    store = FileStore.open(root)
    done.install(store)
    half.begin(store)
    store.close()
    images = root / "images"
    (images / done.image.hex()).rename(images / f"{done.image.hex()}.part")
    (images / f"{half.image.hex()}.part").rename(images / half.image.hex())
    store = FileStore.open(root)
    assert {path.name for path in images.iterdir()} == {
        done.image.hex(),
        f"{half.image.hex()}.part",
    }
    assert store.record(done.image).state is ImageState.COMPLETE
    store.close()


def test_strays_go_and_strangers_stay(root: Path) -> None:
    FileStore.open(root).close()
    ours = [
        root / "images" / ("ab" * 32),
        root / "images" / ("cd" * 32 + ".part"),
        root / "staging" / "incoming-7.part",
    ]
    theirs = root / "images" / "notes.txt"
    for path in (*ours, theirs):
        path.write_bytes(b"x")
    FileStore.open(root).close()
    assert not any(path.exists() for path in ours)
    assert theirs.exists()


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 9)])
def test_an_image_without_its_file_is_forgotten(root: Path, damage: Callable[[Path], None]) -> None:
    image = sample()
    store = FileStore.open(root)
    image.install(store)
    store.close()
    damage(root / "images" / image.image.hex())
    store = FileStore.open(root)
    assert store.images() == ()
    assert store.reuse(Sample(image.data + b"x").begin(store)) == 0
    image.install(store)
    store.close()


def test_rot_survives_a_restart_as_a_missing_chunk(root: Path) -> None:
    image = sample()
    store = FileStore.open(root)
    image.install(store)
    store.close()
    path = root / "images" / image.image.hex()
    path.write_bytes(bytes(1_000) + image.data[1_000:])
    store = FileStore.open(root)
    with pytest.raises(ChunkRottenError):
        store.read_chunk(image.image, 0)
    assert not path.exists()
    store.close()
    store = FileStore.open(root)
    assert image.missing(store) == [0]
    image.install(store)
    assert path.read_bytes() == image.data
    store.close()


# --- a full disk ---


def test_a_full_disk_stops_intake_and_nothing_else(root: Path, tmp_path: Path) -> None:
    image, more = sample("a"), sample("b")
    backend = FaultyBackend(graves=tmp_path / "graves")
    store = FileStore.open(root, backend=backend)
    download = image.begin(store)
    store.write_chunk(download, 0, image.chunk(0))
    backend.arm(Fault.ENOSPC)
    with pytest.raises(DiskFullError):
        store.write_chunk(download, 1, image.chunk(1))
    assert store.read_chunk(image.image, 0) == image.chunk(0)
    assert 1 in image.missing(store)
    image.install(store)
    backend.arm(Fault.ENOSPC, calls_ahead=2)
    with pytest.raises(DiskFullError):
        more.begin(store)
    assert backend.calls[-4:] == ["create", "allocate", "close", "unlink"]
    assert [record.image for record in store.images()] == [image.image]
    assert len(list((root / "images").iterdir())) == 1
    more.install(store)
    store.close()


def test_an_index_without_room_stops_intake_and_nothing_else(root: Path) -> None:
    image = sample()

    class SmallIndex(OSFileBackend):
        def connect(self, path: Path) -> sqlite3.Connection:
            self.connection = super().connect(path)
            return self.connection

    backend = SmallIndex()
    store = FileStore.open(root, backend=backend)
    image.install(store)
    pages = backend.connection.execute("PRAGMA page_count").fetchone()[0]
    backend.connection.execute(f"PRAGMA max_page_count = {pages}")
    large = Sample(generated("large", 100_000), fixed_parameters(50))
    with pytest.raises(DiskFullError):
        large.begin(store)
    assert store.read_chunk(image.image, 0) == image.chunk(0)
    backend.connection.execute("PRAGMA max_page_count = 100000")
    large.install(store)
    store.close()


# --- threads ---


@pytest.mark.slow
def test_readers_against_removal(root: Path) -> None:
    image = Sample(generated("many", 64_000))
    store = FileStore.open(root)

    def read(worker: int) -> int:
        random, count = Random(worker), 0
        while True:
            index = random.randrange(image.recipe.chunk_count)
            try:
                assert store.read_chunk(image.image, index) == image.chunk(index)
            except ImageMissingError:
                return count
            except ImageLockedError:
                pass
            count += 1

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            image.install(store)
            readers = [pool.submit(read, worker) for worker in range(4)]
            store.read_chunk(image.image, 0)
            store.withdraw(image.image)
            for reader in readers:
                reader.result(timeout=30)
    assert list((root / "images").iterdir()) == []
    store.close()


@pytest.mark.slow
def test_many_writers_of_one_image(root: Path) -> None:
    image = Sample(generated("many", 200_000))
    store = FileStore.open(root)
    download = image.begin(store)

    def write(worker: int) -> int:
        order = list(image.indices)
        Random(worker).shuffle(order)
        new = 0
        for count, index in enumerate(order):
            new += len(store.write_chunk(download, index, image.chunk(index)))
            with pytest.raises(DigestMismatchError):
                store.write_chunk(download, index, b"wrong")
            if count % 50 == 0:
                store.checkpoint(download)
        return new

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(write, range(4))) == image.recipe.chunk_count
    store.finish(download)
    assert store.verify_image(image.image) == ()
    store.close()


def test_files_in_use_survive_removal(root: Path) -> None:
    image = sample()
    store = FileStore.open(root)
    image.install(store)
    with store._table.lease(image.image) as (held, opened):
        store.remove(image.image)
        assert opened.read_verified(OSFileBackend(), 0) == image.chunk(0)
        assert not held.path.exists()
        with pytest.raises(ImageMissingError):
            store.read_chunk(image.image, 0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened.descriptor)
    store.close()


def test_a_lease_outlives_the_store(root: Path) -> None:
    image = sample()
    store = FileStore.open(root)
    image.install(store)
    with store._table.lease(image.image) as (_, opened):
        store.close()
        assert opened.read_verified(OSFileBackend(), 1) == image.chunk(1)


def test_a_writer_overtaken_by_removal(root: Path, tmp_path: Path) -> None:
    image = sample()

    class RemoveDuringWrite(FaultyBackend):
        during: Callable[[], object] | None = None

        def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
            hook, self.during = self.during, None
            if hook is not None:
                hook()
            return super().write_at(descriptor, data, offset)

    backend = RemoveDuringWrite(graves=tmp_path / "graves")
    store = FileStore.open(root, backend=backend)
    download = image.begin(store)
    backend.during = lambda: store.remove(image.image)
    with pytest.raises(DownloadClosedError):
        store.write_chunk(download, 0, image.chunk(0))
    assert store.images() == ()
    store.close()


def test_idle_files_are_closed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_table, "OPEN_FILES_MAX", 2)
    images = [sample(f"{number}", 2_000) for number in range(5)]
    store = FileStore.open(root)
    for image in images:
        image.install(store)
    for image in images * 2:
        assert store.read_chunk(image.image, 1) == image.chunk(1)
        assert len(store._table._open) <= 2
    store.close()


def test_removal_that_fails_leaves_the_image_locked(root: Path, tmp_path: Path) -> None:
    image = sample()
    backend = FaultyBackend(graves=tmp_path / "graves")
    store = FileStore.open(root, backend=backend)
    image.install(store)
    backend.arm(Fault.ENOSPC)
    with pytest.raises(DiskFullError):
        store.withdraw(image.image)
    assert store.record(image.image).state is ImageState.LOCKED
    store.remove(image.image)
    assert store.images() == ()
    store.close()


def test_a_failed_index_takes_no_more_until_reopened(root: Path, tmp_path: Path) -> None:
    image = sample()
    backend = FaultyBackend(graves=tmp_path / "graves")
    store = FileStore.open(root, backend=backend)
    image.install(store)
    backend.arm(Fault.EIO)
    with pytest.raises(StorageError):
        store.withdraw(image.image, keep=True)
    other = sample("b")
    with pytest.raises(StorageError, match="open the store again"):
        other.begin(store)
    assert list((root / "images").glob("*.part")) == []
    store.close()
    store = FileStore.open(root)
    other.install(store)
    store.close()


# --- a real process, really killed ---

CHILD = """
import sys
import threading
from pathlib import Path
from chunks.file_store import FileStore
from tests.chunks.chunk_images import Sample, generated

image = Sample(generated("killed", 400_000))
store = FileStore.open(Path(sys.argv[1]))
download = image.begin(store)
for count, index in enumerate(image.indices):
    store.write_chunk(download, index, image.chunk(index))
    if count % 20 == 19:
        store.checkpoint(download)
        print(count, flush=True)
    if count == 300:
        sys.stdin.read()  # a slow killer still finds it in the middle
"""


@pytest.mark.slow
def test_kill_in_the_middle_and_resume(root: Path) -> None:
    image = Sample(generated("killed", 400_000))
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 99:
                break
        child.send_signal(signal.SIGKILL)
        assert child.wait(timeout=30) == -signal.SIGKILL
    store = FileStore.open(root)
    have = image.have(store)
    assert have.count >= 100
    assert have != Bitmap.full(400)
    for index in set(image.indices) - set(have.missing()):
        assert store.read_chunk(image.image, index) == image.chunk(index)
    image.install(store)
    assert store.verify_image(image.image) == ()
    store.close()


@pytest.mark.parametrize("size", [1, 999, 1_000, 1_001])
def test_images_of_odd_sizes(root: Path, tmp_path: Path, size: int) -> None:
    image = sample("odd", size)
    store = FileStore.open(root)
    image.install(store)
    store.export(image.image, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == image.data
    store.stage(tmp_path / "out", FIXED_1000)
    store.close()


def test_collection_never_takes_an_image_from_under_a_reader(root: Path) -> None:
    """Readers and a collector race over images that come back again and again."""
    store = FileStore.open(root)
    images = [sample(f"{number}", 40_000) for number in range(3)]
    for image in images:
        image.install(store)
    wrong: list[str] = []
    collected = 0

    def read(seed: int) -> int:
        random, served = Random(seed), 0
        for _ in range(1_500):
            image = random.choice(images)
            index = random.choice(image.indices)
            try:
                data = store.read_chunk(image.image, index)
            except (ImageMissingError, ImageLockedError, ChunkMissingError):
                continue
            served += 1
            if data != image.chunk(index):
                wrong.append(f"{image} {index}")
        return served

    with ThreadPoolExecutor(3) as threads:
        readers = [threads.submit(read, seed) for seed in range(3)]
        while not all(reader.done() for reader in readers):
            for image in images:
                if store.collect(image.image):
                    collected += 1
                    image.install(store)
        assert sum(reader.result() for reader in readers) > 100
    assert wrong == []
    assert collected
    assert store.statistics().chunks_rotten == 0
    store.close()


def test_collection_leaves_what_is_being_read(root: Path) -> None:
    class Slow(OSFileBackend):
        def __init__(self) -> None:
            self.reached, self.go_on = threading.Event(), threading.Event()

        def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
            self.reached.set()
            assert self.go_on.wait(10)
            return super().read_at(descriptor, size, offset)

    backend = Slow()
    backend.go_on.set()
    store = FileStore.open(root, backend=backend)
    image = sample()
    image.install(store)
    backend.reached.clear()
    backend.go_on.clear()
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(store.read_chunk, image.image, 4)
        assert backend.reached.wait(10)
        assert not store.collect(image.image)
        backend.go_on.set()
        assert reading.result() == image.chunk(4)
    assert store.collect(image.image)
    store.close()
