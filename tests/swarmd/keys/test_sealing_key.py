"""Wraps by HPKE: for one key, ring and member; sealing keys on disk."""

from __future__ import annotations

import hmac
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from protocol.digest import ChainId, DidId, sha256
from protocol.errors import EncodingError, StorageError
from protocol.keys import PrivateKey
from protocol.sealing import ContentKey, RingName
from protocol.sealing_ring import wrap_info
from swarmd.keys.key_file import load_any_key_file, load_key_file, load_sealing_key
from swarmd.keys.key_writer import replace_key_file, write_key_file
from swarmd.keys.sealing_key import SealingKey, WrapError, wrap_key

NAME = RingName(
    chain=ChainId(sha256(b"chain")), publisher=DidId(sha256(b"p")), group="fleet", generation=1
)
CONTENT = ContentKey(b"\7" * 32, NAME)
KEY, OTHER = SealingKey(b"\1" * 32), SealingKey(b"\2" * 32)
ADA, BOB = DidId(sha256(b"ada")), DidId(sha256(b"bob"))
LOW_ORDER = [
    bytes(32),
    b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    b"\xed" + b"\xff" * 30 + b"\x7f",
    b"\xee" + b"\xff" * 30 + b"\x7f",
]


def test_a_member_opens_its_wrap_and_nobody_else_does() -> None:
    member = wrap_key(CONTENT, ADA, KEY.public)
    assert KEY.unwrap(member, NAME, CONTENT.check()).secret() == CONTENT.secret()
    with pytest.raises(WrapError):
        OTHER.unwrap(member, NAME, CONTENT.check())


def test_a_wrap_is_what_the_rfc_says() -> None:
    """RFC 9180, sections 4.1, 5.1 and 6.1, by HMAC, X25519 and AES-GCM alone."""
    member = wrap_key(CONTENT, ADA, KEY.public)
    encapsulated, ciphertext = member.wrap[:32], member.wrap[32:]
    kem, hpke = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x02"

    def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + secret, "sha256")

    def expand(suite: bytes, key: bytes, label: bytes, info: bytes, size: int) -> bytes:
        labelled = size.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
        return HKDFExpand(SHA256(), size, labelled).derive(key)

    point = X25519PublicKey.from_public_bytes(encapsulated)
    prk = extract(kem, b"", b"eae_prk", KEY.inner.exchange(point))
    shared = expand(kem, prk, b"shared_secret", encapsulated + KEY.public, 32)
    info = wrap_info(NAME, CONTENT.ring(), ADA, KEY.public)
    context = b"\x00" + extract(hpke, b"", b"psk_id_hash", b"")
    context += extract(hpke, b"", b"info_hash", info)
    secret = extract(hpke, shared, b"secret", b"")
    nonce = expand(hpke, secret, b"base_nonce", context, 12)
    key = expand(hpke, secret, b"key", context, 32)
    assert AESGCM(key).decrypt(nonce, ciphertext, b"") == CONTENT.secret()


def test_two_wraps_of_one_key_have_nothing_in_common() -> None:
    first, second = (wrap_key(CONTENT, ADA, KEY.public).wrap for _ in range(2))
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]


@pytest.mark.parametrize("place", [0, 31, 32, 63, 64, 79])
def test_no_altered_wrap_opens(place: int) -> None:
    member = wrap_key(CONTENT, ADA, KEY.public)
    altered = bytearray(member.wrap)
    altered[place] ^= 1
    with pytest.raises(WrapError):
        KEY.unwrap(replace(member, wrap=bytes(altered)), NAME, CONTENT.check())


@pytest.mark.parametrize(
    "name",
    [
        replace(NAME, chain=ChainId(sha256(b"other"))),
        replace(NAME, publisher=ADA),
        replace(NAME, group="fleet2"),
        replace(NAME, generation=2),
    ],
)
def test_a_wrap_moved_into_another_ring_does_not_open(name: RingName) -> None:
    member = wrap_key(CONTENT, ADA, KEY.public)
    for check in (CONTENT.check(), ContentKey(CONTENT.secret(), name).check()):
        with pytest.raises(WrapError):
            KEY.unwrap(member, name, check)


def test_a_wrap_moved_to_another_member_does_not_open() -> None:
    member = wrap_key(CONTENT, ADA, KEY.public)
    with pytest.raises(WrapError):
        KEY.unwrap(replace(member, did=BOB), NAME, CONTENT.check())


def test_a_publisher_cannot_give_members_different_keys_under_one_ring() -> None:
    """The ring commits to its key: a wrap of another one opens and is refused."""

    class Lying(ContentKey):
        def ring(self) -> object:  # type: ignore[override]
            return CONTENT.ring()

    member = wrap_key(Lying(b"\x08" * 32, NAME), ADA, KEY.public)
    with pytest.raises(WrapError, match="another content key"):
        KEY.unwrap(member, NAME, CONTENT.check())


@pytest.mark.parametrize("point", LOW_ORDER)
def test_nothing_is_wrapped_to_a_key_that_anybody_could_open(point: bytes) -> None:
    with pytest.raises(EncodingError, match="not a usable"):
        wrap_key(CONTENT, ADA, point)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_an_encapsulated_key_of_low_order_does_not_open(point: bytes) -> None:
    member = wrap_key(CONTENT, ADA, KEY.public)
    with pytest.raises(WrapError):
        KEY.unwrap(replace(member, wrap=point + member.wrap[32:]), NAME, CONTENT.check())


def test_sealing_keys_lie_like_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    write_key_file(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_sealing_key(path).public == KEY.public
    passphrase = b"correct horse battery"
    replace_key_file(path, KEY, passphrase)
    assert load_sealing_key(path, lambda _what: passphrase).public == KEY.public
    with pytest.raises(StorageError, match="wrong passphrase"):
        load_sealing_key(path, lambda _what: b"another passphrase")
    path.chmod(0o640)
    with pytest.raises(StorageError, match="read by others"):
        load_sealing_key(path)


def test_a_key_that_signs_opens_nothing_and_the_other_way_round(tmp_path: Path) -> None:
    sealing, signing = tmp_path / "sealing.key", tmp_path / "node.key"
    write_key_file(sealing, KEY)
    write_key_file(signing, PrivateKey(bytes(32)))
    with pytest.raises(StorageError, match="not an X25519 key"):
        load_sealing_key(signing)
    with pytest.raises(StorageError, match="not an Ed25519 key"):
        load_key_file(sealing)
    assert isinstance(load_any_key_file(sealing), SealingKey)
    assert isinstance(load_any_key_file(signing), PrivateKey)


def test_a_sealing_key_never_prints_its_secret() -> None:
    assert (b"\1" * 32).hex() not in repr(KEY)
    with pytest.raises(EncodingError):
        SealingKey(bytes(31))
