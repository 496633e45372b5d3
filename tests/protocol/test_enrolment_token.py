"""Enrolment tokens: what they say, who signed them, who may use them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.approval import APPROVAL_TAG
from protocol.cose import sign
from protocol.did import SubjectKind, did_key_text
from protocol.digest import ChainId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.enrolment_token import (
    ADDRESSES_MAX,
    ENROLMENT_TAG,
    TOKEN_BYTES_MAX,
    EnrolmentClaims,
    SeatClaim,
    claim_seat,
    confirmation_code,
    parse_token,
    same_seat,
    seat_message,
    sign_token,
)
from protocol.errors import EncodingError, SignatureError, SwarmError
from tests.support.ledger import make_key, owner_keys
from tests.support.seats import ADDRESSES, NEWCOMER, SEAT_KEY, make_claims, make_tokens

CHAIN = ChainId(sha256(b"chain"))
CLAIMS = make_claims(CHAIN)
OWNERS = owner_keys("fleet")


def forged(changes: dict[int, object], drop: int | None = None) -> bytes:
    """A token by an owner whose payload was put together by hand."""
    value = decode_canonical(CLAIMS.encode(), bytes_max=TOKEN_BYTES_MAX)
    assert isinstance(value, dict)
    value = {key: item for key, item in {**value, **changes}.items() if key != drop}
    return sign(encode_canonical(value), OWNERS[0], tag=ENROLMENT_TAG, chain=CHAIN, era=0)


def test_a_token_says_what_its_owner_signed() -> None:
    token = sign_token(CLAIMS, OWNERS[1])
    again = parse_token(token.signed.raw)
    assert again.claims == replace(CLAIMS, issuer=OWNERS[1].public)
    again.verify()
    assert len(token.signed.raw) < 800


def test_it_is_a_cbor_web_token() -> None:
    """RFC 8392: registered claims under their numbers; RFC 8747: the holder's COSE_Key."""
    value = decode_canonical(CLAIMS.encode(), bytes_max=TOKEN_BYTES_MAX)
    assert isinstance(value, dict)
    assert value[1] == did_key_text(OWNERS[0].public)
    assert (value[4], value[7]) == (CLAIMS.expiry_s, CLAIMS.seat_id)
    assert value[8] == {1: {1: 1, -1: 6, -2: SEAT_KEY.public.raw}}
    assert all(key in (1, 4, 7, 8) or key < -65536 for key in value)


@pytest.mark.parametrize("key", [1, 4, 7, 8, *range(-65543, -65536)])
def test_every_claim_is_needed_and_typed(key: int) -> None:
    parse_token(forged({}))
    for raw in (forged({}, drop=key), forged({key: {}}), forged({key: None})):
        with pytest.raises(EncodingError):
            parse_token(raw)


@pytest.mark.parametrize(
    "changes",
    [
        {5: 0},  # nbf: registered, and not understood here
        {-65544: 0},
        {"scope": "all"},
        {1: "did:key:z6MkNoKey"},
        {4: -1},
        {4: 1.5},
        {7: bytes(15)},
        {8: {1: {1: 1, -1: 6, -2: bytes(32)}}},  # a point of small order
        {8: {1: {1: 1, -1: 6, -2: SEAT_KEY.public.raw, 3: -8}}},
        {8: {1: {1: 2, -1: 6, -2: SEAT_KEY.public.raw}}},
        {8: {1: {1: 1, -1: 6, -2: SEAT_KEY.public.raw}, 3: b"kid"}},
        {-65539: [7]},
        {-65540: list(ADDRESSES[:2])},
        {-65540: [ADDRESSES[0]] * 3},
        {-65540: ["/ip4/192.0.2.1/tcp/1", *ADDRESSES[1:]]},
        {-65540: [1, *ADDRESSES[1:]]},
        {-65540: ["\u202e/p2p/x", *ADDRESSES[1:]]},
        {-65540: [f"/dns/{index}/p2p/x" for index in range(ADDRESSES_MAX + 1)]},
        {-65541: []},
        {-65541: ["pumps", "fleet"]},
        {-65541: ["Fleet"]},
        {-65542: int(SubjectKind.VALIDATOR)},
        {-65542: 9},
        {-65543: 1},
    ],
)
def test_one_thing_wrong_with_a_token(changes: dict[int, object]) -> None:
    try:
        raw = forged(changes)
    except SwarmError:
        return  # not even this project's encoding can say it
    with pytest.raises(EncodingError):
        parse_token(raw)


def test_claims_that_nobody_could_read_cannot_be_made() -> None:
    for changes in (
        {"addresses": ADDRESSES[:2]},
        {"groups": ()},
        {"groups": ("pumps", "fleet")},
        {"kind": SubjectKind.VALIDATOR},
        {"seat_id": b""},
    ):
        with pytest.raises(EncodingError):
            replace(CLAIMS, **changes)


def test_only_the_issuer_for_this_chain_and_era_verifies() -> None:
    token = sign_token(CLAIMS, OWNERS[0])
    payload = token.signed.payload
    for raw in (
        sign(payload, OWNERS[1], tag=ENROLMENT_TAG, chain=CHAIN, era=0),
        sign(payload, OWNERS[0], tag=ENROLMENT_TAG, chain=CHAIN, era=1),
        sign(payload, OWNERS[0], tag=ENROLMENT_TAG, chain=ChainId(sha256(b"x")), era=0),
        sign(payload, OWNERS[0], tag=APPROVAL_TAG, chain=CHAIN, era=0),
    ):
        with pytest.raises(SignatureError):
            parse_token(raw).verify()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_altered_token_verifies(data: st.DataObject) -> None:
    raw = sign_token(CLAIMS, OWNERS[0]).signed.raw
    index = data.draw(st.integers(0, len(raw) - 1))
    bit = data.draw(st.integers(0, 7))
    altered = raw[:index] + bytes((raw[index] ^ 1 << bit,)) + raw[index + 1 :]
    with pytest.raises((EncodingError, SignatureError)):
        parse_token(altered).verify()


def test_owners_of_one_seat_differ_in_their_names_only() -> None:
    tokens = make_tokens(CLAIMS, OWNERS[:2])
    assert same_seat(tokens).seat == CLAIMS.seat
    other: list[EnrolmentClaims] = [
        replace(CLAIMS, expiry_s=CLAIMS.expiry_s + 1),
        replace(CLAIMS, holder=make_key("other").public),
        replace(CLAIMS, confirmed=True),
        replace(CLAIMS, groups=("fleet", "pumps")),
    ]
    for claims in other:
        with pytest.raises(EncodingError, match="different seats"):
            same_seat([tokens[0], sign_token(claims, OWNERS[1])])
    with pytest.raises(EncodingError, match="0 tokens"):
        same_seat([])


def test_a_seat_is_named_by_its_groups_and_id_alone() -> None:
    same = replace(CLAIMS, expiry_s=1, addresses=ADDRESSES[::-1], holder=make_key("o").public)
    assert same.seat == CLAIMS.seat
    assert replace(CLAIMS, seat_id=bytes(16)).seat != CLAIMS.seat
    assert replace(CLAIMS, groups=("fleet", "pumps")).seat != CLAIMS.seat


def test_a_seat_is_given_by_its_holder_to_one_subject() -> None:
    tokens = make_tokens(CLAIMS, OWNERS[:2])
    claim = claim_seat(tokens, NEWCOMER.did, SEAT_KEY)
    SEAT_KEY.public.verify(claim.proof, seat_message(CLAIMS, NEWCOMER.did))
    assert SeatClaim.from_value(claim.to_value()) == claim
    with pytest.raises(SignatureError, match="holder of another key"):
        claim_seat(tokens, NEWCOMER.did, make_key("thief"))
    for value in ([[], claim.proof], [[b"t"] * 33, claim.proof], [[b"t"], b"short"], [[1], b""]):
        with pytest.raises(EncodingError):
            SeatClaim.from_value(value)


@pytest.mark.slow
def test_a_code_depends_on_chain_seat_and_newcomer() -> None:
    code = confirmation_code(CLAIMS, NEWCOMER.did)
    assert (len(code), code.isdigit()) == (6, True)
    others = [
        confirmation_code(CLAIMS, sha256(b"other")),  # type: ignore[arg-type]
        confirmation_code(replace(CLAIMS, seat_id=bytes(16)), NEWCOMER.did),
        confirmation_code(replace(CLAIMS, chain=ChainId(sha256(b"x"))), NEWCOMER.did),
    ]
    assert code not in others
    assert confirmation_code(replace(CLAIMS, expiry_s=1), NEWCOMER.did) == code
