"""Subjects: key sets, commitments, proof of possession, the texts of names."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import base58
import pytest
from hypothesis import given

from protocol.did import (
    DidRecord,
    JoinStatement,
    Keys,
    SubjectKind,
    decode_record,
    did_key_text,
    did_text,
    keys_from_value,
    keys_to_value,
    next_keys_digest,
    parse_did_key,
    parse_did_text,
    sign_join,
)
from protocol.digest import ChainId, DidId, Digest
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, SignatureError
from protocol.keys import PrivateKey, PublicKey
from tests.support.strategies import CHAIN, OTHER_CHAIN, PURPOSES, digests, key, many, subject

GATEWAY = subject(SubjectKind.GATEWAY, 10)


def with_keys(kind: SubjectKind, keys: Keys) -> DidRecord:
    return DidRecord(kind=kind, name="x", keys=keys, next_keys=None, groups=())


@pytest.mark.parametrize("kind", SubjectKind)
@pytest.mark.parametrize("other", SubjectKind)
def test_each_kind_has_exactly_its_own_keys(kind: SubjectKind, other: SubjectKind) -> None:
    keys = tuple((purpose, key(index).public) for index, purpose in enumerate(PURPOSES[other]))
    if kind is other:
        assert with_keys(kind, keys).key(keys[0][0]) == keys[0][1]
    else:
        with pytest.raises(EncodingError, match="incomplete or too many"):
            with_keys(kind, keys)


def test_a_purpose_the_kind_has_not_has_no_key() -> None:
    assert GATEWAY.record.key(PURPOSES[SubjectKind.PERSON][0]) is None


def test_one_key_cannot_serve_two_purposes() -> None:
    keys = tuple((purpose, key(1).public) for purpose in PURPOSES[SubjectKind.GATEWAY])
    with pytest.raises(EncodingError, match="two purposes"):
        with_keys(SubjectKind.GATEWAY, keys)


@pytest.mark.parametrize("groups", [("b", "a"), ("a", "a"), ("A",), ("a/b",), ("",), ("-a",)])
def test_groups_are_sorted_unique_and_well_named(groups: tuple[str, ...]) -> None:
    with pytest.raises(EncodingError):
        dataclasses.replace(GATEWAY.record, groups=groups)


def test_at_most_sixteen_groups() -> None:
    names = tuple(f"g{index:02}" for index in range(17))
    dataclasses.replace(GATEWAY.record, groups=names[:16])
    with pytest.raises(EncodingError, match="at most 16"):
        dataclasses.replace(GATEWAY.record, groups=names)


@pytest.mark.parametrize(
    "name", ["", "a" * 65, "a\u202eb", "a\nb", "\u200b", "\u2028", "\U000e0041"]
)
def test_names_are_short_and_cannot_deceive(name: str) -> None:
    with pytest.raises(EncodingError):
        dataclasses.replace(GATEWAY.record, name=name)


@pytest.mark.parametrize("extensions", [{0: 1}, {7: 1}, {"a": 1}])
def test_extensions_cannot_pass_for_critical_fields(extensions: dict[int | str, int]) -> None:
    with pytest.raises(EncodingError, match="negative"):
        dataclasses.replace(GATEWAY.record, extensions=extensions)


def test_an_extension_changes_the_name() -> None:
    extended = dataclasses.replace(GATEWAY.record, extensions={-1: b"x"})
    assert extended.did != GATEWAY.record.did
    assert decode_record(extended.encode()).did == extended.did


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [[1, key(1).public.to_value()]] * 5,
        [[2, key(1).public.to_value()], [1, key(2).public.to_value()]],
        [[1, key(1).public.to_value()], [1, key(2).public.to_value()]],
        [[0, key(1).public.to_value()]],
        [[5, key(1).public.to_value()]],
        [[True, key(1).public.to_value()]],
        [[1, [2, bytes(1312)]]],
        [[1, [1, bytes(31)]]],
        [[1]],
        [1],
    ],
)
def test_bad_key_lists_are_refused(entries: list[object]) -> None:
    with pytest.raises(EncodingError):
        keys_from_value(entries)  # type: ignore[arg-type]


def test_a_small_order_key_cannot_be_enrolled() -> None:
    neutral = (1).to_bytes(32, "little")
    with pytest.raises(EncodingError, match="small order"):
        keys_from_value([[1, [1, neutral]]])


def test_the_commitment_names_exactly_one_key_list() -> None:
    keys = GATEWAY.record.keys
    other = ((keys[0][0], key(77).public), keys[1])
    wire: Any = keys_to_value(keys)
    assert next_keys_digest(keys) == next_keys_digest(keys_from_value(wire))
    assert next_keys_digest(keys) != next_keys_digest(other)


def test_a_join_statement_needs_every_key() -> None:
    assert GATEWAY.verify() == GATEWAY.record
    with pytest.raises(SignatureError, match="one signature for each key"):
        dataclasses.replace(GATEWAY, signatures=GATEWAY.signatures[:1]).verify()
    with pytest.raises(SignatureError):
        dataclasses.replace(GATEWAY, signatures=GATEWAY.signatures[::-1]).verify()
    thief = sign_join(GATEWAY.record, [key(10), key(99)])
    with pytest.raises(SignatureError):
        thief.verify()


def test_signatures_do_not_cover_another_record() -> None:
    renamed = dataclasses.replace(GATEWAY.record, name="another")
    forged = JoinStatement(record_bytes=renamed.encode(), signatures=GATEWAY.signatures)
    with pytest.raises(SignatureError):
        forged.verify()


@pytest.mark.parametrize(
    "value",
    [
        [GATEWAY.record_bytes],
        [GATEWAY.record_bytes, []],
        [GATEWAY.record_bytes, [bytes(64)] * 5],
        [GATEWAY.record_bytes, [bytes(63), bytes(64)]],
        [GATEWAY.record_bytes, bytes(64)],
        [GATEWAY.record_bytes + b"\x00", [bytes(64)] * 2],
        [b"", [bytes(64)] * 2],
        ["text", [bytes(64)] * 2],
    ],
)
def test_malformed_join_statements_are_refused(value: list[object]) -> None:
    with pytest.raises(EncodingError):
        JoinStatement.from_value(value)  # type: ignore[arg-type]


def test_groups_in_a_record_are_texts() -> None:
    fields = decode_canonical(GATEWAY.record_bytes, bytes_max=2048)
    assert isinstance(fields, dict)
    with pytest.raises(EncodingError, match="not text"):
        decode_record(encode_canonical({**fields, 5: [b"group"]}))


@many
@given(did=digests)
def test_did_texts_round_trip_in_one_spelling(did: Digest) -> None:
    text = did_text(CHAIN, DidId(did))
    assert parse_did_text(text, CHAIN) == did
    assert len(text) == 71
    for wrong in (text + "=", text + "a", text[:-1], text.upper(), " " + text, text + "\n"):
        with pytest.raises(EncodingError):
            parse_did_text(wrong, CHAIN)
    with pytest.raises(EncodingError, match="not a DID of chain"):
        parse_did_text(text, OTHER_CHAIN)


@pytest.mark.parametrize("tail", ["", "0" * 52, "ä" * 52, "1" * 40, "a" * 51 + "b", "a" * 9999])
def test_bad_did_texts_are_refused(tail: str) -> None:
    with pytest.raises(EncodingError):
        parse_did_text(did_text(CHAIN, DidId(bytes(32)))[:19] + tail, CHAIN)


def test_a_did_text_has_no_unused_bits() -> None:
    text = did_text(ChainId(bytes(32)), DidId(bytes(32)))
    with pytest.raises(EncodingError, match="canonical"):
        parse_did_text(text[:-1] + "b", ChainId(bytes(32)))


@pytest.mark.parametrize("number", range(8))
def test_did_key_texts_round_trip(number: int) -> None:
    public = key(number).public
    text = did_key_text(public)
    assert text.startswith("did:key:z6Mk")
    assert parse_did_key(text) == public


KEY_TEXT = did_key_text(key(0).public)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:key:z",
        "did:key:f" + KEY_TEXT[9:],
        KEY_TEXT + " ",
        KEY_TEXT + "1",
        KEY_TEXT[:-1],
        KEY_TEXT.replace("z6Mk", "z16Mk"),
        "did:key:z0OIl",
        "did:key:zä",
        "did:key:z" + "1" * 200,
        "did:key:z" + base58.b58encode(b"\xec\x01" + key(0).public.raw).decode(),
        "did:key:z" + base58.b58encode(b"\xed\x01" + bytes(31)).decode(),
        "did:key:z" + base58.b58encode(b"\xed\x01" + b"\x01" + bytes(31)).decode(),
    ],
)
def test_other_did_keys_are_refused(text: str) -> None:
    with pytest.raises(EncodingError):
        parse_did_key(text)


@pytest.fixture
def did_vectors() -> Path:
    root = os.environ.get("SWARMD_VECTORS")
    if root is None:
        pytest.skip("needs SWARMD_VECTORS")
    return Path(root) / "did"


def test_the_w3c_vectors_of_did_key(did_vectors: Path) -> None:
    vectors = json.loads((did_vectors / "did-key-ed25519-x25519.json").read_text())
    assert vectors
    for text, vector in vectors.items():
        made = PrivateKey(bytes.fromhex(vector["seed"]))
        raw = base58.b58decode(vector["verificationKeyPair"]["publicKeyBase58"])
        assert made.public == PublicKey(raw) == parse_did_key(text)
        assert did_key_text(made.public) == text


def test_the_w3c_vectors_of_other_key_types_are_refused(did_vectors: Path) -> None:
    vectors = json.loads((did_vectors / "did-key-x25519.json").read_text())
    for text in vectors["didDocument"]:
        with pytest.raises(EncodingError, match="not an Ed25519 key"):
            parse_did_key(text)
