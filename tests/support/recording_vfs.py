"""A disk in memory that records every operation, for databases and for the journal's marker alike.

`RecordingDisk` is a `ledger.disk.Disk`: the production stores run on it unchanged. Databases reach
it through a VFS of SQLite's, written in Python; what SQLite's own VFS for Unix promises (a write
leaves its neighbours alone, the first flush of a write-ahead log flushes its name too) it promises
as well. A `Fault` refuses one operation, or every one from there on.

Databases are held exclusively, for a VFS in Python has no shared memory.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Self

import apsw

from ledger.disk import Connection, Disk

POWERSAFE_OVERWRITE = 0x1000
"""SQLITE_IOCAP_POWERSAFE_OVERWRITE, which SQLite assumes of disks by default."""
SECTOR_SIZE_REPORTED = 4096
"""What SQLite's VFS for Unix reports."""
CHECKPOINT_PAGES = 24
"""Pages in the write-ahead log that start a checkpoint: few, so that a short run has many."""


@dataclass(frozen=True, slots=True)
class Create:
    """A name for a new file."""

    path: str
    inode: int


@dataclass(frozen=True, slots=True)
class Delete:
    """A name is removed."""

    path: str


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes of a file are replaced, or it grows."""

    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file ends earlier or later."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """A flush of a file; one that failed leaves open what of it is durable, for good."""

    inode: int
    is_failed: bool = False


@dataclass(frozen=True, slots=True)
class SyncNames:
    """A flush of the directory."""


Operation = Create | Delete | Write | Truncate | Sync | SyncNames


class Kind(Enum):
    """What a fault looks like to its caller."""

    FULL = "disk full"
    """ENOSPC: half of a write may be there."""
    ERROR = "input/output error"
    """EIO: of a flush, it may have lost what it should have flushed."""


@dataclass(slots=True)
class Fault:
    """Refuses an operation that changes the disk."""

    kind: Kind
    """How."""
    at: int
    """Index of the operation, from 0."""
    is_lasting: bool = False
    """Whether all later ones are refused too."""
    hits: int = 0
    """How many it refused."""

    def strikes(self, index: int) -> bool:
        """Whether it refuses this operation; counts it then."""
        is_hit = index == self.at or (self.is_lasting and index > self.at)
        self.hits += is_hit
        return is_hit


class FaultError(OSError):
    """An operation was refused."""

    def __init__(self, kind: Kind, *, is_flush: bool) -> None:
        """Says what was refused."""
        super().__init__(kind.value)
        self.kind = kind
        self.is_flush = is_flush


@dataclass
class MemoryFiles:
    """Files by name as a running system sees them, and every operation that made them so."""

    operations: list[Operation] = field(default_factory=list)
    fault: Fault | None = None
    names: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)
    is_dead: bool = False
    """Whether the process that used them has ended: nothing it does reaches them."""
    _attempts: int = 0

    @classmethod
    def of(cls, image: dict[str, bytes]) -> MemoryFiles:
        """Files that a power loss left; nothing of them is in doubt."""
        files = cls()
        for path, data in image.items():
            inode = files.create(path)
            files.write(inode, 0, data)
            files.sync(inode)
        files.sync_names()
        return files

    @classmethod
    def after(cls, operations: Sequence[Operation]) -> MemoryFiles:
        """Files as the next process finds them when the last one was killed.

        What it had not flushed can be read, and is not durable.
        """
        files = cls()
        for operation in operations:
            match operation:
                case Create():
                    files.create(operation.path)
                case Delete():
                    files.delete(operation.path)
                case Write():
                    files.write(operation.inode, operation.offset, operation.data)
                case Truncate():
                    files.truncate(operation.inode, operation.size)
                case Sync() | SyncNames():
                    files.operations.append(operation)
        return files

    def _strikes(self) -> Kind | None:
        if self.is_dead:
            raise FaultError(Kind.ERROR, is_flush=False)
        index = self._attempts
        self._attempts += 1
        fault = self.fault
        return fault.kind if fault is not None and fault.strikes(index) else None

    def create(self, path: str) -> int:
        """Adds an empty file."""
        if (kind := self._strikes()) is not None:
            raise FaultError(kind, is_flush=False)
        inode = len(self.contents)
        self.names[path], self.contents[inode] = inode, bytearray()
        self.operations.append(Create(path, inode))
        return inode

    def delete(self, path: str) -> None:
        """Removes a name."""
        if (kind := self._strikes()) is not None:
            raise FaultError(kind, is_flush=False)
        del self.names[path]
        self.operations.append(Delete(path))

    def write(self, inode: int, offset: int, data: bytes) -> None:
        """Writes; a fault leaves the first half."""
        kind = self._strikes()
        if kind is not None:
            data = data[: len(data) // 2]
        write_into(self.contents[inode], offset, data)
        self.operations.append(Write(inode, offset, data))
        if kind is not None:
            raise FaultError(kind, is_flush=False)

    def truncate(self, inode: int, size: int) -> None:
        """Sets a size."""
        if (kind := self._strikes()) is not None:
            raise FaultError(kind, is_flush=False)
        resize(self.contents[inode], size)
        self.operations.append(Truncate(inode, size))

    def sync(self, inode: int) -> None:
        """Flushes a file."""
        kind = self._strikes()
        self.operations.append(Sync(inode, is_failed=kind is not None))
        if kind is not None:
            raise FaultError(kind, is_flush=True)

    def sync_names(self) -> None:
        """Flushes the directory."""
        if (kind := self._strikes()) is not None:
            raise FaultError(kind, is_flush=True)
        self.operations.append(SyncNames())


def write_into(content: bytearray, offset: int, data: bytes) -> None:
    """Writes as a file system does: a gap reads as zeros."""
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def resize(content: bytearray, size: int) -> None:
    """Sets a length as a file system does."""
    del content[size:]
    content.extend(bytes(size - len(content)))


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

    def __init__(self, files: MemoryFiles, inode: int, *, flushes_names: bool) -> None:
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
            if self._flushes_names:
                self._files.sync_names()
                self._flushes_names = False

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
            return _File(self._files, inode, flushes_names=False)
        if not flags[0] & apsw.SQLITE_OPEN_CREATE:
            raise apsw.CantOpenError(path)
        with _faults_for_sqlite():
            created = self._files.create(path)
        return _File(self._files, created, flushes_names=is_log)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        if filename not in self._files.names:
            return
        with _faults_for_sqlite():
            self._files.delete(filename)
            if syncdir:
                self._files.sync_names()

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
        raise sqlite3.OperationalError(str(error)) from error
    except (apsw.ConstraintError, apsw.MismatchError) as error:
        raise sqlite3.IntegrityError(str(error)) from error
    except apsw.Error as error:
        raise sqlite3.DatabaseError(str(error)) from error


class _Rows:
    """The rows of one statement, all read."""

    def __init__(self, rows: Iterable[Any] = ()) -> None:
        self._rows = iter(list(rows))

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
            return _Rows(self._database.execute(sql, tuple(parameters)))

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
        self._vfs = _VFS(self.files)
        self._wrap = wrap
        self._databases: list[apsw.Connection] = []
        self._open_files: dict[int, int] = {}
        self._numbers = itertools.count(1)

    def connect(self, path: Path, *, busy_timeout_s: float) -> Connection:
        """Opens a database on this disk."""
        del busy_timeout_s
        with _as_sqlite3():
            database = apsw.Connection(str(path), vfs=self._vfs.name)
            self._databases.append(database)
            database.execute("PRAGMA locking_mode=EXCLUSIVE")
            database.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        return self._wrap(ApswConnection(database))

    def kill(self) -> None:
        """Ends the process that used this disk: nothing is tidied, nothing more is written."""
        self.files.is_dead = True
        for database in self._databases:
            with contextlib.suppress(apsw.Error):
                database.close(True)
        self._databases.clear()
        self.files.is_dead = False

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
        del directory
        self.files.sync_names()
