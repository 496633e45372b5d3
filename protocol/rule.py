"""The rule language: small expressions over closed lists of facts.

A rule is a tree of ten kinds of nodes. It has no variables, loops, floats, patterns or calls, so it
ends, costs what its size says, and means the same on every node. Two places use it: a policy's rule
judges a release (`Scope.RELEASE`), a group's selector picks subjects (`Scope.SUBJECT`). Meaning is
in `ledger.rules.evaluate`, the wire form in `protocol.rule_codec`, the form for people in
`swarmd.rule_text`; docs/spec/contracts.md numbers the rules (K20 to K39).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final, Union

from protocol.calendar import WeeklyWindow
from protocol.encoding import INTEGER_MIN
from protocol.limits import KIB
from protocol.owner_root import OWNERS_MAX, ROLE_KEYS_MAX

RULE_DEPTH_MAX: Final = 8
"""Nesting of a rule: deeper ones nobody can check by eye."""
RULE_NODES_MAX: Final = 256
"""Nodes of a rule, each member of a list counted as one."""
RULE_BYTES_MAX: Final = 4 * KIB
"""Encoded rule, bytes."""
RULE_COST_MAX: Final = 100_000
"""Steps of one evaluation. The other bounds imply it: 256 nodes, 64 holders, 32 remembered events;
a test says so."""
HOLDERS_MAX: Final = OWNERS_MAX + ROLE_KEYS_MAX
"""Distinct keys that can have approved one thing."""
EVENTS_KEPT: Final = 32
"""Newest events of one kind that a group's counters remember; a rule counts to fewer."""


class Scope(Enum):
    """What a rule is about."""

    RELEASE = "release"
    """A manifest in one group, with what was signed about it, at a header time."""
    SUBJECT = "subject"
    """A subject's certified attributes."""


class RuleField(IntEnum):
    """Facts that comparisons may name; from 32 on they are a subject's."""

    PRODUCT = 1
    VERSION = 2
    SEQUENCE = 3
    SIZE = 4
    """Bytes of all components as stored."""
    COMPONENTS = 5
    """How many."""
    TARGET_GROUPS = 6
    """How many the manifest names."""
    LIFETIME_MS = 7
    """From proposal to expiry; unknown without expiry."""
    HAS_SBOM = 8
    """1 or 0."""
    HAS_SUIT = 9
    """1 or 0."""
    STEPPING_STONES = 10
    """How many."""
    DEPENDENCIES = 11
    """How many."""
    PUBLISHER = 12
    """DID of who signed it, hex."""
    GROUP = 13
    """Name of the group that judges."""
    APPROVALS = 14
    """Owners that approved."""
    ATTESTATIONS = 15
    """Builders that attested the image."""
    LATEST_SEQUENCE = 16
    """Of the newest authorised release of the product; unknown if there is none."""
    IS_SEALED = 17
    """1 if any component is, else 0."""
    VENDOR = 32
    CLASS = 33
    HARDWARE_REVISION = 34
    """A whole number; unknown if the attribute is none."""
    REGION = 35
    TAG = 36
    """Each of a subject's tags; a comparison holds if it does for one of them."""

    @property
    def scope(self) -> Scope:
        """What kind of rule may name it."""
        return Scope.SUBJECT if self >= RuleField.VENDOR else Scope.RELEASE

    @property
    def is_text(self) -> bool:
        """Whether it is text; the others are integers."""
        return self in _TEXT_FIELDS

    @property
    def label(self) -> str:
        """How people write it."""
        return self.name.lower()


_TEXT_FIELDS: Final = (
    RuleField.PRODUCT,
    RuleField.VERSION,
    RuleField.PUBLISHER,
    RuleField.GROUP,
    RuleField.VENDOR,
    RuleField.CLASS,
    RuleField.REGION,
    RuleField.TAG,
)


class Comparison(IntEnum):
    """How a fact relates to a constant; text is compared for equality only, byte by byte."""

    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    AT_MOST = 4
    MORE = 5
    AT_LEAST = 6

    @property
    def symbol(self) -> str:
        """How people write it."""
        return _SYMBOLS[self]


_SYMBOLS: Final = {
    Comparison.EQUAL: "==",
    Comparison.NOT_EQUAL: "!=",
    Comparison.LESS: "<",
    Comparison.AT_MOST: "<=",
    Comparison.MORE: ">",
    Comparison.AT_LEAST: ">=",
}


class Moment(IntEnum):
    """Moments whose age a rule may ask for."""

    PROPOSED = 1
    """When this manifest was proposed."""
    LAST_AUTHORISED = 2
    """When the group last authorised any manifest; unknown if it never did."""
    LAST_REVOKED = 3
    """When the group last revoked any manifest; unknown if it never did."""


class Counter(IntEnum):
    """Events of a group that a rule may count."""

    PROPOSED = 1
    AUTHORISED = 2
    REVOKED = 3


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Rule, ...]
    """At least one."""


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Rule, ...]
    """At least one."""


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold; if that is unknown, so is this."""

    part: Rule
    """What must not hold."""


@dataclass(frozen=True, slots=True)
class KOf:
    """At least `count` distinct keys approved that hold one of the roles or are named."""

    count: int
    """1 to 64."""
    who: tuple[str | bytes, ...]
    """Names of roles (`owner` for owners) and ids of keys, at least one, each once."""


@dataclass(frozen=True, slots=True)
class Compare:
    """A fact relates to a constant."""

    field: RuleField
    """Which fact."""
    comparison: Comparison
    """How."""
    value: int | str
    """To what; text for a text field."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """A fact is among constants."""

    field: RuleField
    """Which fact."""
    values: tuple[int | str, ...]
    """Ascending (text by its bytes), at least one."""


@dataclass(frozen=True, slots=True)
class Within:
    """Header time is inside a weekly window."""

    window: WeeklyWindow
    """Which."""


@dataclass(frozen=True, slots=True)
class Age:
    """Header time since a moment relates to a constant."""

    moment: Moment
    """Since when."""
    comparison: Comparison
    """How."""
    duration_ms: int
    """To how much, milliseconds."""


@dataclass(frozen=True, slots=True)
class Count:
    """The number of a group's events within the newest span of time relates to a constant."""

    counter: Counter
    """Of what."""
    window_ms: int
    """How far back, milliseconds."""
    comparison: Comparison
    """How."""
    number: int
    """To what; below `EVENTS_KEPT`."""


@dataclass(frozen=True, slots=True)
class InGroup:
    """The publisher belongs to a group, listed or by that group's selector."""

    group: str
    """Which."""


Rule = Union[All, AnyOf, Not, KOf, Compare, OneOf, Within, Age, Count, InGroup]  # noqa: UP007
"""A node of a rule, and so a rule."""


def parts_of(rule: Rule) -> tuple[Rule, ...]:
    """The parts directly below a node."""
    match rule:
        case All(parts) | AnyOf(parts):
            return parts
        case Not(part):
            return (part,)
        case _:
            return ()


def walk(rule: Rule) -> Iterator[tuple[Rule, int]]:
    """Every node with its depth, the root (depth 1) first; stops descending at 9."""
    pending = [(rule, 1)]
    while pending:
        node, depth = pending.pop()
        yield node, depth
        if depth <= RULE_DEPTH_MAX:
            pending.extend((part, depth + 1) for part in reversed(parts_of(node)))


def rule_nodes(rule: Rule) -> int:
    """Nodes of a rule, members of lists included."""
    return sum(1 + _members(node) for node, _ in walk(rule))


def _members(node: Rule) -> int:
    match node:
        case KOf(_, who):
            return len(who)
        case OneOf(_, values):
            return len(values)
        case _:
            return 0


def rule_cost(rule: Rule, approvals: int) -> int:
    """Steps that evaluating a rule takes at most, over so many approvals."""
    return sum(
        1 + _members(node) * max(approvals, 1) + EVENTS_KEPT * isinstance(node, Count)
        for node, _ in walk(rule)
    )


def who_key(one: str | bytes) -> bytes:
    """Where a member of `KOf` stands in its order: roles by name, then key ids."""
    return b"\0" + one.encode() if isinstance(one, str) else b"\1" + one


def constant_key(value: int | str) -> bytes:
    """Where a constant of `OneOf` stands in its order."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    return (value - INTEGER_MIN).to_bytes(8, "big")


def sorted_values(values: Sequence[int | str]) -> tuple[int | str, ...]:
    """Constants of `OneOf` in their one order, each once."""
    return tuple(sorted(dict.fromkeys(values), key=constant_key))


def sorted_who(who: Sequence[str | bytes]) -> tuple[str | bytes, ...]:
    """Members of `KOf` in their one order, each once: roles by name, then key ids."""
    return tuple(sorted(dict.fromkeys(who), key=who_key))
