"""Refusals for nothing: enough for races, not for floods."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swarmd.net.address import PeerKey
from swarmd.services.refusal_budget import BURST, PEERS_MAX, PER_S, RefusalBudget

PEER = PeerKey(b"p" * 32)


def test_a_burst_is_free_and_no_more() -> None:
    budget = RefusalBudget()
    assert [budget.spend(PEER, 1.0) for _ in range(BURST + 2)] == [True] * BURST + [False] * 2
    assert budget.spend(PeerKey(b"q" * 32), 1.0), "each peer has its own"


def test_waiting_regains() -> None:
    budget = RefusalBudget()
    for _ in range(BURST):
        budget.spend(PEER, 0.0)
    assert not budget.spend(PEER, 0.5 / PER_S)
    assert budget.spend(PEER, 2.0 / PER_S)
    assert sum(budget.spend(PEER, 1e6) for _ in range(BURST * 2)) == BURST


@given(st.lists(st.floats(0, 10), min_size=1, max_size=300))
def test_free_refusals_never_exceed_burst_and_rate(times: list[float]) -> None:
    budget = RefusalBudget()
    ordered = sorted(times)
    free = sum(budget.spend(PEER, now) for now in ordered)
    assert free <= BURST + (ordered[-1] - ordered[0]) * PER_S + 1


def test_memory_is_bounded() -> None:
    budget = RefusalBudget()
    for number in range(PEERS_MAX + 10):
        budget.spend(PeerKey(number.to_bytes(32, "big")), 0.0)
    assert len(budget._left) == PEERS_MAX
