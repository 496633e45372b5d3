"""A file backend whose N-th call fails or cuts the power, and which then forgets unsynced work.

The model: a data sync makes a file's bytes durable, a directory sync the names in it, an SQLite
COMMIT (WAL, synchronous=FULL) its transaction. After a power cut each unsynced write is kept,
dropped or torn at 512 bytes, and the last few unsynced changes of names are undone.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

from chunks.file_backend import OSFileBackend


class PowerCutError(BaseException):
    """Not an `Exception`: nothing in the store may catch it and go on."""


class Fault(Enum):
    """What happens at the chosen call."""

    EIO = errno.EIO
    ENOSPC = errno.ENOSPC
    CUT_BEFORE = -1
    CUT_AFTER = -2


@dataclass
class _File:
    durable: bytes
    writes: list[tuple[int, bytes]] = field(default_factory=list)


class FaultyBackend(OSFileBackend):
    """The real backend with a counter of calls and a memory of what is durable."""

    def __init__(self, *, fault: Fault | None = None, at: int = -1, graves: Path) -> None:
        self.calls: list[str] = []
        self.tripped = False
        self._fault = fault
        self._at = at
        self._graves = graves
        self._files: dict[int, _File] = {}
        self._names: list[tuple[set[Path], Callable[[], None]]] = []
        self._descriptors: set[int] = set()
        self._connections: list[sqlite3.Connection] = []
        graves.mkdir(exist_ok=True)

    def step(self, name: str, act: Callable[[], Any], *, sql: bool = False) -> Any:
        """Does `act` as call number `len(calls)`, with the fault if its turn has come."""
        number = len(self.calls)
        self.calls.append(name)
        if self.tripped and self._fault in {Fault.CUT_BEFORE, Fault.CUT_AFTER}:
            raise PowerCutError(f"{name} after the power cut")
        if number != self._at or self._fault is None:
            return act()
        self.tripped = True
        if self._fault is Fault.CUT_AFTER:
            act()
        if self._fault in {Fault.CUT_BEFORE, Fault.CUT_AFTER}:
            raise PowerCutError(f"{name}, call {number}")
        if sql:
            full = self._fault is Fault.ENOSPC
            error = sqlite3.OperationalError(f"{self._fault.name} at call {number}")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR
            raise error
        raise OSError(self._fault.value, os.strerror(self._fault.value))

    def disarm(self) -> None:
        """Ends the faults: a turn that has not come does not come."""
        self._fault = None

    def arm(self, fault: Fault, *, calls_ahead: int = 0) -> None:
        """Lets the next call, or one behind it, have a fault."""
        self._fault, self._at = fault, len(self.calls) + calls_ahead
        self.tripped = False

    # --- data ---

    def create(self, path: Path) -> int:
        def act() -> int:
            descriptor = OSFileBackend.create(self, path)
            self._descriptors.add(descriptor)
            self._files[os.fstat(descriptor).st_ino] = _File(b"")
            self._names.append(({path.parent}, lambda: path.unlink(missing_ok=True)))
            return descriptor

        return self.step("create", act)

    def open_existing(self, path: Path, *, writable: bool) -> int:
        def act() -> int:
            descriptor = OSFileBackend.open_existing(self, path, writable=writable)
            self._descriptors.add(descriptor)
            self._files.setdefault(os.fstat(descriptor).st_ino, _File(path.read_bytes()))
            return descriptor

        return self.step("open", act)

    def close(self, descriptor: int) -> None:
        self._descriptors.discard(descriptor)
        self.step("close", lambda: OSFileBackend.close(self, descriptor))

    def allocate(self, descriptor: int, size: int) -> None:
        self.step("allocate", lambda: OSFileBackend.allocate(self, descriptor, size))

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        return self.step("read", lambda: OSFileBackend.read_at(self, descriptor, size, offset))

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        return self.step("read", lambda: OSFileBackend.read_into(self, descriptor, buffer, offset))

    def clone(self, source: int, target: int) -> bool:
        return False

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        def act() -> int:
            # Short writes are legal: the store must loop.
            part = bytes(data[: max(1, len(data) * 2 // 3)])
            self._files[os.fstat(descriptor).st_ino].writes.append((offset, part))
            return OSFileBackend.write_at(self, descriptor, memoryview(part), offset)

        return self.step("write", act)

    def sync_data(self, descriptor: int) -> None:
        def act() -> None:
            # Durability is modelled here; the real disk need not be waited for.
            status = os.fstat(descriptor)
            durable = os.pread(descriptor, status.st_size, 0)
            self._files[status.st_ino] = _File(durable)

        self.step("sync data", act)

    # --- names ---

    def rename(self, source: Path, target: Path) -> None:
        def act() -> None:
            grave = self._bury(target)
            OSFileBackend.rename(self, source, target)

            def undo() -> None:
                target.rename(source)
                if grave is not None:
                    grave.rename(target)

            self._names.append(({source.parent, target.parent}, undo))

        self.step("rename", act)

    def unlink(self, path: Path) -> None:
        def act() -> None:
            grave = self._bury(path)
            OSFileBackend.unlink(self, path)
            if grave is not None:
                self._names.append(({path.parent}, lambda: (grave.rename(path), None)[1]))

        self.step("unlink", act)

    def sync_directory(self, path: Path) -> None:
        def act() -> None:
            for directories, _ in self._names:
                directories.discard(path)
            self._names = [change for change in self._names if change[0]]

        self.step("sync directory", act)

    def _bury(self, path: Path) -> Path | None:
        if not path.exists():
            return None
        grave = self._graves / f"{len(self.calls)}"
        os.link(path, grave)
        return grave

    # --- SQLite ---

    def connect(self, path: Path) -> sqlite3.Connection:
        backend = self

        class FaultyConnection(sqlite3.Connection):
            def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
                if sql == "PRAGMA synchronous = FULL":
                    sql = "PRAGMA synchronous = OFF"
                if sql != "COMMIT":
                    return super().execute(sql, *arguments)
                return backend.step(
                    "commit", lambda: sqlite3.Connection.execute(self, sql), sql=True
                )

        connection = sqlite3.connect(
            path,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            factory=FaultyConnection,
        )
        self._connections.append(connection)
        return connection

    # --- after the cut ---

    def lose_unsynced(self, root: Path, random: Random) -> None:
        """Leaves on disk what a power cut may leave, and frees what the dead process held."""
        for connection in self._connections:
            connection.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        for _ in range(random.randint(0, len(self._names))):
            self._names.pop()[1]()
        paths = {path.stat().st_ino: path for path in root.rglob("*") if path.is_file()}
        for inode, file in self._files.items():
            if inode in paths and file.writes:
                paths[inode].write_bytes(_after_cut(file, paths[inode].stat().st_size, random))


def _after_cut(file: _File, size: int, random: Random) -> bytes:
    content = bytearray(file.durable.ljust(size, b"\0"))
    for offset, data in file.writes:
        match random.randrange(3):
            case 0:
                content[offset : offset + len(data)] = data
            case 1:
                torn = data[: 512 * random.randint(0, len(data) // 512)]
                content[offset : offset + len(torn)] = torn
            case _:
                pass
    return bytes(content)
