"""Defence rules: strict form, and rules that could never or too easily be met."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.defence import (
    DEFENCE_DAY_MS,
    DEFENCE_HOUR_MS,
    SHARE_WHOLE,
    VOICES_MAX,
    WEIGHT_MAX,
    DefenceRules,
)
from protocol.errors import EncodingError


@st.composite
def rules(draw):
    voices = draw(st.integers(1, VOICES_MAX))
    return DefenceRules(
        voices_min=voices,
        threshold=draw(st.integers((voices - 1) * WEIGHT_MAX + 1, VOICES_MAX * WEIGHT_MAX)),
        window_ms=draw(st.integers(DEFENCE_HOUR_MS, 30 * DEFENCE_DAY_MS)),
        decay_per_hour=draw(st.integers(0, WEIGHT_MAX)),
        daily_share=draw(st.integers(0, SHARE_WHOLE)),
    )


@given(rules())
def test_reads_what_it_writes(made):
    assert DefenceRules.from_value(made.to_value()) == made


@pytest.mark.parametrize(
    "change",
    [
        {"voices_min": 0},
        {"voices_min": VOICES_MAX + 1},
        {"threshold": 0},
        {"threshold": 2000},  # two voices would do where three are asked for
        {"threshold": VOICES_MAX * WEIGHT_MAX + 1},
        {"window_ms": DEFENCE_HOUR_MS - 1},
        {"window_ms": 31 * DEFENCE_DAY_MS},
        {"decay_per_hour": -1},
        {"decay_per_hour": WEIGHT_MAX + 1},
        {"daily_share": SHARE_WHOLE + 1},
        {"daily_share": -1},
        {"quarantine_ms": 0},
        {"quarantine_ms": 367 * DEFENCE_DAY_MS},
        {"trust_ms": -1},
    ],
)
def test_refuses_rules_out_of_range(change):
    with pytest.raises(EncodingError):
        DefenceRules(**change)


@pytest.mark.parametrize("key", range(8))
def test_every_field_is_needed_and_typed(key):
    value = dict(DefenceRules().to_value())
    with pytest.raises(EncodingError):
        DefenceRules.from_value({k: v for k, v in value.items() if k != key})
    with pytest.raises(EncodingError):
        DefenceRules.from_value({**value, key: "1"})


@pytest.mark.parametrize("key", [8, -1, "x"])
def test_no_field_beyond(key):
    with pytest.raises(EncodingError):
        DefenceRules.from_value({**DefenceRules().to_value(), key: 1})


@given(rules(), st.integers(0, WEIGHT_MAX), st.integers(0, 40 * DEFENCE_DAY_MS))
def test_opinion_only_fades(made, weight, age_ms):
    now = made.weight_at(weight, age_ms)
    assert 0 <= made.weight_at(weight, age_ms + 1) <= now <= weight
    assert made.weight_at(weight, made.window_ms) == 0


def test_five_percent_rounded_down():
    assert [DefenceRules().cap(count) for count in (0, 19, 20, 39, 40, 1000)] == [0, 0, 1, 1, 2, 50]
