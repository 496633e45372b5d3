"""Sealed images by their pinned bytes, opened by primitives alone."""

from __future__ import annotations

import hashlib
import json

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.cmac import CMAC

from protocol.keys import PublicKey
from protocol.sealing_ring import parse_ring, parse_statement
from tests.support.sealing_vectors import KEY, MEMBER, MEMBER_KEY, NAME, PATH, render


def test_the_vectors_are_what_the_code_writes() -> None:
    assert PATH.read_text(encoding="ascii") == render()


def test_the_sealed_chunks_open_without_our_code() -> None:
    vector = json.loads(PATH.read_text(encoding="ascii"))
    cipher = AESSIV(bytes.fromhex(vector["chunk_key"]))
    plain = [
        cipher.decrypt(bytes.fromhex(chunk), [b"swarmd/sealed-chunk/1"])
        for chunk in vector["sealed_chunks"]
    ]
    assert [chunk.hex() for chunk in plain] == vector["plain_chunks"]
    salted = b"\x15swarmd/sealed-plain/1" + bytes.fromhex(vector["salt"]) + b"".join(plain)
    assert hashlib.sha256(salted).hexdigest() == vector["plain_digest"]
    assert vector["sealed_chunks"][0] == vector["sealed_chunks"][2]


def test_the_pinned_ring_opens_for_its_member() -> None:
    vector = json.loads(PATH.read_text(encoding="ascii"))
    ring = parse_ring(bytes.fromhex(vector["ring_file"]))
    signer = PublicKey(bytes.fromhex(vector["signer"]))
    ring.verify(signer, NAME.chain)
    parse_statement(bytes.fromhex(vector["statement"])).verify(signer, NAME.chain)
    member = ring.file.member(MEMBER)
    assert member is not None
    opened = MEMBER_KEY.unwrap(member, ring.file.name(NAME.chain), ring.file.check)
    assert opened.secret() == KEY.secret()
    assert ring.file.ring(NAME.chain).hex() == vector["ring"]


def test_the_sealed_chunks_are_what_the_rfc_says() -> None:
    """RFC 5297, sections 2.4 to 2.6, by AES-CMAC and AES-CTR alone."""
    vector = json.loads(PATH.read_text(encoding="ascii"))
    key = bytes.fromhex(vector["chunk_key"])

    def mac(data: bytes) -> bytes:
        cmac = CMAC(AES(key[:32]))
        cmac.update(data)
        return cmac.finalize()

    def double(block: bytes) -> bytes:
        number = int.from_bytes(block, "big") << 1
        return ((number & (2**128 - 1)) ^ (0x87 * (number >> 128))).to_bytes(16, "big")

    def xor(left: bytes, right: bytes) -> bytes:
        return bytes(a ^ b for a, b in zip(left, right, strict=True))

    for plain_hex, sealed_hex in zip(vector["plain_chunks"], vector["sealed_chunks"], strict=True):
        plain, sealed = bytes.fromhex(plain_hex), bytes.fromhex(sealed_hex)
        mixed = xor(double(mac(bytes(16))), mac(b"swarmd/sealed-chunk/1"))
        if len(plain) >= 16:
            last = plain[:-16] + xor(plain[-16:], mixed)
        else:
            last = xor(double(mixed), (plain + b"\x80").ljust(16, b"\0"))
        vector_iv = mac(last)
        counter = int.from_bytes(vector_iv, "big") & ~(1 << 31 | 1 << 63)
        stream = Cipher(AES(key[32:]), CTR(counter.to_bytes(16, "big"))).encryptor()
        assert vector_iv + stream.update(plain) == sealed
