from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bitfield import Bitfield, bits_of, iterate_bits
from protocol.errors import EncodingError, LocalProtocolError

SIZES = st.integers(0, 300)


@st.composite
def index_sets(draw: st.DrawFn) -> tuple[int, set[int]]:
    size = draw(SIZES)
    indices = draw(st.sets(st.integers(0, size - 1))) if size else set()
    return size, indices


@given(index_sets())
def test_the_wire_form_carries_exactly_the_set(case: tuple[int, set[int]]) -> None:
    size, indices = case
    field = Bitfield(size, bits_of(indices))
    data = field.encode()
    assert len(data) == (size + 7) // 8
    decoded = Bitfield.decode(data, size)
    assert decoded == field
    assert list(decoded) == sorted(indices)
    assert decoded.count == len(indices)
    assert decoded.is_full == (len(indices) == size)
    assert all((i in decoded) == (i in indices) for i in range(-1, size + 1))


def test_chunk_zero_is_the_most_significant_bit_of_the_first_byte() -> None:
    assert Bitfield(10, bits_of([0, 9])).encode() == bytes.fromhex("8040")


@pytest.mark.parametrize(
    ("data", "size"), [("", 1), ("00", 0), ("0000", 8), ("01", 7), ("8020", 10), ("ff", 9)]
)
def test_wrong_lengths_and_spare_bits_are_refused(data: str, size: int) -> None:
    with pytest.raises(EncodingError):
        Bitfield.decode(bytes.fromhex(data), size)


def test_positions_outside_are_a_defect_of_ours() -> None:
    field = Bitfield(8)
    for call in (field.add, field.discard):
        for index in (-1, 8):
            with pytest.raises(LocalProtocolError):
                call(index)
    with pytest.raises(LocalProtocolError):
        field.update((1, 8))
    assert field.count == 0
    field.update((7, 1))
    assert list(field) == [1, 7]
    with pytest.raises(LocalProtocolError):
        Bitfield(8, 1 << 8)
    with pytest.raises(LocalProtocolError):
        Bitfield(-1)


def test_copies_are_independent_and_equality_includes_the_size() -> None:
    field = Bitfield(8)
    copy = field.copy()
    copy.add(3)
    assert 3 in copy
    assert 3 not in field
    copy.discard(3)
    assert copy == field
    assert field != Bitfield(9)
    assert field != "x"
    assert repr(Bitfield.full(3)) == "Bitfield(3 of 3)"


@given(st.sets(st.integers(0, 9000), max_size=60), st.integers(0, 9000))
def test_iteration_from_a_start_equals_a_filtered_sort(positions: set[int], start: int) -> None:
    expected = sorted(p for p in positions if p >= start)
    assert list(iterate_bits(bits_of(positions), start=start)) == expected
