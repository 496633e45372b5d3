"""Buckets, rates and schedules: the pure parts of the limits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.limits import KIB
from swarmd.limits.bucket import BURST_S, TokenBucket
from swarmd.limits.rates import (
    RATE_KIB_MAX,
    RATE_KIB_MIN,
    RatePlan,
    Rates,
    parse_schedule,
    parse_scheduled,
    rate_of,
)
from swarmd.limits.traffic import PEERS_MAX, Direction, Traffic

NEAR, FAR, OTHER = b"n" * 32, b"f" * 32, b"o" * 32
MONDAY_NOON_MS = 4 * 86_400_000 + 12 * 3_600_000
"""1970 began on a Thursday."""


@settings(max_examples=50)
@given(
    rate=st.integers(16 * KIB, 100 * 1024 * KIB),
    pieces=st.lists(
        st.tuples(st.integers(1, 64 * KIB), st.floats(0, 0.5)), min_size=1, max_size=200
    ),
)
def test_no_span_has_more_than_rate_burst_and_one_piece(
    rate: int, pieces: list[tuple[int, float]]
) -> None:
    """Whoever takes only when something is permitted stays within the rate over every span."""
    bucket, now, taken = TokenBucket(rate, 0.0), 0.0, []
    for size, pause in pieces:
        now += pause
        if bucket.room_bytes(now) <= 0:
            now = bucket.ready_at(1, now) + 1e-6
        bucket.take(size, now)
        taken.append((now, size))
    for first in range(len(taken)):
        total = 0
        for time, size in taken[first:]:
            total += size
            span = time - taken[first][0]
            assert total <= rate * (span + BURST_S) + size + 64 * KIB + 1


def test_a_bucket_without_a_rate_permits_everything() -> None:
    bucket = TokenBucket(None, 0.0)
    bucket.take(10**12, 0.0)
    assert bucket.room_bytes(0.0) == math.inf
    assert bucket.ready_at(10**9, 5.0) == 5.0
    bucket.set_rate(1000, 5.0)
    assert bucket.room_bytes(5.0) == 1000 * BURST_S
    bucket.set_rate(None, 6.0)
    assert bucket.room_bytes(6.0) == math.inf


def test_a_debt_survives_a_new_rate_and_is_paid_at_it() -> None:
    bucket = TokenBucket(1000, 0.0)
    bucket.take(1250, 0.0)
    assert bucket.ready_at(0, 0.0) == pytest.approx(1.0)
    bucket.set_rate(2000, 0.0)
    assert bucket.ready_at(0, 0.0) == pytest.approx(0.5)
    bucket.give_back(500, 0.0)
    assert bucket.room_bytes(0.0) == -500
    bucket.give_back(10**9, 0.0)
    assert bucket.room_bytes(0.0) == 2000 * BURST_S


def saturated(rates: Rates, peers: tuple[bytes, ...], seconds: float = 10.0) -> dict[bytes, int]:
    """Sends in turns whatever is permitted, in chunks of 16 KiB, and counts."""
    traffic, now = Traffic(rates, 0.0), 0.0
    traffic.place(NEAR, is_near=True)
    sent = dict.fromkeys(peers, 0)
    # Begins with an empty bucket: what was saved before is another span's.
    for peer in peers:
        traffic.take(Direction.UP, peer, round(1e6), now)
    while traffic.room_bytes(Direction.UP, peers[0], now) <= 0:
        now += 0.01
    end = now + seconds
    while now < end:
        for peer in peers:
            while traffic.room_bytes(Direction.UP, peer, now) > 0 and sent[peer] < 1e8:
                traffic.take(Direction.UP, peer, 16 * KIB, now)
                sent[peer] += 16 * KIB
        now += 0.01
    return sent


@pytest.mark.parametrize("rate", [64 * KIB, 1024 * KIB, 8192 * KIB])
def test_a_limit_for_all_holds_for_all_together(rate: int) -> None:
    sent = saturated(Rates(up=rate), (FAR, OTHER))
    wire = sum(sent.values()) * (1 + 1 / 22)
    assert sum(sent.values()) >= 0.95 * rate * 10
    assert wire <= 1.05 * rate * 10 + 16 * KIB


def test_a_limit_for_each_holds_for_each() -> None:
    sent = saturated(Rates(up=3000 * KIB, peer_up=1000 * KIB), (FAR, OTHER))
    for peer in (FAR, OTHER):
        assert sent[peer] == pytest.approx(1000 * KIB * 10, rel=0.05)


def test_the_site_has_limits_of_its_own() -> None:
    rates = Rates(up=64 * KIB, peer_up=32 * KIB)
    assert saturated(rates, (NEAR,))[NEAR] >= 1e8, "exempt"
    limited = saturated(replace(rates, lan_up=512 * KIB), (NEAR,))
    assert limited[NEAR] == pytest.approx(5120 * KIB, rel=0.05)


def test_directions_do_not_share() -> None:
    traffic = Traffic(Rates(up=64 * KIB, down=64 * KIB), 0.0)
    traffic.take(Direction.UP, FAR, 10**6, 0.0)
    assert (
        traffic.room_bytes(Direction.UP, FAR, 0.0)
        < 0
        < traffic.room_bytes(Direction.DOWN, FAR, 0.0)
    )
    assert traffic.counted_bytes == {Direction.UP: 10**6, Direction.DOWN: 0}


def test_a_peer_that_moves_is_counted_where_it_is() -> None:
    traffic = Traffic(Rates(up=64 * KIB), 0.0)
    assert traffic.slowest(Direction.UP, FAR) == 64 * KIB
    traffic.place(FAR, is_near=True)
    assert traffic.slowest(Direction.UP, FAR) is None
    traffic.place(FAR, is_near=False)
    assert traffic.room_bytes(Direction.UP, FAR, 0.0) < math.inf


def test_peers_that_are_remembered_are_bounded() -> None:
    traffic = Traffic(Rates(peer_up=64 * KIB), 0.0)
    for number in range(3 * PEERS_MAX):
        peer = number.to_bytes(32, "big")
        traffic.place(peer, is_near=number % 2 == 0)
        traffic.take(Direction.UP, peer, 1, 0.0)
    assert len(traffic._near) <= PEERS_MAX
    assert len(traffic._peers) <= 2 * PEERS_MAX


def test_new_rates_hold_at_once_for_all_buckets() -> None:
    traffic = Traffic(Rates(up=64 * KIB, peer_up=64 * KIB), 0.0)
    traffic.take(Direction.UP, FAR, 10**6, 0.0)
    before = traffic.ready_at(Direction.UP, FAR, 1, 0.0)
    traffic.set_rates(Rates(up=640 * KIB, peer_up=640 * KIB), 0.0)
    assert traffic.ready_at(Direction.UP, FAR, 1, 0.0) == pytest.approx(before / 10, rel=0.1)
    traffic.set_rates(Rates(), 0.0)
    assert traffic.ready_at(Direction.UP, FAR, 1, 0.0) == 0.0


# Schedules ---------------------------------------------------------------------------------------


def test_the_first_window_that_holds_decides() -> None:
    plan = RatePlan(
        general=Rates(up=100 * KIB, down=200 * KIB, peer_up=50 * KIB),
        schedule=parse_schedule(
            ["Mon,Tue 08:00-18:00 up=16", "Mon 00:00-24:00 up=0 down=0"], "traffic.schedule"
        ),
    )
    office = plan.at(MONDAY_NOON_MS)
    assert (office.up, office.down, office.peer_up) == (16 * KIB, 200 * KIB, 50 * KIB)
    evening = plan.at(MONDAY_NOON_MS + 8 * 3_600_000)
    assert (evening.up, evening.down) == (None, None)
    assert plan.at(MONDAY_NOON_MS + 2 * 86_400_000) == plan.general
    assert plan.at(0) == plan.general


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Mon 08:00-18:00",
        "Mon 08:00-18:00 up=-1",
        "Mon 08:00-18:00 up=64 up=64",
        "Mon 08:00-18:00 sideways=64",
        "Mon 18:00-08:00 up=64",
        "Man 08:00-18:00 up=64",
        f"Mon 08:00-18:00 up={RATE_KIB_MIN - 1}",
        f"Mon 08:00-18:00 up={RATE_KIB_MAX + 1}",
        "Mon 08:00-18:00  up=64",
    ],
)
def test_anything_else_is_no_schedule(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_scheduled(text, "traffic.schedule")


def test_a_rate_of_zero_is_no_limit() -> None:
    assert rate_of(0, "x") is None
    assert rate_of(RATE_KIB_MIN, "x") == RATE_KIB_MIN * KIB
