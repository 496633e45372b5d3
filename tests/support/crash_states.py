"""What a power loss may leave of recorded operations.

After any prefix of the operations, what was flushed is there. Of what was not, everything may be
there, nothing, or any part: a write or a truncation survives sector by sector, in any order
(between two flushes a disk may reorder); names survive in order, as in a journalled directory, and
no file survives its directory. A flush that failed leaves its writes in doubt for good, whatever
later flushes say.

The disk does not lie: a flush that succeeded is durable.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.memory_files import (
    DIRECTORY,
    Create,
    Delete,
    NameChange,
    Operation,
    Rename,
    Sync,
    SyncNames,
    Truncate,
    Write,
    parent_of,
    resize,
    write_into,
)

SECTOR_BYTES = 512
"""What a disk writes as a whole, bytes."""
Change = Write | Truncate
Image = dict[str, bytes]
"""Content by path; a directory's path ends with a slash."""


@dataclass(slots=True)
class _Inode:
    durable: bytearray = field(default_factory=bytearray)
    lost: list[Change] = field(default_factory=list)
    pending: list[Change] = field(default_factory=list)

    def changes(self) -> list[Change]:
        return [*self.lost, *self.pending]

    def flush(self, *, is_failed: bool) -> None:
        if is_failed:
            self.lost += self.pending
        elif self.lost:
            # What is in doubt lies below what is certain, and in doubt it remains.
            self.lost = [_under(change, self.pending) for change in self.lost]
            self.lost = [change for change in self.lost if not _is_empty(change)]
            for change in self.pending:
                _apply(self.durable, change)
        else:
            for change in self.pending:
                _apply(self.durable, change)
        self.pending = []


def _apply(content: bytearray, change: Change) -> None:
    if isinstance(change, Write):
        write_into(content, change.offset, change.data)
    else:
        resize(content, change.size)


def _is_empty(change: Change) -> bool:
    return isinstance(change, Write) and not change.data


def _under(change: Change, later: Sequence[Change]) -> Change:
    """What of a change in doubt later, certain writes leave; a truncation is settled by any."""
    if isinstance(change, Truncate):
        return change
    for other in later:
        covers = isinstance(other, Write) and (
            other.offset <= change.offset
            and other.offset + len(other.data) >= change.offset + len(change.data)
        )
        if covers or (isinstance(other, Truncate) and other.size <= change.offset):
            return Write(change.inode, change.offset, b"")
    return change


def _torn(content: bytearray, change: Change, rng: random.Random) -> None:
    """Applies a part of a change: each aligned sector of a write by itself."""
    if isinstance(change, Truncate):
        if rng.random() < 0.5:
            resize(content, change.size)
        return
    begin = 0
    while begin < len(change.data):
        at = change.offset + begin
        end = min(len(change.data), begin + SECTOR_BYTES - at % SECTOR_BYTES)
        if rng.random() < 0.5:
            write_into(content, at, change.data[begin:end])
        begin = end


@dataclass
class CrashedDisk:
    """The medium after a prefix of operations, and all that it may hold after a power loss."""

    names: dict[str, int] = field(default_factory=dict)
    pending_names: list[tuple[set[str], NameChange]] = field(default_factory=list)
    """Changes of names that may be undone, each with the directories yet to be flushed for it."""
    inodes: dict[int, _Inode] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    """Directories that were made in the course of it, durably or not."""

    def follow(self, operation: Operation) -> None:
        """One more operation happened."""
        match operation:
            case Create() | Delete() | Rename():
                if isinstance(operation, Create):
                    self._make(operation)
                self.pending_names.append((_directories(operation), operation))
            case Write() | Truncate():
                self.inodes[operation.inode].pending.append(operation)
            case Sync():
                self.inodes[operation.inode].flush(is_failed=operation.is_failed)
            case SyncNames():
                self._flush_names(operation.directory)

    def _make(self, created: Create) -> None:
        if created.inode == DIRECTORY:
            self.directories.add(created.path)
        else:
            self.inodes[created.inode] = _Inode()

    def _flush_names(self, directory: str) -> None:
        """Makes durable what touches this directory alone, and what all others were flushed for."""
        waiting = []
        for directories, change in self.pending_names:
            directories.discard(directory)
            if directories:
                waiting.append((directories, change))
            else:
                _rename(self.names, [change])
        self.pending_names = waiting

    def everything(self) -> Image:
        """All that was written survives: what a process that is killed leaves."""
        return self._image([change for _, change in self.pending_names], _apply)

    def flushed(self) -> Image:
        """Nothing survives but what was flushed."""
        return self._image([], lambda _content, _change: None)

    def torn(self, seed: int) -> Image:
        """Any part of what was not flushed survives, as the seed decides."""
        rng = random.Random(seed)
        pending = [change for _, change in self.pending_names]
        kept = pending[: rng.randint(0, len(pending))]
        return self._image(kept, lambda content, change: _torn(content, change, rng))

    def _image(
        self, renamed: Sequence[NameChange], survive: Callable[[bytearray, Change], None]
    ) -> Image:
        names = dict(self.names)
        _rename(names, renamed)
        image = {}
        for path, inode in _reachable(names, self.directories):
            if inode == DIRECTORY:
                image[path + "/"] = b""
                continue
            held = self.inodes[inode]
            content = bytearray(held.durable)
            for change in held.changes():
                survive(content, change)
            image[path] = bytes(content)
        return image


def _directories(change: NameChange) -> set[str]:
    if isinstance(change, Rename):
        return {parent_of(change.source), parent_of(change.target)}
    return {parent_of(change.path)}


def _rename(names: dict[str, int], changes: Sequence[NameChange]) -> None:
    for change in changes:
        match change:
            case Create(path, inode):
                names[path] = inode
            case Delete(path):
                names.pop(path, None)
            case Rename(source, target, inode):
                names.pop(source, None)
                names[target] = inode


def _reachable(names: dict[str, int], directories: set[str]) -> Iterator[tuple[str, int]]:
    """Names whose directory survived; those nobody made here were there before."""
    for path, inode in names.items():
        parent = parent_of(path)
        while parent not in directories or names.get(parent) == DIRECTORY:
            if parent == parent_of(parent):
                yield path, inode
                break
            parent = parent_of(parent)


@dataclass(frozen=True, slots=True)
class CrashState:
    """One state of the disk after a power loss."""

    prefix: int
    """How many operations had begun and returned."""
    variant: str
    """`flushed`, `everything`, or the seed of a torn one: with the prefix it replays the state."""
    image: Image
    """Files by path."""


def crash_states(
    operations: Sequence[Operation], *, seeds: Sequence[int], first: int = 0
) -> Iterator[CrashState]:
    """All distinct states after every prefix, each variant of it.

    Args:
        operations: recorded ones.
        seeds: of torn variants, made anew for each prefix.
        first: shortest prefix.
    """
    disk = CrashedDisk()
    seen: set[bytes] = set()
    for prefix in range(len(operations) + 1):
        if prefix:
            disk.follow(operations[prefix - 1])
        if prefix < first:
            continue
        variants = {"flushed": disk.flushed(), "everything": disk.everything()}
        for seed in seeds:
            variants[f"seed {seed}"] = disk.torn(seed * 1_000_003 + prefix)
        for variant, image in variants.items():
            # The prefix belongs to the name: what must be there grows with it.
            name = _digest(prefix, image)
            if name not in seen:
                seen.add(name)
                yield CrashState(prefix, variant, image)


def _digest(prefix: int, image: Image) -> bytes:
    digest = hashlib.sha256(b"%d" % prefix)
    for path, content in sorted(image.items()):
        digest.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.digest()


def lay_out(image: Image, directory: Path, root: Path = Path("/disk")) -> None:
    """Puts a state into a real directory, in place of what is in it.

    Args:
        image: the state.
        directory: stands for `root`.
        root: what all paths of the state begin with.
    """
    for old in directory.iterdir():
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()
    for path, content in sorted(image.items()):
        place = directory / Path(path).relative_to(root)
        if path.endswith("/"):
            place.mkdir()
        else:
            place.write_bytes(content)
