"""Owner roots with roles: who stands behind a key, and what no root may say."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.owner_root import (
    OWNERS_MAX,
    ROLE_KEYS_MAX,
    ROLES_MAX,
    Holder,
    KeyHolder,
    OwnerRoot,
    check_role_name,
)
from tests.support.strategies import key

KEYS = sorted(key(number).public for number in range(OWNERS_MAX + ROLE_KEYS_MAX))
OWNERS: tuple[KeyHolder, ...] = tuple((KEYS[index], f"owner {index}") for index in range(3))
AUDITOR: KeyHolder = (KEYS[3], "auditor")
BUILDER: KeyHolder = (KEYS[4], "builder house")


def root(**changes: Any) -> OwnerRoot:
    roles = (("auditor", (AUDITOR,)), ("builder", (OWNERS[2], AUDITOR, BUILDER)))
    return OwnerRoot(**{"version": 1, "threshold": 2, "owners": OWNERS, "roles": roles, **changes})


def test_roles_survive_the_wire() -> None:
    known = root()
    raw = encode_canonical(known.to_value())
    assert OwnerRoot.from_value(decode_canonical(raw, bytes_max=4096)) == known
    plain = root(roles=())
    assert 4 not in plain.to_value()  # type: ignore[operator]
    assert OwnerRoot.from_value(plain.to_value()) == plain


def test_a_holder_is_all_that_a_root_says_of_a_key() -> None:
    known = root()
    assert known.holder(OWNERS[0][0].key_id) == Holder(*OWNERS[0], True, ())
    assert known.holder(OWNERS[2][0].key_id) == Holder(*OWNERS[2], True, ("builder",))
    assert known.holder(AUDITOR[0].key_id) == Holder(*AUDITOR, False, ("auditor", "builder"))
    assert known.holder(KEYS[9].key_id) is None
    assert [holder.name for holder in known.holders()] == [
        "owner 0",
        "owner 1",
        "owner 2",
        "auditor",
        "builder house",
    ]


def test_a_role_makes_nobody_an_owner() -> None:
    known = root()
    assert known.owner(AUDITOR[0].key_id) is None
    auditor = known.holder(AUDITOR[0].key_id)
    assert auditor is not None
    assert not auditor.has_role("owner")
    assert auditor.has_role("auditor")
    assert not auditor.has_role("emergency")
    assert (known.role_size("owner"), known.role_size("builder"), known.role_size("x")) == (3, 3, 0)


def test_the_fullest_root_can_be_read_back() -> None:
    owners = tuple((KEYS[index], f"{index:064d}") for index in range(OWNERS_MAX))
    others = tuple(
        (KEYS[OWNERS_MAX + index], f"{OWNERS_MAX + index:064d}") for index in range(ROLE_KEYS_MAX)
    )
    full = root(owners=owners, threshold=OWNERS_MAX, roles=(("r" * 32, others),))
    raw = encode_canonical(full.to_value())
    assert OwnerRoot.from_value(decode_canonical(raw, bytes_max=8192)) == full


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a b", "a" * 33, "ä", "a\n", "a_b"])
def test_bad_role_names(name: str) -> None:
    with pytest.raises(EncodingError, match="role name"):
        check_role_name(name)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ((("owner", (AUDITOR,)),), "reserved"),
        ((("publisher", (AUDITOR,)),), "reserved"),
        ((("auditor", ()),), "no key"),
        ((("b", (AUDITOR,)), ("a", (AUDITOR,))), "roles: not strictly ascending"),
        ((("a", (AUDITOR,)), ("a", (BUILDER,))), "roles: not strictly ascending"),
        ((("a", (BUILDER, AUDITOR)),), "not strictly ascending"),
        ((("a", (AUDITOR, AUDITOR)),), "not strictly ascending"),
        ((("a", ((AUDITOR[0], "owner 1"),)),), "share a holder's name"),
        ((("a", ((OWNERS[0][0], "alias"),)),), "two holders' names"),
        ((("a", (AUDITOR,)), ("b", ((AUDITOR[0], "alias"),))), "two holders' names"),
        ((("a", ((AUDITOR[0], ""),)),), "empty"),
        (tuple((f"r{index}", (AUDITOR,)) for index in range(ROLES_MAX + 1)), "at most 8"),
        (tuple((f"r{index}", (*OWNERS, AUDITOR, BUILDER)) for index in range(7)), "more than 32"),
    ],
)
def test_roles_that_could_mislead_are_refused(roles: Any, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        root(roles=roles)


@pytest.mark.parametrize(
    "roles", [[], "x", [["a"]], [["a", []]], [[1, [[KEYS[5].to_value(), "n"]]]], [["a", b"x"]]]
)
def test_malformed_roles_are_refused(roles: Any) -> None:
    value: Any = {**root(roles=()).to_value(), 4: roles}  # type: ignore[dict-item]
    with pytest.raises(EncodingError):
        OwnerRoot.from_value(value)
