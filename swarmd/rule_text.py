"""Rules as people write them: one table for each node, in TOML or JSON alike.

    all = [ {k_of = {count = 1, of = ["auditor"]}}, {compare = ["size", "<=", 100_000_000]} ]

Each node is a table with one entry: `all`, `any` (lists of nodes), `not` (a node), `k_of` ({count,
of}: roles and did:key keys), `compare` ([field, symbol, value]), `in` ([field, [values]]), `window`
({days, from, to}, UTC), `age` ([moment, symbol, duration]), `count` ({of, within, is}: an event, a
duration, [symbol, number]), `in_group` (name). Durations are written `90d`, `24h`, `30m`, `5s` or
`1ms`. There is no other syntax: what is read is what is signed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from protocol.calendar import DAY_MINUTES, DAY_MS, DAY_NAMES, HOUR_MS, MINUTE_MS, WeeklyWindow
from protocol.did import parse_did_key
from protocol.errors import ConfigError, EncodingError
from protocol.rule import (
    RULE_DEPTH_MAX,
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
    sorted_values,
    sorted_who,
)
from protocol.rule_codec import check_rule

T = TypeVar("T")
_UNITS: Final = {"d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS, "s": 1000, "ms": 1}
_DURATION: Final = re.compile(r"([0-9]{1,11})(d|h|ms|m|s)")
_CLOCK: Final = re.compile(r"([0-2][0-9]):([0-5][0-9])")
_FIELDS: Final = {field.label: field for field in RuleField}
_SYMBOLS: Final = {comparison.symbol: comparison for comparison in Comparison}
_MOMENTS: Final = {moment.name.lower(): moment for moment in Moment}
_COUNTERS: Final = {counter.name.lower(): counter for counter in Counter}


def parse_rule(value: object, scope: Scope, what: str) -> Rule:
    """Reads a rule from decoded TOML or JSON and checks it against every bound.

    Args:
        value: the table.
        scope: what the rule is about.
        what: where it stands, for error messages.

    Raises:
        ConfigError: malformed or beyond the bounds of the language.
    """
    rule = _node(value, what, 1)
    try:
        check_rule(rule, scope)
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None
    return rule


def parse_duration(value: object, what: str) -> int:
    """Reads a duration such as `24h`; returns milliseconds.

    Raises:
        ConfigError: it is something else.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(f'{what}: {value!r} is no duration such as "90d", "24h", "30m", "5s"')
    return int(match[1]) * _UNITS[match[2]]


def duration_text(duration_ms: int) -> str:
    """Writes a duration in the largest unit that leaves no rest."""
    for unit, size in _UNITS.items():
        if duration_ms % size == 0 and duration_ms >= size:
            return f"{duration_ms // size}{unit}"
    return "0s"


def parse_window(value: object, what: str) -> WeeklyWindow:
    """Reads `{days = ["Mon"], from = "08:00", to = "10:30"}`, UTC.

    Raises:
        ConfigError: it is something else.
    """
    table = _table(value, what, ("days", "from", "to"))
    days = 0
    for day in _list(table["days"], f"{what}.days"):
        if not isinstance(day, str) or day not in DAY_NAMES:
            raise ConfigError(f"{what}: {day!r} is none of {', '.join(DAY_NAMES)}")
        days |= 1 << DAY_NAMES.index(day)
    begin, end = _minute(table["from"], what), _minute(table["to"], what)
    try:
        return WeeklyWindow(days, begin, end)
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _minute(value: object, what: str) -> int:
    match = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    minute = DAY_MINUTES + 1 if match is None else int(match[1]) * 60 + int(match[2])
    if minute > DAY_MINUTES:
        raise ConfigError(f"{what}: {value!r} is no time of day from 00:00 to 24:00")
    return minute


def _node(value: object, what: str, depth: int) -> Rule:
    if depth > RULE_DEPTH_MAX:
        raise ConfigError(f"{what}: nested deeper than {RULE_DEPTH_MAX}")
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ConfigError(f"{what}: a node of a rule is a table with one entry")
    ((name, content),) = value.items()
    where = f"{what}.{name}"
    if name in ("all", "any"):
        parts = tuple(_node(part, where, depth + 1) for part in _list(content, where))
        return All(parts) if name == "all" else AnyOf(parts)
    if name == "not":
        return Not(_node(content, where, depth + 1))
    reader = _LEAVES.get(name) if isinstance(name, str) else None
    if reader is None:
        known = ", ".join(("all", "any", "not", *_LEAVES))
        raise ConfigError(f"{what}: {name!r} is none of {known}")
    return reader(content, where)


def _k_of(content: object, what: str) -> Rule:
    table = _table(content, what, ("count", "of"))
    who: list[str | bytes] = []
    for one in _list(table["of"], what):
        if not isinstance(one, str):
            raise ConfigError(f"{what}: {one!r} is neither a role nor a did:key")
        who.append(_key_id(one, what) if one.startswith("did:") else one)
    return KOf(_integer(table["count"], what), sorted_who(who))


def _key_id(text: str, what: str) -> bytes:
    try:
        return parse_did_key(text).key_id
    except EncodingError as error:
        raise ConfigError(f"{what}: {error}") from None


def _compare(content: object, what: str) -> Rule:
    field, symbol, value = _triple(content, what)
    return Compare(_named(field, _FIELDS, what), _symbol(symbol, what), _constant(value, what))


def _one_of(content: object, what: str) -> Rule:
    items = _list(content, what)
    if len(items) != 2:
        raise ConfigError(f"{what}: expected [field, [values]]")
    values = [_constant(value, what) for value in _list(items[1], what)]
    if len({type(value) for value in values}) != 1:
        raise ConfigError(f"{what}: values of one type are expected")
    return OneOf(_named(items[0], _FIELDS, what), sorted_values(values))


def _age(content: object, what: str) -> Rule:
    moment, symbol, duration = _triple(content, what)
    return Age(
        _named(moment, _MOMENTS, what), _symbol(symbol, what), parse_duration(duration, what)
    )


def _count(content: object, what: str) -> Rule:
    table = _table(content, what, ("of", "within", "is"))
    items = _list(table["is"], what)
    if len(items) != 2:
        raise ConfigError(f"{what}: 'is' is [symbol, number]")
    return Count(
        _named(table["of"], _COUNTERS, what),
        parse_duration(table["within"], what),
        _symbol(items[0], what),
        _integer(items[1], what),
    )


def _in_group(content: object, what: str) -> Rule:
    if not isinstance(content, str):
        raise ConfigError(f"{what}: {content!r} is no name of a group")
    return InGroup(content)


_LEAVES: Final[Mapping[str, Callable[[object, str], Rule]]] = {
    "k_of": _k_of,
    "compare": _compare,
    "in": _one_of,
    "window": lambda content, what: Within(parse_window(content, what)),
    "age": _age,
    "count": _count,
    "in_group": _in_group,
}


def _table(value: object, what: str, names: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, Mapping) or set(value) != set(names):
        raise ConfigError(f"{what}: expected a table of {', '.join(names)}")
    return value


def _list(value: object, what: str) -> Sequence[object]:
    if not isinstance(value, list):
        raise ConfigError(f"{what}: expected a list")
    return value


def _triple(value: object, what: str) -> Sequence[object]:
    items = _list(value, what)
    if len(items) != 3:
        raise ConfigError(f"{what}: expected three items: what, a symbol, a value")
    return items


def _integer(value: object, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{what}: {value!r} is no integer")
    return value


def _constant(value: object, what: str) -> int | str:
    return value if isinstance(value, str) else _integer(value, what)


def _symbol(value: object, what: str) -> Comparison:
    return _named(value, _SYMBOLS, what)


def _named(value: object, known: Mapping[str, T], what: str) -> T:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{what}: {value!r} is none of {', '.join(known)}")
    return known[value]
