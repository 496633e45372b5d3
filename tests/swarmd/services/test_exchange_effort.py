"""One peer's messages do not take the whole event loop."""

from __future__ import annotations

import pytest

from swarmd.services.exchange_effort import BURST_S, PAUSE_S_MAX, SHARE, Effort


@pytest.mark.parametrize("spent_s", [0.01, 0.3, 0.9])
def test_a_peer_whose_messages_cost_much_gets_its_share_and_no_more(spent_s: float) -> None:
    effort, now, total_s = Effort(), 0.0, 0.0
    while now < 100:
        now += spent_s
        total_s += spent_s
        now += effort.pause_s(spent_s, now)
    assert 0.8 * SHARE * 100 <= total_s <= SHARE * 100 + BURST_S + 2


def test_cheap_messages_are_never_held_up() -> None:
    effort = Effort()
    assert all(effort.pause_s(0.0001, step * 0.0003) == 0 for step in range(100_000))


def test_no_pause_is_longer_than_a_muxer_bears() -> None:
    assert Effort().pause_s(60.0, 60.0) == PAUSE_S_MAX
