"""The chunk store's file operations on a disk in memory that records them all.

A `FileBackend` over `MemoryFiles`: the production store runs on it unchanged, its index through the
SQLite VFS that the ledger's crash tests use. What an operation does in memory is what the crash
states of `tests.support.crash_states` are made of.
"""

from __future__ import annotations

import errno
import itertools
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from chunks.file_backend import FileBackend
from tests.support.memory_files import DIRECTORY, MemoryFiles, parent_of
from tests.support.recording_vfs import ApswConnection, RecordingDatabases


class RecordingBackend(FileBackend):
    """A disk in memory; `files` holds what happened."""

    def __init__(
        self,
        files: MemoryFiles | None = None,
        wrap: Callable[[ApswConnection], Any] = lambda connection: connection,
    ) -> None:
        """Makes a disk.

        Args:
            files: what it holds already.
            wrap: puts a planted fault between store and database.
        """
        self.files = files or MemoryFiles()
        self.on_synced: Callable[[], None] | None = None
        """Called once after the next data sync took effect, before it returns."""
        self._databases = RecordingDatabases(self.files)
        self._wrap = wrap
        self._open_files: dict[int, int] = {}
        self._numbers = itertools.count(1_000)

    def kill(self) -> None:
        """Ends the process that used this disk: nothing is tidied, nothing more is written."""
        self._databases.kill()

    def make_directory(self, path: Path) -> None:
        if str(path) not in self.files.names:
            self.files.make_directory(str(path))

    def list_directory(self, path: Path) -> list[str]:
        names = self.files.names
        return [Path(name).name for name in names if parent_of(name) == str(path)]

    def file_size(self, path: Path) -> int | None:
        inode = self.files.names.get(str(path), DIRECTORY)
        return None if inode == DIRECTORY else len(self.files.contents[inode])

    def free_bytes(self, path: Path) -> int:
        return 2**40

    def create(self, path: Path) -> int:
        if str(path) in self.files.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        return self._descriptor(self.files.create(str(path)))

    def open_existing(self, path: Path, *, writable: bool) -> int:
        if str(path) not in self.files.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self._descriptor(self.files.names[str(path)])

    def _descriptor(self, inode: int) -> int:
        descriptor = next(self._numbers)
        self._open_files[descriptor] = inode
        return descriptor

    def allocate(self, descriptor: int, size: int) -> None:
        self.files.truncate(self._open_files[descriptor], size)

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        content = self.files.contents[self._open_files[descriptor]]
        return bytes(content[offset : offset + size])

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        data = self.read_at(descriptor, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def clone(self, source: int, target: int) -> bool:
        return False

    def data_ranges(self, descriptor: int) -> list[tuple[int, int]]:
        return [(0, len(self.files.contents[self._open_files[descriptor]]))]

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        # Short writes are legal: the store must loop.
        part = bytes(data[: max(1, len(data) * 2 // 3)])
        self.files.write(self._open_files[descriptor], offset, part)
        return len(part)

    def sync_data(self, descriptor: int) -> None:
        self.files.sync(self._open_files[descriptor])
        act, self.on_synced = self.on_synced, None
        if act is not None:
            act()

    def sync_directory(self, path: Path) -> None:
        self.files.sync_names(str(path))

    def rename(self, source: Path, target: Path) -> None:
        if str(source) not in self.files.names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        self.files.rename(str(source), str(target))

    def unlink(self, path: Path) -> None:
        if str(path) in self.files.names:
            self.files.delete(str(path))

    def close(self, descriptor: int) -> None:
        del self._open_files[descriptor]

    def connect(self, path: Path) -> sqlite3.Connection:
        return cast(sqlite3.Connection, self._wrap(self._databases.connect(path)))
