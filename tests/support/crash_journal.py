"""A validator's run on a vote journal, and what must be in it after any power loss."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ledger.disk import Disk
from ledger.journal import SqliteJournal
from ledger.simplex.interface import Record, RecordKind
from protocol.digest import ChainId, sha256
from protocol.errors import StorageError
from tests.support.crash_states import CrashState, lay_out
from tests.support.memory_files import MemoryFiles
from tests.support.recording_vfs import RecordingDisk

CHAIN = ChainId(sha256(b"journal that crashes"))
FOLDER = Path("/disk")
"""Folder of the journal on the recorded disk."""


def vote(view: int, epoch: int = 1, word: bytes = b"first") -> Record:
    """A vote's record; the journal does not look into it."""
    return Record(RecordKind.VOTE, epoch, view, word * 60)


@dataclass
class JournalRun:
    """What a validator did, each with the number of disk operations before it."""

    files: MemoryFiles
    attempted: list[tuple[int, Record]] = field(default_factory=list)
    """Votes handed to the journal."""
    released: list[tuple[int, Record]] = field(default_factory=list)
    """Votes that the network saw."""
    pruned: list[tuple[int, tuple[int, int]]] = field(default_factory=list)
    """Where pruning began, and to where."""
    error: StorageError | None = None
    """What ended the run early."""

    def release(self, records: Sequence[Record]) -> None:
        """Sends votes to the network."""
        mark = len(self.files.operations)
        self.released += [(mark, item) for item in records if item.kind is RecordKind.VOTE]

    def required(self, prefix: int) -> list[Record]:
        """Released votes that no pruning begun by then may have dropped."""
        sent = [item for mark, item in self.released if mark <= prefix]
        floor = max((to for mark, to in self.pruned if mark <= prefix), default=(0, 0))
        newest = max(((item.epoch, item.view) for item in sent), default=(0, 0))
        return [
            item
            for item in sent
            if (item.epoch, item.view) >= floor or (item.epoch, item.view) == newest
        ]

    def possible(self, prefix: int) -> list[Record]:
        """Votes that may be in the journal."""
        return [item for mark, item in self.attempted if mark <= prefix]


def run_validator(
    disk: RecordingDisk, *, views: int = 24, releases_first: bool = False
) -> JournalRun:
    """Votes in `views` views, prunes, restarts, begins an epoch; ends at the first error.

    Args:
        disk: recorded disk.
        views: how many views.
        releases_first: a planted fault: votes are sent before they are kept.
    """
    run = JournalRun(disk.files)
    try:
        journal = SqliteJournal(FOLDER, CHAIN, disk)
        for view in range(1, views + 1):
            epoch = 1 if view <= views * 2 // 3 else 2
            records = [Record(RecordKind.BLOCK, epoch, view, b"proposal" * 90)] * (view % 4 == 0)
            records += [vote(view, epoch), vote(view, epoch, b"second")][: 1 + view % 2]
            mark = len(disk.files.operations)
            run.attempted += [(mark, item) for item in records]
            if releases_first:
                run.release(records)
            journal.append(records)
            if not releases_first:
                run.release(records)
            if view % 8 == 0:
                run.pruned.append((len(disk.files.operations), (epoch, view - 3)))
                journal.prune(epoch, view - 3)
            if view == views // 2:
                journal.close()
                journal = SqliteJournal(FOLDER, CHAIN, disk)
        journal.close()
    except StorageError as error:
        run.error = error
    finally:
        disk.kill()
    return run


def problem_after(run: JournalRun, state: CrashState, directory: Path) -> str | None:
    """Opens a crash state with the production code; what is wrong with it, or None."""
    lay_out(state.image, directory)
    return judge(run, state.prefix, directory, Disk())


def votes_on(files: MemoryFiles) -> tuple[Record, ...]:
    """What the next process reads from a disk; it dies then."""
    with RecordingDisk(files) as disk:
        return SqliteJournal(FOLDER, CHAIN, disk).load()


def judge(run: JournalRun, prefix: int, directory: Path, disk: Disk) -> str | None:
    """Compares a journal with what was released before an operation."""
    try:
        journal = SqliteJournal(directory, CHAIN, disk)
    except StorageError as error:
        return f"cannot be opened: {error}"
    with contextlib.closing(journal):
        held = journal.load()
        missing = [item for item in run.required(prefix) if item not in held]
        invented = [item for item in held if item not in run.possible(prefix)]
        if missing:
            return f"would vote again in {[(item.epoch, item.view) for item in missing]}"
        if invented:
            return f"holds {len(invented)} records that nobody wrote"
        following = vote(10_000, 9)
        journal.append([following])
        if journal.load() != (*held, following):
            return "takes no further vote"
    return None
