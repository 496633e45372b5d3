"""The line before the worker: turns, what protects first, early ends, and callers that leave."""

from __future__ import annotations

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import LedgerError
from protocol.digest import TransactionId, sha256
from swarmd.judgement_line import (
    PROTECTING_MAX,
    ROUND_MAX,
    JudgementLine,
    Outcome,
    Round,
    Submitted,
)
from tests.support.ledger import make_lab

SIGNED = [
    (lab := make_lab()).transaction(lab.gateways[1], AnchorReceipts(size=1, root=sha256(b"x")))
]


class Bench:
    """A line whose worker does a round when the test says so."""

    def __init__(self) -> None:
        self.judged: list[Submitted] = []
        self.rounds: list[int] = []
        self.is_wanted = False
        self.on_judge = lambda: None
        self.may_run = trio.Event()
        self.refused: Submitted | None = None
        self.line = JudgementLine(
            judge=self._judge, run=self._run, is_wanted=lambda: self.is_wanted
        )

    def _judge(self, item: Submitted) -> TransactionId:
        self.judged.append(item)
        self.on_judge()
        if item is self.refused:
            raise LedgerError("tx.nonce", "used")
        return item.signed.transaction_id

    async def _run(self, judge: Round) -> list[Outcome]:
        await self.may_run.wait()
        await trio.lowlevel.checkpoint()
        outcomes = judge()
        self.rounds.append(len(outcomes))
        return outcomes


def items(count: int, *, is_protecting: bool = False) -> list[Submitted]:
    return [
        Submitted(signed=SIGNED[0], is_protecting=is_protecting, is_own=False) for _ in range(count)
    ]


def positions(bench: Bench, some: list[Submitted]) -> list[int]:
    by_id = {id(item): place for place, item in enumerate(bench.judged)}
    return [by_id[id(item)] for item in some]


async def hand_over(bench: Bench, *submissions: list[Submitted]) -> None:
    """Hands over one after another while the worker is busy, then lets it work."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.line.judge, items(1))
        for submission in submissions:
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(bench.line.judge, submission)
        await trio.testing.wait_all_tasks_blocked()
        bench.may_run.set()


async def test_a_large_batch_does_not_hold_up_a_small_one() -> None:
    bench = Bench()
    large, small = items(64), items(2)
    await hand_over(bench, large, small)
    assert positions(bench, small) == [2, 4]
    assert positions(bench, large)[:3] == [1, 3, 5]
    assert bench.rounds == [1, 32, 32, 2]


async def test_claims_go_first_and_leave_half_a_round_to_others() -> None:
    bench = Bench()
    ordinary, flood = items(20), items(40, is_protecting=True)
    honest = items(1, is_protecting=True)
    await hand_over(bench, ordinary, flood, honest)
    assert positions(bench, honest) == [2], "its turn comes after one of the flood"
    kinds = [item.is_protecting for item in bench.judged[1 : 1 + ROUND_MAX]]
    assert kinds == [True] * PROTECTING_MAX + [False] * (ROUND_MAX - PROTECTING_MAX)
    assert sum(bench.rounds) == len(bench.judged) == 62


async def test_a_claim_that_comes_during_a_round_waits_for_one_ordinary_transaction() -> None:
    bench = Bench()
    claim = items(1, is_protecting=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.line.judge, items(30))
        await trio.testing.wait_all_tasks_blocked()  # a round of 30 waits for the worker
        nursery.start_soon(bench.line.judge, claim)
        await trio.testing.wait_all_tasks_blocked()
        bench.may_run.set()
    assert positions(bench, claim) == [1]


async def test_whoever_wants_the_worker_waits_for_one_transaction() -> None:
    bench = Bench()
    bench.may_run.set()
    bench.is_wanted = True
    await bench.line.judge(items(3) + items(2, is_protecting=True))
    assert bench.rounds == [1] * 5
    bench.is_wanted = False

    def want() -> None:
        bench.is_wanted = len(bench.judged) == 5 + 7

    bench.on_judge = want
    await bench.line.judge(items(20))
    assert bench.rounds[5:] == [7, 13]


async def test_outcomes_come_back_in_order_and_each_for_itself() -> None:
    bench = Bench()
    bench.may_run.set()
    mixed = [*items(2), *items(2, is_protecting=True), *items(1)]
    bench.refused = mixed[1]
    outcomes = await bench.line.judge(mixed)
    assert [isinstance(outcome, LedgerError) for outcome in outcomes] == [
        False,
        True,
        False,
        False,
        False,
    ]


async def test_a_caller_that_leaves_takes_its_place_with_it_and_stops_nobody() -> None:
    bench = Bench()
    left, stays = items(50), items(3)
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def leave() -> None:
            with scope:
                await bench.line.judge(left)

        nursery.start_soon(leave)  # it judges a round for all
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(bench.line.judge, stays)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        bench.may_run.set()
    assert len(positions(bench, stays)) == 3
    assert len(bench.judged) == ROUND_MAX + 3, "what was not judged yet left with its caller"
    assert bench.line._items == {}
    assert not bench.line._protecting.waiting
    assert not bench.line._ordinary.waiting


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=6),
    st.sets(st.integers(0, 200)),
)
def test_everything_is_judged_once_whatever_interrupts(
    sizes: list[tuple[int, int]], interrupted: set[int]
) -> None:
    bench_of: list[Bench] = []

    async def run() -> None:
        bench = Bench()
        bench_of.append(bench)

        def interrupt() -> None:
            bench.is_wanted = len(bench.judged) in interrupted

        bench.on_judge = interrupt
        await hand_over(
            bench, *(items(count) + items(claims, is_protecting=True) for count, claims in sizes)
        )

    trio.run(run)
    (bench,) = bench_of
    assert len({id(item) for item in bench.judged}) == len(bench.judged)
    assert len(bench.judged) == 1 + sum(map(sum, sizes))
    assert max(bench.rounds) <= ROUND_MAX
