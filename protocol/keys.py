"""Ed25519 keys with an algorithm id, and domain-separated signing.

Every signature covers `context(tag, chain, era) || message`, so that nothing signed for one
purpose, chain or era can be shown as something else. The algorithm id travels with each public key;
`ML_DSA_44` is reserved for the day signatures must outlive a quantum computer.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from protocol.digest import ChainId, Digest, tagged_digest
from protocol.encoding import Value, as_array, as_bytes, as_uint, encode_canonical
from protocol.errors import EncodingError, SignatureError

PUBLIC_KEY_BYTES: Final = 32
"""Bytes of an Ed25519 public key (RFC 8032)."""
SIGNATURE_BYTES: Final = 64
"""Bytes of an Ed25519 signature."""
_FIELD_PRIME: Final = 2**255 - 19
_ORDER_EIGHT_Y: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER_Y: Final = (0, 1, _FIELD_PRIME - 1, _ORDER_EIGHT_Y, _FIELD_PRIME - _ORDER_EIGHT_Y)
"""The y coordinates of the eight points of order 1, 2, 4 and 8."""


class KeyAlgorithm(IntEnum):
    """Signature algorithms; the numbers are ours and appear in every encoded key."""

    ED25519 = 1
    ML_DSA_44 = 2
    """Reserved; no code accepts it yet."""


KEY_IDS_REMEMBERED: Final = 4096
"""Ids of public keys that are kept at hand, about 1 MiB: a policy's rule may compare each of 64
holders with a hundred ids, for every approval that a block carries."""


@lru_cache(maxsize=KEY_IDS_REMEMBERED)
def _key_id(raw: bytes) -> Digest:
    return tagged_digest("swarmd/key/1", bytes((KeyAlgorithm.ED25519,)) + raw)


@dataclass(frozen=True, slots=True, order=True)
class PublicKey:
    """An Ed25519 public key."""

    raw: bytes
    """32 bytes, RFC 8032 encoding."""

    def __post_init__(self) -> None:
        """Refuses a key of wrong length, and keys under which anybody could sign.

        One signature verifies for many messages under a point of small order (for every message,
        under the neutral element), and RFC 8032 libraries accept such keys. A second encoding of a
        point (y not reduced) would give one key two ids.

        Raises:
            EncodingError: the key is one of those.
        """
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise EncodingError(f"public key of {len(self.raw)} bytes, expected 32")
        y = int.from_bytes(self.raw, "little") & (2**255 - 1)
        if y >= _FIELD_PRIME:
            raise EncodingError("public key is not in its canonical encoding")
        if y in _SMALL_ORDER_Y:
            raise EncodingError("public key is a point of small order")

    @property
    def key_id(self) -> Digest:
        """Digest that names this key."""
        return _key_id(self.raw)

    def verify(self, signature: bytes, message: bytes) -> None:
        """Checks a signature over exactly `message`.

        Raises:
            SignatureError: it does not verify.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as error:
            raise SignatureError(
                f"signature under key {self.raw[:4].hex()} is not valid"
            ) from error

    def to_value(self) -> Value:
        """The wire form: [algorithm, bytes]."""
        return [int(KeyAlgorithm.ED25519), self.raw]

    @classmethod
    def from_value(cls, value: Value) -> PublicKey:
        """Reads the wire form.

        Raises:
            EncodingError: malformed, or an algorithm this version does not know.
        """
        algorithm, raw = as_array(value, "public key", size=2)
        algorithm_id = as_uint(algorithm, "key algorithm")
        if algorithm_id != KeyAlgorithm.ED25519:
            raise EncodingError(f"key algorithm {algorithm_id} is not supported")
        return cls(as_bytes(raw, "public key", size=PUBLIC_KEY_BYTES))


class Signer(Protocol):
    """Whatever signs with one Ed25519 key: a `PrivateKey`, or a device that keeps its key."""

    @property
    def public(self) -> PublicKey:
        """The key under which the signatures verify."""

    def sign(self, message: bytes) -> bytes:
        """Signs exactly `message`; returns 64 bytes. Callers add the context themselves."""


class PrivateKey:
    """An Ed25519 private key; it never prints its secret."""

    __slots__ = ("_key", "public")

    def __init__(self, seed: bytes) -> None:
        """Makes the key from its 32-byte seed; randomness is the caller's matter."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public: Final = PublicKey(self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        """Names the public half only."""
        return f"PrivateKey(public={self.public.raw[:4].hex()})"

    def sign(self, message: bytes) -> bytes:
        """Signs exactly `message`; returns 64 bytes. Callers add the context themselves."""
        return self._key.sign(message)

    def seed(self) -> bytes:
        """The 32-byte seed, for libraries that hold keys of their own (libp2p)."""
        return self._key.private_bytes_raw()

    def to_pem(self) -> bytes:
        """The key as unencrypted PKCS#8 PEM (RFC 5958, RFC 8410)."""
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @classmethod
    def from_pem(cls, data: bytes) -> PrivateKey:
        """Reads PKCS#8 PEM.

        Raises:
            EncodingError: not a PEM private key, encrypted, or not Ed25519.
        """
        try:
            key = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise EncodingError(f"not a readable private key: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise EncodingError("private key is not Ed25519")
        return cls(key.private_bytes_raw())


def signing_context(tag: str, chain: ChainId, era: int) -> bytes:
    """The canonical prefix of everything signed: [tag, chain id, era]."""
    return encode_canonical([tag, chain, era])
