"""Runs are sets of indices, whatever they are made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bitfield import bits_of, iterate_bits
from protocol.errors import EncodingError, LocalProtocolError
from protocol.runs import Runs, iterate_runs, runs_of_flat

SPARSE = st.sets(st.integers(0, 200), max_size=40)
LONG = st.lists(st.tuples(st.integers(0, 9000), st.integers(1, 5000)), max_size=6).map(
    lambda spans: {n for first, count in spans for n in range(first, first + count)}
)
SETS = st.one_of(SPARSE, LONG)


@given(SETS)
def test_runs_are_the_set_they_were_made_of(members: set[int]) -> None:
    runs = Runs.of(members)
    assert list(runs) == sorted(members)
    assert len(runs) == len(members)
    assert runs.bits == bits_of(members)
    assert Runs.of_bits(runs.bits) == runs
    assert Runs.merged(reversed(runs.pairs)) == runs
    assert hash(Runs(runs.pairs)) == hash(runs)
    assert [index for index in range(210) if index in runs] == sorted(members & set(range(210)))
    assert all(
        left[0] + left[1] < right[0]
        for left, right in zip(runs.pairs, runs.pairs[1:], strict=False)
    )
    if members:
        assert (runs.first, runs.last) == (min(members), max(members))


@given(SETS)
def test_ascending_indices_need_no_sorting(members: set[int]) -> None:
    assert Runs.of_ascending(sorted(members)) == Runs.of(members)


@given(SETS, st.integers(0, 12_000))
def test_iterating_from_a_start_gives_what_is_behind_it(members: set[int], start: int) -> None:
    bits = bits_of(members)
    assert list(Runs(iterate_runs(bits, start=start))) == list(iterate_bits(bits, start=start))


@given(SPARSE, st.integers(0, 99))
def test_shifting_moves_every_index(members: set[int], distance: int) -> None:
    assert set(Runs.of(members).shifted(distance)) == {n + distance for n in members}


def test_runs_that_touch_are_one_when_merged_and_refused_otherwise() -> None:
    assert Runs.merged([(3, 2), (0, 3)]) == Runs([(0, 5)])
    for pairs in ([(0, 3), (3, 1)], [(0, 3), (2, 1)], [(5, 1), (0, 1)], [(0, 0)], [(-1, 2)]):
        with pytest.raises(LocalProtocolError):
            Runs(pairs)


@given(SPARSE)
def test_the_wire_form_comes_back(members: set[int]) -> None:
    runs = Runs.of(members)
    assert runs_of_flat(runs.flat(), below=201, count_max=40) == runs


@pytest.mark.parametrize(
    "flat", [[0], [0, 0], [1, 1, 0, 1], [0, 2, 2, 1], [0, 2, 1, 1], [0, 11], [9, 2], [0, 2, 4, 3]]
)
def test_wire_forms_that_are_no_runs_or_too_large_are_refused(flat: list[int]) -> None:
    with pytest.raises(EncodingError):
        runs_of_flat(flat, below=10, count_max=4)


def test_runs_are_compared_with_runs_only() -> None:
    assert Runs([(0, 2)]) != (0, 1)
    assert repr(Runs([(0, 2)])) == "Runs([(0, 2)])"
