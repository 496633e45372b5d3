"""Power may fail at any operation of the vote journal: no vote that was sent is forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ledger.disk import Connection, Rows
from ledger.journal import SqliteJournal
from protocol.errors import StorageError
from tests.support.crash_campaign import campaign_seeds
from tests.support.crash_journal import (
    CHAIN,
    FOLDER,
    JournalRun,
    problem_after,
    run_validator,
    vote,
    votes_on,
)
from tests.support.crash_states import CrashState, crash_states
from tests.support.memory_files import Fault, Kind, MemoryFiles, Sync
from tests.support.recording_vfs import RecordingDisk

STATES_MIN = 900
"""States that the run in the tests must give; the rest of 2,000 are the store's."""


def problems(run: JournalRun, states: Sequence[CrashState], directory: Path) -> list[str]:
    found = []
    for state in states:
        problem = problem_after(run, state, directory)
        if problem is not None:
            found.append(f"after {state.prefix} operations, {state.variant}: {problem}")
    return found


@pytest.mark.slow
def test_no_power_loss_makes_a_validator_vote_twice(scratch: Path) -> None:
    run = run_validator(RecordingDisk())
    assert run.error is None
    states = list(crash_states(run.files.operations, seeds=campaign_seeds(2)))
    assert len(states) >= STATES_MIN
    assert problems(run, states, scratch) == []


class Lazy:
    """A planted fault: the connection refuses to flush each commit."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> Rows:
        return self._connection.execute(sql.replace("=FULL", "=NORMAL"), parameters)


@pytest.mark.parametrize(
    ("wrap", "releases_first"),
    [(Lazy, False), (lambda connection: connection, True)],
    ids=["synchronous=NORMAL", "sent before it is kept"],
)
@pytest.mark.slow
def test_the_enumeration_finds_planted_faults(scratch: Path, wrap, releases_first) -> None:
    run = run_validator(RecordingDisk(wrap=wrap), views=6, releases_first=releases_first)
    states = list(crash_states(run.files.operations, seeds=[1]))
    found = problems(run, states, scratch)
    assert any("would vote again" in problem for problem in found), found


@pytest.mark.slow
def test_votes_read_after_a_kill_are_durable_before_they_are_sent_again() -> None:
    run = run_validator(RecordingDisk(), views=5)
    for prefix in range(len(run.files.operations) + 1):
        files = MemoryFiles.after(run.files.operations[:prefix])
        held = votes_on(files)
        (flushed, *_) = crash_states(files.operations, seeds=[], first=len(files.operations))
        assert votes_on(MemoryFiles.of(flushed.image)) == held, prefix


def refused_runs(views: int = 3) -> Iterator[tuple[Fault, JournalRun]]:
    """A run for each operation that changes the disk, refused in each way."""
    total = len(run_validator(RecordingDisk(), views=views).files.operations)
    for at in range(total):
        for kind in Kind:
            for is_lasting in (False, True):
                disk = RecordingDisk()
                fault = Fault(kind, at, is_lasting=is_lasting)
                disk.files.fault = fault
                yield fault, run_validator(disk, views=views)


@pytest.mark.slow
def test_a_refused_operation_is_a_storage_error_and_loses_nothing(scratch: Path) -> None:
    for fault, run in refused_runs():
        assert fault.hits, fault
        if run.error is None:
            # SQLite tidies at its end what it could not; nothing that was promised hung on it.
            assert len(run.released) == len(run.attempted), fault
        operations = run.files.operations
        for state in crash_states(operations, seeds=[1, 2], first=len(operations)):
            problem = problem_after(run, state, scratch)
            assert problem is None, (fault, state.variant, problem)


@pytest.mark.slow
def test_a_flush_that_failed_releases_no_vote() -> None:
    total = 0
    for fault, run in refused_runs():
        failed = [
            index
            for index, operation in enumerate(run.files.operations)
            if isinstance(operation, Sync) and operation.is_failed
        ]
        if failed and run.error is not None:
            total += 1
            assert all(mark <= failed[0] for mark, _ in run.released), fault
    assert total > 20


@pytest.mark.slow
def test_what_a_restart_after_a_failed_flush_reads_survives_power_loss() -> None:
    """The system's cache shows what the medium never took, and calls it clean."""
    for fault, run in refused_runs():
        if run.error is None or fault.is_lasting:
            continue
        run.files.fault = None
        held = votes_on(run.files)
        for state in crash_states(
            run.files.operations, seeds=[1, 2], first=len(run.files.operations)
        ):
            after = votes_on(MemoryFiles.of(state.image))
            assert after == held, (fault, state.variant)


def test_a_journal_takes_votes_again_once_its_disk_has_room() -> None:
    with RecordingDisk() as disk:
        journal = SqliteJournal(FOLDER, CHAIN, disk)
        disk.files.fault = Fault(Kind.FULL, len(disk.files.operations), is_lasting=True)
        with pytest.raises(StorageError, match="disk full"):
            journal.append([vote(1)])
        disk.files.fault = None
        journal.append([vote(2)])
        assert journal.load() == (vote(2),)
