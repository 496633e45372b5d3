"""Files in memory that record every operation: what a disk's crash states are made of.

Directories are names too: a file whose directory is lost is lost. Names change in order, and a
change is durable once every directory it touches was flushed after it, as POSIX has it: a rename
between two directories needs both. A `Fault` refuses one operation, or every one from there on.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePath

DIRECTORY = -1
"""Stands for the inode of a directory."""


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
class Rename:
    """A file takes another name, and replaces what had it."""

    source: str
    target: str
    inode: int


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
    """A flush of a directory."""

    directory: str


NameChange = Create | Delete | Rename
Operation = NameChange | Write | Truncate | Sync | SyncNames


class Kind(Enum):
    """What a fault looks like to its caller."""

    FULL = "disk full"
    """ENOSPC: half of a write may be there."""
    ERROR = "input/output error"
    """EIO: of a flush, it may have lost what it should have flushed."""


_NUMBERS = {Kind.FULL: errno.ENOSPC, Kind.ERROR: errno.EIO}


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
        super().__init__(_NUMBERS[kind], kind.value)
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
            if path.endswith("/"):
                files.make_directory(path.rstrip("/"))
                continue
            inode = files.create(path)
            files.write(inode, 0, data)
            files.sync(inode)
        for directory in {parent_of(path.rstrip("/")): None for path in image}:
            files.sync_names(directory)
        return files

    @classmethod
    def after(cls, operations: Sequence[Operation]) -> MemoryFiles:
        """Files as the next process finds them when the last one was killed.

        What it had not flushed can be read, and is not durable.
        """
        files = cls()
        for operation in operations:
            match operation:
                case Create(path, inode) if inode == DIRECTORY:
                    files.make_directory(path)
                case Create(path):
                    files.create(path)
                case Delete(path):
                    files.delete(path)
                case Rename(source, target):
                    files.rename(source, target)
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

    def make_directory(self, path: str) -> None:
        """Adds a directory."""
        if (kind := self._strikes()) is not None:
            raise FaultError(kind, is_flush=False)
        self.names[path] = DIRECTORY
        self.operations.append(Create(path, DIRECTORY))

    def rename(self, source: str, target: str) -> None:
        """Moves a name."""
        if (kind := self._strikes()) is not None:
            raise FaultError(kind, is_flush=False)
        self.names[target] = inode = self.names.pop(source)
        self.operations.append(Rename(source, target, inode))

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

    def sync_names(self, directory: str) -> None:
        """Flushes a directory."""
        if (kind := self._strikes()) is not None:
            raise FaultError(kind, is_flush=True)
        self.operations.append(SyncNames(directory))


def parent_of(path: str) -> str:
    """The directory a name stands in."""
    return str(PurePath(path).parent)


def write_into(content: bytearray, offset: int, data: bytes) -> None:
    """Writes as a file system does: a gap reads as zeros."""
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def resize(content: bytearray, size: int) -> None:
    """Sets a length as a file system does."""
    del content[size:]
    content.extend(bytes(size - len(content)))
