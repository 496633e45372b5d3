"""Policies: one encoding each, defaults left out, and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from protocol.calendar import DAY_MS, DURATION_MS_MAX, Freeze, WeeklyWindow
from protocol.defence import DefenceRules
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.owner_root import OwnerRoot
from protocol.policy import (
    FREEZES_MAX,
    POLICY_BYTES_MAX,
    SEPARATIONS_MAX,
    WINDOWS_MAX,
    WITNESSES_MAX,
    Policy,
    Witnesses,
    check_policy_fits,
    decode_policy,
)
from protocol.rollout import RolloutPlan, RolloutStage
from protocol.rule import InGroup, KOf
from protocol.tlog import NoteKey, SignatureType
from tests.support.strategies import key

PLAIN = Policy(approve_threshold=2, revoke_threshold=1, amend_threshold=2, enrol_threshold=1)
STAGE = RolloutStage(
    share=10_000,
    soak_ms=0,
    success_sites_min=0,
    failure_sites_max=0,
    failure_share_max=0,
    sample_min=1,
)


def witness(number: int, kind: SignatureType = SignatureType.COSIGNATURE) -> NoteKey:
    return NoteKey(name=f"witness{number:02d}.example", kind=kind, key=key(number).public)


WITNESSES = Witnesses(1, tuple(witness(number) for number in range(2)))
CHANGES: dict[int, dict[str, Any]] = {
    9: {"rule": KOf(1, ("auditor",))},
    10: {"veto_threshold": 1},
    11: {"freezes": (Freeze(0, 5), Freeze(6, 9))},
    12: {"maintenance": (WeeklyWindow(1, 0, 9), WeeklyWindow(2, 0, 9))},
    13: {"separation": (("auditor", "owner"), ("builder", "owner"))},
    14: {"manifest_lifetime_ms_max": DAY_MS},
    15: {"rollout": RolloutPlan(stages=(STAGE,))},
    16: {"defence": DefenceRules()},
    17: {"witnesses": WITNESSES},
    18: {"soak_ms": 1},
    19: {"attestations": 2},
    20: {"closed": True},
}


@pytest.mark.parametrize("number", CHANGES)
def test_each_field_has_its_number_and_is_absent_by_default(number: int) -> None:
    policy = replace(PLAIN, **CHANGES[number])
    value = decode_canonical(policy.encode(), bytes_max=POLICY_BYTES_MAX)
    assert isinstance(value, dict)
    assert set(value) == {*range(9), number}
    assert decode_policy(policy.encode()) == policy
    assert policy.policy_id != PLAIN.policy_id


def test_all_of_them_together() -> None:
    changes = {name: item for change in CHANGES.values() for name, item in change.items()}
    policy = replace(PLAIN, **changes)
    assert decode_policy(policy.encode()) == policy


@pytest.mark.parametrize(
    ("number", "item"),
    [
        (9, None),
        (9, []),
        (10, 0),
        (11, []),
        (12, []),
        (13, []),
        (14, 0),
        (15, None),
        (17, None),
        (18, 0),
        (19, 0),
        (20, False),
        (20, 1),
        (21, 1),
    ],
)
def test_what_says_nothing_is_not_written(number: int, item: Any) -> None:
    value = decode_canonical(PLAIN.encode(), bytes_max=POLICY_BYTES_MAX)
    assert isinstance(value, dict)
    with pytest.raises(EncodingError):
        decode_policy(encode_canonical({**value, number: item}))


@pytest.mark.parametrize(
    "changes",
    [
        {"veto_threshold": 0},
        {"veto_threshold": 33},
        {"attestations": 33},
        {"soak_ms": -1},
        {"soak_ms": DURATION_MS_MAX + 1},
        {"manifest_lifetime_ms_max": 5, "soak_ms": 5},
        {"manifest_lifetime_ms_max": DURATION_MS_MAX + 1},
        {"freezes": (Freeze(5, 9), Freeze(0, 4))},
        {"freezes": tuple(Freeze(2 * n, 2 * n + 1) for n in range(FREEZES_MAX + 1))},
        {"maintenance": (WeeklyWindow(2, 0, 9), WeeklyWindow(1, 0, 9))},
        {"maintenance": tuple(WeeklyWindow(1, 0, n) for n in range(1, WINDOWS_MAX + 2))},
        {"separation": (("owner", "auditor"),)},
        {"separation": (("owner", "owner"),)},
        {"separation": (("b", "c"), ("a", "b"))},
        {"separation": (("A", "b"),)},
        {"separation": tuple((f"a{n:02d}", "z") for n in range(SEPARATIONS_MAX + 1))},
        {"rule": InGroup("NO")},
    ],
)
def test_what_a_policy_cannot_say(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        replace(PLAIN, **changes)


@pytest.mark.parametrize(
    ("threshold", "keys"),
    [
        (0, (witness(1),)),
        (2, (witness(1),)),
        (1, (witness(2), witness(1))),
        (1, (witness(1), witness(1))),
        (1, (witness(1, SignatureType.ED25519),)),
        (1, tuple(witness(number) for number in range(WITNESSES_MAX + 1))),
        (1, (replace(witness(1), name="a"), replace(witness(1), name="b"))),
    ],
)
def test_what_are_no_witnesses(threshold: int, keys: tuple[NoteKey, ...]) -> None:
    with pytest.raises(EncodingError):
        Witnesses(threshold, keys)


@pytest.mark.parametrize("value", [1, [1], [True, ["x"]], [1, "x"], [1, [1]], [1, ["x"]]])
def test_malformed_witnesses(value: Any) -> None:
    with pytest.raises(EncodingError):
        Witnesses.from_value(value)


def test_a_policy_fits_its_root_or_not() -> None:
    owners = tuple(sorted((key(n).public, f"owner {n}") for n in range(3)))
    builders = tuple(sorted((key(n).public, f"builder {n}") for n in range(5, 7)))
    root = OwnerRoot(version=1, threshold=2, owners=owners, roles=(("builder", builders),))
    check_policy_fits(replace(PLAIN, attestations=2, veto_threshold=3), root)
    for changes in ({"attestations": 3}, {"veto_threshold": 4}):
        with pytest.raises(EncodingError, match="policy needs"):
            check_policy_fits(replace(PLAIN, **changes), root)
    apart = replace(PLAIN, separation=(("builder", "owner"),))
    check_policy_fits(apart, root)
    mixed = tuple(sorted((*builders, owners[0])))
    both = replace(root, roles=(("builder", mixed),))
    with pytest.raises(EncodingError, match="is both builder and owner"):
        check_policy_fits(apart, both)
