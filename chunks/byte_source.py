"""Where a patch is read from and applied to: an image in a store, a file, or bytes at hand."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from chunks.file_backend import storage_errors
from chunks.store import ChunkStore
from protocol.digest import Digest
from protocol.errors import LocalProtocolError, StorageError


class StoreSource:
    """An image in a store; every byte read was verified by the store, rot shows as an error."""

    def __init__(self, store: ChunkStore, image: Digest, *, staged: bool = False) -> None:
        """Looks the image up.

        Args:
            store: where it is.
            image: SHA-256 of its bytes.
            staged: whether the copy in staging is meant.

        Raises:
            ImageMissingError: it is not there.
        """
        self._store = store
        self._image = image
        self._staged = staged
        self._recipe = store.recipe(image, staged=staged)
        self._last: tuple[int, bytes] = (-1, b"")

    @property
    def size_bytes(self) -> int:
        """Bytes of the image."""
        return self._recipe.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Reads exactly `length` bytes; neighbouring reads share a chunk.

        Raises:
            LocalProtocolError: outside the image.
            StorageError: a chunk is missing, rotten or unreadable.
        """
        check_inside(offset, length, self.size_bytes)
        parts: list[bytes] = []
        index = self._recipe.index_at(offset) if length else 0
        while length:
            inside = offset - self._recipe.offset(index)
            part = self._chunk(index)[inside : inside + length]
            parts.append(part)
            offset, length, index = offset + len(part), length - len(part), index + 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _chunk(self, index: int) -> bytes:
        if self._last[0] != index:
            data = self._store.read_chunk(self._image, index, staged=self._staged)
            self._last = (index, data)
        return self._last[1]


class FileSource:
    """A file that is not in the store, open until the context ends."""

    def __init__(self, path: Path) -> None:
        """Opens it; a pipe without a writer does not hold the thread.

        Raises:
            StorageError: it cannot be opened, or is no regular file.
        """
        with storage_errors(f"reading {path}"):
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags), "rb", buffering=0)
        found = os.fstat(self._file.fileno())
        if not stat.S_ISREG(found.st_mode):
            self._file.close()
            raise StorageError(f"{path} is no regular file")
        self._size_bytes = found.st_size
        self._path = path

    @property
    def size_bytes(self) -> int:
        """Bytes of the file when it was opened."""
        return self._size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Reads exactly `length` bytes.

        Raises:
            LocalProtocolError: outside the file as it was.
            StorageError: it cannot be read, or has become shorter.
        """
        check_inside(offset, length, self._size_bytes)
        parts: list[bytes] = []
        while length:
            with storage_errors(f"reading {self._path}"):
                part = os.pread(self._file.fileno(), length, offset)
            if not part:
                raise StorageError(f"{self._path} ends at byte {offset}")
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return b"".join(parts)

    def __enter__(self) -> Self:
        """Gives the source itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self._file.close()


class BytesSource:
    """Bytes at hand."""

    def __init__(self, data: bytes) -> None:
        """Wraps them."""
        self._data = data

    @property
    def size_bytes(self) -> int:
        """How many there are."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """Takes exactly `length` bytes.

        Raises:
            LocalProtocolError: outside.
        """
        check_inside(offset, length, len(self._data))
        return self._data[offset : offset + length]


def check_inside(offset: int, length: int, size_bytes: int) -> None:
    """Refuses a range that is not within `size_bytes`.

    Raises:
        LocalProtocolError: it is not.
    """
    if offset < 0 or length < 0 or offset + length > size_bytes:
        raise LocalProtocolError(f"{length} bytes at {offset} of {size_bytes}")
