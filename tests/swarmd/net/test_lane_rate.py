"""What follows from the rate of a lane."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.net.lane_rate import (
    SPAN_S,
    UNSENT_BYTES_MAX,
    UNSENT_BYTES_MIN,
    UNSENT_BYTES_START,
    RateMeter,
    record_bytes_max,
    unsent_bytes_max,
)
from swarmd.net.lane_records import RECORD_BYTES_MAX

THIN = 2_500_000
"""20 Mbit/s, bytes per second."""


def test_a_rate_is_that_of_the_last_span() -> None:
    meter = RateMeter()
    meter.note(0, 0.0)
    meter.note(1000, SPAN_S / 2)
    assert meter.bytes_per_s is None
    meter.note(1000, SPAN_S)
    assert meter.bytes_per_s == pytest.approx(2000 / SPAN_S)
    meter.note(0, 10.0)
    assert meter.bytes_per_s == 0.0


def test_unsent_bytes_follow_the_rate() -> None:
    assert unsent_bytes_max(None) == UNSENT_BYTES_START
    assert unsent_bytes_max(0.0) == UNSENT_BYTES_MIN
    assert unsent_bytes_max(THIN) == 32 * 1024
    assert unsent_bytes_max(THIN / 4) == UNSENT_BYTES_MIN
    assert unsent_bytes_max(1e9) == UNSENT_BYTES_MAX


@given(rate=st.floats(0, 1e12))
def test_bounds_hold_at_any_rate(rate: float) -> None:
    limit = unsent_bytes_max(rate)
    assert UNSENT_BYTES_MIN <= limit <= UNSENT_BYTES_MAX
    assert limit & (limit - 1) == 0
    record = record_bytes_max(rate)
    assert UNSENT_BYTES_MIN <= record <= min(limit, RECORD_BYTES_MAX)
    assert record & (record - 1) == 0


def test_records_are_short_on_thin_links_only() -> None:
    """Of a record nothing can be used before it is there whole: 16 KiB take 7 ms at 20 Mbit/s."""
    assert record_bytes_max(None) == record_bytes_max(0.0) == UNSENT_BYTES_MIN
    assert record_bytes_max(THIN) == UNSENT_BYTES_MIN
    assert record_bytes_max(1e9) == RECORD_BYTES_MAX
