"""The vote journal: what a validator has signed, durable before anyone sees it.

SQLite in WAL mode with `synchronous=FULL`: when `append` returns, the records survive a power loss.
Beside the database lies a marker file with the highest (epoch, view) ever voted in. A database that
is older than its marker was restored from a copy or lost writes; one that SQLite finds corrupt may
have. Either way the key must never vote again (C85). Called from one thread at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from ledger.disk import Connection, Disk
from ledger.simplex.interface import Record, RecordKind
from protocol.digest import ZERO_DIGEST, ChainId
from protocol.errors import ConfigError, StorageError

DATABASE_NAME: Final = "votes.db"
"""File of the table, inside the journal's directory."""
MARKER_NAME: Final = "votes.mark"
"""File of the high-water marker: two big-endian 64-bit integers, epoch and view."""
MARKER_SYNC_VIEWS: Final = 16
"""The marker reaches the disk at least every so many views; in between the system's cache holds it,
so that a vote costs one flush. A marker may lag behind the table, never lead it."""
BUSY_TIMEOUT_S: Final = 2.0
"""How long a backup that reads the database may hold up a vote, seconds."""
SCHEMA_VERSION: Final = 1
"""`user_version` of the database."""

_MARKER: Final = struct.Struct(">QQ")
_SCHEMA: Final = """
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    view INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE INDEX records_by_view ON records (epoch, view);
CREATE TABLE identity (chain BLOB NOT NULL) STRICT;
"""


class JournalDamagedError(StorageError):
    """The journal may lack votes that were sent: this key must never vote again."""


class VoteJournal(Protocol):
    """What an engine's host needs; kept by the file journal and by the memory journal alike."""

    def append(self, records: Sequence[Record]) -> None:
        """Makes records durable, all or none.

        Raises:
            StorageError: they may not be durable; the caller must not send what depends on them.
        """
        ...

    def load(self) -> tuple[Record, ...]:
        """Returns all records, oldest first."""
        ...

    def prune(self, epoch: int, view: int) -> None:
        """Drops records below a final (epoch, view); keeps the newest vote and any halt."""
        ...

    def close(self) -> None:
        """Releases the files."""
        ...


def _water(records: Sequence[Record]) -> tuple[int, int]:
    """Highest (epoch, view) among votes; (0, 0) without any."""
    votes = [(item.epoch, item.view) for item in records if item.kind is RecordKind.VOTE]
    return max(votes, default=(0, 0))


def _kept(records: Sequence[Record], epoch: int, view: int) -> list[Record]:
    """The records that survive pruning below (epoch, view)."""
    newest = _water(records)
    return [
        item
        for item in records
        if (item.epoch, item.view) >= (epoch, view)
        or item.kind is RecordKind.HALT
        or (item.kind is RecordKind.VOTE and (item.epoch, item.view) == newest)
    ]


class MemoryJournal:
    """A journal without a disk, for simulations: same contract, and a power loss on demand."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        """Starts with records that are durable already."""
        self._durable: list[Record] = list(records)
        self._written: list[tuple[int, tuple[Record, ...]]] = []

    def append(self, records: Sequence[Record]) -> None:
        """Makes records durable at once."""
        self.write(0, records)
        self.sync(0)

    def load(self) -> tuple[Record, ...]:
        """Returns all durable records, oldest first."""
        return tuple(self._durable)

    def prune(self, epoch: int, view: int) -> None:
        """Drops records below a final (epoch, view); keeps the newest vote and any halt."""
        self._durable = _kept(self._durable, epoch, view)

    def close(self) -> None:
        """Does nothing; memory needs no release."""

    def write(self, sequence: int, records: Sequence[Record]) -> None:
        """Writes without flushing; `lose_unsynced` forgets it."""
        self._written.append((sequence, tuple(records)))

    def sync(self, sequence: int) -> None:
        """Makes everything written up to a sequence durable."""
        for written, records in self._written:
            if written <= sequence:
                self._durable.extend(records)
        self._written = [entry for entry in self._written if entry[0] > sequence]

    def lose_unsynced(self) -> None:
        """Power loss: forgets what was written but not synced."""
        self._written.clear()


class SqliteJournal:
    """The journal on disk."""

    def __init__(self, directory: Path, chain: ChainId, disk: Disk | None = None) -> None:
        """Opens the journal in a directory, or creates it if neither file exists.

        Args:
            directory: existing folder that belongs to one validator key.
            chain: chain of the validator.
            disk: what it lies on; this machine's file system unless given.

        Raises:
            JournalDamagedError: corrupt, or older than its marker.
            ConfigError: the journal of another chain.
            StorageError: cannot be opened or created.
        """
        self._disk = disk or Disk()
        self._database_path = directory / DATABASE_NAME
        with contextlib.ExitStack() as opened:
            try:
                self._marker_fd = self._open_marker(directory)
                opened.callback(self._disk.close, self._marker_fd)
                mark = self._read_marker()
                self._connection = self._open(chain, mark)
            except OSError as error:
                raise StorageError(f"vote journal in {directory}: {error}") from error
            opened.callback(self._connection.close)
            self._synced_view = mark[1]
            self._water = _water(self.load())
            if mark > self._water:
                raise JournalDamagedError(
                    f"vote journal ends at epoch and view {self._water}, its marker says {mark}"
                )
            opened.pop_all()

    def _open_marker(self, directory: Path) -> int:
        path = directory / MARKER_NAME
        if self._disk.exists(path):
            return self._disk.open(path)
        if self._disk.exists(self._database_path):
            raise JournalDamagedError(f"{MARKER_NAME} is missing beside {DATABASE_NAME}")
        return self._disk.create(path)

    def _begin_marker(self, fd: int) -> None:
        self._disk.write(fd, _MARKER.pack(0, 0))
        self._disk.sync(fd)
        self._disk.sync_directory(self._database_path.parent)

    def _read_marker(self) -> tuple[int, int]:
        raw = self._disk.read(self._marker_fd, _MARKER.size + 1)
        is_unwritten = len(raw) <= _MARKER.size and not raw.strip(b"\0")
        if is_unwritten and not self._disk.exists(self._database_path):
            # The table is made once the marker is durable; a start-up that was cut short before
            # that, or whose flush failed, made no vote and begins anew.
            self._begin_marker(self._marker_fd)
            return 0, 0
        if len(raw) != _MARKER.size:
            raise JournalDamagedError(f"marker of {len(raw)} bytes, expected {_MARKER.size}")
        epoch, view = _MARKER.unpack(raw)
        return epoch, view

    def _open(self, chain: ChainId, mark: tuple[int, int]) -> Connection:
        # Until the first vote the marker is zero: a start-up that was cut short begins anew.
        is_fresh = mark == (0, 0)
        if not self._disk.exists(self._database_path):
            if not is_fresh:
                raise JournalDamagedError(f"{DATABASE_NAME} is missing beside its marker")
            self._disk.close(self._disk.create(self._database_path))
        with contextlib.ExitStack() as opened, self._translated():
            connection = self._disk.connect(self._database_path, busy_timeout_s=BUSY_TIMEOUT_S)
            opened.callback(connection.close)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            if is_fresh and connection.execute("PRAGMA user_version").fetchone() == (0,):
                connection.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};")
                connection.execute("INSERT INTO identity VALUES (?)", (bytes(chain),))
                connection.execute("COMMIT")
            self._check(connection, chain)
            _settle(connection)
            opened.pop_all()
        return connection

    def _check(self, connection: Connection, chain: ChainId) -> None:
        answer = connection.execute("PRAGMA quick_check").fetchone()
        if answer != ("ok",):
            raise JournalDamagedError(f"vote journal is corrupt: {answer}")
        version = connection.execute("PRAGMA user_version").fetchone()
        if version != (SCHEMA_VERSION,):
            raise JournalDamagedError(f"vote journal of version {version}")
        held = connection.execute("SELECT chain FROM identity").fetchone() or (ZERO_DIGEST,)
        if held[0] != chain:
            raise ConfigError(f"vote journal belongs to chain {held[0].hex()}")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StorageError(f"vote journal: {error}") from error
        except sqlite3.DatabaseError as error:
            raise JournalDamagedError(f"vote journal is corrupt: {error}") from error

    def _write_marker(self, water: tuple[int, int], *, flush: bool) -> None:
        self._disk.write(self._marker_fd, _MARKER.pack(*water))
        if flush:
            self._disk.sync(self._marker_fd)

    def append(self, records: Sequence[Record]) -> None:
        """Makes records durable, all or none.

        Raises:
            StorageError: they may not be durable, or may be although this says otherwise: nothing
                that depends on them may be sent. The caller closes the journal, and starts its
                engine anew from what `load` then returns.
        """
        rows = [(item.kind, item.epoch, item.view, item.payload) for item in records]
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT INTO records (kind, epoch, view, payload) VALUES (?, ?, ?, ?)", rows
                )
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
        water = max(self._water, _water(records))
        if water == self._water:
            return
        flush = water[0] != self._water[0] or water[1] >= self._synced_view + MARKER_SYNC_VIEWS
        try:
            self._write_marker(water, flush=flush)
        except OSError as error:
            raise StorageError(f"marker of the vote journal: {error}") from error
        self._water = water
        if flush:
            self._synced_view = water[1]

    def load(self) -> tuple[Record, ...]:
        """Returns all records, oldest first.

        Raises:
            JournalDamagedError: a record is of no known kind, or the file is corrupt.
        """
        with self._translated():
            rows = self._connection.execute(
                "SELECT kind, epoch, view, payload FROM records ORDER BY sequence"
            ).fetchall()
        try:
            return tuple(Record(RecordKind(row[0]), row[1], row[2], row[3]) for row in rows)
        except ValueError as error:
            raise JournalDamagedError(f"vote journal: {error}") from error

    def prune(self, epoch: int, view: int) -> None:
        """Drops records below a final (epoch, view); keeps the newest vote and any halt.

        Raises:
            StorageError: nothing was dropped.
        """
        with self._translated():
            self._connection.execute(
                "DELETE FROM records WHERE (epoch, view) < (?, ?) AND kind != ?"
                " AND NOT (kind = ? AND (epoch, view) = (?, ?))",
                (epoch, view, RecordKind.HALT, RecordKind.VOTE, *self._water),
            )

    def close(self) -> None:
        """Flushes the marker and releases the files.

        Raises:
            StorageError: it could not be flushed; the next opening finds what was lost.
        """
        self._connection.close()
        try:
            self._disk.sync(self._marker_fd)
        except OSError as error:
            raise StorageError(f"marker of the vote journal: {error}") from error
        finally:
            self._disk.close(self._marker_fd)


def _settle(connection: Connection) -> None:
    """Makes durable what is read, which this process will send again (C86).

    One that was killed left votes in the system's cache only; after a flush that failed, the cache
    calls clean what the medium never took. So everything moves into the database file, the log is
    emptied, and one commit makes that durable: no old log can lie over the new file.
    """
    is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if is_busy:
        raise StorageError("vote journal: another process reads its table")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
