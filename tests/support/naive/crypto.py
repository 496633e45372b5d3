"""Hashes, Ed25519 and COSE_Sign1 as P9 and P20 to P24 ask for them."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.support.naive.cbor import Malformed, decode, encode

_P = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
_SMALL = (0, 1, _P - 1, _ORDER_8, _P - _ORDER_8)
"""The y of the eight points of small order."""


def sha(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def tagged(tag: str, data: bytes) -> bytes:
    """P9."""
    return sha(bytes([len(tag)]) + tag.encode() + data)


def context(tag: str, chain: bytes, era: int) -> bytes:
    """P22."""
    return encode([tag, chain, era])


def key_id(key: bytes) -> bytes:
    """P21; `key` is 32 bytes."""
    return tagged("swarmd/key/1", b"\x01" + key)


def read_key(value: Any) -> bytes:
    """Reads [1, 32 bytes]; P20."""
    if not (isinstance(value, list) and len(value) == 2 and type(value[0]) is int):
        raise Malformed("no key")
    if value[0] != 1 or not isinstance(value[1], bytes) or len(value[1]) != 32:
        raise Malformed("no Ed25519 key")
    y = int.from_bytes(value[1], "little") & (2**255 - 1)
    if y >= _P or y in _SMALL:
        raise Malformed("weak key")
    return value[1]


@lru_cache(maxsize=65536)
def verify(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature is good."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


class Signed:
    """A COSE_Sign1 (P23), not yet verified; `content` is its decoded payload."""

    def __init__(self, raw: bytes, limit: int) -> None:
        parts = decode(raw, limit)
        if not isinstance(parts, list) or len(parts) != 4 or parts[1] != {}:
            raise Malformed("no COSE_Sign1")
        if not all(isinstance(parts[at], bytes) for at in (0, 2, 3)) or len(parts[3]) != 64:
            raise Malformed("no COSE_Sign1")
        header = decode(parts[0], 64)
        if not isinstance(header, dict) or list(header) != [1, 4] or header[1] != -8:
            raise Malformed("no header of ours")
        if not isinstance(header[4], bytes) or len(header[4]) != 32:
            raise Malformed("no key id")
        self.raw, self.protected, self.payload, self.signature = raw, parts[0], parts[2], parts[3]
        self.key_id: bytes = header[4]
        self.content = decode(self.payload, limit)

    def is_by(self, key: bytes, tag: str, chain: bytes, era: int) -> bool:
        """Whether this key signed it for this purpose, chain and era."""
        message = encode(["Signature1", self.protected, context(tag, chain, era), self.payload])
        return key_id(key) == self.key_id and verify(key, self.signature, message)
