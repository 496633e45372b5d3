"""A second, deliberately naive reading of rules: from their wire form and docs/spec/contracts.md.

It shares nothing with the evaluator: it walks decoded CBOR, enumerates every way in which what is
unknown could turn out, and calls a rule true only if all of them agree.
"""

from __future__ import annotations

import itertools
import operator
import random
from dataclasses import dataclass
from typing import Any

DAY = 86_400_000
OPERATORS = {
    1: operator.eq,
    2: operator.ne,
    3: operator.lt,
    4: operator.le,
    5: operator.gt,
    6: operator.ge,
}


@dataclass(frozen=True)
class World:
    """What there is to know."""

    fields: dict[int, Any]
    roles: tuple[tuple[bytes, frozenset[str]], ...]
    """Key id and roles of each that approved."""
    now: int
    moments: dict[int, int]
    events: dict[int, tuple[int, ...]]
    publisher_groups: tuple[str, ...]


def leaves(value: Any) -> list[Any]:
    """Leaves of a rule in order."""
    if value[0] in (1, 2, 3):
        return [leaf for part in value[1:] for leaf in leaves(part)]
    return [value]


def leaf_truth(leaf: Any, world: World) -> bool | None:
    """True, false or unknown."""
    kind, *rest = leaf
    if kind == 4:
        count, who = rest
        return count <= len(
            {key for key, roles in world.roles for one in who if one == key or one in roles}
        )
    if kind == 5:
        field, comparison, constant = rest
        if field not in world.fields:
            return None
        return bool(OPERATORS[comparison](world.fields[field], constant))
    if kind == 6:
        field, constants = rest
        return None if field not in world.fields else world.fields[field] in set(constants)
    if kind == 7:
        days, begin, end = rest
        weekday = (world.now // DAY + 3) % 7  # 1970-01-01 was a Thursday, Monday is 0
        minute = (world.now // 60_000) % 1440
        return str(weekday) in {str(d) for d in range(7) if days & 2**d} and begin <= minute < end
    if kind == 8:
        moment, comparison, duration = rest
        if moment not in world.moments:
            return None
        return bool(OPERATORS[comparison](world.now - world.moments[moment], duration))
    if kind == 9:
        counter, window, comparison, number = rest
        recent = [time for time in world.events[counter] if world.now - time < window]
        return bool(OPERATORS[comparison](len(recent), number))
    assert kind == 10
    return rest[0] in world.publisher_groups


def formula(value: Any, truths: list[bool]) -> bool:
    """Two-valued truth, taking leaves from the front of `truths`."""
    kind, *rest = value
    if kind == 1:
        return not [part for part in [formula(part, truths) for part in rest] if not part]
    if kind == 2:
        return [part for part in [formula(part, truths) for part in rest] if part] != []
    if kind == 3:
        return not formula(rest[0], truths)
    return truths.pop(0)


def holds(value: Any, world: World) -> bool | None:
    """Truth of a rule with few unknown leaves: whether every completion agrees.

    Completions treat each unknown leaf apart, as Kleene's logic does.
    """
    known = [leaf_truth(leaf, world) for leaf in leaves(value)]
    options = [(True, False) if truth is None else (truth,) for truth in known]
    outcomes = {formula(value, list(chosen)) for chosen in itertools.product(*options)}
    return outcomes.pop() if len(outcomes) == 1 else None


ROLES = ("owner", "auditor", "builder", "ops")
KEYS = tuple(bytes([number]) * 32 for number in range(1, 9))
PRODUCTS = ("pump", "valve", "fan")
START = 1_700_000_000_000


def random_rule(rng: random.Random, depth: int = 1) -> Any:
    """The wire form of a rule of at most six levels."""
    if depth < 6 and rng.random() < (0.95 if depth == 1 else 0.5):
        kind = rng.choice((1, 2, 3))
        count = 1 if kind == 3 else rng.randint(1, 3)
        return [kind, *(random_rule(rng, depth + 1) for _ in range(count))]
    return _random_leaf(rng)


def _random_leaf(rng: random.Random) -> Any:
    kind = rng.choice((4, 5, 6, 7, 8, 9, 10))
    if kind == 4:
        roles = sorted(rng.sample(ROLES, rng.randint(0, 2)))
        keys = sorted(rng.sample(KEYS, rng.randint(0 if roles else 1, 2)))
        return [4, rng.randint(1, 4), [*roles, *keys]]
    if kind == 5:
        if rng.random() < 0.5:
            return [5, 1, rng.choice((1, 2)), rng.choice(PRODUCTS)]
        return [5, rng.choice((3, 4, 7, 16)), rng.randint(1, 6), rng.randint(0, 5)]
    if kind == 6:
        if rng.random() < 0.5:
            return [6, 1, sorted(rng.sample(PRODUCTS, rng.randint(1, 3)))]
        return [6, rng.choice((3, 16)), sorted(rng.sample(range(6), rng.randint(1, 3)))]
    if kind == 7:
        begin = rng.randint(0, 1439)
        return [7, rng.randint(1, 127), begin, rng.randint(begin + 1, 1440)]
    if kind == 8:
        return [8, rng.randint(1, 3), rng.randint(1, 6), rng.choice((0, 5000, DAY))]
    if kind == 9:
        number = rng.randint(0, 4)
        return [9, rng.randint(1, 3), rng.choice((5000, DAY)), rng.randint(1, 6), number]
    return [10, rng.choice(("fleet", "site"))]


def random_world(rng: random.Random) -> World:
    """Facts in which about a third of what can be unknown is."""
    now = START + rng.randint(0, 7 * DAY)
    fields: dict[int, Any] = {1: rng.choice(PRODUCTS), 3: rng.randint(0, 5), 4: rng.randint(0, 5)}
    for field in (7, 16):
        if rng.random() < 0.6:
            fields[field] = rng.randint(0, 5)
    moments = {1: now - rng.choice((0, 5000, 9000))}
    for moment in (2, 3):
        if rng.random() < 0.6:
            moments[moment] = now - rng.choice((4999, 5000, 5001, DAY))
    signers = rng.sample(KEYS, rng.randint(0, 6))
    return World(
        fields=fields,
        roles=tuple((key, frozenset(rng.sample(ROLES, rng.randint(0, 3)))) for key in signers),
        now=now,
        moments=moments,
        events={
            counter: tuple(sorted(now - rng.choice((4999, 5000, DAY)) for _ in range(size)))
            for counter, size in ((1, rng.randint(0, 5)), (2, rng.randint(0, 3)), (3, 0))
        },
        publisher_groups=("site",) if rng.random() < 0.5 else (),
    )
