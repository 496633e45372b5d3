"""The few file operations the store is built from, as an object that can be exchanged.

Tests pass a backend whose N-th call fails, or that forgets what was not synced; production passes
`OSFileBackend`. Every method raises `OSError` as the operating system does; the store translates.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from chunks.store import DiskFullError
from protocol.errors import StorageError

_FULL_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers that mean: no room, though nothing is broken."""
_FICLONE: Final = 0x40049409
"""Linux's request to share a file's blocks (ioctl_ficlone(2)): _IOW(0x94, 9, int)."""
_PRIVATE_FILE: Final = 0o600
"""Images may be confidential: only the daemon's user reads them."""
_PRIVATE_DIRECTORY: Final = 0o700
"""As for files."""


class FileBackend(Protocol):
    """What the store asks of the operating system; descriptors are plain integers."""

    def make_directory(self, path: Path) -> None:
        """Makes a directory and its parents where they do not exist."""
        ...

    def list_directory(self, path: Path) -> list[str]:
        """Names of the entries, in any order."""
        ...

    def file_size(self, path: Path) -> int | None:
        """Bytes of a regular file; None if there is none at `path`."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Bytes that this user may still take on the file system of a directory."""
        ...

    def create(self, path: Path) -> int:
        """Creates a file that must not exist, for reading and writing."""
        ...

    def open_existing(self, path: Path, *, writable: bool) -> int:
        """Opens a file that must exist."""
        ...

    def allocate(self, descriptor: int, size: int) -> None:
        """Reserves `size` bytes, so that later writes within them do not run out of room."""
        ...

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        """Reads up to `size` bytes; fewer only at the end of the file or by a signal."""
        ...

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """Reads into some of `buffer`; returns how many bytes, 0 only at the end of the file."""
        ...

    def data_ranges(self, descriptor: int) -> list[tuple[int, int]]:
        """Where a file may hold written bytes: (start, end), ascending.

        What was only allocated may be left out, what was written never.
        """
        ...

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        """Writes some of `data`; returns how many bytes."""
        ...

    def clone(self, source: int, target: int) -> bool:
        """Makes an empty file share all of another's blocks, copied on write; False if it cannot.

        The target's bytes are the source's at one moment, and no later change reaches them.
        """
        ...

    def sync_data(self, descriptor: int) -> None:
        """Returns once every byte written so far, and the file's size, are durable."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Returns once creations, renames and deletions in a directory are durable."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Renames within one file system; an existing target is replaced atomically."""
        ...

    def unlink(self, path: Path) -> None:
        """Deletes a file; that it is not there is no error."""
        ...

    def close(self, descriptor: int) -> None:
        """Closes a descriptor."""
        ...

    def connect(self, path: Path) -> sqlite3.Connection:
        """Opens an SQLite database in autocommit mode, without waiting for locks."""
        ...


class OSFileBackend:
    """The operating system itself."""

    def make_directory(self, path: Path) -> None:
        """See `FileBackend`."""
        path.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)

    def list_directory(self, path: Path) -> list[str]:
        """See `FileBackend`."""
        return os.listdir(path)

    def file_size(self, path: Path) -> int | None:
        """See `FileBackend`."""
        try:
            return path.stat().st_size if path.is_file() else None
        except FileNotFoundError:
            return None

    def free_bytes(self, path: Path) -> int:
        """See `FileBackend`."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize

    def create(self, path: Path) -> int:
        """See `FileBackend`."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE)

    def open_existing(self, path: Path, *, writable: bool) -> int:
        """See `FileBackend`."""
        return os.open(path, os.O_RDWR if writable else os.O_RDONLY)

    def allocate(self, descriptor: int, size: int) -> None:
        """See `FileBackend`."""
        os.posix_fallocate(descriptor, 0, size)

    def read_at(self, descriptor: int, size: int, offset: int) -> bytes:
        """See `FileBackend`."""
        return os.pread(descriptor, size, offset)

    def read_into(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """See `FileBackend`."""
        return os.preadv(descriptor, [buffer], offset)

    def data_ranges(self, descriptor: int) -> list[tuple[int, int]]:
        """See `FileBackend`.

        The whole map comes before anything is read: reading ahead fills the cache with zeros for
        what was only allocated, and the system then calls that data.
        """
        ranges: list[tuple[int, int]] = []
        end = 0
        try:
            while True:
                start = os.lseek(descriptor, end, os.SEEK_DATA)
                end = os.lseek(descriptor, start, os.SEEK_HOLE)
                ranges.append((start, end))
        except OSError as error:
            if error.errno == errno.EINVAL:  # a file system that cannot tell
                return [(0, os.fstat(descriptor).st_size)]
            if error.errno != errno.ENXIO:  # that is: no data behind here
                raise
        return ranges

    def write_at(self, descriptor: int, data: memoryview, offset: int) -> int:
        """See `FileBackend`."""
        return os.pwrite(descriptor, data, offset)

    def clone(self, source: int, target: int) -> bool:
        """See `FileBackend`."""
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:
            # Another file system than the source's, or one that copies; what is really wrong with
            # either file shows when it is read or written.
            return False
        return True

    def sync_data(self, descriptor: int) -> None:
        """See `FileBackend`."""
        os.fdatasync(descriptor)

    def sync_directory(self, path: Path) -> None:
        """See `FileBackend`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """See `FileBackend`."""
        source.rename(target)

    def unlink(self, path: Path) -> None:
        """See `FileBackend`."""
        path.unlink(missing_ok=True)

    def close(self, descriptor: int) -> None:
        """See `FileBackend`."""
        os.close(descriptor)

    def connect(self, path: Path) -> sqlite3.Connection:
        """See `FileBackend`."""
        # The store's own lock serialises the use of the connection by its threads.
        return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Translates the operating system's errors while `what` is done.

    Raises:
        DiskFullError: no room.
        StorageError: any other `OSError`.
    """
    try:
        yield
    except OSError as error:
        kind = DiskFullError if error.errno in _FULL_ERRORS else StorageError
        raise kind(f"{what}: {error.strerror or error}") from error


def read_exactly(backend: FileBackend, descriptor: int, size: int, offset: int) -> bytes:
    """Reads `size` bytes at `offset`; fewer come back only where the file ends."""
    data = backend.read_at(descriptor, size, offset)
    while len(data) < size and (
        more := backend.read_at(descriptor, size - len(data), offset + len(data))
    ):
        data += more
    return data


def read_into_fully(backend: FileBackend, descriptor: int, buffer: memoryview, offset: int) -> int:
    """Fills `buffer` from `offset` on; returns the bytes read, fewer only where the file ends."""
    filled = 0
    while filled < len(buffer) and (
        count := backend.read_into(descriptor, buffer[filled:], offset + filled)
    ):
        filled += count
    return filled


def write_exactly(
    backend: FileBackend, descriptor: int, data: bytes | memoryview, offset: int
) -> None:
    """Writes all of `data` at `offset`.

    Raises:
        OSError: as the system does; some bytes may have been written.
    """
    view = memoryview(data)
    while view:
        count = backend.write_at(descriptor, view, offset)
        if count <= 0:
            raise OSError(errno.EIO, "the file took no bytes")
        view = view[count:]
        offset += count
