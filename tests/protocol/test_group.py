"""Owner roots and policies: what can be met, what cannot be undercut."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.digest import DidId
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.group import (
    DURATION_MS_MAX,
    GROUP_BYTES_MAX,
    OWNERS_MAX,
    PUBLISHERS_MAX,
    Group,
    OwnerRoot,
    Placement,
    Policy,
    check_group_name,
    check_placements,
    check_policy_fits,
    decode_group,
    decode_placement,
    decode_policy,
)
from protocol.keys import PublicKey
from protocol.policy import AMEND_DELAY_MS_MIN
from protocol.rule import Compare, Comparison, RuleField
from tests.support.strategies import key


def root(threshold: int = 2, count: int = 3, **changes: Any) -> OwnerRoot:
    publics = sorted(key(number).public for number in range(count))
    owners = tuple((public, f"owner {index}") for index, public in enumerate(publics))
    return OwnerRoot(**{"version": 1, "threshold": threshold, "owners": owners, **changes})


def policy(**changes: Any) -> Policy:
    thresholds = {
        "approve_threshold": 2,
        "revoke_threshold": 2,
        "amend_threshold": 2,
        "enrol_threshold": 1,
    }
    return Policy(**{**thresholds, **changes})


@pytest.mark.parametrize("name", ["a", "0", "a.b-c_d", "a" * 64])
def test_group_names(name: str) -> None:
    assert check_group_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/", "A", "a b", "ä", "a\n", "-a", "a-", "a" * 65, "\u0430"]
)
def test_bad_group_names(name: str) -> None:
    with pytest.raises(EncodingError):
        check_group_name(name)


@pytest.mark.parametrize(("threshold", "count"), [(0, 3), (-1, 3), (4, 3), (1, 0), (1, 33)])
def test_a_threshold_can_be_met(threshold: int, count: int) -> None:
    with pytest.raises(EncodingError, match="threshold"):
        root(threshold, count)


def test_the_largest_root_fits_a_group() -> None:
    full = root(OWNERS_MAX, OWNERS_MAX)
    publishers = tuple(DidId(bytes([index]) * 32) for index in range(PUBLISHERS_MAX))
    rules = policy(approve_threshold=OWNERS_MAX, amend_threshold=OWNERS_MAX, publishers=publishers)
    group = Group(name="g" * 64, owner_root=full, policy=rules)
    assert decode_group(group.encode()) == group
    assert len(group.encode()) <= GROUP_BYTES_MAX


def test_an_owner_holds_one_key_and_a_key_has_one_owner() -> None:
    owners = root().owners
    with pytest.raises(EncodingError, match="ascending"):
        root(owners=owners[::-1])
    with pytest.raises(EncodingError, match="ascending"):
        root(owners=(owners[0], owners[0], owners[1]))
    with pytest.raises(EncodingError, match="share a holder's name"):
        root(owners=(owners[0], (owners[1][0], owners[0][1]), owners[2]))


@pytest.mark.parametrize("name", ["", "a\u202e", "n" * 65])
def test_owners_names_cannot_deceive(name: str) -> None:
    (first, _), *rest = root().owners
    with pytest.raises(EncodingError):
        root(owners=((first, name), *rest))


def test_owners_are_found_by_key_id() -> None:
    known = root()
    assert known.owner(known.owners[1][0].key_id) == known.owners[1]
    assert known.owner(key(40).public.key_id) is None
    assert known.owner(b"") is None


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_versions_are_positive(version: int) -> None:
    with pytest.raises(EncodingError, match="version"):
        root(version=version)


@pytest.mark.parametrize(
    "owner", [[key(1).public.to_value(), b"bytes"], [key(1).public.to_value()], [1, "name"], "x"]
)
def test_malformed_owners_are_refused(owner: Any) -> None:
    with pytest.raises(EncodingError):
        OwnerRoot.from_value({0: 1, 1: 1, 2: 1, 3: [owner]})


def test_a_neutral_key_cannot_own() -> None:
    with pytest.raises(EncodingError, match="small order"):
        OwnerRoot.from_value({0: 1, 1: 1, 2: 1, 3: [[[1, b"\x01" + bytes(31)], "nobody"]]})


@pytest.mark.parametrize("schema", [0, 2, -1])
def test_other_schemas_are_refused(schema: int) -> None:
    with pytest.raises(EncodingError, match="field 0"):
        OwnerRoot.from_value({**dict(root().to_value()), 0: schema})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"approve_threshold": 0},
        {"revoke_threshold": 0},
        {"enrol_threshold": 0},
        {"amend_threshold": 1},
        {"amend_threshold": 33},
        {"approve_threshold": 33, "amend_threshold": 33},
        {"amend_delay_ms": AMEND_DELAY_MS_MIN - 1},
        {"amend_delay_ms": DURATION_MS_MAX + 1},
        {"serve_freshness_ms": DURATION_MS_MAX + 1},
        {"offer_freshness_ms": 0},
        {"offer_freshness_ms": 2, "serve_freshness_ms": 1},
        {"publishers": (DidId(bytes(32)), DidId(bytes(32)))},
        {"publishers": (DidId(b"b" * 32), DidId(b"a" * 32))},
        {"publishers": tuple(DidId(bytes([index]) * 32) for index in range(33))},
        {"extensions": {9: 1}},
    ],
)
def test_rules_that_contradict_themselves_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        policy(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"approve_threshold": 1},
        {"approve_threshold": 1, "amend_threshold": 1},
        {"approve_threshold": 4, "amend_threshold": 4},
        {"amend_threshold": 4},
        {"revoke_threshold": 4},
        {"enrol_threshold": 4},
    ],
)
def test_a_policy_neither_undercuts_nor_exceeds_its_owners(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError, match=r"undercuts|approvals of 3 owners"):
        check_policy_fits(policy(**changes), root())
    with pytest.raises(EncodingError):
        Group(name="g", owner_root=root(), policy=policy(**changes))


def test_revoking_and_enrolling_may_be_easier_than_approving() -> None:
    check_policy_fits(policy(revoke_threshold=1, enrol_threshold=1), root())


def test_every_field_changes_the_policy_id() -> None:
    first = policy()
    changed = [
        policy(revoke_threshold=1),
        policy(amend_threshold=3),
        policy(enrol_threshold=2),
        policy(amend_delay_ms=AMEND_DELAY_MS_MIN),
        policy(offer_freshness_ms=1),
        policy(serve_freshness_ms=DURATION_MS_MAX),
        policy(publishers=(DidId(bytes(32)),)),
        policy(extensions={-1: 1}),
        policy(approve_threshold=1),
    ]
    assert len({one.policy_id for one in (first, *changed)}) == len(changed) + 1
    assert decode_policy(changed[7].encode()).policy_id == changed[7].policy_id


def test_a_group_holds_its_policys_original_bytes() -> None:
    group = Group(name="g", owner_root=root(), policy=policy(extensions={-5: "later"}))
    fields = decode_canonical(group.encode(), bytes_max=GROUP_BYTES_MAX)
    assert isinstance(fields, dict)
    assert fields[3] == group.policy.encode()
    assert decode_group(group.encode()).policy.policy_id == group.policy.policy_id
    with pytest.raises(EncodingError):
        decode_group(encode_canonical({**fields, 3: bytes(9000)}))


def test_values_stay_hashable_with_extensions() -> None:
    one = root(extensions={-1: [1]})
    assert hash(one) == hash(dataclasses.replace(one, extensions={}))
    assert one != dataclasses.replace(one, extensions={})
    assert isinstance(one.owners[0][0], PublicKey)


def placed(name: str, parent: str | None, *, selector: bool = False) -> Group:
    rule = Compare(RuleField.VENDOR, Comparison.EQUAL, "acme") if selector else None
    return Group(name=name, owner_root=root(), policy=policy(), placement=Placement(parent, rule))


def test_groups_that_begin_together_have_possible_places() -> None:
    chain = [placed("g0", None), *(placed(f"g{n}", f"g{n - 1}") for n in range(1, 8))]
    check_placements(chain)
    cases = {
        "below more than 7": [*chain, placed("g8", "g7")],
        "or itself": [placed("a", "b"), placed("b", "a")],
        "does not exist": [placed("a", "b")],
        "more than 200": [placed("top", None), *(placed(f"c{n}", "top") for n in range(201))],
    }
    for message, groups in cases.items():
        with pytest.raises(EncodingError, match=message):
            check_placements(groups)


def test_a_place_has_one_encoding() -> None:
    for place in (Placement(), Placement("fleet"), placed("a", "fleet", selector=True).placement):
        assert decode_placement(place.encode()) == place
        group = Group(name="pumps", owner_root=root(), policy=policy(), placement=place)
        assert decode_group(group.encode()) == group
    with pytest.raises(EncodingError, match="own parent"):
        placed("a", "a")
    wrong: list[Any] = [{0: 2}, {0: 1, -1: 0}, {0: 1, 3: 0}, {0: 1, 1: "NO"}]
    for value in (*wrong, {0: 1, 2: [4, 1, ["owner"]]}):
        with pytest.raises(EncodingError):
            decode_placement(encode_canonical(value))
