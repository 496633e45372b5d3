"""The line in which submitted transactions wait for the ledger's worker.

Many are judged in one hop to the worker, since a hop costs more than a judgement. Who waits notices
nothing of it but the speed: submissions take turns, those that claim to protect first; a round ends
early when consensus, or anything else that runs in the worker, has come to wait for it, or when one
that claims to protect came and an ordinary one had its turn (docs/spec/quotas.md, Q45).

Whoever waits and finds nobody judging judges a round for all; there is no task of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from protocol.digest import TransactionId
from protocol.errors import PolicyError, StorageError
from protocol.transaction import SignedTransaction

Outcome = TransactionId | PolicyError | StorageError
"""What became of a transaction: it is in the mempool, or why not."""
Round = Callable[[], list[Outcome]]
"""Judges some transactions; called in the worker's thread."""
ROUND_MAX: Final = 32
"""Transactions judged in one hop: about 10 ms."""
PROTECTING_MAX: Final = ROUND_MAX // 2
"""Those of a round that claim to protect while others wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A transaction that was read, to be judged."""

    signed: SignedTransaction
    """The transaction."""
    is_protecting: bool
    """Whether it claims to be of a kind that protects."""
    is_own: bool
    """Submitted at this node, which keeps it durably until it is final."""


@dataclass(eq=False, slots=True)
class _Submission:
    """What one caller handed over, in its order."""

    outcomes: list[Outcome | None]
    protecting: deque[int] = field(default_factory=deque)
    ordinary: deque[int] = field(default_factory=deque)
    changed: trio.Event = field(default_factory=trio.Event)

    @property
    def is_done(self) -> bool:
        return not self.protecting and not self.ordinary


@dataclass(slots=True)
class _Lane:
    """Submissions that take turns, the next one first."""

    waiting: dict[_Submission, deque[int]] = field(default_factory=dict)

    def plan(self, count: int) -> Iterator[tuple[_Submission, int]]:
        """The next turns, at most `count`: the first of each submission, the second of each, ..."""
        depth = 0
        while count > 0:
            turn = [(item, line[depth]) for item, line in self.waiting.items() if len(line) > depth]
            if not turn:
                return
            yield from turn[:count]
            count -= len(turn)
            depth += 1

    def take(self, submission: _Submission, index: int) -> None:
        """Notes that a submission had its turn; the others come before its next."""
        line = self.waiting.pop(submission, None)
        if line is None:
            return  # its caller left
        assert line.popleft() == index, "turns are taken in order"
        if line:
            self.waiting[submission] = line


class JudgementLine:
    """Judges what is submitted, in fair rounds."""

    def __init__(
        self,
        *,
        judge: Callable[[Submitted], TransactionId],
        run: Callable[[Round], Awaitable[list[Outcome]]],
        is_wanted: Callable[[], bool],
    ) -> None:
        """Starts empty.

        Args:
            judge: judges one, in the worker's thread; raises PolicyError or StorageError.
            run: executes a round in the worker's thread, after what waits for it already.
            is_wanted: whether others wait for the worker; asked in its thread.
        """
        self._judge = judge
        self._run = run
        self._is_wanted = is_wanted
        self._protecting = _Lane()
        self._ordinary = _Lane()
        self._items: dict[_Submission, Sequence[Submitted]] = {}
        self._is_judging = False
        self._arrivals = 0

    async def judge(self, items: Sequence[Submitted]) -> list[Outcome]:
        """Waits until all of them are judged; returns what became of each, in their order."""
        submission = _Submission([None] * len(items))
        for index, item in enumerate(items):
            (submission.protecting if item.is_protecting else submission.ordinary).append(index)
        self._items[submission] = items
        if submission.protecting:
            self._protecting.waiting[submission] = submission.protecting
            self._arrivals += 1
        if submission.ordinary:
            self._ordinary.waiting[submission] = submission.ordinary
        try:
            while not submission.is_done:
                if self._is_judging:
                    await submission.changed.wait()
                    submission.changed = trio.Event()
                else:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    await self._judge_round()
        finally:
            self._leave(submission)
        return [outcome for outcome in submission.outcomes if outcome is not None]

    def _leave(self, submission: _Submission) -> None:
        """A caller has its answers, or was cancelled; if nobody judges, another one shall."""
        del self._items[submission]
        self._protecting.waiting.pop(submission, None)
        self._ordinary.waiting.pop(submission, None)
        if not self._is_judging:
            for other in self._items:
                other.changed.set()
                return

    async def _judge_round(self) -> None:
        """Judges a round in one hop and tells those who waited for it."""
        first = list(self._protecting.plan(ROUND_MAX))
        ordinary = list(self._ordinary.plan(max(ROUND_MAX - len(first), ROUND_MAX // 2)))
        if ordinary:
            first = first[:PROTECTING_MAX]
        turns = [*first, *ordinary]
        items = [self._items[submission][index] for submission, index in turns]
        arrivals, protecting = self._arrivals, len(first)
        self._is_judging = True
        try:
            with trio.CancelScope(shield=True):  # what the worker did must be told
                outcomes = await self._run(lambda: self._judge_some(items, protecting, arrivals))
        finally:
            self._is_judging = False
        for position, (submission, index) in enumerate(turns[: len(outcomes)]):
            lane = self._protecting if position < protecting else self._ordinary
            lane.take(submission, index)
            submission.outcomes[index] = outcomes[position]
            if submission.is_done:
                submission.changed.set()

    def _judge_some(
        self, items: Sequence[Submitted], protecting: int, arrivals: int
    ) -> list[Outcome]:
        """Runs in the worker: judges in order, at least one, until others should have a turn.

        Args:
            items: what to judge, those that claim to protect first.
            protecting: how many of them claim to.
            arrivals: submissions with such that had come when the round was planned.
        """
        outcomes: list[Outcome] = []
        for item in items:
            try:
                outcomes.append(self._judge(item))
            except (PolicyError, StorageError) as error:
                outcomes.append(error)
            is_overtaken = self._arrivals != arrivals and len(outcomes) > protecting
            if is_overtaken or self._is_wanted():
                break
        return outcomes
