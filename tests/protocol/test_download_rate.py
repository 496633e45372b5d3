"""How requests grow where much comes in, and what keeps small ones from freezing small."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.download_board import ByteBudget
from protocol.download_rate import FAST_BYTES_PER_S, SPAN_S, IntakeRate
from protocol.exchange_flow import REQUEST_BYTES_MAX, WINDOW_BYTES_START, PeerFlow
from protocol.limits import KIB, MIB

PEER = b"peer-a"


def rate_of(bytes_per_s: float) -> IntakeRate:
    rate = IntakeRate()
    rate.note(0, 1.0)
    rate.note(int(bytes_per_s * 2 * SPAN_S) + 1, 1.0 + 2 * SPAN_S)
    return rate


def test_a_rate_is_that_of_a_whole_span() -> None:
    rate = rate_of(MIB)
    before = rate.bytes_per_s
    start = 1.0 + 2 * SPAN_S
    rate.note(MIB, start + SPAN_S / 2)
    assert rate.bytes_per_s == before
    rate.note(MIB, start + 2 * SPAN_S)
    assert math.isclose(rate.bytes_per_s, MIB / SPAN_S)


def test_thin_links_keep_to_the_window_of_each_peer() -> None:
    thin = rate_of(FAST_BYTES_PER_S / 2)
    assert thin.request_bytes_min(FAST_BYTES_PER_S / 2) == 0
    assert PeerFlow(PEER).budget(0.0, 0) == WINDOW_BYTES_START // 2


def test_where_much_comes_in_requests_are_large_except_at_thin_peers() -> None:
    fast = rate_of(16 * MIB)
    assert fast.request_bytes_min(4 * MIB) == REQUEST_BYTES_MAX
    assert fast.request_bytes_min(128 * KIB) == 64 * KIB
    assert fast.request_bytes_min(None) == 0


@settings(max_examples=30)
@given(st.floats(0, 1e10), st.one_of(st.none(), st.floats(0, 1e10)), st.floats(0, 1e3))
def test_no_request_is_larger_than_one_may_be(total: float, own: float | None, now: float) -> None:
    least = rate_of(total).request_bytes_min(own)
    assert 0 <= least <= REQUEST_BYTES_MAX
    assert 1 <= PeerFlow(PEER).budget(now, least) <= REQUEST_BYTES_MAX


def test_room_that_small_answers_free_is_gathered_until_a_request_fits() -> None:
    budget = ByteBudget(limit_bytes=8 * MIB)
    assert budget.room_for(PEER, MIB, 0.0) == MIB
    budget.used_bytes = 8 * MIB - 200 * KIB
    assert budget.room_for(PEER, MIB, 0.0) == 0
    assert budget.room_for(PEER, 100 * KIB, 0.0) == 100 * KIB
    budget.used_bytes = 7 * MIB
    assert budget.room_for(PEER, MIB, 0.0) == MIB


@settings(max_examples=30)
@given(st.integers(1, 8 * MIB), st.integers(0, 9 * MIB), st.integers(1, 4 * MIB))
def test_room_is_never_more_than_is_left_and_always_some_once_all_came(
    limit_bytes: int, used_bytes: int, wanted_bytes: int
) -> None:
    budget = ByteBudget(limit_bytes=limit_bytes)
    assert 0 < budget.room_for(PEER, wanted_bytes, 0.0) <= limit_bytes
    budget.used_bytes = used_bytes
    assert budget.room_for(PEER, wanted_bytes, 0.0) <= max(limit_bytes - used_bytes, 0)
