"""Patch objects: what is built is what is made, and no patch makes a reader do anything else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunks.byte_source import BytesSource
from chunks.patch import (
    BASE_WORK_BYTES,
    FRAME_BASE_BYTES_MAX,
    FRAME_CONTENT_BYTES_MAX,
    FRAME_RANGES_MAX,
    TABLE_BYTES_MAX,
    PatchError,
    PatchReader,
    PatchTable,
    frame_bytes_max,
    read_patch,
    table_bytes,
)
from chunks.patch_builder import fitting_plan, is_promising
from chunks.patch_plan import FRAME_AIM_BYTES, plan_patch
from chunks.recipe import Recipe
from protocol.digest import sha256
from protocol.errors import LocalProtocolError, StorageError
from protocol.limits import GIB, IMAGE_BYTES_MAX, KIB, MIB
from tests.chunks.chunk_images import SMALL_CDC, Sample, generated
from tests.chunks.patches import (
    COPY,
    FRAME,
    HEAD,
    RANGE,
    copy,
    frame_of,
    framed,
    pair,
    patch_between,
    patch_of,
    raw_patch,
)
from tests.support.strategies import few, many


def opened(patch: bytes, base: bytes, target_bytes: int) -> PatchReader:
    source = BytesSource(patch)
    table = read_patch(source, target_bytes=target_bytes, base_bytes=len(base))
    return PatchReader(table, patch=source, base=BytesSource(base))


def made(patch: bytes, base: bytes, target_bytes: int, step: int = 1000) -> bytes:
    reader = opened(patch, base, target_bytes)
    return b"".join(
        reader.read(start, min(step, target_bytes - start))
        for start in range(0, target_bytes, step)
    )


# Building and reading ----------------------------------------------------------------------------


@pytest.mark.parametrize("copy_bytes_min", [1, 512, 4096, 2**40])
@pytest.mark.parametrize("step", [333, 1024, 20_000])
def test_a_patch_makes_the_new_image(copy_bytes_min: int, step: int) -> None:
    old, new = pair()
    patch = patch_between(old, new, copy_bytes_min=copy_bytes_min)
    assert made(patch, old.data, len(new.data), step) == new.data
    assert len(patch) < 3000 < len(new.data)  # 700 bytes are new, 21 are altered


def test_the_same_pair_gives_the_same_patch() -> None:
    old, new = pair()
    assert patch_between(old, new) == patch_between(old, new)


@few
@given(
    old=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    new=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    copy_bytes_min=st.sampled_from([1, 900, 2**30]),
    wanted=st.data(),
)
def test_any_two_images_have_a_patch(
    old: list[int], new: list[int], copy_bytes_min: int, wanted: st.DataObject
) -> None:
    base, target = (
        Sample(b"".join(generated(f"block {each}", 1500) for each in blocks), SMALL_CDC)
        for blocks in (old, new)
    )
    patch = patch_between(base, target, copy_bytes_min=copy_bytes_min)
    reader = opened(patch, base.data, len(target.data))
    for _ in range(4):  # in any order, not only forwards
        start = wanted.draw(st.integers(0, len(target.data) - 1))
        length = wanted.draw(st.integers(1, min(3000, len(target.data) - start)))
        assert reader.read(start, length) == target.data[start : start + length]


def test_images_without_anything_in_common() -> None:
    old, new = Sample(generated("a", 5000), SMALL_CDC), Sample(generated("b", 4000), SMALL_CDC)
    patch = patch_between(old, new)
    assert made(patch, old.data, 4000) == new.data
    assert len(patch) < 4200


def test_only_what_promises_something_is_built() -> None:
    """A publisher does not spend minutes on images that are compressed as a whole."""
    old, new = pair(20_000)
    other = Sample(generated("another", 20_000), SMALL_CDC)
    for target, expected in ((new, True), (old, True), (other, False)):
        plan = plan_patch(old.recipe, target.recipe, 512)
        assert (
            is_promising(plan, base=BytesSource(old.data), target=BytesSource(target.data))
            is expected
        )


def test_reading_outside_the_target_is_a_defect_of_the_caller() -> None:
    old, new = pair()
    reader = opened(patch_between(old, new), old.data, len(new.data))
    for offset, length in ((-1, 2), (0, 0), (len(new.data), 1), (0, len(new.data) + 1)):
        with pytest.raises(LocalProtocolError):
            reader.read(offset, length)


def test_a_base_that_cannot_be_read_is_no_fault_of_the_patch() -> None:
    class Rotten(BytesSource):
        def read(self, offset: int, length: int) -> bytes:
            raise StorageError("rotten")

    old, new = pair()
    source = BytesSource(patch_between(old, new))
    table = read_patch(source, target_bytes=len(new.data), base_bytes=len(old.data))
    with pytest.raises(StorageError):
        PatchReader(table, patch=source, base=Rotten(old.data)).read(0, 100)


# Plans -------------------------------------------------------------------------------------------


def chunks(numbers: Iterator[int] | range | list[int], length: int) -> Recipe:
    """A recipe of chunks that are known by number."""
    digests = [sha256(b"chunk %d" % number) for number in numbers]
    return Recipe([length] * len(digests), b"".join(digests))


def check_plan(base: Recipe, target: Recipe, copy_bytes_min: int) -> int:
    """Checks that a plan keeps every bound of the format; returns its number of segments."""
    plan = plan_patch(base, target, copy_bytes_min)
    position = work = 0
    for planned in plan:
        segment = planned.segment
        assert planned.offset == position
        position += segment.length
        end = -1
        for offset, length in segment.ranges:
            assert end < offset < offset + length <= base.size_bytes
            end = offset + length
        if segment.frame is not None:
            named = sum(length for _, length in segment.ranges)
            work += named
            assert segment.length <= FRAME_AIM_BYTES <= FRAME_CONTENT_BYTES_MAX
            assert named <= FRAME_BASE_BYTES_MAX
            assert len(segment.ranges) <= FRAME_RANGES_MAX
    assert position == target.size_bytes
    return len(plan)


@pytest.mark.slow
@many
@given(
    base=st.lists(st.integers(0, 30), min_size=1, max_size=40),
    target=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    length=st.sampled_from([1, 1000, MIB]),
    copy_bytes_min=st.sampled_from([1, 3000, 2 * MIB, 2**40]),
)
def test_every_plan_keeps_the_bounds(
    base: list[int], target: list[int], length: int, copy_bytes_min: int
) -> None:
    check_plan(chunks(base, length), chunks(target, length), copy_bytes_min)


def test_what_did_not_change_is_copied() -> None:
    base = chunks(range(100), 16 * KIB)
    plan = plan_patch(base, base)
    assert [(each.segment.length, each.segment.frame) for each in plan] == [(100 * 16 * KIB, None)]


def test_what_changed_is_looked_for_between_its_neighbours() -> None:
    base = chunks(range(1000), 16 * KIB)
    target = chunks([*range(500), 5000, *range(501, 1000)], 16 * KIB)
    before, changed, after = plan_patch(base, target)
    assert before.segment.frame is after.segment.frame is None
    ((offset, length),) = changed.segment.ranges
    assert offset < 500 * 16 * KIB < 501 * 16 * KIB < offset + length < offset + MIB


@pytest.mark.slow
def test_a_table_that_would_be_too_long_gets_longer_copies() -> None:
    # Every seventeenth chunk of 4 GiB is new: 30,840 segments, copies of 256 KiB between them.
    count = 2**18
    base = chunks(range(count), 16 * KIB)
    target = chunks([number if number % 17 else -number for number in range(count)], 16 * KIB)
    assert table_bytes(each.segment for each in plan_patch(base, target)) > TABLE_BYTES_MAX
    plan = fitting_plan(base, target)
    assert table_bytes(each.segment for each in plan) <= TABLE_BYTES_MAX
    work = sum(
        length
        for each in plan
        if each.segment.frame is not None
        for _, length in each.segment.ranges
    )
    assert work <= 2 * target.size_bytes + BASE_WORK_BYTES


# Patches that lie --------------------------------------------------------------------------------

BASE = generated("base", 3000)
TARGET = BASE[:1000] + b"new" * 100 + BASE[2000:]


def honest() -> bytes:
    frame = frame_of(TARGET[1000:1300], BASE[900:2100])
    return patch_of(
        len(TARGET),
        len(BASE),
        (copy(1000, 0), b""),
        (framed(300, (900, 1200)), frame),
        (copy(1000, 2000), b""),
    )


def test_the_honest_patch_of_these_attacks_works() -> None:
    assert made(honest(), BASE, len(TARGET)) == TARGET


def frame_entry(length: int, frame_bytes: int, *ranges: tuple[int, int], kind: int = 2) -> bytes:
    head = FRAME.pack(kind, length, frame_bytes, len(ranges))
    return head + b"".join(RANGE.pack(*each) for each in ranges)


SIZES = {"target_bytes": 100, "base_bytes": 3000}
ALL = COPY.pack(1, 100, 0)


@pytest.mark.parametrize(
    "patch",
    [
        b"",
        b"S",
        raw_patch([ALL], **SIZES)[:-1],
        raw_patch([ALL], **SIZES) + b"x",
        raw_patch([ALL], **SIZES, magic=b"SWPATCH2"),
        raw_patch([ALL], **SIZES, magic=bytes(8)),
        raw_patch([ALL], **SIZES, count=2),
        raw_patch([ALL], **SIZES, count=2**32 - 1),
        raw_patch([ALL], **SIZES, table_bytes=2**32 - 1),
        raw_patch([ALL], **SIZES, table_bytes=TABLE_BYTES_MAX + 1, frames=bytes(TABLE_BYTES_MAX)),
        raw_patch([ALL], **SIZES, table_bytes=3),
        raw_patch([], **SIZES),
        raw_patch([ALL, ALL], **SIZES),
        raw_patch([COPY.pack(1, 99, 0)], **SIZES),
        raw_patch([COPY.pack(1, 101, 0)], **SIZES),
        raw_patch([COPY.pack(1, 2**64 - 1, 0)], **SIZES),
        raw_patch([COPY.pack(1, 100, 2901)], **SIZES),
        raw_patch([COPY.pack(1, 100, 2**64 - 1)], **SIZES),
        raw_patch([COPY.pack(1, 0, 0), ALL], **SIZES),
        raw_patch([COPY.pack(0, 100, 0)], **SIZES),
        raw_patch([COPY.pack(3, 100, 0)], **SIZES),
        raw_patch([frame_entry(100, 0)], **SIZES),
        raw_patch([frame_entry(100, 9)], **SIZES, frames=b"x" * 8),
        raw_patch([frame_entry(100, frame_bytes_max(100) + 1)], **SIZES, frames=bytes(229)),
        raw_patch([frame_entry(0, 9), ALL], **SIZES, frames=b"x" * 9),
        raw_patch([frame_entry(100, 9, (0, 0))], **SIZES, frames=b"x" * 9),
        raw_patch([frame_entry(100, 9, (0, 3001))], **SIZES, frames=b"x" * 9),
        raw_patch([frame_entry(100, 9, (5, 5), (0, 5))], **SIZES, frames=b"x" * 9),
        raw_patch([frame_entry(100, 9, (0, 5), (5, 5))], **SIZES, frames=b"x" * 9),
        raw_patch([frame_entry(100, 9, (0, 5), (4, 5))], **SIZES, frames=b"x" * 9),
        raw_patch(
            [frame_entry(100, 9, *((9 * n, 1) for n in range(FRAME_RANGES_MAX + 1)))],
            **SIZES,
            frames=b"x" * 9,
        ),
        raw_patch([frame_entry(100, 9, (0, 5))[:-1]], **SIZES, frames=b"x" * 9),
    ],
)
def test_one_thing_wrong_with_a_table(patch: bytes) -> None:
    with pytest.raises(PatchError):
        read_patch(BytesSource(patch), target_bytes=100, base_bytes=3000)


@pytest.mark.parametrize(
    ("target_bytes", "base_bytes"), [(99, 3000), (100, 2999), (3000, 100), (0, 0)]
)
def test_a_patch_for_other_images_is_refused(target_bytes: int, base_bytes: int) -> None:
    source = BytesSource(raw_patch([ALL], **SIZES))
    with pytest.raises(PatchError):
        read_patch(source, target_bytes=target_bytes, base_bytes=base_bytes)


@pytest.mark.parametrize("size", [0, IMAGE_BYTES_MAX + 1, 2**64 - 1])
def test_sizes_that_no_image_has(size: int) -> None:
    for sizes in ({"target_bytes": size, "base_bytes": 9}, {"target_bytes": 9, "base_bytes": size}):
        with pytest.raises(PatchError):
            read_patch(BytesSource(raw_patch([], **sizes)), **sizes)


def test_large_frames_and_dictionaries_are_refused() -> None:
    sizes = {"target_bytes": FRAME_CONTENT_BYTES_MAX + 1, "base_bytes": GIB}
    for entry in (
        frame_entry(FRAME_CONTENT_BYTES_MAX + 1, 9),
        frame_entry(FRAME_CONTENT_BYTES_MAX, 9, (0, FRAME_BASE_BYTES_MAX + 1)),
        frame_entry(FRAME_CONTENT_BYTES_MAX, 9, (0, FRAME_BASE_BYTES_MAX), (GIB - 1, 1)),
    ):
        patch = raw_patch([entry, COPY.pack(1, 1, 0)], **sizes, frames=b"x" * 9)
        with pytest.raises(PatchError, match="patch frame of"):
            read_patch(BytesSource(patch), **sizes)
    entry = frame_entry(FRAME_CONTENT_BYTES_MAX, 9, (0, FRAME_BASE_BYTES_MAX))
    patch = raw_patch([entry, COPY.pack(1, 1, 0)], **sizes, frames=b"x" * 9)
    assert isinstance(read_patch(BytesSource(patch), **sizes), PatchTable)


def test_a_short_patch_cannot_ask_for_endless_reading() -> None:
    entry = frame_entry(1, 9, (0, FRAME_BASE_BYTES_MAX))
    count = BASE_WORK_BYTES // FRAME_BASE_BYTES_MAX + 1
    patch = raw_patch(
        [entry] * count, target_bytes=count, base_bytes=GIB, frames=b"x" * (9 * count)
    )
    with pytest.raises(PatchError, match="reading allowed"):
        read_patch(BytesSource(patch), target_bytes=count, base_bytes=GIB)


def test_a_long_table_is_refused_before_it_is_read() -> None:
    class Endless(BytesSource):
        @property
        def size_bytes(self) -> int:
            return GIB

        def read(self, offset: int, length: int) -> bytes:
            assert (offset, length) == (0, HEAD.size)
            return super().read(offset, length)

    source = Endless(raw_patch([], **SIZES, table_bytes=GIB - HEAD.size))
    with pytest.raises(PatchError, match="table"):
        read_patch(source, target_bytes=100, base_bytes=3000)


@pytest.mark.parametrize(
    "frame",
    [
        frame_of(bytes(64 * MIB)),  # a bomb
        frame_of(bytes(99)),
        frame_of(bytes(101)),
        frame_of(bytes(100))[:-1],
        frame_of(bytes(100)) + b"x",
        frame_of(bytes(50)) + frame_of(bytes(50)),
        b"x" * 50,
        bytes.fromhex("502a4d18") + (100).to_bytes(4, "little") + bytes(100),
    ],
)
def test_frames_that_are_not_what_the_table_says(frame: bytes) -> None:
    frame = frame[: frame_bytes_max(100)]
    patch = raw_patch([frame_entry(100, len(frame), (0, 50))], **SIZES, frames=frame)
    reader = opened(patch, BASE, 100)
    tracemalloc.start()
    try:
        with pytest.raises(PatchError):
            reader.read(0, 100)
        assert tracemalloc.get_traced_memory()[1] < 128 * KIB
    finally:
        tracemalloc.stop()


def test_another_base_makes_other_bytes_and_nothing_worse() -> None:
    other = generated("other base", len(BASE))
    with suppress(PatchError):
        assert made(honest(), other, len(TARGET)) != TARGET


@pytest.mark.slow
@many
@given(data=st.data())
def test_damaged_patches_make_the_right_length_or_nothing(data: st.DataObject) -> None:
    patch = bytearray(honest())
    for _ in range(data.draw(st.integers(1, 3))):
        patch[data.draw(st.integers(0, len(patch) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(PatchError):
        assert len(made(bytes(patch), BASE, len(TARGET))) == len(TARGET)


@many
@given(entries=st.binary(max_size=200), count=st.integers(0, 12), frames=st.binary(max_size=40))
def test_any_table_is_refused_or_keeps_the_bounds(
    entries: bytes, count: int, frames: bytes
) -> None:
    patch = raw_patch([entries], **SIZES, count=count, frames=frames)
    with suppress(PatchError):
        table = read_patch(BytesSource(patch), target_bytes=100, base_bytes=3000)
        assert sum(segment.length for segment in table.segments) == 100


@pytest.mark.slow
def test_the_working_set_does_not_grow_with_the_image() -> None:
    base = generated("large base", MIB) * 40
    target = generated("large target", MIB) * 24 + base[: 16 * MIB]
    ranges = ((0, FRAME_BASE_BYTES_MAX),)
    parts = [
        (framed(8 * MIB, *ranges), frame_of(target[n : n + 8 * MIB], base[:FRAME_BASE_BYTES_MAX]))
        for n in range(0, 24 * MIB, 8 * MIB)
    ]
    patch = patch_of(len(target), len(base), *parts, (copy(16 * MIB, 0), b""))
    reader = opened(patch, base, len(target))
    tracemalloc.start()
    try:
        for start in range(0, len(target), 64 * KIB):
            assert reader.read(start, 64 * KIB) == target[start : start + 64 * KIB]
        assert tracemalloc.get_traced_memory()[1] < 32 * MIB
    finally:
        tracemalloc.stop()
