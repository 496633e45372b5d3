"""The agenda gives what a heap would."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from swarmd.simulation.agenda import Agenda, Entry

DELAYS = st.lists(st.floats(0, 3e-3), max_size=3)


@given(
    starts=st.lists(st.tuples(st.floats(0, 5e-3), DELAYS), max_size=20),
    stops=st.lists(st.floats(0, 8e-3), max_size=5),
)
def test_entries_come_in_order_of_time_then_of_making_as_from_a_heap(
    starts: list[tuple[float, list[float]]], stops: list[float]
) -> None:
    orders = []
    for is_heap in (False, True):
        agenda, heap, made, seen = Agenda(), list[Entry](), 0, []

        def push(time: float, event: object) -> None:
            nonlocal made
            made += 1
            if is_heap:  # noqa: B023 - called at once
                heapq.heappush(heap, (time, made, 0, 0, event))  # noqa: B023
            else:
                agenda.push((time, made, 0, 0, event))  # noqa: B023

        for time, delays in starts:
            push(time, delays)
        for stop in [*sorted(stops), 1.0]:
            due = _until(heap, stop) if is_heap else agenda.until(stop)
            for time, order, _, _, event in due:
                assert time <= stop
                seen.append((time, order))
                if isinstance(event, list):
                    for delay in event:
                        push(time + delay, None)
        orders.append(seen)
    assert orders[0] == orders[1]
    assert orders[0] == sorted(orders[0])
    assert len(orders[0]) == sum(1 + len(delays) for _, delays in starts)


def _until(heap: list[Entry], stop: float) -> Iterator[Entry]:
    while heap and heap[0][0] <= stop:
        yield heapq.heappop(heap)


def test_who_stops_in_the_middle_goes_on_there() -> None:
    agenda = Agenda()
    for order in range(4):
        agenda.push((1.0, order, 0, 0, None))
    assert [next(agenda.until(1.0))[1] for _ in range(3)] == [0, 1, 2]
    agenda.push((1.0, 9, 0, 0, None))
    assert [entry[1] for entry in agenda.until(1.0)] == [3, 9]
    assert list(agenda.until(9.0)) == []
