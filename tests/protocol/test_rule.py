"""The bounds of the rule language, and its one encoding."""

from __future__ import annotations

import random
from typing import Any

import pytest

from protocol.calendar import DURATION_MS_MAX, Freeze, WeeklyWindow, check_freezes
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.rule import (
    EVENTS_KEPT,
    HOLDERS_MAX,
    RULE_BYTES_MAX,
    RULE_COST_MAX,
    RULE_DEPTH_MAX,
    RULE_NODES_MAX,
    All,
    Compare,
    Comparison,
    Count,
    Counter,
    KOf,
    Not,
    OneOf,
    Rule,
    RuleField,
    Scope,
    rule_cost,
    rule_nodes,
    sorted_values,
    sorted_who,
)
from protocol.rule_codec import check_rule, rule_from_value, rule_to_value
from protocol.selector import selector_from_value
from tests.support.rule_oracle import random_rule

LEAF = Compare(RuleField.SEQUENCE, Comparison.AT_LEAST, 1)


def nested(depth: int) -> Rule:
    rule: Rule = LEAF
    for _ in range(depth - 1):
        rule = Not(rule)
    return rule


def test_random_rules_survive_the_wire() -> None:
    rng = random.Random(3)
    for _ in range(200):
        value = random_rule(rng)
        raw = encode_canonical(value)
        rule = rule_from_value(decode_canonical(raw, bytes_max=RULE_BYTES_MAX), Scope.RELEASE)
        assert encode_canonical(rule_to_value(rule)) == raw


def test_depth_is_bounded_on_both_ways() -> None:
    check_rule(nested(RULE_DEPTH_MAX), Scope.RELEASE)
    deep = nested(RULE_DEPTH_MAX + 1)
    with pytest.raises(EncodingError, match="deeper than 8"):
        check_rule(deep, Scope.RELEASE)
    with pytest.raises(EncodingError, match="deeper than 8"):
        rule_from_value(rule_to_value(deep), Scope.RELEASE)
    value: Any = [5, 3, 6, 1]
    for _ in range(2000):
        value = [3, value]
    with pytest.raises(EncodingError, match="deeper than 8"):
        rule_from_value(value, Scope.RELEASE)


def test_nodes_and_members_of_lists_are_bounded_together() -> None:
    full = All((LEAF,) * (RULE_NODES_MAX - 1))
    assert rule_nodes(full) == RULE_NODES_MAX
    check_rule(full, Scope.RELEASE)
    for big in (
        All((LEAF,) * RULE_NODES_MAX),
        OneOf(RuleField.SEQUENCE, tuple(range(RULE_NODES_MAX))),
    ):
        with pytest.raises(EncodingError, match="257 nodes"):
            check_rule(big, Scope.RELEASE)


def test_bytes_are_bounded() -> None:
    keys = sorted_who([bytes([0, number]) + bytes(30) for number in range(130)])
    with pytest.raises(EncodingError, match="bytes, at most 4096"):
        check_rule(KOf(1, keys), Scope.RELEASE)


def test_the_costliest_rule_is_within_the_bound() -> None:
    roles = tuple(sorted(f"r{number:03d}" for number in range(RULE_NODES_MAX - 1)))
    counts = All((Count(Counter.PROPOSED, 1, Comparison.LESS, 1),) * (RULE_NODES_MAX - 1))
    check_rule(KOf(1, roles), Scope.RELEASE)
    check_rule(counts, Scope.RELEASE)
    costs = [rule_cost(rule, HOLDERS_MAX) for rule in (KOf(1, roles), counts)]
    assert max(costs) <= RULE_COST_MAX


BAD: list[tuple[Any, str]] = [
    ([], "not an array"),
    ("x", "not an array"),
    ([11], "not known"),
    ([0], "not known"),
    ([True, [5, 3, 6, 1]], "not known"),
    (["all"], "not known"),
    ([1], "minimum|between|parts"),
    ([3], "array of 1"),
    ([3, [5, 3, 6, 1], [5, 3, 6, 1]], "array of 1"),
    ([4, 0, ["owner"]], "k_of's count"),
    ([4, HOLDERS_MAX + 1, ["owner"]], "k_of's count"),
    ([4, 1, []], "not an array"),
    ([4, 1, [1]], "neither a role"),
    ([4, 1, ["Owner"]], "role name"),
    ([4, 1, [bytes(31)]], "key id of 31"),
    ([4, 1, ["owner", "auditor"]], "ascending"),
    ([4, 1, ["owner", "owner"]], "ascending"),
    ([4, 1, [bytes(32), "owner"]], "ascending"),
    ([5, 99, 1, 1], "no RuleField"),
    ([5, 3, 7, 1], "no Comparison"),
    ([5, 3, 1, "1"], "compared to str"),
    ([5, 1, 1, 1], "compared to int"),
    ([5, 1, 3, "pump"], "no order"),
    ([5, 3, 1, True], "neither an integer nor text"),
    ([5, 3, 1, None], "neither an integer nor text"),
    ([5, 1, 1, "a\u202eb"], "bidi"),
    ([5, 1, 1, "x" * 65], "longer than 64"),
    ([5, 32, 1, "acme"], "cannot ask for vendor"),
    ([6, 3, []], "not an array"),
    ([6, 3, [2, 1]], "ascending"),
    ([6, 3, [1, 1]], "ascending"),
    ([6, 3, [1, "1"]], "compared to str"),
    ([7, 0, 0, 1], "days"),
    ([7, 128, 0, 1], "days"),
    ([7, 1, 5, 5], "begin"),
    ([7, 1, 0, 1441], "integer of 0 to 1440"),
    ([8, 4, 1, 1], "no Moment"),
    ([8, 1, 1, DURATION_MS_MAX + 1], "age"),
    ([8, 1, 1, -1], "age"),
    ([9, 1, 0, 1, 1], "window of a count"),
    ([9, 1, 1, 1, EVENTS_KEPT], "count"),
    ([9, 0, 1, 1, 1], "no Counter"),
    ([10, "Fleet"], "group name"),
    ([10, b"fleet"], "not a name"),
    ([10], "array of 1"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=[str(value)[:40] for value, _ in BAD])
def test_one_thing_wrong_with_a_rule(value: Any, message: str) -> None:
    for wrapped in (value, [3, value], [1, [5, 3, 6, 1], value]):
        with pytest.raises(EncodingError, match=message):
            rule_from_value(wrapped, Scope.RELEASE)


@pytest.mark.parametrize(
    "value",
    [[4, 1, ["owner"]], [7, 1, 0, 1], [8, 1, 1, 1], [9, 1, 1, 1, 1], [10, "g"], [5, 3, 1, 1]],
)
def test_selectors_know_attributes_only(value: Any) -> None:
    with pytest.raises(EncodingError, match=r"attributes only|cannot ask"):
        selector_from_value([2, [5, 32, 1, "acme"], value])


def test_constants_have_one_order() -> None:
    assert sorted_values([3, -1, 3, 2]) == (-1, 2, 3)
    assert sorted_values(["b", "a", "\u00e4", "b"]) == ("a", "b", "\u00e4")
    assert sorted_who([b"\1" * 32, "owner", "auditor"]) == ("auditor", "owner", b"\1" * 32)


def test_calendars() -> None:
    with pytest.raises(EncodingError, match="touch"):
        check_freezes([Freeze(0, 5), Freeze(5, 9)])
    with pytest.raises(EncodingError, match="freeze's end"):
        Freeze(5, 5)
    with pytest.raises(EncodingError, match="freeze's end"):
        Freeze(0, DURATION_MS_MAX + 1)
    assert [Freeze(5, 9).contains(time) for time in (4, 5, 8, 9)] == [False, True, True, False]
    assert WeeklyWindow.from_value(WeeklyWindow(3, 1, 2).to_value()) == WeeklyWindow(3, 1, 2)
