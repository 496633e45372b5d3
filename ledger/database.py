"""A SQLite database of the ledger: opening, transactions, typed reading, errors of one kind.

WAL mode, two connections: one writes, in worker threads, one at a time; the other reads state nodes
from any thread and never waits for a commit. Every failure is a `StorageError` that names the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

from ledger.disk import Connection, Disk
from protocol.errors import StorageError, VerificationError

BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for another connection (a backup, say), seconds."""
CACHE_KIB: Final = 8 * 1024
"""Pages each connection keeps, KiB: the inner pages of the node table of 10^6 keys and more."""
IN_MEMORY: Final = ":memory:"
"""Path of a database that no file holds."""
T = TypeVar("T")


class Durability(Enum):
    """When a commit is safe."""

    FULL = "FULL"
    """On return: for validators, whose peers cannot know what they lost."""
    BATCHED = "NORMAL"
    """At the next checkpoint of the WAL: for followers, who fetch again what they lost."""


class Database:
    """One open database."""

    def __init__(
        self,
        path: Path,
        durability: Durability,
        disk: Disk | None,
        *,
        schema: tuple[int, str],
    ) -> None:
        """Opens or creates the database.

        Args:
            path: the file; `:memory:` keeps everything in memory.
            durability: when a commit is safe.
            disk: what it lies on; this machine's file system unless given. A disk that is given
                gets one connection: not every one has memory that two could share.
            schema: version of the tables, and the statements that make them.

        Raises:
            StorageError: not a database, damaged, not writable, or of another schema.
        """
        self.path = path
        """The file."""
        opener = disk or Disk()
        with self.guard():
            self._database = opener.connect(path, busy_timeout_s=BUSY_TIMEOUT_S)
        self._reader: Connection = self._database
        try:
            with self.guard():
                self._prepare(durability, *schema)
                if disk is None and str(path) != IN_MEMORY:
                    self._reader = opener.connect(path, busy_timeout_s=BUSY_TIMEOUT_S)
                    self._reader.execute("PRAGMA query_only=ON")
                for connection in (self._database, self._reader):
                    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        except StorageError:
            self.close()
            raise

    def _prepare(self, durability: Durability, schema: int, tables: str) -> None:
        mode: str = self._database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode not in ("wal", "memory"):
            # What is promised about power loss was argued for this mode only.
            raise StorageError(f"{self.path}: journal mode {mode}, this file system has no wal")
        self._database.execute(f"PRAGMA synchronous={durability.value}")
        version: int = self._database.execute("PRAGMA user_version").fetchone()[0]
        if version > schema:
            raise StorageError(
                f"{self.path}: schema {version} is newer than {schema}, update swarmd"
            )
        if 0 < version < schema:
            raise StorageError(
                f"{self.path}: schema {version} is of an older swarmd, this one reads {schema}: "
                "move the file away and let the node fetch the chain again"
            )
        if version == 0:
            if self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise StorageError(f"{self.path}: a database, but not of a ledger")
            self._database.executescript(
                f"BEGIN IMMEDIATE; {tables} PRAGMA user_version={schema}; COMMIT;"
            )

    def close(self) -> None:
        """Closes the database; a WAL that is left is replayed at the next opening."""
        with self.guard():
            if self._reader is not self._database:
                self._reader.close()
            self._database.close()

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Turns SQLite's errors into ours, naming the file."""
        try:
            yield
        except sqlite3.Error as error:
            raise StorageError(f"{self.path}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Runs a block as one transaction; whatever it raises undoes it as a whole."""
        with self.guard():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled back already.
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    # Reading. From the writing connection, but for `shared_rows`.

    def row(self, query: str, *arguments: object) -> tuple[object, ...] | None:
        """The first row of an answer, or None."""
        with self.guard():
            row: tuple[object, ...] | None = self._database.execute(query, arguments).fetchone()
        return row

    def rows(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        """All rows of an answer."""
        with self.guard():
            return self._database.execute(query, arguments).fetchall()

    def shared_rows(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        """All rows of an answer about what is committed; from any thread."""
        with self.guard():
            return self._reader.execute(query, arguments).fetchall()

    def blob(self, query: str, *arguments: object) -> bytes | None:
        """The first value of an answer, or None."""
        row = self.row(query, *arguments)
        return None if row is None or row[0] is None else self.bytes_of(row[0])

    def bytes_of(self, value: object) -> bytes:
        """A stored value as bytes; anything else is damage."""
        if not isinstance(value, bytes):
            raise StorageError(f"{self.path}: damaged, a {type(value).__name__} for a blob")
        return value

    def integer_of(self, value: object) -> int:
        """A stored value as an integer; anything else is damage."""
        if not isinstance(value, int):
            raise StorageError(f"{self.path}: damaged, a {type(value).__name__} for an integer")
        return value

    def decoded(self, what: str, decode: Callable[[], T]) -> T:
        """Runs a decoder over stored bytes; what does not decode is damage."""
        try:
            return decode()
        except VerificationError as error:
            raise StorageError(f"{self.path}: damaged {what}: {error}") from error
