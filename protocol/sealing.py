"""What a manifest says of a sealed component, and how keys and salted digests are derived.

A sealed component is the concatenation of its chunks, each encrypted by itself; the content key
belongs to a *ring* (`protocol.sealing_ring`). Everything that needs the content key is derived from
it here, each use under its own label, so that one key never serves two purposes. Chunks themselves
are sealed in `chunks.sealing`. Rules: docs/spec/sealing.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from protocol.digest import ChainId, DidId, Digest, tagged_digest
from protocol.encoding import Fields, Value, check_range, encode_canonical
from protocol.errors import EncodingError, VerificationError
from protocol.group_name import check_group_name

CONTENT_KEY_BYTES: Final = 32
"""Bytes of a ring's content key."""
CHUNK_KEY_BYTES: Final = 64
"""AES-256-SIV takes two keys of 256 bits (RFC 5297, section 2.2)."""
SALT_BYTES: Final = 32
"""Bytes of the secret salt of a plain digest."""
NONCE_BYTES: Final = 16
"""Bytes that tell the salts of two releases apart."""
CHUNK_OVERHEAD_BYTES: Final = 16
"""The synthetic initialisation vector before each chunk (RFC 5297, section 2.6)."""
GENERATION_MAX: Final = 2**32 - 1
"""Generations of one ring."""
RING_TAG: Final = "swarmd/sealing-ring-id/1"
"""Domain of a ring's id."""
PLAIN_TAG: Final = "swarmd/sealed-plain/1"
"""Domain of a salted plain digest."""
_INFO: Final = "swarmd/sealing/1"


class SealingSuite(IntEnum):
    """How chunks are encrypted; the numbers are ours and appear in manifests and rings."""

    AES_256_SIV = 1
    """AES-256-SIV (RFC 5297) for chunks, HKDF-SHA256 for keys, HPKE (RFC 9180) with
    DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM for wraps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """Field 10 of a component: under what it is sealed."""

    suite: SealingSuite = SealingSuite.AES_256_SIV
    """How."""
    ring: Digest
    """Id of the ring whose content key opens it; commits to that key (Z4)."""
    generation: int
    """Generation of the ring, from 1, for people; the ring's id commits to it, too."""
    nonce: bytes
    """16 bytes, drawn anew for each component, from which the salt of its plain digest follows."""

    def __post_init__(self) -> None:
        """Refuses numbers out of range; raises EncodingError."""
        check_range(self.generation, "ring generation", minimum=1, maximum=GENERATION_MAX)
        if len(self.nonce) != NONCE_BYTES:
            raise EncodingError(f"sealing nonce of {len(self.nonce)} bytes, not {NONCE_BYTES}")

    @property
    def overhead_bytes(self) -> int:
        """By how much each chunk as stored is longer than the plain one."""
        return CHUNK_OVERHEAD_BYTES

    def to_value(self) -> Value:
        """The wire form."""
        return {0: int(self.suite), 1: self.ring, 2: self.generation, 3: self.nonce}

    @classmethod
    def from_value(cls, value: Value) -> Sealing:
        """Reads the wire form.

        Raises:
            EncodingError: malformed, or a suite that this version does not know.
        """
        fields = Fields(value, "sealing")
        sealing = cls(
            suite=fields.enum(0, SealingSuite),
            ring=fields.digest(1),
            generation=fields.uint(2, minimum=1, maximum=GENERATION_MAX),
            nonce=fields.bytes(3, size=NONCE_BYTES),
        )
        fields.finish()
        return sealing


@dataclass(frozen=True, slots=True, kw_only=True)
class RingName:
    """Whose ring it is, for whom, and the how many-th."""

    chain: ChainId
    """The chain."""
    publisher: DidId
    """Who made it and signs it."""
    group: str
    """For whose members."""
    generation: int
    """Raised when members are taken out; from 1."""

    def __post_init__(self) -> None:
        """Refuses a name that cannot be; raises EncodingError."""
        check_group_name(self.group)
        check_range(self.generation, "ring generation", minimum=1, maximum=GENERATION_MAX)

    def to_values(self) -> list[Value]:
        """The parts, as they enter digests and derivations."""
        return [self.chain, self.publisher, self.group, self.generation]


class ContentKey:
    """The content key of one ring: opens everything sealed under it. Never prints its secret."""

    __slots__ = ("_secret", "name")

    def __init__(self, secret: bytes, name: RingName) -> None:
        """Takes 32 random bytes, which are the caller's matter.

        Raises:
            EncodingError: another length.
        """
        if len(secret) != CONTENT_KEY_BYTES:
            raise EncodingError(f"content key of {len(secret)} bytes, not {CONTENT_KEY_BYTES}")
        self._secret = secret
        self.name: Final = name

    def __repr__(self) -> str:
        """Names the ring only."""
        return f"ContentKey({self.name.group!r}, generation {self.name.generation})"

    def secret(self) -> bytes:
        """The 32 bytes, for wrapping."""
        return self._secret

    def _derive(self, label: str, size: int, *more: Value) -> bytes:
        info = encode_canonical([_INFO, label, *self.name.to_values(), *more])
        return HKDF(algorithm=SHA256(), length=size, salt=None, info=info).derive(self._secret)

    def check(self) -> bytes:
        """32 bytes that commit to the key without telling it (Z4)."""
        return self._derive("check", CONTENT_KEY_BYTES)

    def ring(self) -> Digest:
        """Id of the ring that this key belongs to."""
        return ring_id(self.name, self.check())

    def chunk_key(self) -> bytes:
        """64 bytes: the AES-256-SIV key of every chunk of the ring."""
        return self._derive("chunks", CHUNK_KEY_BYTES)

    def salt(self, sealing: Sealing) -> bytes:
        """The secret salt of a component's plain digest (Z12).

        Raises:
            VerificationError: the component is sealed under another ring.
        """
        if sealing.ring != self.ring():
            raise VerificationError("the component is sealed under another ring")
        return self._derive("plain digest", SALT_BYTES, sealing.nonce)


def ring_id(name: RingName, check: bytes) -> Digest:
    """Id of a ring: names it and commits to its content key."""
    return tagged_digest(RING_TAG, encode_canonical([*name.to_values(), check]))


def plain_prefix(salt: bytes) -> bytes:
    """What is hashed before the plain bytes: SHA-256(prefix || plain) is the plain digest (Z12).

    Raises:
        EncodingError: a salt of another length.
    """
    if len(salt) != SALT_BYTES:
        raise EncodingError(f"salt of {len(salt)} bytes, expected {SALT_BYTES}")
    tag = PLAIN_TAG.encode("ascii")
    return bytes((len(tag),)) + tag + salt
