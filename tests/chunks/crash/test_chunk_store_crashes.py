"""Power may fail at any operation of the chunk store: no durable chunk goes, nothing wrong is read.

The life of `tests.support.crash_chunks` on a recorded disk; every state that a power loss may leave
is opened by the production code on a real file system.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chunks import file_store
from chunks.file_store import FileStore
from chunks.held_image import OpenFile
from chunks.store import DiskFullError, StoreOpenError
from protocol.errors import StorageError
from tests.support.chunk_disk import RecordingBackend
from tests.support.crash_campaign import campaign_seeds
from tests.support.crash_chunks import (
    OLD,
    ROOT,
    SAMPLES,
    WINDOW_BYTES,
    StoreLife,
    judge,
    open_store,
    problem_after,
    run_store,
)
from tests.support.crash_states import CrashState, crash_states, lay_out
from tests.support.memory_files import Fault, Kind, MemoryFiles

STATES_MIN = 2_000
"""States that the run in the tests must give."""


@pytest.fixture(autouse=True)
def _small_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_store, "CHECKPOINT_BYTES", WINDOW_BYTES)


def states_of(life: StoreLife, seeds: Iterable[int], first: int = 0) -> list[CrashState]:
    return list(crash_states(life.files.operations, seeds=list(seeds), first=first))


def problems(life: StoreLife, states: Iterable[CrashState], directory: Path) -> Iterator[str]:
    for state in states:
        problem = problem_after(life, state, directory)
        if problem is not None:
            yield f"after {state.prefix} operations, {state.variant}: {problem}"


@pytest.mark.slow
def test_no_power_loss_forgets_a_durable_chunk_or_serves_a_wrong_one(scratch: Path) -> None:
    life = run_store(RecordingBackend())
    assert life.error is None
    assert len(life.complete) == 3
    states = states_of(life, campaign_seeds(4))
    assert len(states) >= STATES_MIN
    assert list(problems(life, states, scratch)) == []


@pytest.mark.slow
def test_a_second_power_loss_during_recovery_harms_no_more_than_the_first(scratch: Path) -> None:
    life = run_store(RecordingBackend())
    total = 0
    for state in states_of(life, [1])[::9]:
        backend = RecordingBackend(MemoryFiles.of(state.image))
        begun = len(backend.files.operations)
        open_store(backend)
        backend.kill()
        for second in crash_states(backend.files.operations, seeds=[2], first=begun):
            total += 1
            lay_out(second.image, scratch)
            problem = judge(life, state.prefix, lambda: FileStore.open(scratch / ROOT.name))
            assert problem is None, (state.prefix, state.variant, second.prefix, second.variant)
    assert total >= 1_000


@pytest.mark.slow
def test_a_killed_process_and_then_a_power_loss(scratch: Path) -> None:
    """The next process reads from the system's cache what the medium never took."""
    life = run_store(RecordingBackend())
    for prefix in range(3, life.mark + 1, 5):
        backend = RecordingBackend(MemoryFiles.after(life.files.operations[:prefix]))
        open_store(backend)
        backend.kill()
        total = len(backend.files.operations)
        for state in crash_states(backend.files.operations, seeds=[1], first=total):
            lay_out(state.image, scratch)
            problem = judge(life, prefix, lambda: FileStore.open(scratch / ROOT.name))
            assert problem is None, (prefix, state.variant, problem)


# --- planted faults ---


class Lazy:
    """The connection refuses to flush each commit."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        return self._connection.execute(sql.replace("= FULL", "= NORMAL"), parameters)


class LateBackend(RecordingBackend):
    """Flushes data only after the next commit."""

    def __init__(self) -> None:
        super().__init__(wrap=partial(Late, self))
        self.due: list[int] = []

    def sync_data(self, descriptor: int) -> None:
        self.due.append(self._open_files[descriptor])

    def flush(self) -> None:
        while self.due:
            self.files.sync(self.due.pop())


class Late:
    """The connection of a `LateBackend`."""

    def __init__(self, backend: LateBackend, connection: Any) -> None:
        self._backend, self._connection = backend, connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        rows = self._connection.execute(sql, parameters)
        if sql == "COMMIT":
            self._backend.flush()
        return rows


class NamelessBackend(RecordingBackend):
    """Never flushes a directory."""

    def sync_directory(self, path: Path) -> None:
        del path


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (partial(RecordingBackend, wrap=Lazy), "forgotten"),
        (LateBackend, "ChunkRottenError"),
        (NamelessBackend, "forgotten"),
    ],
    ids=["synchronous=NORMAL", "commit before fsync", "no sync of directories"],
)
@pytest.mark.slow
def test_the_enumeration_finds_planted_faults(
    scratch: Path, backend: Callable[[], RecordingBackend], expected: str
) -> None:
    life = run_store(backend(), is_short=True)
    found = problems(life, states_of(life, [1]), scratch)
    assert any(expected in problem for problem in found)


@pytest.mark.slow
def test_the_enumeration_finds_a_window_that_is_too_wide(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_store, "CHECKPOINT_BYTES", 3 * WINDOW_BYTES)
    life = run_store(RecordingBackend(), is_short=True)
    assert any("the window is" in text for text in problems(life, states_of(life, []), scratch))


@pytest.mark.slow
def test_the_enumeration_finds_bytes_served_unverified(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = run_store(LateBackend(), is_short=True)
    monkeypatch.setattr(OpenFile, "read_verified", OpenFile.read)
    found = problems(life, states_of(life, []), scratch)
    assert any("unverified" in problem for problem in found)


# --- operations that fail ---


def refused_lives() -> Iterator[tuple[Fault, StoreLife]]:
    """A life for each operation that changes the disk, refused in each way."""
    total = run_store(RecordingBackend(), is_short=True).mark
    before = 4  # the publisher's own file
    for at in range(before, total):
        for kind in Kind:
            backend = RecordingBackend()
            backend.files.fault = fault = Fault(kind, at, is_lasting=bool(at % 2))
            yield fault, run_store(backend, is_short=True)


@pytest.mark.slow
def test_a_refused_operation_is_a_storage_error_and_loses_nothing(scratch: Path) -> None:
    ended = 0
    for fault, life in refused_lives():
        assert fault.hits, fault
        ended += life.error is not None
        if fault.kind is Kind.FULL and fault.is_lasting and life.synced:
            assert isinstance(life.error, DiskFullError | StoreOpenError), fault
        for state in states_of(life, [fault.at], first=life.mark):
            problem = problem_after(life, state, scratch)
            assert problem is None, (fault, state.variant, problem)
    assert ended > 100


def test_a_store_takes_chunks_again_once_its_disk_has_room() -> None:
    backend = RecordingBackend()
    store = open_store(backend)
    download = OLD.begin(store)
    store.write_chunk(download, 0, OLD.chunk(0))
    # The attempts so far are the operations: nothing failed yet.
    backend.files.fault = Fault(Kind.FULL, len(backend.files.operations), is_lasting=True)
    with pytest.raises(DiskFullError):
        store.write_chunk(download, 1, OLD.chunk(1))
    with pytest.raises(DiskFullError):
        SAMPLES_BY_SIZE[0].begin(store)
    assert store.read_chunk(OLD.image, 0) == OLD.chunk(0)
    backend.files.fault = None
    OLD.install(store)
    backend.kill()


SAMPLES_BY_SIZE = sorted(
    (sample for sample in SAMPLES.values() if sample is not OLD), key=lambda item: len(item.data)
)


class Busy:
    """Another holds the database when the N-th transaction begins."""

    def __init__(self, connection: Any, at: int) -> None:
        self._connection, self._left = connection, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        if sql.startswith("BEGIN"):
            self._left -= 1
            if self._left < 0:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
        return self._connection.execute(sql, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("at", range(6))
def test_a_busy_database_is_a_storage_error_and_loses_nothing(scratch: Path, at: int) -> None:
    life = run_store(RecordingBackend(wrap=partial(Busy, at=at)), is_short=True)
    assert isinstance(life.error, StorageError)
    for state in states_of(life, [1], first=life.mark):
        assert problem_after(life, state, scratch) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chunks.db", "chunks.db-wal", "images/" + OLD.image.hex()])
def test_no_damage_of_a_file_makes_the_store_serve_wrong_bytes(scratch: Path, name: str) -> None:
    """What a failing medium returns: the store refuses to open, forgets, or finds the rot."""
    life = run_store(RecordingBackend(), is_short=True)
    path = f"{ROOT}/{name}"
    states = [state for state in states_of(life, []) if state.image.get(path)]
    random = Random(name)
    served = 0
    for _ in range(150):
        state = random.choice(states[len(states) // 2 :])
        content = bytearray(state.image[path])
        for _ in range(random.choice((1, 1, 8))):
            content[random.randrange(len(content))] ^= 1 << random.randrange(8)
        lay_out({**state.image, path: bytes(content)}, scratch)
        right = serves_right_bytes(scratch / ROOT.name)
        served += right is not None
        assert right is not False, (name, state.prefix)
    assert served > 10


def serves_right_bytes(root: Path) -> bool | None:
    """Whether everything served is right; None if nothing is."""
    try:
        store = FileStore.open(root)
    except StorageError:
        return None
    try:
        for record in store.images():
            for index in range(record.chunk_count):
                try:
                    data = store.read_chunk(record.image, index)
                except StorageError:
                    continue
                if record.image != OLD.image or data != OLD.chunk(index):
                    return False
        return True
    finally:
        store.close()
