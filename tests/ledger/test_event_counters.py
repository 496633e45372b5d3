"""What a group's counters forget never changes an answer."""

from __future__ import annotations

import random

from ledger.records.group import EventsRecord
from ledger.rules.evaluate import Facts, evaluate
from protocol.rule import EVENTS_KEPT, Comparison, Count, Counter


def test_thirty_two_remembered_events_answer_like_all_of_them() -> None:
    rng = random.Random(9)
    for _ in range(60):
        times, now = [], 0
        record = EventsRecord()
        for _ in range(rng.randint(0, 120)):
            now += rng.choice((0, 1, 10, 1000))
            times.append(now)
            record = record.having(Counter.AUTHORISED, now)
        assert len(record.authorised) == min(len(times), EVENTS_KEPT)
        assert EventsRecord.decode(record.encode()) == record
        for _ in range(20):
            rule = Count(
                Counter.AUTHORISED,
                rng.choice((1, 10, 5000, 10**6)),
                rng.choice(list(Comparison)),
                rng.randint(0, EVENTS_KEPT - 1),
            )
            at = now + rng.choice((0, 1, 900))
            answers = [
                evaluate(rule, Facts(fields={}, time_ms=at, events={Counter.AUTHORISED: known}))
                for known in (record.authorised, tuple(times))
            ]
            assert answers[0].truth is answers[1].truth
