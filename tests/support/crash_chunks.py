"""A gateway's life on a chunk store, and what must be in the store after any power loss."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chunks.file_backend import FileBackend
from chunks.file_store import FileStore
from chunks.store import Download, ImageState
from protocol.digest import Digest
from protocol.errors import StorageError
from tests.chunks.chunk_images import FIXED_1000, Sample, generated
from tests.support.chunk_disk import RecordingBackend
from tests.support.crash_states import CrashState, lay_out
from tests.support.memory_files import MemoryFiles

FOLDER = Path("/disk")
"""What was there before: its own name is durable."""
ROOT = FOLDER / "store"
"""The store on the recorded disk."""
SOURCE = FOLDER / "release.img"
"""The publisher's file on the recorded disk."""
WINDOW_BYTES = 3_000
"""Stands for `CHECKPOINT_BYTES` in a run: a life of a few chunks has checkpoints of its own."""

BATCH_BYTES = 5_000
"""What one call writes at most: three chunks, and two more that repeat one of them."""

OLD = Sample(generated("old", 7_300))
NEW = Sample(
    generated("new", 9_000) + OLD.data[:2_000] + bytes(3_000) + generated("tail", 6_000) + b"end"
)
STAGED = Sample(generated("staged", 4_500))
LEFT = Sample(generated("left", 6_000))
SAMPLES = {sample.image: sample for sample in (OLD, NEW, STAGED, LEFT)}
Opener = Callable[[FileBackend], FileStore]


def open_store(backend: FileBackend, root: Path = ROOT) -> FileStore:
    """Opens the store as production does."""
    return FileStore.open(root, backend=backend)


@dataclass
class StoreLife:
    """What the store acknowledged, each with the number of disk operations before it."""

    files: MemoryFiles
    written: list[tuple[int, Digest, int]] = field(default_factory=list)
    """(mark, image, chunk) that a write returned for, in order."""
    synced: list[tuple[int, Digest, frozenset[int]]] = field(default_factory=list)
    """Chunks that a finished checkpoint covered."""
    complete: list[tuple[int, Digest]] = field(default_factory=list)
    """Images that `finish` or `promote` returned for."""
    leaving: list[tuple[int, Digest]] = field(default_factory=list)
    """Images whose deletion began."""
    gone: list[tuple[int, Digest]] = field(default_factory=list)
    """Images whose deletion returned."""
    error: StorageError | None = None
    """What ended the run early."""

    @property
    def mark(self) -> int:
        """Operations so far."""
        return len(self.files.operations)


def run_store(
    backend: RecordingBackend, opener: Opener = open_store, *, is_short: bool = False
) -> StoreLife:
    """Lives a life; ends at the first error.

    Args:
        backend: recorded disk.
        opener: how the store is opened; a planted fault comes in here.
        is_short: only the download of one image.
    """
    life = StoreLife(backend.files)
    source = backend.create(SOURCE)
    backend.files.write(backend.files.names[str(SOURCE)], 0, STAGED.data)
    backend.sync_data(source)
    backend.sync_directory(FOLDER)
    try:
        store = opener(backend)
        _fetch(life, store, OLD)
        if not is_short:
            store = _fetch_in_two(life, store, backend, opener)
            _publish(life, store)
            _leave(life, store)
        store.close()
    except StorageError as error:
        life.error = error
    finally:
        backend.kill()
    return life


def _write(life: StoreLife, store: FileStore, download: Download, index: int) -> None:
    sample = SAMPLES[download.image]
    for gained in store.write_chunk(download, index, sample.chunk(index)):
        life.written.append((life.mark, download.image, gained))


def _write_batch(
    life: StoreLife, store: FileStore, download: Download, indices: Sequence[int]
) -> None:
    """Writes as the exchange does: by the batch, with a checkpoint when the store says so."""
    sample = SAMPLES[download.image]
    outcome = store.write_chunks(download, [(index, sample.chunk(index)) for index in indices])
    assert not outcome.refused
    for gained in outcome.gained:
        life.written.append((life.mark, download.image, gained))
    if outcome.is_checkpoint_due:
        _checkpoint(life, store, download)
    store.hash_ahead(download)


def _checkpoint(life: StoreLife, store: FileStore, download: Download) -> None:
    sample = SAMPLES[download.image]
    held = frozenset(sample.indices) - frozenset(sample.missing(store))
    store.checkpoint(download)
    life.synced.append((life.mark, download.image, held))


def _fetch(life: StoreLife, store: FileStore, sample: Sample) -> None:
    download = sample.begin(store)
    for index in sample.missing(store):
        _write(life, store, download, index)
    _finish(life, store, download)


def _finish(life: StoreLife, store: FileStore, download: Download) -> None:
    store.finish(download)
    life.complete.append((life.mark, download.image))


def _fetch_in_two(
    life: StoreLife, store: FileStore, backend: RecordingBackend, opener: Opener
) -> FileStore:
    """Fetches with reuse, a write while a sync is under way, and a restart half-way."""
    download = NEW.begin(store)
    store.reuse(download)
    missing = NEW.missing(store)
    for index in missing[:2]:
        _write(life, store, download, index)
    backend.on_synced = lambda: _write(life, store, download, missing[2])
    _checkpoint(life, store, download)
    for index in missing[3:7]:
        _write(life, store, download, index)
    for at in range(7, 13, 3):
        _write_batch(life, store, download, missing[at : at + 3])
    store.close()
    store = opener(backend)
    store.reuse(NEW.begin(store))
    _fetch(life, store, NEW)
    return store


def _publish(life: StoreLife, store: FileStore) -> None:
    store.stage(SOURCE, FIXED_1000)
    store.promote(STAGED.image)
    life.complete.append((life.mark, STAGED.image))


def _leave(life: StoreLife, store: FileStore) -> None:
    """Deletes a complete image, gives up a partial one, locks and unlocks another."""
    life.leaving.append((life.mark, OLD.image))
    store.withdraw(OLD.image)
    life.gone.append((life.mark, OLD.image))
    store.withdraw(NEW.image, keep=True)
    store.unlock(NEW.image)
    download = LEFT.begin(store)
    _write(life, store, download, 0)
    life.leaving.append((life.mark, LEFT.image))
    store.abandon(download)
    life.gone.append((life.mark, LEFT.image))
    store.export(NEW.image, FOLDER / "exported")


# --- judging ---


def problem_after(life: StoreLife, state: CrashState, directory: Path) -> str | None:
    """Opens a crash state with the production code; what is wrong with it, or None."""
    lay_out(state.image, directory)
    return judge(life, state.prefix, lambda: FileStore.open(directory / ROOT.name))


def judge(life: StoreLife, prefix: int, opener: Callable[[], FileStore]) -> str | None:
    """Compares a store with what was acknowledged before an operation, then goes on with it."""
    try:
        store = opener()
    except StorageError as error:
        return f"cannot be opened: {error}"
    with contextlib.closing(store):
        try:
            return _wrong(life, prefix, store) or _no_further(store)
        except StorageError as error:
            return f"contradicts itself: {type(error).__name__}: {error}"


def _wrong(life: StoreLife, prefix: int, store: FileStore) -> str | None:
    held: dict[Digest, set[int]] = {}
    states = {record.image: record.state for record in store.images()}
    for image, state in states.items():
        if state is ImageState.LOCKED:
            continue
        sample = SAMPLES[image]
        held[image] = set(sample.indices) - set(sample.missing(store))
        for index in held[image]:
            if store.read_chunk(image, index) != sample.chunk(index):
                return f"serves chunk {index} unverified"
    leaving = {image for mark, image in life.leaving if mark <= prefix}
    for image in {image for mark, image in life.gone if mark <= prefix} & set(states):
        return f"image {image.hex()[:8]} is back"
    for image in {image for mark, image in life.complete if mark <= prefix} - leaving:
        if states.get(image) not in {ImageState.COMPLETE, ImageState.LOCKED}:
            return f"complete image {image.hex()[:8]} is forgotten"
    return _forgotten(life, prefix, held, leaving | _locked(states))


def _locked(states: dict[Digest, ImageState]) -> set[Digest]:
    return {image for image, state in states.items() if state is ImageState.LOCKED}


def _forgotten(
    life: StoreLife, prefix: int, held: dict[Digest, set[int]], leaving: set[Digest]
) -> str | None:
    for mark, image, indices in life.synced:
        if mark <= prefix and image not in leaving and indices - held.get(image, set()):
            return f"durable chunks forgotten: {sorted(indices - held.get(image, set()))}"
    for sample in SAMPLES.values():
        acknowledged = (
            index
            for mark, image, index in life.written
            if mark <= prefix and image == sample.image and image not in leaving
        )
        missing = set(acknowledged) - held.get(sample.image, set())
        lost = sum(sample.recipe.length(index) for index in missing)
        # A checkpoint is due once a write, of a chunk or a batch, brings what is unsynced there.
        last = BATCH_BYTES if sample is NEW else 1_000
        if lost >= WINDOW_BYTES + last:
            return f"{lost} bytes forgotten, the window is {WINDOW_BYTES}"
    return None


def _no_further(store: FileStore) -> str | None:
    """Whether the store takes an image to its end."""
    for sample in (OLD, NEW):
        records = {record.image: record.state for record in store.images()}
        if records.get(sample.image) is ImageState.LOCKED:
            store.unlock(sample.image)
            records[sample.image] = store.record(sample.image).state
        if records.get(sample.image) is not ImageState.COMPLETE:
            sample.install(store)
    if store.statistics().chunks_rotten:
        return "counted chunks that were not there"
    return None
