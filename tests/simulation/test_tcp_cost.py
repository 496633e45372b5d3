"""The account of packets that `benchmarks/metered_day.py` gives, on timelines made by hand."""

from __future__ import annotations

from benchmarks.tcp_cost import HEADER_BYTES, Cost, cost
from benchmarks.wire_tap import Sent

TRIP_S = 0.01


def account(*sent: Sent, start_s: float = 0.0, end_s: float = 100.0) -> Cost:
    return cost([sent], start_s=start_s, end_s=end_s, trip_s=TRIP_S, idle_s=(300, 1200))


def test_an_answer_carries_the_acknowledgement_of_its_question() -> None:
    found = account(Sent(1.0, True, 39), Sent(1.01, False, 562))
    assert (found.segments, found.acknowledgements) == (2, 1)
    assert found.bytes == 39 + 562 + 3 * HEADER_BYTES
    assert found.bound_bytes == 39 + 562 + 4 * HEADER_BYTES


def test_an_answer_that_comes_late_carries_none() -> None:
    found = account(Sent(1.0, True, 39), Sent(1.06, False, 562))
    assert found.acknowledgements == 2


def test_every_second_full_segment_is_acknowledged_at_once() -> None:
    found = account(Sent(1.0, False, 5 * 1448))
    assert (found.segments, found.acknowledgements) == (5, 3)


def test_probes_follow_silence_and_those_before_the_start_are_not_counted() -> None:
    talk = [Sent(1.0, True, 10), Sent(1000.0, True, 10)]
    assert account(*talk, end_s=1001.0).probes == 2 * 3
    assert account(*talk, start_s=350.0, end_s=1001.0).probes == 2 * 2
    assert account(*talk, end_s=1000.0 + 2 * 1200.5).probes == 2 * (3 + 8 + 2)


def test_a_real_gateway_was_found_to_send_what_the_model_says() -> None:
    """Quarter of an hour in a network namespace: 6 questions, 6 answers, 6 lone acknowledgements,
    and a probe on each of two connections in each of three silences.
    """
    rounds = [315.0 * number for number in range(1, 4)]
    each = [Sent(0.0, True, 1)]
    for at in rounds:
        each += [Sent(at, True, 39), Sent(at + 0.02, False, 300)]
    found = cost([each, each], start_s=60.0, end_s=960.0, trip_s=TRIP_S, idle_s=(300, 1200))
    assert found.segments + found.acknowledgements + found.probes == 30
