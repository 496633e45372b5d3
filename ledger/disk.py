"""What the ledger's stores ask of a disk: databases, and the few file operations of a marker.

The stores take a `Disk`, so that a test can record every operation, replay any crash, or refuse the
N-th call. There is one for production, `Disk` itself; nothing else about a store is replaceable.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

PRIVATE_MODE: Final = 0o600
"""Mode of created files: their owner alone."""


class Rows(Protocol):
    """The answer of a statement, as `sqlite3.Cursor` gives it."""

    def fetchone(self) -> Any:
        """The next row as a tuple, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A database connection in autocommit mode, as `sqlite3.Connection` behaves.

    All methods raise `sqlite3.Error` or one of its subclasses.
    """

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        ...

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows:
        """Runs one statement."""
        ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows:
        """Runs one statement for each row of parameters."""
        ...

    def executescript(self, sql: str, /) -> Rows:
        """Runs several statements."""
        ...

    def close(self) -> None:
        """Closes it; an open transaction is rolled back."""
        ...


class Disk:
    """The file system of this machine. Descriptors are the caller's to close."""

    def connect(self, path: Path, *, busy_timeout_s: float) -> Connection:
        """Opens a database, or creates it.

        Args:
            path: the file; `:memory:` keeps everything in memory.
            busy_timeout_s: how long to wait for another connection, seconds.

        Raises:
            sqlite3.Error: it cannot be opened.
        """
        return sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=busy_timeout_s
        )

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def create(self, path: Path) -> int:
        """Creates a file with its mode, whatever the umask; returns its descriptor.

        Raises:
            OSError: it exists, or cannot be created.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(path, flags, PRIVATE_MODE)
        os.fchmod(fd, PRIVATE_MODE)
        return fd

    def open(self, path: Path) -> int:
        """Opens an existing file for reading and writing; returns its descriptor.

        Raises:
            OSError: it cannot be opened.
        """
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """Closes a descriptor; what was not flushed may be lost."""
        os.close(fd)

    def read(self, fd: int, size_bytes: int) -> bytes:
        """The first bytes of a file, at most so many."""
        return os.pread(fd, size_bytes, 0)

    def write(self, fd: int, data: bytes) -> None:
        """Writes the first bytes of a file, without a flush.

        Raises:
            OSError: it could not be written.
        """
        os.pwrite(fd, data, 0)

    def sync(self, fd: int) -> None:
        """Flushes a file to the medium.

        Raises:
            OSError: it may not have reached the medium.
        """
        os.fsync(fd)

    def sync_directory(self, directory: Path) -> None:
        """Flushes the names in a directory to the medium.

        Raises:
            OSError: they may not have reached the medium.
        """
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
