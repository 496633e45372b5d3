"""The window of all pushes together, against a modelled uplink."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.limits import KIB
from swarmd.net.uplink_window import (
    LOOK_S,
    PACE_GAIN,
    PACED_BYTES_PER_S_MAX,
    THIN_WINDOW_BYTES_MIN,
    WINDOW_BYTES_MIN,
    WINDOW_S_MIN,
    PathState,
    UplinkWindow,
)

UNIT = 16 * KIB
PEER = b"p"
ROUND_TRIP_S = 0.04


class Uplink:
    """A queue with a rate; what left it is acknowledged a round trip later."""

    def __init__(self, bytes_per_s: float, round_trip_s: float = ROUND_TRIP_S) -> None:
        self._rate, self._round_trip_s = bytes_per_s, round_trip_s
        self._free_at = 0.0
        self._flying: list[tuple[float, int]] = []
        self.sent_bytes = 0

    def send(self, size: int, now: float) -> None:
        self._free_at = max(self._free_at, now) + size / self._rate
        self._flying.append((self._free_at + self._round_trip_s, size))
        self.sent_bytes += size

    def queue_s(self, now: float) -> float:
        return max(self._free_at - now, 0.0)

    def paths(self, now: float, count: int) -> dict[bytes, PathState]:
        """As many paths, which took what was sent in turns."""
        self._flying = [(at, size) for at, size in self._flying if at > now]
        unacked = sum(size for _, size in self._flying)
        shares = [unacked // count + (number < unacked % count) for number in range(count)]
        sent = self.sent_bytes // count
        return {
            bytes((number,)): PathState(share, self._round_trip_s, sent)
            for number, share in enumerate(shares)
        }


def run(uplink: Uplink, seconds: float, *, paths: int = 15) -> tuple[float, float]:
    """Pushes as much as the window lets; returns the longest queue and the use of the last half."""
    window, now, longest, half_bytes = UplinkWindow(), 0.0, 0.0, 0
    while now < seconds:
        if window.is_due(now):
            window.seen(uplink.paths(now, paths), 0, now)
        while window.room_bytes > 0:
            window.handed_out(UNIT)
            uplink.send(UNIT, now)
        if now > seconds / 2:
            longest = max(longest, uplink.queue_s(now))
        else:
            half_bytes = uplink.sent_bytes
        now += LOOK_S
    return longest, (uplink.sent_bytes - half_bytes) / (seconds / 2)


@pytest.mark.parametrize("mbit", [1.0, 2.0, 5.0, 20.0, 100.0])
def test_an_uplink_is_full_and_its_queue_is_short(mbit: float) -> None:
    rate = mbit * 125_000
    queue_s, sent_per_s = run(Uplink(rate), 20.0)
    assert sent_per_s >= 0.95 * rate
    window_bytes = min(max(WINDOW_S_MIN * rate, THIN_WINDOW_BYTES_MIN), WINDOW_BYTES_MIN)
    assert queue_s <= max(0.1, 2 * window_bytes / rate)


def test_a_fast_uplink_is_found_within_two_seconds() -> None:
    rate = 125e6
    _, sent_per_s = run(Uplink(rate, 0.002), 4.0)
    assert sent_per_s >= 0.8 * rate


def test_without_a_window_the_queue_would_be_long() -> None:
    """What the first test would find if room were always there."""
    uplink, now = Uplink(625_000), 0.0
    for _ in range(15 * 4):
        uplink.send(UNIT, now)
    assert uplink.queue_s(now) > 1.0


def test_where_the_system_says_nothing_nothing_is_known() -> None:
    window = UplinkWindow()
    window.seen({}, 0, 1.0)
    assert not window.is_known
    window.seen({PEER: PathState(0, ROUND_TRIP_S, 0)}, 0, 2.0)
    assert window.is_known


def test_what_is_handed_out_counts_before_the_system_knows_of_it() -> None:
    window = UplinkWindow()
    window.seen({PEER: PathState(0, ROUND_TRIP_S, 0)}, 0, 0.0)
    while window.room_bytes > 0:
        window.handed_out(UNIT)
    assert window.room_bytes <= 0
    window.seen({PEER: PathState(0, ROUND_TRIP_S, 0)}, THIN_WINDOW_BYTES_MIN, 0.01)
    assert window.room_bytes <= 0, "a push that waits for its connection is under way"
    window.seen({PEER: PathState(0, ROUND_TRIP_S, 0)}, 0, 0.02)
    assert window.room_bytes == THIN_WINDOW_BYTES_MIN


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**31), st.integers(0, 2**24), st.integers(0, 2**40), st.floats(0, 1)
        ),
        max_size=50,
    )
)
def test_the_window_is_never_below_its_least(steps: list[tuple[int, int, int, float]]) -> None:
    """Whatever the system reports: unacknowledged bytes that were no pushes, times of nothing."""
    window, now = UplinkWindow(), 0.0
    for unacked, handed, sent, pause_s in steps:
        now += pause_s
        window.handed_out(handed)
        window.seen({PEER: PathState(unacked, pause_s, sent)}, 0, now)
        assert window.window_bytes >= THIN_WINDOW_BYTES_MIN
        assert window.room_bytes <= window.window_bytes, "nothing is under way less than nothing"


def test_what_waits_before_a_thin_downlink_takes_no_room() -> None:
    """Two peers whose links moved nothing for a second, beside twelve that are quick."""
    window, uplink, now, stuck = UplinkWindow(), Uplink(625_000), 0.0, 64 * KIB
    half_bytes = 0
    while now < 10.0:
        if window.is_due(now):
            paths = uplink.paths(now, 12)
            paths[b"slow"] = PathState(stuck, ROUND_TRIP_S, stuck)
            paths[b"slower"] = PathState(stuck, ROUND_TRIP_S, stuck)
            window.seen(paths, 0, now)
        while window.room_bytes > 0:
            window.handed_out(UNIT)
            uplink.send(UNIT, now)
        if now < 5.0:
            half_bytes = uplink.sent_bytes
        now += LOOK_S
    assert uplink.sent_bytes - half_bytes >= 0.95 * 5.0 * 625_000


def test_what_was_sent_just_now_takes_room() -> None:
    """Else every burst of units would overrun the uplink's queue."""
    window = UplinkWindow()
    window.seen({PEER: PathState(0, ROUND_TRIP_S, 10**6)}, 0, 0.0)
    window.seen({PEER: PathState(0, ROUND_TRIP_S, 10**6)}, 0, 5.0)
    window.seen(
        {PEER: PathState(THIN_WINDOW_BYTES_MIN, ROUND_TRIP_S, 10**6 + THIN_WINDOW_BYTES_MIN)},
        0,
        5.1,
    )
    assert window.room_bytes == 0


def test_a_new_connection_of_a_peer_gives_no_room_that_is_not_there() -> None:
    window = UplinkWindow()
    for now in (0.0, 2.0, 4.0):
        window.seen({PEER: PathState(0, ROUND_TRIP_S, 10**9)}, 0, now)
    window.seen({PEER: PathState(UNIT, ROUND_TRIP_S, UNIT)}, 0, 4.1)
    assert window.room_bytes == THIN_WINDOW_BYTES_MIN - UNIT


def paced(uplink: Uplink, seconds: float, *, paths: int) -> UplinkWindow:
    """A window after pushes to so many peers."""
    window, now = UplinkWindow(), 0.0
    while now < seconds:
        if window.is_due(now):
            window.seen(uplink.paths(now, paths), 0, now)
            window.pace()
        while window.room_bytes > 0:
            window.handed_out(UNIT)
            uplink.send(UNIT, now)
        now += LOOK_S
    return window


@pytest.mark.parametrize("paths", [1, 4, 15])
def test_all_that_send_share_the_uplink_with_some_to_spare(paths: int) -> None:
    """Less than the rate together would make the next rate measured lower still."""
    rate = 625_000
    pace = paced(Uplink(rate), 10.0, paths=paths).pace()
    assert pace is not None
    assert 1.1 * rate <= paths * pace <= 1.5 * PACE_GAIN * rate


def test_a_fast_uplink_and_one_that_is_not_known_are_not_paced() -> None:
    assert UplinkWindow().pace() is None
    assert paced(Uplink(4.0 * PACED_BYTES_PER_S_MAX), 4.0, paths=4).pace() is None


def test_a_pace_that_hardly_changes_stays() -> None:
    window, uplink, now, seen = UplinkWindow(), Uplink(625_000), 0.0, set[int | None]()
    while now < 10.0:
        window.seen(uplink.paths(now, 15), 0, now)
        while window.room_bytes > 0:
            window.handed_out(UNIT)
            uplink.send(UNIT, now)
        if now > 5.0:
            seen.add(window.pace())
        now += LOOK_S
    assert len(seen) <= 2


def test_an_uplink_is_drained_before_it_is_idle() -> None:
    window = UplinkWindow()
    window.seen({PEER: PathState(0, ROUND_TRIP_S, 0)}, 0, 0.0)
    assert window.is_drained
    window.handed_out(THIN_WINDOW_BYTES_MIN // 4)
    assert window.is_drained
    window.handed_out(1)
    assert not window.is_drained
