"""Validator sets: quorum, leaders, bounds, strict decoding."""

from __future__ import annotations

import pytest

from ledger.validators import Validator, ValidatorSet, decode_validator_set
from protocol.digest import DidId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.keys import PublicKey


def make(count: int, epoch: int = 1) -> ValidatorSet:
    members = (
        Validator(DidId(sha256(b"did%d" % i)), PublicKey(sha256(b"key%d" % i)))
        for i in range(count)
    )
    return ValidatorSet(epoch, tuple(members))


@pytest.mark.parametrize(
    ("count", "fault_limit", "quorum"),
    [(4, 1, 3), (5, 1, 4), (6, 1, 5), (7, 2, 5), (8, 2, 6), (16, 5, 11), (32, 10, 22)],
)
def test_quorum(count: int, fault_limit: int, quorum: int) -> None:
    validators = make(count)
    assert (validators.fault_limit, validators.quorum) == (fault_limit, quorum)


@pytest.mark.parametrize("count", range(4, 33))
def test_two_quorums_share_an_honest_member_and_the_honest_are_one(count: int) -> None:
    validators = make(count)
    assert 2 * validators.quorum - count > validators.fault_limit
    assert count - validators.fault_limit >= validators.quorum


def test_leaders_take_turns() -> None:
    assert [make(5).leader(view) for view in range(1, 7)] == [1, 2, 3, 4, 0, 1]


def test_index_of() -> None:
    validators = make(4)
    assert validators.index_of(validators.members[2].key) == 2
    assert validators.index_of(PublicKey(sha256(b"other"))) is None


@pytest.mark.parametrize("count", [0, 3, 33])
def test_size_is_bounded(count: int) -> None:
    with pytest.raises(EncodingError, match=f"{count} validators"):
        make(count)


def test_subjects_and_keys_are_distinct() -> None:
    members = make(4).members
    with pytest.raises(EncodingError, match="subject"):
        ValidatorSet(1, (*members, Validator(members[0].did, PublicKey(sha256(b"other")))))
    with pytest.raises(EncodingError, match="key"):
        ValidatorSet(1, (*members, Validator(DidId(bytes(32)), members[0].key)))
    with pytest.raises(EncodingError, match="negative"):
        ValidatorSet(-1, members)


def test_encoding_round_trip_and_digest() -> None:
    validators = make(7, epoch=3)
    assert decode_validator_set(validators.encode()) == validators
    assert validators.digest != make(7, epoch=4).digest
    assert validators.digest != ValidatorSet(3, validators.members[::-1]).digest


@pytest.mark.parametrize("change", [{0: 2}, {1: -1}, {2: []}, {2: [[b"", 1]] * 4}, {3: 0}, {-1: 0}])
def test_decoding_is_strict(change: dict[int, object]) -> None:
    value = decode_canonical(make(4).encode(), bytes_max=4096)
    assert isinstance(value, dict)
    with pytest.raises(EncodingError):
        decode_validator_set(encode_canonical({**value, **change}))  # type: ignore[dict-item]
