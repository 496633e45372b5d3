"""Rules as bytes: the wire form of `protocol.rule` and every bound of the language (K20 to K25)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Final, TypeVar

from protocol.calendar import DURATION_MS_MAX, WeeklyWindow
from protocol.digest import DIGEST_BYTES
from protocol.encoding import (
    INTEGER_MAX,
    INTEGER_MIN,
    Value,
    as_array,
    as_uint,
    check_range,
    check_text,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.group_name import check_group_name
from protocol.limits import NAME_BYTES_MAX
from protocol.owner_root import check_role_name
from protocol.rule import (
    EVENTS_KEPT,
    HOLDERS_MAX,
    RULE_BYTES_MAX,
    RULE_DEPTH_MAX,
    RULE_NODES_MAX,
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
    Rule,
    RuleField,
    Scope,
    Within,
    constant_key,
    rule_nodes,
    walk,
    who_key,
)

E = TypeVar("E", bound=IntEnum)
_NUMBERS: Final[dict[type, int]] = {
    All: 1,
    AnyOf: 2,
    Not: 3,
    KOf: 4,
    Compare: 5,
    OneOf: 6,
    Within: 7,
    Age: 8,
    Count: 9,
    InGroup: 10,
}
_SUBJECT_NODES: Final = (All, AnyOf, Not, Compare, OneOf)
"""Nodes that a selector may use: membership must not depend on time or on votes."""


def check_rule(rule: Rule, scope: Scope) -> None:
    """Checks a rule against every bound; the constructors check nothing.

    Raises:
        EncodingError: too deep, too large, a node or field of another scope, or a constant of the
            wrong type or out of range.
    """
    if max(depth for _, depth in walk(rule)) > RULE_DEPTH_MAX:
        raise EncodingError(f"rule is nested deeper than {RULE_DEPTH_MAX}")
    if rule_nodes(rule) > RULE_NODES_MAX:
        raise EncodingError(f"rule has {rule_nodes(rule)} nodes, at most {RULE_NODES_MAX}")
    for node, _ in walk(rule):
        if scope is Scope.SUBJECT and not isinstance(node, _SUBJECT_NODES):
            raise EncodingError("a selector asks for attributes only")
        _check_node(node, scope)
    size = len(encode_canonical(rule_to_value(rule)))
    if size > RULE_BYTES_MAX:
        raise EncodingError(f"rule takes {size} bytes, at most {RULE_BYTES_MAX}")


def _check_node(node: Rule, scope: Scope) -> None:
    match node:
        case All(parts) | AnyOf(parts):
            check_range(len(parts), "parts of a rule", minimum=1, maximum=RULE_NODES_MAX)
        case Not() | Within():
            pass
        case KOf(count, who):
            check_range(count, "k_of's count", minimum=1, maximum=HOLDERS_MAX)
            _check_who(who)
        case Compare(field, comparison, value):
            _check_constants(field, scope, (value,))
            if field.is_text and comparison > Comparison.NOT_EQUAL:
                raise EncodingError(f"text {field.label} has no order")
        case OneOf(field, values):
            _check_constants(field, scope, values)
            _check_ascending([constant_key(value) for value in values], "values")
        case Age(_, _, duration_ms):
            check_range(duration_ms, "age", maximum=DURATION_MS_MAX)
        case Count(_, window_ms, _, number):
            check_range(window_ms, "window of a count", minimum=1, maximum=DURATION_MS_MAX)
            check_range(number, "count", maximum=EVENTS_KEPT - 1)
        case InGroup(group):
            check_group_name(group)


def _check_who(who: Sequence[str | bytes]) -> None:
    for one in who:
        if isinstance(one, str):
            check_role_name(one)
        elif len(one) != DIGEST_BYTES:
            raise EncodingError(f"key id of {len(one)} bytes")
    _check_ascending([who_key(one) for one in who], "k_of")


def _check_ascending(keys: Sequence[bytes], what: str) -> None:
    if not keys or any(later <= earlier for earlier, later in pairwise(keys)):
        raise EncodingError(f"{what} of a rule: an empty list, or not strictly ascending")


def _check_constants(field: RuleField, scope: Scope, values: Sequence[int | str]) -> None:
    if field.scope is not scope:
        raise EncodingError(f"a rule about a {scope.value} cannot ask for {field.label}")
    for value in values:
        if isinstance(value, str) != field.is_text:
            raise EncodingError(f"{field.label} compared to {type(value).__name__}")
        if isinstance(value, str):
            check_text(value, field.label, maximum=NAME_BYTES_MAX)
        else:
            check_range(value, field.label, minimum=INTEGER_MIN, maximum=INTEGER_MAX)


def rule_to_value(rule: Rule) -> Value:
    """The wire form: [number of the node, its contents...]."""
    number = _NUMBERS[type(rule)]
    match rule:
        case All(parts) | AnyOf(parts):
            return [number, *(rule_to_value(part) for part in parts)]
        case Not(part):
            return [number, rule_to_value(part)]
        case KOf(count, who):
            return [number, count, list(who)]
        case Compare(field, comparison, value):
            return [number, int(field), int(comparison), value]
        case OneOf(field, values):
            return [number, int(field), list(values)]
        case Within(window):
            return [number, *_items(window.to_value())]
        case Age(moment, comparison, duration_ms):
            return [number, int(moment), int(comparison), duration_ms]
        case Count(counter, window_ms, comparison, limit):
            return [number, int(counter), window_ms, int(comparison), limit]
        case InGroup(group):
            return [number, group]


def rule_from_value(value: Value, scope: Scope) -> Rule:
    """Reads the wire form and checks it against every bound.

    Raises:
        EncodingError: malformed, or `check_rule` refuses it.
    """
    rule = _read(value, 1)
    check_rule(rule, scope)
    return rule


def _items(value: Value) -> Sequence[Value]:
    if not isinstance(value, (list, tuple)) or not value:
        raise EncodingError("a rule is not an array")
    return value


def _read(value: Value, depth: int) -> Rule:
    if depth > RULE_DEPTH_MAX:
        raise EncodingError(f"rule is nested deeper than {RULE_DEPTH_MAX}")
    number, *rest = _items(value)
    if isinstance(number, bool) or not isinstance(number, int) or number not in _READERS:
        raise EncodingError(f"node {number!r} of a rule is not known")
    return _READERS[number](rest, depth)


def _read_parts(rest: Sequence[Value], depth: int) -> tuple[Rule, ...]:
    return tuple(_read(item, depth + 1) for item in rest)


def _read_k_of(rest: Sequence[Value], _depth: int) -> Rule:
    count, who = as_array(rest, "k_of", size=2)
    members = []
    for one in _items(who):
        if not isinstance(one, (str, bytes)):
            raise EncodingError("k_of: neither a role nor a key id")
        members.append(one)
    return KOf(as_uint(count, "k_of's count"), tuple(members))


def _read_compare(rest: Sequence[Value], _depth: int) -> Rule:
    field, comparison, value = as_array(rest, "cmp", size=3)
    return Compare(_enum(field, RuleField), _enum(comparison, Comparison), _constant(value))


def _read_one_of(rest: Sequence[Value], _depth: int) -> Rule:
    field, values = as_array(rest, "in", size=2)
    return OneOf(_enum(field, RuleField), tuple(_constant(value) for value in _items(values)))


def _read_age(rest: Sequence[Value], _depth: int) -> Rule:
    moment, comparison, duration_ms = as_array(rest, "age", size=3)
    return Age(_enum(moment, Moment), _enum(comparison, Comparison), as_uint(duration_ms, "age"))


def _read_count(rest: Sequence[Value], _depth: int) -> Rule:
    counter, window_ms, comparison, number = as_array(rest, "count", size=4)
    return Count(
        _enum(counter, Counter),
        as_uint(window_ms, "count"),
        _enum(comparison, Comparison),
        as_uint(number, "count"),
    )


def _read_in_group(rest: Sequence[Value], _depth: int) -> Rule:
    (group,) = as_array(rest, "in_group", size=1)
    if not isinstance(group, str):
        raise EncodingError("in_group: not a name")
    return InGroup(group)


def _read_not(rest: Sequence[Value], depth: int) -> Rule:
    (part,) = as_array(rest, "not", size=1)
    return Not(_read(part, depth + 1))


_READERS: Final[dict[int, Callable[[Sequence[Value], int], Rule]]] = {
    1: lambda rest, depth: All(_read_parts(rest, depth)),
    2: lambda rest, depth: AnyOf(_read_parts(rest, depth)),
    3: _read_not,
    4: _read_k_of,
    5: _read_compare,
    6: _read_one_of,
    7: lambda rest, _depth: Within(WeeklyWindow.from_value(rest)),
    8: _read_age,
    9: _read_count,
    10: _read_in_group,
}


def _enum(value: Value, members: type[E]) -> E:
    number = as_uint(value, "rule")
    try:
        return members(number)
    except ValueError:
        raise EncodingError(f"{number} is no {members.__name__} of a rule") from None


def _constant(value: Value) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise EncodingError("a constant of a rule is neither an integer nor text")
    return value
