"""Vote journals: one contract for memory and disk, and how damage is found."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.journal import (
    DATABASE_NAME,
    MARKER_NAME,
    JournalDamagedError,
    MemoryJournal,
    SqliteJournal,
    VoteJournal,
)
from ledger.simplex.interface import Record, RecordKind
from ledger.vote import VoteKind
from protocol.digest import ChainId, sha256
from protocol.errors import ConfigError, StorageError
from tests.support.consensus import CHAIN, Network

NETWORK = Network(4)
ROOT = Path(__file__).resolve().parent.parent.parent


def vote_record(view: int, epoch: int = 1) -> Record:
    vote = NETWORK.vote(VoteKind.NULLIFY, view, 0, None, epoch)
    return Record(RecordKind.VOTE, epoch, view, vote.encode())


def block_record(view: int) -> Record:
    return Record(RecordKind.BLOCK, 1, view, NETWORK.block(view).encode())


HALT = Record(RecordKind.HALT, 1, 3, b"reason")
Reopen = Callable[[], VoteJournal]


@pytest.fixture(params=["memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Opens the journal, and again whatever it holds durably."""
    held: list[VoteJournal] = []

    def open_again() -> VoteJournal:
        if request.param == "sqlite":
            if held:
                held.pop().close()
            held.append(SqliteJournal(tmp_path, CHAIN))
        else:
            memory = held.pop() if held else MemoryJournal()
            assert isinstance(memory, MemoryJournal)
            memory.lose_unsynced()
            held.append(memory)
        return held[0]

    yield open_again
    for journal in held:
        journal.close()


def test_a_new_journal_is_empty(reopen: Reopen) -> None:
    assert reopen().load() == ()
    assert reopen().load() == ()


def test_appended_records_come_back_in_order(reopen: Reopen) -> None:
    records = (block_record(1), vote_record(1), vote_record(2), HALT)
    journal = reopen()
    journal.append(records[:2])
    journal.append(records[2:])
    assert journal.load() == records
    assert reopen().load() == records


def test_pruning_keeps_the_newest_vote_and_the_halt(reopen: Reopen) -> None:
    journal = reopen()
    journal.append([block_record(1), vote_record(1), HALT, vote_record(4), block_record(4)])
    journal.prune(1, 3)
    assert journal.load() == (HALT, vote_record(4), block_record(4))
    journal.prune(1, 9)
    assert journal.load() == (HALT, vote_record(4))
    assert reopen().load() == (HALT, vote_record(4))


def test_pruning_compares_epochs_first(reopen: Reopen) -> None:
    journal = reopen()
    journal.append([vote_record(9), vote_record(1, epoch=2), vote_record(2, epoch=2)])
    journal.prune(2, 1)
    assert journal.load() == (vote_record(1, epoch=2), vote_record(2, epoch=2))


def test_unsynced_records_are_lost_by_a_power_failure() -> None:
    journal = MemoryJournal()
    journal.write(1, [vote_record(1)])
    journal.write(2, [vote_record(2)])
    journal.sync(1)
    assert journal.load() == (vote_record(1),)
    journal.lose_unsynced()
    journal.sync(2)
    assert journal.load() == (vote_record(1),)


# -- damage --------------------------------------------------------------------------------------


def filled(directory: Path, views: int = 3) -> None:
    journal = SqliteJournal(directory, CHAIN)
    for view in range(1, views + 1):
        journal.append([vote_record(view)])
    journal.close()


def test_files_are_private(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        filled(tmp_path)
    finally:
        os.umask(previous)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name


def test_settings_are_those_that_survive_a_power_failure(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, CHAIN)
    connection = journal._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.close()


def test_a_copy_that_is_older_than_the_marker_is_damaged(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    live = tmp_path / "live"
    live.mkdir()
    filled(live, 3)
    shutil.copy(live / DATABASE_NAME, old)
    journal = SqliteJournal(live, CHAIN)
    for view in range(4, 104):
        journal.append([vote_record(view)])
    journal.close()
    for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal", f"{DATABASE_NAME}-shm"):
        (live / name).unlink(missing_ok=True)
    shutil.copy(old / DATABASE_NAME, live)
    with pytest.raises(JournalDamagedError, match="marker"):
        SqliteJournal(live, CHAIN)


def test_a_marker_behind_the_table_is_what_a_power_failure_leaves(tmp_path: Path) -> None:
    filled(tmp_path)
    mark = (tmp_path / MARKER_NAME).read_bytes()
    journal = SqliteJournal(tmp_path, CHAIN)
    journal.append([vote_record(4)])
    journal.close()
    (tmp_path / MARKER_NAME).write_bytes(mark)
    assert len(SqliteJournal(tmp_path, CHAIN).load()) == 4


@pytest.mark.parametrize("name", [DATABASE_NAME, MARKER_NAME])
def test_a_missing_file_is_damage(tmp_path: Path, name: str) -> None:
    filled(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(JournalDamagedError, match="missing"):
        SqliteJournal(tmp_path, CHAIN)


@pytest.mark.parametrize("left", ["marker", "empty database", "no schema"])
def test_a_creation_that_was_cut_short_begins_anew(tmp_path: Path, left: str) -> None:
    (tmp_path / MARKER_NAME).write_bytes(bytes(16))
    if left == "empty database":
        (tmp_path / DATABASE_NAME).touch()
    if left == "no schema":
        connection = sqlite3.connect(tmp_path / DATABASE_NAME)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
    filled(tmp_path)
    assert len(SqliteJournal(tmp_path, CHAIN).load()) == 3


def test_the_first_vote_reaches_the_marker_on_disk_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SqliteJournal(tmp_path, CHAIN)
    flushed: list[int] = []
    flush = os.fsync

    def spy(fd: int) -> None:
        flushed.append(fd)
        flush(fd)

    monkeypatch.setattr(os, "fsync", spy)
    journal.append([vote_record(1)])
    assert len(flushed) == 1
    journal.append([vote_record(2)])
    assert len(flushed) == 1
    journal.close()


@pytest.mark.parametrize("size", [0, 15, 17])
def test_a_marker_of_wrong_length_is_damage(tmp_path: Path, size: int) -> None:
    filled(tmp_path)
    (tmp_path / MARKER_NAME).write_bytes(bytes(size))
    with pytest.raises(JournalDamagedError, match="marker of"):
        SqliteJournal(tmp_path, CHAIN)


@pytest.mark.parametrize("start", [0, 4096, 8192])
def test_overwritten_pages_are_damage_or_change_nothing(tmp_path: Path, start: int) -> None:
    filled(tmp_path)
    path = tmp_path / DATABASE_NAME
    raw = bytearray(path.read_bytes())
    raw[start : start + 2048] = b"\xa5" * 2048
    path.write_bytes(raw)
    with pytest.raises(JournalDamagedError):
        SqliteJournal(tmp_path, CHAIN)


def test_an_unknown_kind_of_record_is_damage(tmp_path: Path) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("UPDATE records SET kind = 9")
    with pytest.raises(JournalDamagedError):
        SqliteJournal(tmp_path, CHAIN)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(JournalDamagedError, match="version"):
        SqliteJournal(tmp_path, CHAIN)


def test_a_journal_of_another_chain_is_refused(tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(ConfigError, match="belongs to chain"):
        SqliteJournal(tmp_path, ChainId(sha256(b"other")))


def test_a_directory_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        SqliteJournal(tmp_path / "nowhere", CHAIN)


def test_a_full_disk_is_an_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, CHAIN)
    journal.append([vote_record(1)])
    pages = journal._connection.execute("PRAGMA page_count").fetchone()[0]
    journal._connection.execute(f"PRAGMA max_page_count = {pages + 1}")
    big = Record(RecordKind.BLOCK, 1, 2, bytes(100_000))
    with pytest.raises(StorageError, match="full"):
        journal.append([vote_record(2), big])
    assert journal.load() == (vote_record(1),)
    journal.append([vote_record(3)])
    assert journal.load() == (vote_record(1), vote_record(3))
    journal.close()


def test_a_reader_does_not_hold_up_votes(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path, CHAIN)
    journal.append([vote_record(1)])
    reader = sqlite3.connect(tmp_path / DATABASE_NAME)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM records").fetchone() == (1,)
    journal.append([vote_record(2)])
    reader.close()
    assert len(journal.load()) == 2
    journal.close()


def test_a_marker_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = SqliteJournal(tmp_path, CHAIN)

    def fail(*_arguments: object) -> int:
        raise OSError(errno.EIO, "no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with pytest.raises(StorageError, match="marker"):
            journal.append([vote_record(1)])
    journal.close()
    assert SqliteJournal(tmp_path, CHAIN).load() == (vote_record(1),), "more than was promised"


def test_a_flush_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = SqliteJournal(tmp_path, CHAIN)

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "no such luck")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError, match="marker"):
            journal.append([vote_record(1)])
    journal.close()


_WRITER = """
import sys
from pathlib import Path
from ledger.journal import SqliteJournal
from ledger.simplex.interface import Record, RecordKind
from protocol.digest import ChainId
journal = SqliteJournal(Path(sys.argv[1]), ChainId(bytes.fromhex(sys.argv[2])))
for view in range(1, 100_000):
    journal.append([Record(RecordKind.VOTE, 1, view, b"x" * 300)])
    print(view, flush=True)
"""


@pytest.mark.slow
def test_what_was_acknowledged_survives_sigkill(tmp_path: Path) -> None:
    for attempt in range(3):
        directory = tmp_path / str(attempt)
        directory.mkdir()
        command = [sys.executable, "-c", _WRITER, str(directory), CHAIN.hex()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= 50:
                    break
            process.kill()
            acknowledged = [int(line), *(int(rest) for rest in process.stdout)][-1]
        journal = SqliteJournal(directory, CHAIN)
        views = [record.view for record in journal.load()]
        assert views[:acknowledged] == list(range(1, acknowledged + 1))
        assert len(views) <= acknowledged + 1
        journal.close()
