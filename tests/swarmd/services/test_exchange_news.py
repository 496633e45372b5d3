"""How often peers are told what was verified."""

from __future__ import annotations

from swarmd.services.exchange_news import (
    FAST_CHUNKS_PER_S,
    HAVE_DELAY_S,
    HAVE_DELAY_S_MAX,
    next_delay_s,
)


def test_thin_links_are_told_soon_whatever_was_before() -> None:
    assert next_delay_s(HAVE_DELAY_S, 1) == HAVE_DELAY_S
    assert next_delay_s(HAVE_DELAY_S_MAX, 10) == HAVE_DELAY_S


def test_where_much_comes_in_news_is_told_less_often_up_to_a_bound() -> None:
    delay_s, told = HAVE_DELAY_S, []
    for _ in range(5):
        delay_s = next_delay_s(delay_s, int(FAST_CHUNKS_PER_S * delay_s) + 1)
        told.append(delay_s)
    assert told == [0.1, 0.2, HAVE_DELAY_S_MAX, HAVE_DELAY_S_MAX, HAVE_DELAY_S_MAX]
