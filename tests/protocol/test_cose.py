"""COSE_Sign1 in its narrow form: what was signed verifies, and nothing else is taken."""

from __future__ import annotations

import json
from pathlib import Path

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cose import ALGORITHM_EDDSA, parse_signed, sign, signature_input
from protocol.digest import ChainId
from protocol.encoding import Value, encode_canonical
from protocol.errors import EncodingError, SignatureError
from protocol.keys import PrivateKey, PublicKey

KEY = PrivateKey(bytes(range(32)))
OTHER = PrivateKey(bytes(range(1, 33)))
CHAIN = ChainId(b"\x01" * 32)
TAG = "swarmd/test/1"
RAW = sign(b"payload", KEY, tag=TAG, chain=CHAIN, era=3)


@pytest.mark.slow
@given(payload=st.binary(max_size=200), era=st.integers(0, 2**32))
def test_what_was_signed_verifies(payload: bytes, era: int) -> None:
    raw = sign(payload, KEY, tag=TAG, chain=CHAIN, era=era)
    signed = parse_signed(raw, bytes_max=len(raw))
    assert (signed.raw, signed.payload, signed.key_id) == (raw, payload, KEY.public.key_id)
    signed.verify(KEY.public, tag=TAG, chain=CHAIN, era=era)


@pytest.mark.parametrize(
    ("key", "tag", "chain", "era"),
    [
        (OTHER.public, TAG, CHAIN, 3),
        (KEY.public, "swarmd/test/2", CHAIN, 3),
        (KEY.public, "", CHAIN, 3),
        (KEY.public, TAG, ChainId(b"\x02" * 32), 3),
        (KEY.public, TAG, CHAIN, 4),
    ],
)
def test_it_verifies_for_no_other_key_purpose_chain_or_era(
    key: PublicKey, tag: str, chain: ChainId, era: int
) -> None:
    with pytest.raises(SignatureError):
        parse_signed(RAW, bytes_max=1000).verify(key, tag=tag, chain=chain, era=era)


@given(position=st.integers(0, len(RAW) * 8 - 1))
def test_one_flipped_bit_is_noticed(position: int) -> None:
    changed = bytearray(RAW)
    changed[position // 8] ^= 1 << position % 8
    with pytest.raises((EncodingError, SignatureError)):
        parse_signed(bytes(changed), bytes_max=1000).verify(KEY.public, tag=TAG, chain=CHAIN, era=3)


@pytest.mark.parametrize("length", range(len(RAW)))
def test_every_truncation_is_refused(length: int) -> None:
    with pytest.raises(EncodingError):
        parse_signed(RAW[:length], bytes_max=1000)


def test_the_length_is_bounded() -> None:
    with pytest.raises(EncodingError, match="at most"):
        parse_signed(RAW, bytes_max=len(RAW) - 1)


def header(content: Value) -> bytes:
    return encode_canonical(content)


GOOD_HEADER = header({1: ALGORITHM_EDDSA, 4: bytes(32)})
WRONG: dict[str, object] = {
    "three items": [GOOD_HEADER, {}, b"p"],
    "five items": [GOOD_HEADER, {}, b"p", bytes(64), 0],
    "a map": {1: 2},
    "unprotected header": [GOOD_HEADER, {4: b"x"}, b"p", bytes(64)],
    "unprotected header of another type": [GOOD_HEADER, [], b"p", bytes(64)],
    "header that is not encoded": [{1: -8, 4: bytes(32)}, {}, b"p", bytes(64)],
    "header that is no map": [header([1]), {}, b"p", bytes(64)],
    "header that is empty": [b"", {}, b"p", bytes(64)],
    "no key id": [header({1: -8}), {}, b"p", bytes(64)],
    "no algorithm": [header({4: bytes(32)}), {}, b"p", bytes(64)],
    "another algorithm": [header({1: -7, 4: bytes(32)}), {}, b"p", bytes(64)],
    "algorithm as text": [header({1: "EdDSA", 4: bytes(32)}), {}, b"p", bytes(64)],
    "critical header": [header({1: -8, 2: [1], 4: bytes(32)}), {}, b"p", bytes(64)],
    "further header": [header({1: -8, 4: bytes(32), 5: 0}), {}, b"p", bytes(64)],
    "text key among integer keys": [header({1: -8, "a": bytes(20)}), {}, b"p", bytes(64)],
    "long header": [header({1: -8, 4: bytes(64)}), {}, b"p", bytes(64)],
    "short key id": [header({1: -8, 4: bytes(31)}), {}, b"p", bytes(64)],
    "detached payload": [GOOD_HEADER, {}, None, bytes(64)],
    "payload as text": [GOOD_HEADER, {}, "p", bytes(64)],
    "short signature": [GOOD_HEADER, {}, b"p", bytes(63)],
    "long signature": [GOOD_HEADER, {}, b"p", bytes(65)],
}


@pytest.mark.parametrize("name", WRONG)
def test_another_form_is_refused(name: str) -> None:
    with pytest.raises(EncodingError):
        parse_signed(cbor2.dumps(WRONG[name]), bytes_max=1000)


def test_the_form_of_the_table_is_accepted_when_nothing_is_wrong() -> None:
    parse_signed(cbor2.dumps([GOOD_HEADER, {}, b"p", bytes(64)]), bytes_max=1000)


def test_a_header_in_another_order_is_refused() -> None:
    reordered = cbor2.dumps({4: bytes(32), 1: -8})
    with pytest.raises(EncodingError, match="canonical"):
        parse_signed(cbor2.dumps([reordered, {}, b"p", bytes(64)]), bytes_max=1000)


def test_a_tagged_message_is_refused() -> None:
    with pytest.raises(EncodingError):
        parse_signed(b"\xd2" + RAW, bytes_max=1000)


def examples(path: Path, pattern: str) -> list[dict[str, object]]:
    found = sorted((path / "cose").glob(pattern))
    assert found, f"no vectors match {pattern}"
    return [json.loads(each.read_text(encoding="utf-8")) for each in found]


def test_signature_input_of_the_working_groups_examples(vectors_path: Path) -> None:
    """Our Sig_structure and signature are those of the COSE working group's EdDSA example."""
    (case,) = examples(vectors_path, "eddsa-examples/eddsa-sig-01.json")
    raw = bytes.fromhex(case["output"]["cbor"])  # type: ignore[index]  # JSON of a known shape
    protected, _, payload, signature = cbor2.loads(raw).value
    to_sign = signature_input(protected, b"", payload)
    expected: str = case["intermediates"]["ToBeSign_hex"]  # type: ignore[index]  # as above
    assert to_sign.hex() == expected.lower()
    key: dict[str, str] = case["input"]["sign0"]["key"]  # type: ignore[index]  # as above
    private = PrivateKey(bytes.fromhex(key["d_hex"]))
    assert private.public.raw.hex() == key["x_hex"]
    assert private.sign(to_sign) == signature
    private.public.verify(signature, to_sign)


def test_every_foreign_message_is_outside_the_narrow_form(vectors_path: Path) -> None:
    """Valid or not, messages of others lack our header and must not be half understood."""
    cases = [
        *examples(vectors_path, "eddsa-examples/*.json"),
        *examples(vectors_path, "sign1-tests/*.json"),
    ]
    for case in cases:
        raw = bytes.fromhex(case["output"]["cbor"])  # type: ignore[index]  # JSON of known shape
        for form in (raw, raw[1:]):
            with pytest.raises(EncodingError):
                parse_signed(form, bytes_max=4096)
