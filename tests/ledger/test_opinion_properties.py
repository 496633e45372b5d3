"""Opinion and its bounds, for any order and timing of reports."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.records.codec import RECORD_BYTES_MAX
from ledger.records.defence import OpinionRecord, TallyRecord
from protocol.defence import DEFENCE_DAY_MS, DEFENCE_HOUR_MS, VOICES_MAX, DefenceRules
from protocol.digest import sha256

RULES = DefenceRules()
MARKS = sorted(sha256(b"owner %d" % index) for index in range(8))
REPORTS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 7), min_size=1, max_size=4),
        st.integers(1, 1000),
        st.integers(0, 30 * DEFENCE_HOUR_MS),
    ),
    max_size=20,
)


def components(groups):
    """Owners that are connected by having admitted one reporter together, naively."""
    merged = []
    for group in groups:
        touching = [other for other in merged if other & group]
        merged = [other for other in merged if not other & group]
        merged.append(set(group).union(*touching))
    return merged


@given(REPORTS)
@settings(max_examples=60, deadline=None)
def test_voices_are_at_most_the_owners_that_can_be_told_apart(reports):
    opinion, now_ms, heard = OpinionRecord(), 0, []
    for owners, weight, wait_ms in reports:
        now_ms += wait_ms
        marks = tuple(MARKS[index] for index in sorted(owners))
        opinion = opinion.heard(marks, weight, now_ms, RULES)
        heard.append((now_ms, owners))
        recent = [group for at, group in heard if now_ms - at < RULES.window_ms]
        count, total = opinion.live(now_ms, RULES)
        assert count <= len(components(recent))
        assert total <= 1000 * count
        seen = [mark for voice in opinion.voices for mark in voice.marks]
        assert len(seen) == len(set(seen)), "no two voices share a mark"
        assert OpinionRecord.decode(opinion.encode()) == opinion


@given(st.integers(1, 64), st.integers(17, 60))
@settings(max_examples=20, deadline=None)
def test_a_record_is_bounded_whatever_is_reported(marks_each, reporters):
    opinion = OpinionRecord()
    for number in range(reporters):
        marks = tuple(sorted(sha256(b"%d/%d" % (number, i)) for i in range(marks_each)))
        opinion = opinion.heard(marks, 1000, number, RULES)
        assert opinion.voice(marks) is not None, "the newest is always kept"
    assert len(opinion.voices) <= VOICES_MAX
    assert len(opinion.encode()) <= RECORD_BYTES_MAX
    assert OpinionRecord.decode(opinion.encode()) == opinion


@given(
    st.lists(st.integers(0, 2 * DEFENCE_DAY_MS), max_size=60),
    st.integers(0, 5),
    st.integers(0, DEFENCE_DAY_MS),
)
@settings(max_examples=100, deadline=None)
def test_no_24_hours_see_more_quarantines_than_the_share(waits_ms, cap, start_ms):
    tally, now_ms, taken = TallyRecord(), start_ms, []
    for wait_ms in waits_ms:
        now_ms += wait_ms // 16
        tally = tally.at(now_ms)
        if tally.recent < cap:
            tally = tally.one_more()
            taken.append(now_ms)
    for first in taken:
        assert sum(first <= at < first + DEFENCE_DAY_MS for at in taken) <= cap


@given(st.integers(0, 1000), st.integers(0, 10**9))
def test_fading_is_the_same_at_once_and_in_steps_of_an_hour(weight, age_ms):
    rules = replace(RULES, window_ms=30 * DEFENCE_DAY_MS)
    left = weight
    for _ in range(age_ms // DEFENCE_HOUR_MS):
        left = max(0, left - rules.decay_per_hour)
    assert rules.weight_at(weight, age_ms) == (left if age_ms < rules.window_ms else 0)
