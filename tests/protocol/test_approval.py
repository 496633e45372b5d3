"""Approvals and thresholds: who counts, for what, and how often."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.announcement import Announcement, parse_announcement, sign_announcement
from protocol.approval import (
    APPROVAL_BYTES_MAX,
    APPROVAL_TAG,
    Action,
    Approval,
    parse_approval,
    sign_approval,
    verify_threshold,
)
from protocol.cose import sign
from protocol.digest import BlockId, DidId, PolicyId, sha256
from protocol.encoding import INTEGER_MAX, decode_canonical, encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, SignatureError, VerificationError
from protocol.group import OwnerRoot
from tests.support.strategies import CHAIN, OTHER_CHAIN, key, many

SUBJECT = sha256(b"manifest")
POLICY = PolicyId(sha256(b"policy"))
OWNERS = sorted((key(number) for number in range(1, 5)), key=lambda one: one.public)
ROOT = OwnerRoot(
    version=1,
    threshold=2,
    owners=tuple((one.public, f"owner {index}") for index, one in enumerate(OWNERS)),
)
STRANGER = key(50)


def approval(**changes: Any) -> Approval:
    values = {
        "era": 0,
        "action": Action.AUTHORISE,
        "subject": SUBJECT,
        "group": "edge",
        "policy": POLICY,
        "valid_until_ms": 1_000,
    }
    return Approval(**{**values, **changes})


def raw(owner: int, **changes: Any) -> bytes:
    return sign_approval(approval(**changes), OWNERS[owner], CHAIN).signed.raw


def count(approvals: list[bytes], **changes: Any) -> tuple[str, ...]:
    wanted = {
        "root": ROOT,
        "threshold": 2,
        "chain": CHAIN,
        "era": 0,
        "action": Action.AUTHORISE,
        "subject": SUBJECT,
        "group": "edge",
        "policy": POLICY,
    }
    return verify_threshold(approvals, **{**wanted, **changes})


def test_two_owners_are_enough() -> None:
    assert count([raw(0), raw(2)]) == ("owner 0", "owner 2")
    assert count([raw(2), raw(0), raw(3)]) == ("owner 2", "owner 0", "owner 3")


def test_one_owner_counts_once_however_often_they_sign() -> None:
    again = raw(0, valid_until_ms=2_000)
    with pytest.raises(VerificationError, match="1 valid owner approvals, 2 needed"):
        count([raw(0), raw(0), again])
    assert count([raw(0), again, raw(1)]) == ("owner 0", "owner 1")


WRONG = [
    {"era": 1},
    {"action": Action.REVOKE},
    {"subject": sha256(b"another manifest")},
    {"group": "lab"},
    {"policy": PolicyId(sha256(b"another policy"))},
]


@pytest.mark.parametrize("changes", WRONG, ids=lambda changes: next(iter(changes)))
def test_an_approval_of_something_else_does_not_count(changes: dict[str, Any]) -> None:
    with pytest.raises(VerificationError, match="1 valid"):
        count([raw(0), raw(1, **changes)])
    assert len(count([raw(0), raw(1, **changes), raw(2)])) == 2
    assert len(count([raw(0, **changes), raw(1, **changes)], **changes)) == 2


def test_strangers_other_chains_and_junk_do_not_count() -> None:
    by_stranger = sign_approval(approval(), STRANGER, CHAIN).signed.raw
    elsewhere = sign_approval(approval(), OWNERS[1], OTHER_CHAIN).signed.raw
    parts: Any = decode_canonical(raw(1), bytes_max=APPROVAL_BYTES_MAX)
    unsigned = encode_canonical([*parts[:3], bytes(64)])
    claimed: Any = decode_canonical(by_stranger, bytes_max=APPROVAL_BYTES_MAX)
    stolen_name = encode_canonical([parts[0], {}, claimed[2], claimed[3]])
    junk = [by_stranger, elsewhere, unsigned, stolen_name, b"", b"\xff", bytes(600), raw(1)[:-1]]
    with pytest.raises(VerificationError, match="1 valid"):
        count([raw(0), *junk])
    assert count([*junk, raw(0), raw(1)]) == ("owner 0", "owner 1")


@pytest.mark.slow
@many
@given(st.data())
def test_order_and_junk_change_nothing(data: st.DataObject) -> None:
    signers = data.draw(st.lists(st.integers(0, 3), max_size=6))
    good = [raw(signer) for signer in signers]
    bad = [raw(data.draw(st.integers(0, 3)), **data.draw(st.sampled_from(WRONG)))]
    mixed = data.draw(st.permutations(good + bad))
    if len(set(signers)) >= 2:
        assert set(count(mixed)) == {f"owner {signer}" for signer in signers}
    else:
        with pytest.raises(VerificationError):
            count(mixed)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("threshold", [1, 2, 3])
def test_only_what_authorises_nothing_may_undercut_the_root(action: Action, threshold: int) -> None:
    easy = action in (Action.REVOKE, Action.ENROL, Action.SUSPEND, Action.VETO)
    needed = threshold if easy else max(threshold, 2)
    signed = [raw(owner, action=action) for owner in range(needed)]
    assert len(count(signed, action=action, threshold=threshold)) == needed
    with pytest.raises(VerificationError):
        count(signed[1:], action=action, threshold=threshold)


@pytest.mark.parametrize("threshold", [0, -1])
@pytest.mark.parametrize("action", Action)
def test_nobody_never_decides(action: Action, threshold: int) -> None:
    with pytest.raises(LocalProtocolError, match="nobody"):
        count([], action=action, threshold=threshold)


def test_a_rotated_root_no_longer_counts_who_left() -> None:
    left = dataclasses.replace(ROOT, version=2, owners=ROOT.owners[1:])
    with pytest.raises(VerificationError, match="1 valid"):
        count([raw(0), raw(1)], root=left)


def test_a_statement_of_another_kind_does_not_count() -> None:
    payload = approval().encode()
    for tag in ("swarmd/manifest/1", "swarmd/transaction/1", "swarmd/vote/1"):
        other = sign(payload, OWNERS[1], tag=tag, chain=CHAIN, era=0)
        with pytest.raises(VerificationError, match="1 valid"):
            count([raw(0), other])
        assert parse_approval(other).approval == approval()


def test_an_announcement_by_an_owner_is_no_approval() -> None:
    said = Announcement(
        era=0, author=DidId(SUBJECT), topic="t", manifest=None, height=1, block_id=BlockId(SUBJECT)
    )
    announced = sign_announcement(said, OWNERS[1], CHAIN)
    with pytest.raises(EncodingError):
        parse_approval(announced.signed.raw)
    with pytest.raises(EncodingError):
        parse_announcement(raw(1))


def test_verify_names_the_owner() -> None:
    made = sign_approval(approval(), OWNERS[3], CHAIN)
    assert made.verify(ROOT, CHAIN) == "owner 3"
    with pytest.raises(SignatureError, match="not an owner"):
        sign_approval(approval(), STRANGER, CHAIN).verify(ROOT, CHAIN)
    with pytest.raises(SignatureError):
        made.verify(ROOT, OTHER_CHAIN)


def test_the_largest_approval_fits() -> None:
    largest = approval(era=INTEGER_MAX, group="g" * 64, valid_until_ms=INTEGER_MAX)
    assert len(sign_approval(largest, OWNERS[0], CHAIN).signed.raw) <= APPROVAL_BYTES_MAX


def test_every_number_of_an_action_is_known() -> None:
    fields: Any = decode_canonical(approval().encode(), bytes_max=APPROVAL_BYTES_MAX)
    for number in itertools.chain(range(9), (2**31, -1)):
        data = sign(
            encode_canonical({**fields, 2: number}), key(1), tag=APPROVAL_TAG, chain=CHAIN, era=0
        )
        if number in [int(action) for action in Action]:
            assert parse_approval(data).approval.action == number
        else:
            with pytest.raises(EncodingError, match=r"Action|between"):
                parse_approval(data)
