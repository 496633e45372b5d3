"""Power may fail at any operation of the ledger store: no acknowledged commit is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from ledger.block_store import Durability
from ledger.disk import Connection, Rows
from tests.support.crash_campaign import campaign_seeds
from tests.support.crash_states import CrashState, crash_states
from tests.support.crash_store import StoreRun, problem_after, run_node
from tests.support.memory_files import Fault, Kind
from tests.support.recording_vfs import RecordingDisk

STATES_MIN = 1100
"""States that the run in the tests must give; the rest of 2,000 are the journal's."""


def problems(
    run: StoreRun, states: Iterable[CrashState], directory: Path, *, may_lag: bool = False
) -> Iterator[str]:
    for state in states:
        problem = problem_after(run, state, directory, may_lag=may_lag)
        if problem is not None:
            yield f"after {state.prefix} operations, {state.variant}: {problem}"


@pytest.mark.slow
def test_no_power_loss_loses_an_acknowledged_commit(scratch: Path) -> None:
    run = run_node(RecordingDisk())
    assert run.error is None
    states = list(crash_states(run.files.operations, seeds=campaign_seeds(1)))
    assert len(states) >= STATES_MIN
    assert not list(problems(run, states, scratch))


@pytest.mark.slow
def test_a_follower_may_lose_the_newest_commits_and_never_their_order(scratch: Path) -> None:
    run = run_node(RecordingDisk(), durability=Durability.BATCHED, blocks=3)
    states = crash_states(run.files.operations, seeds=campaign_seeds(1))
    assert not list(problems(run, states, scratch, may_lag=True))


class Split:
    """A planted fault: what follows the first row of a transaction is committed by itself."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._is_first = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: Sequence[object] = (), /) -> Rows:
        rows = self._connection.execute(sql, parameters)
        if sql.startswith("BEGIN"):
            self._is_first = True
        elif self._is_first and sql.startswith("INSERT INTO headers"):
            self._is_first = False
            self._connection.execute("COMMIT")
            self._connection.execute("BEGIN IMMEDIATE")
        return rows


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (partial(run_node, durability=Durability.BATCHED, blocks=3), "was acknowledged"),
        (lambda disk: run_node(RecordingDisk(wrap=Split), blocks=3), "contradicts itself"),
    ],
    ids=["synchronous=NORMAL", "head in a transaction of its own"],
)
@pytest.mark.slow
def test_the_enumeration_finds_planted_faults(
    scratch: Path, run: Callable[[RecordingDisk], StoreRun], expected: str
) -> None:
    done = run(RecordingDisk())
    states = crash_states(done.files.operations, seeds=[1])
    assert any(expected in problem for problem in problems(done, states, scratch))


@pytest.mark.slow
def test_a_refused_operation_is_a_storage_error_and_loses_nothing(scratch: Path) -> None:
    total = len(run_node(RecordingDisk(), blocks=1).files.operations)
    for at in range(total):
        for kind in Kind:
            disk = RecordingDisk()
            disk.files.fault = fault = Fault(kind, at, is_lasting=bool(at % 2))
            run = run_node(disk, blocks=1)
            assert fault.hits, fault
            operations = run.files.operations
            states = crash_states(operations, seeds=[at], first=len(operations))
            assert not list(problems(run, states, scratch)), fault
