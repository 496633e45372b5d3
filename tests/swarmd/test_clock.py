"""The clock and the entropy source: what machines are promised about both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.clock import Clock, ManualClock, SystemClock
from swarmd.entropy import Entropy, SeededEntropy, SystemEntropy


def test_the_system_clock_advances_and_dates_after_1970() -> None:
    clock: Clock = SystemClock()
    first = clock.monotonic()
    assert clock.monotonic() >= first
    assert isinstance(clock.wall_ms(), int)
    assert clock.wall_ms() > 0


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(wall_ms=1000, monotonic_s=5.0)
    clock.advance(1.5)
    assert (clock.monotonic(), clock.wall_ms()) == (6.5, 2500)


def test_the_wall_clock_may_jump_back_but_the_monotonic_one_may_not() -> None:
    clock = ManualClock(wall_ms=10**12)
    clock.set_wall_ms(0)
    assert (clock.wall_ms(), clock.monotonic()) == (0, 0.0)
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-0.1)


@pytest.mark.parametrize("entropy", [SystemEntropy(), SeededEntropy(1)])
def test_entropy_keeps_sizes_and_bounds(entropy: Entropy) -> None:
    assert [len(entropy.token(size)) for size in (0, 1, 31, 32, 33, 100)] == [0, 1, 31, 32, 33, 100]
    assert {entropy.uint(3) for _ in range(200)} == {0, 1, 2}
    assert entropy.uint(1) == 0


def test_two_system_tokens_differ() -> None:
    assert SystemEntropy().token(32) != SystemEntropy().token(32)


def test_seeded_streams_repeat_and_labels_separate_them() -> None:
    stream = SeededEntropy(7, "a").token(100)
    assert SeededEntropy(7, "a").token(100) == stream
    assert SeededEntropy(7, "b").token(100) != stream
    assert SeededEntropy(8, "a").token(100) != stream


@pytest.mark.slow
@given(st.lists(st.integers(0, 70), max_size=12))
def test_a_seeded_stream_does_not_depend_on_how_it_is_cut(sizes: list[int]) -> None:
    cut = SeededEntropy(3)
    assert b"".join(cut.token(size) for size in sizes) == SeededEntropy(3).token(sum(sizes))


@pytest.mark.parametrize("bound", [0, -1, 2**64 + 1])
def test_a_seeded_draw_refuses_bounds_it_cannot_serve_evenly(bound: int) -> None:
    with pytest.raises(ValueError, match="bound"):
        SeededEntropy(1).uint(bound)
