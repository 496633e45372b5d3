"""Rules mean what the specification says: 500 random ones against a brute-force reading."""

from __future__ import annotations

import json
import random
from collections import Counter as Tally
from pathlib import Path

import pytest

from ledger.rules.evaluate import Facts, Reason, attribute_facts, evaluate
from protocol.calendar import DAY_MS, WeeklyWindow
from protocol.digest import Digest
from protocol.encoding import decode_canonical
from protocol.keys import PublicKey
from protocol.owner_root import Holder
from protocol.rule import (
    Age,
    All,
    AnyOf,
    Compare,
    Comparison,
    Count,
    Counter,
    InGroup,
    KOf,
    Moment,
    Not,
    OneOf,
    RuleField,
    Scope,
    Within,
)
from protocol.rule_codec import rule_from_value, rule_to_value
from tests.support.ledger import make_key
from tests.support.rule_oracle import KEYS, World, holds, leaves, random_rule, random_world

MONDAY_MS = 1_699_833_600_000
"""2023-11-13T00:00Z, a Monday."""


class KeyWithId(PublicKey):
    """A key whose id is chosen, so that the oracle needs no keys."""

    @property
    def key_id(self) -> Digest:
        return Digest(KEYS[KEY_OF[self.raw]])


PUBLIC = [make_key(f"rule/{index}").public.raw for index in range(len(KEYS))]
KEY_OF = {raw: index for index, raw in enumerate(PUBLIC)}


def facts_of(world: World) -> Facts:
    holders = []
    for index, (key_id, roles) in enumerate(world.roles):
        key = KeyWithId(PUBLIC[KEYS.index(key_id)])
        others = tuple(sorted(roles - {"owner"}))
        holders.append(Holder(key, f"holder {index}", "owner" in roles, others))
    return Facts(
        fields={RuleField(number): (value,) for number, value in world.fields.items()},
        time_ms=world.now,
        holders=tuple(holders),
        moments={Moment(number): time for number, time in world.moments.items()},
        events={Counter(number): times for number, times in world.events.items()},
        publisher_groups=world.publisher_groups,
    )


def test_random_rules_mean_what_brute_force_finds() -> None:
    rng = random.Random(20260101)
    outcomes: Tally[bool | None] = Tally()
    kinds: Tally[int] = Tally()
    compared = 0
    while compared < 500:
        value = random_rule(rng)
        if len(leaves(value)) > 12:
            continue  # 2^12 completions are enough
        kinds.update(leaf[0] for leaf in leaves(value))
        rule = rule_from_value(value, Scope.RELEASE)
        assert rule_to_value(rule) == value
        for _ in range(4):
            world = random_world(rng)
            found = evaluate(rule, facts_of(world)).truth
            assert found is holds(value, world), (value, world)
            outcomes[found] += 1
        compared += 1
    assert min(outcomes[True], outcomes[False], outcomes[None]) > 100
    assert set(kinds) == {4, 5, 6, 7, 8, 9, 10}


def test_reasons_are_the_evaluation() -> None:
    """The tree that people read combines to the truth that the ledger acts on."""
    rng = random.Random(7)
    for _ in range(200):
        reason = evaluate(
            rule_from_value(random_rule(rng), Scope.RELEASE), facts_of(random_world(rng))
        )
        _check_tree(reason)


def _check_tree(reason: Reason) -> None:
    for part in reason.parts:
        _check_tree(part)
    truths = [part.truth for part in reason.parts]
    if reason.text == "all of these hold":
        assert reason.truth is (False if False in truths else None if None in truths else True)
    elif reason.text == "any of these holds":
        assert reason.truth is (True if True in truths else None if None in truths else False)
    elif reason.parts:
        assert reason.truth is (None if truths == [None] else not truths[0])


UNKNOWN = Compare(RuleField.LIFETIME_MS, Comparison.AT_MOST, 1)
TRUE = Compare(RuleField.SEQUENCE, Comparison.EQUAL, 1)
FALSE = Not(TRUE)


@pytest.mark.parametrize(
    ("rule", "truth"),
    [
        (All((TRUE, UNKNOWN)), None),
        (All((FALSE, UNKNOWN)), False),
        (AnyOf((TRUE, UNKNOWN)), True),
        (AnyOf((FALSE, UNKNOWN)), None),
        (Not(UNKNOWN), None),
        (InGroup("site"), None),
        (Within(WeeklyWindow(127, 0, 1440)), None),
        (Age(Moment.PROPOSED, Comparison.AT_LEAST, 0), None),
        (Count(Counter.REVOKED, 1, Comparison.AT_LEAST, 0), None),
        (KOf(1, ("owner",)), False),
        (OneOf(RuleField.SEQUENCE, (1, 2)), True),
        (OneOf(RuleField.LIFETIME_MS, (1, 2)), None),
    ],
)
def test_what_is_unknown_stays_unknown(rule, truth) -> None:
    facts = Facts(fields={RuleField.SEQUENCE: (1,)})
    assert evaluate(rule, facts).truth is truth


@pytest.mark.parametrize(
    ("after_ms", "inside"),
    [
        (8 * 3_600_000 - 1, False),
        (8 * 3_600_000, True),
        (10 * 3_600_000 - 1, True),
        (10 * 3_600_000, False),
        (DAY_MS + 9 * 3_600_000, False),
        (2 * DAY_MS + 9 * 3_600_000, True),
        (7 * DAY_MS + 9 * 3_600_000, True),
    ],
)
def test_windows_are_of_days_and_minutes(after_ms: int, inside: bool) -> None:
    window = WeeklyWindow(0b0000101, 480, 600)  # Mondays and Wednesdays, 08:00 to 10:00
    facts = Facts(fields={}, time_ms=MONDAY_MS + after_ms)
    assert evaluate(Within(window), facts).truth is inside


@pytest.mark.parametrize("revision", ["", "x", "-1", "01", "1.0", "1" * 19, "\u0661"])
def test_a_revision_that_is_no_number_is_unknown(revision: str) -> None:
    rule = Compare(RuleField.HARDWARE_REVISION, Comparison.AT_LEAST, 0)
    attributes = {"hardware_revision": revision} if revision else {}
    assert evaluate(rule, attribute_facts(attributes)).truth is None


def test_a_key_with_two_roles_counts_once() -> None:
    holder = Holder(make_key("a").public, "a", True, ("auditor",))
    facts = Facts(fields={}, holders=(holder,))
    assert evaluate(KOf(1, ("auditor", "owner")), facts).truth is True
    assert evaluate(KOf(2, ("auditor", "owner")), facts).truth is False
    assert evaluate(KOf(2, ("owner", holder.key.key_id)), facts).truth is False


def test_not_equal_of_several_values_means_none_of_them() -> None:
    facts = attribute_facts({"tag:lab": "1", "tag:roof": "1"})
    assert evaluate(Compare(RuleField.TAG, Comparison.NOT_EQUAL, "lab"), facts).truth is False
    assert evaluate(Compare(RuleField.TAG, Comparison.NOT_EQUAL, "cellar"), facts).truth is True


def test_the_pinned_rules_come_to_their_pinned_truth() -> None:
    path = Path(__file__).parents[1] / "vectors" / "ledger" / "rules.json"
    for case in json.loads(path.read_text(encoding="utf-8"))["rules"]:
        value = decode_canonical(bytes.fromhex(case["rule"]), bytes_max=4096)
        rule = rule_from_value(value, Scope.RELEASE)
        for facts in case["facts"]:
            world = World(
                fields={int(number): fact for number, fact in facts["fields"].items()},
                roles=tuple(
                    (bytes.fromhex(key), frozenset(roles)) for key, roles in facts["approved"]
                ),
                now=facts["time_ms"],
                moments={int(number): time for number, time in facts["moments"].items()},
                events={int(number): tuple(times) for number, times in facts["events"].items()},
                publisher_groups=tuple(facts["publisher_groups"]),
            )
            assert evaluate(rule, facts_of(world)).truth is facts["truth"]
