from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunks.bitmap import Bitmap
from protocol.errors import EncodingError, LocalProtocolError
from protocol.runs import Runs


@settings(max_examples=50)
@given(st.integers(1, 300), st.data())
def test_a_bitmap_is_a_set_of_indices(length: int, data: st.DataObject) -> None:
    bitmap, model = Bitmap(length), set[int]()
    for index in data.draw(st.lists(st.integers(0, length - 1), max_size=30)):
        if data.draw(st.booleans()):
            assert bitmap.add(index) is (index not in model)
            model.add(index)
        else:
            assert bitmap.discard(index) is (index in model)
            model.discard(index)
    assert bitmap.count == len(model)
    assert [i for i in range(length) if i in bitmap] == sorted(model)
    assert list(bitmap.missing()) == sorted(set(range(length)) - model)
    assert Bitmap.decode(bitmap.encode(), length) == bitmap == bitmap.copy()
    assert bitmap | Bitmap.full(length) == Bitmap.full(length)
    assert bitmap & Bitmap(length) == Bitmap(length)
    assert bitmap.is_full is (len(model) == length)


def test_bit_order_is_bittorrents() -> None:
    bitmap = Bitmap(10)
    bitmap.add(0)
    bitmap.add(9)
    assert bitmap.encode() == bytes([0b1000_0000, 0b0100_0000])
    assert Bitmap.full(10).encode() == bytes([0xFF, 0b1100_0000])
    assert Bitmap.full(16).encode() == b"\xff\xff"


@pytest.mark.parametrize("data", [b"", b"\x00", bytes(3), b"\x00\x20", b"\x00\x01"])
def test_bitmaps_that_do_not_fit(data: bytes) -> None:
    with pytest.raises(EncodingError):
        Bitmap.decode(data, 10)


def test_misuse() -> None:
    bitmap = Bitmap(10)
    for index in (-1, 10):
        with pytest.raises(LocalProtocolError):
            bitmap.add(index)
    with pytest.raises(LocalProtocolError):
        _ = bitmap | Bitmap(11)
    assert bitmap != Bitmap(11)
    assert bitmap != "bitmap"
    assert len(bitmap) == 10
    with pytest.raises(TypeError):
        hash(bitmap)


@given(st.integers(1, 80), st.data())
def test_runs_of_bits_are_what_the_single_bits_say(length: int, data: st.DataObject) -> None:
    bitmap, members = Bitmap(length), set[int]()
    for _ in range(data.draw(st.integers(1, 5))):
        first = data.draw(st.integers(0, length - 1))
        count = data.draw(st.integers(1, length - first))
        span = set(range(first, first + count))
        assert set(Runs(bitmap.missing_runs(first, count))) == span - members
        assert set(Runs(bitmap.held_runs(first, count))) == span & members
        assert bitmap.covers(first, count) == (span <= members)
        assert set(Runs(bitmap.add_run(first, count))) == span - members
        members |= span
        lost = data.draw(st.integers(0, length - 1))
        bitmap.discard(lost)
        members.discard(lost)
        assert bitmap.count == len(members)
        reach = next((i for i in range(first, length + 1) if i not in members), length)
        assert bitmap.run_length(first, length) == reach - first
    assert {index for index in range(length) if index in bitmap} == members


@pytest.mark.parametrize("run", [(-1, 2), (0, 0), (7, 2), (8, 1)])
def test_runs_outside_the_bitmap(run: tuple[int, int]) -> None:
    for call in (Bitmap(8).add_run, Bitmap(8).covers, Bitmap(8).held_runs):
        with pytest.raises(LocalProtocolError):
            call(*run)
