"""The agenda gives what a heap would."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmd.simulation.agenda import NEVER, Entry, Timeline, Windows

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
        agenda, heap, made, seen = Timeline(), list[Entry](), 0, []

        def push(time: float, event: object) -> None:
            nonlocal made
            made += 1
            if is_heap:  # noqa: B023 - called at once
                heapq.heappush(heap, (time, made, 0, 0, event))  # noqa: B023
            else:
                agenda.push((time, made, 0, 0, event), 0)  # noqa: B023

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
    agenda = Timeline()
    for order in range(4):
        agenda.push((1.0, order, 0, 0, None), 0)
    assert [next(agenda.until(1.0))[1] for _ in range(3)] == [0, 1, 2]
    agenda.push((1.0, 9, 0, 0, None), 0)
    assert [entry[1] for entry in agenda.until(1.0)] == [3, 9]
    assert list(agenda.until(9.0)) == []


def test_what_is_not_kept_does_not_come() -> None:
    for agenda in (Timeline(), Windows(0.1)):
        for order in range(8):
            agenda.push((order * 0.05, order, order % 2, 0, None), order % 2)
        assert next(iter(agenda.until(1.0)))[1] == 0
        agenda.keep(lambda entry: entry[2] == 1)
        assert [entry[1] for entry in agenda.until(1.0)] == [1, 3, 5, 7]


WINDOW_S = 0.01


@given(
    starts=st.lists(
        st.tuples(
            st.floats(0, 0.05),
            st.integers(0, 3),
            st.lists(st.tuples(st.floats(0, 0.02), st.integers(0, 3)), max_size=3),
        ),
        max_size=20,
    ),
    stops=st.lists(st.floats(0, 0.08), max_size=4),
)
def test_in_windows_each_owner_has_the_order_that_all_have_on_a_timeline(
    starts: list[tuple[float, int, list[tuple[float, int]]]], stops: list[float]
) -> None:
    seen: list[dict[int, list[tuple[float, int]]]] = []
    for agenda in (Timeline(), Windows(WINDOW_S)):
        told: dict[int, list[tuple[float, int]]] = {}
        # Named by whoever made them: the order of making differs between owners.
        for number, (time, owner, follows) in enumerate(starts):
            agenda.push((time, number, owner, 0, follows), owner)
        made = [1000] * 4
        for stop in [*sorted(stops), 1.0]:
            for time, order, owner, _, event in agenda.until(stop):
                assert time <= stop
                told.setdefault(owner, []).append((time, order))
                assert isinstance(event, list)
                for delay, other in event:
                    least = 0.0 if other == owner else WINDOW_S * 1.001
                    made[owner] += 1
                    entry: Entry = (time + least + delay, made[owner] * 4 + owner, other, 0, [])
                    agenda.push(entry, other)
        seen.append(told)
    assert seen[0] == seen[1]


def test_nobody_reaches_another_within_a_window() -> None:
    agenda = Windows(WINDOW_S)
    agenda.push((0.001, 1, 0, 0, None), 0)
    agenda.push((0.002, 2, 1, 0, None), 1)
    assert next(agenda.until(1.0))[2] == 0
    with pytest.raises(AssertionError, match="0 reaches 1 within a window"):
        agenda.push((0.002, 3, 1, 0, None), 1)


def test_windows_tell_which_is_the_next_and_are_run_one_by_one() -> None:
    agenda = Windows(WINDOW_S)
    assert agenda.next == NEVER
    for order, time in enumerate((0.025, 0.0299, 0.0301)):
        agenda.push((time, order, 0, 0, None), 0)
    assert agenda.next == agenda.number(0.025) == 2
    assert [entry[1] for entry in agenda.window(2)] == [0, 1]
    assert agenda.next == 3
    assert list(agenda.window(2)) == []
    assert [entry[1] for entry in agenda.window(3)] == [2]
    assert agenda.next == NEVER
