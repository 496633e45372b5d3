"""A disk in memory that records every operation, for databases and for the journal's marker alike.

`RecordingDisk` is a `ledger.disk.Disk`: the production stores run on it unchanged. Databases reach
it through a VFS of SQLite's, written in Python; what SQLite's own VFS for Unix promises (a write
leaves its neighbours alone, the first flush of a write-ahead log flushes its name too) it promises
as well. `RecordingDatabases` is the part of it that other stores' backends share.

Databases are held exclusively, for a VFS in Python has no shared memory.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import apsw

from ledger.disk import Connection, Disk
from tests.support.memory_files import FaultError, Kind, MemoryFiles, parent_of

POWERSAFE_OVERWRITE = 0x1000
"""SQLITE_IOCAP_POWERSAFE_OVERWRITE, which SQLite assumes of disks by default."""
SECTOR_SIZE_REPORTED = 4096
"""What SQLite's VFS for Unix reports."""
CHECKPOINT_PAGES = 24
"""Pages in the write-ahead log that start a checkpoint: few, so that a short run has many."""


@contextlib.contextmanager
def _faults_for_sqlite() -> Iterator[None]:
    try:
        yield
    except FaultError as error:
        if error.kind is Kind.FULL and not error.is_flush:
            raise apsw.FullError(str(error)) from None
        raise apsw.IOError(str(error)) from None


class _File:
    """An open file of a database; what SQLite calls it, apsw does too."""

    def __init__(self, files: MemoryFiles, inode: int, *, flushes_names: str | None) -> None:
        self._files, self._inode, self._flushes_names = files, inode, flushes_names

    def excepthook(self, *_exception: object) -> None:
        """Stays silent about refusals that SQLite passes over."""

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._files.contents[self._inode][offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        with _faults_for_sqlite():
            self._files.write(self._inode, offset, bytes(data))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        with _faults_for_sqlite():
            self._files.truncate(self._inode, size)

    def xSync(self, _flags: int) -> None:  # noqa: N802
        with _faults_for_sqlite():
            self._files.sync(self._inode)
            if self._flushes_names is not None:
                self._files.sync_names(self._flushes_names)
                self._flushes_names = None

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._files.contents[self._inode])

    def xLock(self, _level: int) -> None:  # noqa: N802
        return

    def xUnlock(self, _level: int) -> None:  # noqa: N802
        return

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xFileControl(self, _operation: int, _pointer: int) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR_SIZE_REPORTED

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return POWERSAFE_OVERWRITE

    def xClose(self) -> None:  # noqa: N802
        return


class _VFS(apsw.VFS):
    """SQLite's view of the files; clock and randomness are those of the system."""

    _numbers = itertools.count()

    def __init__(self, files: MemoryFiles) -> None:
        self.name = f"recording-{next(self._numbers)}"
        self._files = files
        super().__init__(self.name, base="")

    def excepthook(self, *_exception: object) -> None:
        """Stays silent about refusals that SQLite passes over."""

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        inode = self._files.names.get(path)
        is_log = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        flags[1] = flags[0]
        if inode is not None:
            return _File(self._files, inode, flushes_names=None)
        if not flags[0] & apsw.SQLITE_OPEN_CREATE:
            raise apsw.CantOpenError(path)
        with _faults_for_sqlite():
            created = self._files.create(path)
        return _File(self._files, created, flushes_names=parent_of(path) if is_log else None)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if filename not in self._files.names:
            return
        with _faults_for_sqlite():
            self._files.delete(filename)
            if syncdir:
                self._files.sync_names(parent_of(filename))

    def xAccess(self, pathname: str, _flags: int) -> bool:  # noqa: N802
        return pathname in self._files.names

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


_OPERATIONAL = (
    apsw.SQLError, apsw.PermissionsError, apsw.AbortError, apsw.BusyError, apsw.LockedError,
    apsw.ReadOnlyError, apsw.InterruptError, apsw.IOError, apsw.FullError, apsw.CantOpenError,
    apsw.SchemaChangeError,
)  # fmt: skip
"""What Python's own module reports as `OperationalError`."""


@contextlib.contextmanager
def _as_sqlite3() -> Iterator[None]:
    """Turns apsw's errors into those of Python's own module, by the same table."""
    try:
        yield
    except _OPERATIONAL as error:
        raise _numbered(sqlite3.OperationalError(str(error)), error) from error
    except (apsw.ConstraintError, apsw.MismatchError) as error:
        raise _numbered(sqlite3.IntegrityError(str(error)), error) from error
    except apsw.Error as error:
        raise _numbered(sqlite3.DatabaseError(str(error)), error) from error


def _numbered(error: sqlite3.Error, cause: apsw.Error) -> sqlite3.Error:
    error.sqlite_errorcode = getattr(cause, "extendedresult", sqlite3.SQLITE_ERROR)
    return error


class _Rows:
    """The rows of one statement, all read."""

    def __init__(self, rows: Iterable[Any] = (), lastrowid: int | None = None) -> None:
        self._rows = iter(list(rows))
        self.lastrowid = lastrowid

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows


class ApswConnection:
    """An apsw connection that behaves like one of Python's own module in autocommit mode."""

    def __init__(self, database: apsw.Connection) -> None:
        """Wraps an open connection."""
        self._database = database

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._database.in_transaction

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> _Rows:
        """Runs one statement."""
        with _as_sqlite3():
            rows = list(self._database.execute(sql, tuple(parameters)))
            return _Rows(rows, self._database.last_insert_rowid())

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> _Rows:
        """Runs one statement for each row of parameters."""
        with _as_sqlite3():
            return _Rows(self._database.executemany(sql, [tuple(row) for row in parameters]))

    def executescript(self, sql: str, /) -> _Rows:
        """Runs several statements."""
        return self.execute(sql)

    def close(self) -> None:
        """Closes it; an open transaction is rolled back. Like Python's own module it says nothing
        of a last checkpoint that failed."""
        with contextlib.suppress(apsw.Error):
            self._database.close()


class RecordingDatabases:
    """Databases on files in memory, which end with the process that uses them."""

    def __init__(self, files: MemoryFiles) -> None:
        """Keeps databases in `files`."""
        self.files = files
        self._vfs = _VFS(files)
        self._databases: list[apsw.Connection] = []

    def connect(self, path: Path) -> ApswConnection:
        """Opens a database."""
        with _as_sqlite3():
            database = apsw.Connection(str(path), vfs=self._vfs.name)
            self._databases.append(database)
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        return ApswConnection(database)

    def kill(self) -> None:
        """Ends the process: nothing is tidied, nothing more is written."""
        self.files.is_dead = True
        for database in self._databases:
            with contextlib.suppress(apsw.Error):
                database.close(True)
        self._databases.clear()
        self.files.is_dead = False


class RecordingDisk(Disk):
    """A disk in memory; `files` holds what happened."""

    def __init__(
        self,
        files: MemoryFiles | None = None,
        wrap: Callable[[Connection], Connection] = lambda connection: connection,
    ) -> None:
        """Makes a disk.

        Args:
            files: what it holds already.
            wrap: puts a planted fault between store and database.
        """
        self.files = files or MemoryFiles()
        self._databases = RecordingDatabases(self.files)
        self._wrap = wrap
        self._open_files: dict[int, int] = {}
        self._numbers = itertools.count(1)

    def connect(self, path: Path, *, busy_timeout_s: float) -> Connection:
        """Opens a database on this disk."""
        del busy_timeout_s
        return self._wrap(self._databases.connect(path))

    def kill(self) -> None:
        """Ends the process that used this disk: nothing is tidied, nothing more is written."""
        self._databases.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.kill()

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        return str(path) in self.files.names

    def create(self, path: Path) -> int:
        """Creates an empty file; returns its descriptor."""
        return self._descriptor(self.files.create(str(path)))

    def open(self, path: Path) -> int:
        """Opens an existing file; returns its descriptor."""
        return self._descriptor(self.files.names[str(path)])

    def _descriptor(self, inode: int) -> int:
        fd = next(self._numbers)
        self._open_files[fd] = inode
        return fd

    def close(self, fd: int) -> None:
        """Closes a descriptor."""
        del self._open_files[fd]

    def read(self, fd: int, size_bytes: int) -> bytes:
        """The first bytes of a file."""
        return bytes(self.files.contents[self._open_files[fd]][:size_bytes])

    def write(self, fd: int, data: bytes) -> None:
        """Writes the first bytes of a file."""
        self.files.write(self._open_files[fd], 0, data)

    def sync(self, fd: int) -> None:
        """Flushes a file."""
        self.files.sync(self._open_files[fd])

    def sync_directory(self, directory: Path) -> None:
        """Flushes the names."""
        self.files.sync_names(str(directory))
