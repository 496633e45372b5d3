"""Evaluates rules: one walk that gives both the truth and the reasons for it (K26 to K39).

Truth has three values: a fact that is not there (no expiry, no certified region) makes whatever
asks for it *unknown*, and only what is true satisfies anybody. So `not` cannot turn an absence into
a permission. Parts are combined as Kleene's strong logic of indeterminacy does.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from protocol.calendar import (
    DAY_NAMES,
    WEEK_DAYS,
    WeeklyWindow,
    day_of_week,
    minute_of_day,
)
from protocol.digest import Digest, short
from protocol.owner_root import OWNER_ROLE, Holder
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
    Rule,
    RuleField,
    Within,
)

_SIGNED: Final = (RuleField.APPROVALS, RuleField.ATTESTATIONS)
"""Fields that count signatures, and so only ever grow."""
Truth = bool | None
"""True, false, or None for unknown."""
FactValue = int | str
"""What a field can be."""
TAG_PREFIX: Final = "tag:"
"""A subject has tag T if the attribute `tag:T` is certified, whatever its value."""
_REVISION: Final = re.compile(r"0|[1-9][0-9]{0,17}")
_ATTRIBUTES: Final = {
    RuleField.VENDOR: "vendor",
    RuleField.CLASS: "class",
    RuleField.REGION: "region",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something holds, or does not."""

    truth: Truth
    """Whether it holds."""
    text: str
    """What was asked and found, for people."""
    parts: tuple[Reason, ...] = ()
    """Reasons it rests on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything a rule may ask for."""

    fields: Mapping[RuleField, tuple[FactValue, ...]]
    """By field: its values; none of them, or no entry: unknown."""
    time_ms: int | None = None
    """Header time, milliseconds; None: unknown."""
    holders: tuple[Holder, ...] = ()
    """Who approved, each once, as the owner root in force names them."""
    moments: Mapping[Moment, int] = field(default_factory=dict)
    """Header times of what happened, milliseconds; no entry: unknown, or it never did."""
    events: Mapping[Counter, tuple[int, ...]] = field(default_factory=dict)
    """Header times of the group's newest events, ascending, milliseconds; no entry: unknown."""
    publisher_groups: tuple[str, ...] | None = None
    """Of the groups that the rule names, those the publisher belongs to; None: unknown."""
    may_be_fewer: bool = False
    """Whether some of those who signed may have done so later than the moment that is judged. Then
    what holds thanks to them is unknown, and false is only what no part of them could make true."""


def attribute_facts(attributes: Mapping[str, str]) -> Facts:
    """The facts that a selector may ask of a subject."""
    fields: dict[RuleField, tuple[FactValue, ...]] = {}
    for name, attribute in _ATTRIBUTES.items():
        if attribute in attributes:
            fields[name] = (attributes[attribute],)
    revision = attributes.get("hardware_revision", "")
    if _REVISION.fullmatch(revision):
        fields[RuleField.HARDWARE_REVISION] = (int(revision),)
    tags = tuple(name[len(TAG_PREFIX) :] for name in attributes if name.startswith(TAG_PREFIX))
    fields[RuleField.TAG] = tags
    return Facts(fields=fields)


def evaluate(rule: Rule, facts: Facts) -> Reason:
    """Evaluates a rule that `check_rule` accepts; takes `rule_cost` steps at most."""
    match rule:
        case All(parts):
            reasons = tuple(evaluate(part, facts) for part in parts)
            return Reason(_all(one.truth for one in reasons), "all of these hold", reasons)
        case AnyOf(parts):
            reasons = tuple(evaluate(part, facts) for part in parts)
            return Reason(_any(one.truth for one in reasons), "any of these holds", reasons)
        case Not(part):
            reason = evaluate(part, facts)
            truth = None if reason.truth is None else not reason.truth
            return Reason(truth, "this does not hold", (reason,))
        case _:
            return _leaf(rule, facts)


def selector_truth(rule: Rule, fields: Mapping[RuleField, tuple[FactValue, ...]], /) -> Truth:
    """The truth of a rule about a subject, as `evaluate` finds it, without its reasons (K25).

    A subject is compared with up to 200 selectors at a time, and texts for people take ten times as
    long as the answer.
    """
    match rule:
        case All(parts):
            return _all(selector_truth(part, fields) for part in parts)
        case AnyOf(parts):
            return _any(selector_truth(part, fields) for part in parts)
        case Not(part):
            truth = selector_truth(part, fields)
            return None if truth is None else not truth
        case Compare(name, comparison, value):
            return _compared(fields.get(name, ()), comparison, value)
        case OneOf(name, values):
            found = fields.get(name, ())
            return _known(found, any(one in values for one in found))
        case _:
            raise AssertionError("a selector asks for attributes only")


def _compared(found: Sequence[FactValue], comparison: Comparison, value: FactValue) -> Truth:
    if comparison is Comparison.NOT_EQUAL:  # of several values, none is the one
        return _known(found, value not in found)
    return _known(found, any(compare(one, comparison, value) for one in found))


def _all(truths: Iterable[Truth]) -> Truth:
    known = tuple(truths)
    if False in known:
        return False
    return None if None in known else True


def _any(truths: Iterable[Truth]) -> Truth:
    known = tuple(truths)
    if True in known:
        return True
    return None if None in known else False


def _leaf(rule: Rule, facts: Facts) -> Reason:
    match rule:
        case KOf(count, who):
            return _k_of(count, who, facts)
        case Compare(name, comparison, value):
            return _compare(name, comparison, value, facts)
        case OneOf(name, values):
            return _one_of(name, values, facts)
        case Within(window):
            return _within(window, facts.time_ms)
        case Age(moment, comparison, duration_ms):
            return _age(moment, comparison, duration_ms, facts)
        case Count(counter, window_ms, comparison, number):
            return _count(counter, window_ms, comparison, number, facts)
        case InGroup(group):
            groups = facts.publisher_groups
            truth = None if groups is None else group in groups
            return Reason(truth, f"the publisher belongs to group {group!r}")
        case All() | AnyOf() | Not():
            raise AssertionError("inner nodes are no leaves")


def _within(window: WeeklyWindow, time_ms: int | None) -> Reason:
    text = window_text(window)
    if time_ms is None:
        return Reason(None, text)
    now = f"{DAY_NAMES[day_of_week(time_ms)]} {_clock(minute_of_day(time_ms))}"
    return Reason(window.contains(time_ms), f"{text}; it is {now}")


def _k_of(count: int, who: Sequence[str | bytes], facts: Facts) -> Reason:
    members = frozenset(who)
    names = [holder.name for holder in facts.holders if _is_among(holder, members)]
    wanted = " or ".join(who_text(one) for one in who)
    found = ", ".join(names) or "nobody"
    truth = None if facts.may_be_fewer and len(names) >= count else len(names) >= count
    return Reason(truth, f"{count} approvals by {wanted}; so far {found}")


def _is_among(holder: Holder, members: frozenset[str | bytes]) -> bool:
    return (
        (holder.is_owner and OWNER_ROLE in members)
        or not members.isdisjoint(holder.roles)
        or holder.key.key_id in members
    )


def _compare(name: RuleField, comparison: Comparison, value: FactValue, facts: Facts) -> Reason:
    found = facts.fields.get(name, ())
    text = f"{name.label} {comparison.symbol} {value!r}"
    if facts.may_be_fewer and name in _SIGNED:
        possible = any(compare(one, comparison, value) for one in _up_to(found))
        truth = None if possible else False
    else:
        truth = _compared(found, comparison, value)
    return Reason(truth, f"{text}; {_found_text(name, found)}")


def _one_of(name: RuleField, values: Sequence[FactValue], facts: Facts) -> Reason:
    found = facts.fields.get(name, ())
    text = f"{name.label} is one of {', '.join(repr(value) for value in values)}"
    truth = _known(found, any(one in values for one in found))
    if facts.may_be_fewer and name in _SIGNED:
        truth = None if any(one in values for one in _up_to(found)) else False
    return Reason(truth, f"{text}; {_found_text(name, found)}")


def _up_to(found: Sequence[FactValue]) -> range:
    """Every number that a count may have been at an earlier moment."""
    return range(max((one for one in found if isinstance(one, int)), default=0) + 1)


def _known(found: Sequence[FactValue], truth: bool) -> Truth:
    return truth if found else None


def _found_text(name: RuleField, found: Sequence[FactValue]) -> str:
    if not found:
        return f"{name.label} is not known"
    return "it is " + ", ".join(repr(one) for one in found)


def _age(moment: Moment, comparison: Comparison, duration_ms: int, facts: Facts) -> Reason:
    text = f"age of {moment.name.lower()} {comparison.symbol} {duration_ms} ms"
    since_ms = facts.moments.get(moment)
    if since_ms is None or facts.time_ms is None:
        return Reason(None, f"{text}; there is no such moment")
    age_ms = facts.time_ms - since_ms
    return Reason(compare(age_ms, comparison, duration_ms), f"{text}; it is {age_ms} ms")


def _count(
    counter: Counter, window_ms: int, comparison: Comparison, number: int, facts: Facts
) -> Reason:
    """Events newer than `window_ms` ago; one exactly that old no longer counts."""
    text = f"{counter.name.lower()} within {window_ms} ms {comparison.symbol} {number}"
    if counter not in facts.events or facts.time_ms is None:
        return Reason(None, f"{text}; the events are not known")
    since_ms = facts.time_ms - window_ms
    count = sum(1 for time_ms in facts.events[counter] if time_ms > since_ms)
    return Reason(compare(count, comparison, number), f"{text}; there were {count}")


def compare(left: FactValue, comparison: Comparison, right: FactValue) -> bool:
    """Relates two values of one type."""
    return _COMPARE[comparison](left, right)


_COMPARE: Final[Mapping[Comparison, Callable[[Any, Any], bool]]] = {
    Comparison.EQUAL: operator.eq,
    Comparison.NOT_EQUAL: operator.ne,
    Comparison.LESS: operator.lt,
    Comparison.AT_MOST: operator.le,
    Comparison.MORE: operator.gt,
    Comparison.AT_LEAST: operator.ge,
}
"""Both sides were checked to be of one type that has an order where one is asked for."""


def window_text(window: WeeklyWindow) -> str:
    """A window, for people: `Mon,Tue 09:00-17:00 UTC`."""
    days = ",".join(DAY_NAMES[day] for day in range(WEEK_DAYS) if window.days >> day & 1)
    return f"{days} {_clock(window.from_minute)}-{_clock(window.to_minute)} UTC"


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def who_text(one: str | bytes) -> str:
    """A member of `k_of`, for people."""
    return one if isinstance(one, str) else f"key {short(Digest(one))}"
