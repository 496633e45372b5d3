"""`ChunkSet` is a set of integers, whatever is done to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.relay_chunks import ChunkSet, bit_runs, merge_runs
from protocol.relay_messages import runs_of

RUN = st.tuples(st.integers(0, 300), st.integers(1, 70))


@given(st.lists(st.tuples(st.booleans(), RUN), max_size=30), RUN)
def test_it_behaves_like_a_set(
    steps: list[tuple[bool, tuple[int, int]]], probe: tuple[int, int]
) -> None:
    chunks, model = ChunkSet(), set[int]()
    for adds, (first, count) in steps:
        numbers = set(range(first, first + count))
        if adds:
            chunks.add(first, count)
            model |= numbers
        else:
            chunks.remove(first, count)
            model -= numbers
    first, count = probe
    asked = range(first, first + count)
    assert [number in chunks for number in asked] == [number in model for number in asked]
    assert chunks.window(first, count) == sum(1 << n - first for n in asked if n in model)
    assert chunks.covers(first, count) == all(number in model for number in asked)
    assert chunks.touches(first, count) == any(number in model for number in asked)
    assert chunks.count(first, count) == sum(number in model for number in asked)
    assert chunks.absent_runs(first, count) == runs_of(n for n in asked if n not in model)


@given(st.integers(0, 100), st.integers(0, 2**60 - 1))
def test_only_set_bits_of_a_window_are_added(first: int, bits: int) -> None:
    chunks = ChunkSet()
    chunks.add(first, 60, bits)
    assert chunks.window(first, 60) == bits
    assert bit_runs(bits, first, 60) == runs_of(first + p for p in range(60) if bits >> p & 1)


@given(st.lists(RUN, max_size=20))
def test_merged_runs_hold_the_same_numbers_once(found: list[tuple[int, int]]) -> None:
    merged = merge_runs(list(found))
    numbers = [n for first, count in merged for n in range(first, first + count)]
    assert numbers == sorted({n for first, count in found for n in range(first, first + count)})
    assert merged == runs_of(numbers)


def test_memory_follows_the_largest_number_only() -> None:
    chunks = ChunkSet()
    assert 10**6 not in chunks
    chunks.remove(10**6, 5)
    assert chunks.window(10**6, 5) == 0
    chunks.add(3, 1)
    assert len(chunks._bytes) == 1
