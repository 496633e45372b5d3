"""Rules (K20 to K29): their shape, and their truth as True, False or None for unknown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.support.naive.cbor import encode
from tests.support.naive.forms import ascending, group_name, need, role_name, whole

YEAR = 31_622_400_000
_RELEASE_TEXT, _SUBJECT_TEXT = (1, 2, 12, 13), (32, 33, 35, 36)


def check_rule(rule: Any, *, subject: bool) -> Any:
    """Checks a rule about a release or about a subject."""
    need(_count(rule, 1, subject) <= 256)
    need(len(encode(rule)) <= 4096)
    return rule


def _count(rule: Any, level: int, subject: bool) -> int:
    """Checks a node and gives its number of nodes, members of lists included (K21)."""
    need(isinstance(rule, list) and rule and type(rule[0]) is int and level <= 8)
    kind, rest = rule[0], rule[1:]
    need(not subject or kind in (1, 2, 3, 5, 6))
    if kind in (1, 2, 3):
        need(len(rest) == 1 if kind == 3 else len(rest) >= 1)
        return 1 + sum(_count(part, level + 1, subject) for part in rest)
    shapes = {4: 2, 5: 3, 6: 2, 7: 3, 8: 3, 9: 4, 10: 1}
    need(kind in shapes and len(rest) == shapes[kind])
    if kind == 4:
        whole(1, 64)(rest[0])
        _check_members(rest[1])
        return 1 + len(rest[1])
    if kind == 5:
        whole(1, 6)(rest[1])
        need(rest[1] <= 2 or not _check_constant(rest[0], rest[2], subject))
        _check_constant(rest[0], rest[2], subject)
    elif kind == 6:
        need(isinstance(rest[1], list) and rest[1])
        texts = [_check_constant(rest[0], item, subject) for item in rest[1]]
        ascending([item.encode() if texts[0] else item for item in rest[1]])
        return 1 + len(rest[1])
    elif kind == 7:
        need(whole(1, 127)(rest[0]) and whole(0, 1439)(rest[1]) < whole(1, 1440)(rest[2]))
    elif kind == 8:
        whole(1, 3)(rest[0]), whole(1, 6)(rest[1]), whole(0, YEAR)(rest[2])
    elif kind == 9:
        whole(1, 3)(rest[0]), whole(1, YEAR)(rest[1])
        whole(1, 6)(rest[2]), whole(0, 31)(rest[3])
    else:
        group_name(rest[0])
    return 1


def _check_members(members: Any) -> None:
    need(isinstance(members, list) and members)
    roles = [item for item in members if isinstance(item, str)]
    ids = [item for item in members if isinstance(item, bytes)]
    need(members == roles + ids)
    for name in roles:
        role_name(name)
    need(all(len(item) == 32 for item in ids))
    ascending(roles)
    ascending(ids)


def _check_constant(number: Any, constant: Any, subject: bool) -> bool:
    """Whether the field is a text's; checks that the constant is of its type."""
    need(type(number) is int)
    need(number in range(32, 37) if subject else number in range(1, 18))
    is_text = number in (_SUBJECT_TEXT if subject else _RELEASE_TEXT)
    if is_text:
        need(isinstance(constant, str) and len(constant.encode()) <= 64)
    else:
        whole(0)(constant)
    return is_text


@dataclass
class Facts:
    """What a rule may ask."""

    values: dict[int, list[Any]]
    """Known fields; each has one value or more."""
    now: int = 0
    """Header time."""
    counted: list[tuple[bytes, set[str]]] = field(default_factory=list)
    """Key ids that approved and count, with the roles they hold."""
    moments: dict[int, int] = field(default_factory=dict)
    """K28."""
    events: dict[int, list[int]] = field(default_factory=dict)
    """K29."""
    groups: set[str] = field(default_factory=set)
    """Groups that the publisher belongs to."""


def compare(one: Any, comparison: int, two: Any) -> bool:
    """K23."""
    return bool(
        {
            1: lambda: one == two,
            2: lambda: one != two,
            3: lambda: one < two,
            4: lambda: one <= two,
            5: lambda: one > two,
            6: lambda: one >= two,
        }[comparison]()
    )


def in_window(now: int, window: list[int]) -> bool:
    """Whether a weekly window [days, from, to) is open (K13)."""
    minutes = now // 60_000
    weekday = (minutes // 1440 + 3) % 7
    return bool(window[0] >> weekday & 1) and window[1] <= minutes % 1440 < window[2]


def truth(rule: Any, facts: Facts) -> bool | None:
    """K26 and K27."""
    kind, rest = rule[0], rule[1:]
    if kind == 1 or kind == 2:
        parts = [truth(part, facts) for part in rest]
        decisive = bool(kind == 2)
        if decisive in parts:
            return decisive
        return None if None in parts else not decisive
    if kind == 3:
        inner = truth(rest[0], facts)
        return None if inner is None else not inner
    if kind == 4:
        named = set(rest[1])
        return sum(1 for key, roles in facts.counted if key in named or roles & named) >= int(
            rest[0]
        )
    if kind == 5 or kind == 6:
        values = facts.values.get(rest[0])
        if not values:
            return None
        if kind == 6:
            return any(value in rest[1] for value in values)
        if rest[1] == 2:
            return all(value != rest[2] for value in values)
        return any(compare(value, rest[1], rest[2]) for value in values)
    if kind == 7:
        return in_window(facts.now, rest)
    if kind == 8:
        moment = facts.moments.get(rest[0])
        return None if moment is None else compare(facts.now - moment, rest[1], rest[2])
    if kind == 9:
        count = sum(1 for time in facts.events.get(rest[0], []) if time > facts.now - rest[1])
        return compare(count, rest[2], rest[3])
    return str(rest[0]) in facts.groups
