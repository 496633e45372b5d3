"""Rollout plans and the hash that picks a stage's devices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import BlockId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.rollout import (
    SHARE_WHOLE,
    STAGES_MAX,
    Promotion,
    RolloutPlan,
    RolloutStage,
    device_position,
    is_in_stage,
)

BLOCK = BlockId(sha256(b"block"))
STAGE = RolloutStage(
    share=SHARE_WHOLE,
    soak_ms=0,
    success_sites_min=0,
    failure_sites_max=0,
    failure_share_max=0,
    sample_min=1,
)


def stages() -> st.SearchStrategy[RolloutStage]:
    return st.builds(
        RolloutStage,
        share=st.integers(1, SHARE_WHOLE),
        soak_ms=st.integers(0, 10**9),
        success_sites_min=st.integers(0, 10_000),
        failure_sites_max=st.integers(0, 10_000),
        failure_share_max=st.integers(0, SHARE_WHOLE),
        sample_min=st.integers(1, 1_000_000),
    )


@st.composite
def plans(draw: st.DrawFn) -> RolloutPlan:
    shares = sorted(draw(st.sets(st.integers(1, SHARE_WHOLE - 1), max_size=STAGES_MAX - 1)))
    return RolloutPlan(
        stages=tuple(replace(draw(stages()), share=share) for share in (*shares, SHARE_WHOLE)),
        priority=draw(st.integers(0, 9)),
        promotion=draw(st.sampled_from(Promotion)),
        extensions=draw(st.dictionaries(st.integers(-9, -1), st.integers(0, 9), max_size=2)),
    )


@given(plans())
def test_a_plan_survives_its_encoding(plan: RolloutPlan) -> None:
    raw = encode_canonical(plan.to_value())
    assert RolloutPlan.from_value(decode_canonical(raw, bytes_max=8192)) == plan


@pytest.mark.parametrize(
    "changes",
    [
        {"share": 0},
        {"share": SHARE_WHOLE + 1},
        {"soak_ms": -1},
        {"soak_ms": 367 * 24 * 3600 * 1000},
        {"success_sites_min": 10_001},
        {"failure_sites_max": -1},
        {"failure_share_max": 10_001},
        {"sample_min": 0},
        {"sample_min": 1_000_001},
    ],
)
def test_a_stage_out_of_range_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(EncodingError):
        replace(STAGE, **changes)


@pytest.mark.parametrize(
    "shares",
    [
        (),
        (SHARE_WHOLE - 1,),
        (10, 10, SHARE_WHOLE),
        (20, 10, SHARE_WHOLE),
        (SHARE_WHOLE, SHARE_WHOLE),
        (*range(1, STAGES_MAX + 1), SHARE_WHOLE),
    ],
)
def test_a_plan_that_could_not_run_to_its_end_is_refused(shares: tuple[int, ...]) -> None:
    with pytest.raises(EncodingError):
        RolloutPlan(stages=tuple(replace(STAGE, share=share) for share in shares))


@pytest.mark.parametrize(
    ("key", "value"),
    [(1, []), (1, 1), (1, [{}]), (2, 10), (2, True), (3, 0), (3, 3), (4, 1), ("1", 1)],
)
def test_a_plan_with_one_field_wrong_is_refused(key: int | str, value: object) -> None:
    wire = {**RolloutPlan(stages=(STAGE,)).to_value(), key: value}  # type: ignore[dict-item]
    with pytest.raises(EncodingError):
        RolloutPlan.from_value(wire)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", range(1, 7))
def test_a_stage_needs_each_of_its_fields(key: int) -> None:
    wire = dict(STAGE.to_value())  # type: ignore[call-overload]
    del wire[key]
    with pytest.raises(EncodingError):
        RolloutStage.from_value(wire)


@pytest.mark.parametrize("key", [7, -1])
def test_a_stage_has_no_other_fields(key: int) -> None:
    with pytest.raises(EncodingError):
        RolloutStage.from_value({**STAGE.to_value(), key: 0})  # type: ignore[dict-item]


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=32, max_size=32))
def test_a_device_of_one_stage_is_in_every_later_one(device: bytes, block: bytes) -> None:
    position = device_position(BlockId(block), device)
    inside = [is_in_stage(BlockId(block), device, share) for share in range(0, SHARE_WHOLE + 1, 50)]
    assert inside == sorted(inside)
    assert not inside[0]
    assert inside[-1]
    assert is_in_stage(BlockId(block), device, position + 1)
    assert not is_in_stage(BlockId(block), device, position)


@pytest.mark.parametrize("share", [100, 1000, 5000])
def test_a_stage_takes_its_share_of_a_fleet(share: int) -> None:
    count = 20_000
    taken = sum(is_in_stage(BLOCK, b"device-%d" % index, share) for index in range(count))
    expected = count * share // SHARE_WHOLE
    # Five standard deviations of the binomial distribution; the block is fixed, so is the outcome.
    assert abs(taken - expected) < 5 * (expected * (SHARE_WHOLE - share) / SHARE_WHOLE) ** 0.5


def test_another_block_picks_other_devices() -> None:
    other = BlockId(sha256(b"other block"))
    devices = [b"device-%d" % index for index in range(2000)]
    first = {device for device in devices if is_in_stage(BLOCK, device, 1000)}
    second = {device for device in devices if is_in_stage(other, device, 1000)}
    assert len(first & second) < len(first) // 2


@pytest.mark.parametrize("device", [b"", bytes(257)])
def test_a_device_without_a_usable_name_has_no_place(device: bytes) -> None:
    with pytest.raises(EncodingError):
        device_position(BLOCK, device)


def test_the_place_of_a_device_is_frozen() -> None:
    assert device_position(BlockId(bytes(32)), b"device") == 2353
