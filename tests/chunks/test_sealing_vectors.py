"""Sealed images by their pinned bytes, opened by primitives alone."""

from __future__ import annotations

import hashlib
import json

from cryptography.hazmat.primitives.ciphers.aead import AESSIV

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
