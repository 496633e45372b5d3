"""Keys: RFC 8032's own examples, separation of purposes, and keys that must not exist."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from protocol.digest import ChainId
from protocol.encoding import Value
from protocol.errors import EncodingError, SignatureError
from protocol.keys import PrivateKey, PublicKey, signing_context

# RFC 8032, section 7.1, tests 1 to 3: seed, public key, message, signature.
RFC8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5"
            "d974d873e065224901555fb8821590a33bacc61e3970"
            "1cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b541650"
            "3f8fb3762223ebdb69da085ac1e43e15996e458f3613"
            "d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a28474"
            "3a445e3680d7db5ac3ac18ff9b538d16f290ae67f760"
            "984dc6594a7c15e9716ed28dc027beceea1ec40a"
        ),
    ),
]
KEY = PrivateKey(bytes(range(32)))
CHAIN = ChainId(bytes(32))


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC8032)
def test_the_examples_of_the_rfc(seed: str, public: str, message: str, signature: str) -> None:
    key = PrivateKey(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    key.public.verify(bytes.fromhex(signature), bytes.fromhex(message))


@given(message=st.binary(max_size=100), position=st.integers(0, 511))
def test_one_flipped_bit_breaks_a_signature(message: bytes, position: int) -> None:
    signature = bytearray(KEY.sign(message))
    signature[position // 8] ^= 1 << position % 8
    with pytest.raises(SignatureError):
        KEY.public.verify(bytes(signature), message)


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_signature_of_wrong_length_is_refused(size: int) -> None:
    with pytest.raises(SignatureError):
        KEY.public.verify(bytes(size), b"message")


def test_the_secret_is_not_printed() -> None:
    assert KEY.seed().hex()[8:] not in repr(KEY)
    assert KEY.seed() == bytes(range(32))


def test_a_key_survives_its_file() -> None:
    assert PrivateKey.from_pem(KEY.to_pem()).public == KEY.public


def foreign_pem() -> bytes:
    key = generate_private_key(SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encrypted_pem() -> bytes:
    return KEY._key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )


@pytest.mark.parametrize("make", [foreign_pem, encrypted_pem, lambda: b"", lambda: b"\0" * 100])
def test_a_file_that_is_not_our_kind_of_key_is_refused(make: object) -> None:
    with pytest.raises(EncodingError):
        PrivateKey.from_pem(make())  # type: ignore[operator]  # one of the makers above


def test_the_wire_form_survives() -> None:
    assert PublicKey.from_value(KEY.public.to_value()) == KEY.public


@pytest.mark.parametrize(
    "value",
    [
        [2, KEY.public.raw],
        [0, KEY.public.raw],
        [True, KEY.public.raw],
        [1, KEY.public.raw[:-1]],
        [1, KEY.public.raw + b"\0"],
        [1, KEY.public.raw, 0],
        [1],
        KEY.public.raw,
        {1: KEY.public.raw},
    ],
)
def test_another_wire_form_is_refused(value: Value) -> None:
    with pytest.raises(EncodingError):
        PublicKey.from_value(value)


def test_ids_name_one_key() -> None:
    other = PrivateKey(bytes(32)).public
    assert KEY.public.key_id == PublicKey(KEY.public.raw).key_id != other.key_id


@pytest.mark.slow
@given(
    first=st.tuples(st.text(max_size=8), st.binary(max_size=4), st.integers(0, 9)),
    second=st.tuples(st.text(max_size=8), st.binary(max_size=4), st.integers(0, 9)),
    messages=st.tuples(st.binary(max_size=6), st.binary(max_size=6)),
)
def test_contexts_never_run_into_messages(
    first: tuple[str, bytes, int], second: tuple[str, bytes, int], messages: tuple[bytes, bytes]
) -> None:
    """Two different (context, message) pairs never give the same signed bytes."""
    joined = [
        signing_context(tag, ChainId(chain), era) + message
        for (tag, chain, era), message in zip((first, second), messages, strict=True)
    ]
    assert (joined[0] == joined[1]) == ((first, messages[0]) == (second, messages[1]))
