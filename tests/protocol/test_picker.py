from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from protocol.bitfield import bits_of
from protocol.picker import STARTS_MAX, RarestFirst

SIZE = 70
SETS = st.sets(st.integers(0, SIZE - 1))


@given(st.lists(SETS, max_size=12), st.data())
def test_counts_are_those_of_a_naive_counter(sets: list[set[int]], data: st.DataObject) -> None:
    picker = RarestFirst(size=SIZE, entropy=1)
    counter: Counter[int] = Counter()
    for members in sets:
        picker.gained(bits_of(members))
        counter.update(members)
    removed = data.draw(st.lists(st.sampled_from(sets), unique_by=id)) if sets else []
    for members in removed:
        picker.lost(bits_of(members))
        counter.subtract(members)
    assert [picker.availability(n) for n in range(SIZE)] == [counter[n] for n in range(SIZE)]


def ordered(picker: RarestFirst, candidates: int) -> list[int]:
    runs = picker.order(candidates)
    return [index for first, count in runs for index in range(first, first + count)]


@given(st.lists(SETS, max_size=9), SETS, st.integers(0, 2**64))
def test_order_is_a_permutation_with_rising_availability(
    sets: list[set[int]], candidates: set[int], entropy: int
) -> None:
    picker = RarestFirst(size=SIZE, entropy=entropy)
    for members in sets:
        picker.gained(bits_of(members))
    order = ordered(picker, bits_of(candidates))
    assert sorted(order) == sorted(candidates)
    counts = [picker.availability(n) for n in order]
    assert counts == sorted(counts)


def test_equal_entropy_gives_equal_orders_and_other_entropy_others() -> None:
    everything = (1 << SIZE) - 1

    def first_choices(entropy: int) -> list[int]:
        picker = RarestFirst(size=SIZE, entropy=entropy)
        picker.gained(everything)
        return [next(picker.order(everything))[0] for _ in range(20)]

    assert first_choices(5) == first_choices(5)
    starts = {first_choices(entropy)[0] for entropy in range(0, 2**64, 2**58)}
    assert len(starts) > SIZE // 4


def test_neighbours_come_together() -> None:
    picker = RarestFirst(size=SIZE, entropy=3)
    order = ordered(picker, (1 << SIZE) - 1)
    breaks = sum(right != left + 1 for left, right in pairwise(order))
    assert breaks <= 1  # only where the order wraps


def test_with_one_peer_the_order_begins_at_the_beginning() -> None:
    picker = RarestFirst(size=SIZE, entropy=2**63)
    picker.gained((1 << SIZE) - 1)
    for _ in range(3):
        assert list(picker.order((1 << SIZE) - 1, is_alone=True)) == [(0, SIZE)]


def test_with_several_peers_each_pick_starts_anywhere() -> None:
    picker = RarestFirst(size=SIZE, entropy=2**63)
    starts = Counter(next(picker.order((1 << SIZE) - 1))[0] for _ in range(10 * SIZE))
    assert len(starts) > 0.9 * SIZE
    assert max(starts.values()) < 40  # ten expected


def test_starts_in_large_images_are_so_far_apart_that_runs_stay_long() -> None:
    size = 2**18
    picker = RarestFirst(size=size, entropy=7)
    starts = [next(picker.order((1 << size) - 1))[0] for _ in range(50)]
    assert all(start % (size // STARTS_MAX) == 0 for start in starts)
    assert len(dict.fromkeys(starts)) > 40


def test_nothing_to_choose_from() -> None:
    assert list(RarestFirst(size=0, entropy=0).order(0)) == []
