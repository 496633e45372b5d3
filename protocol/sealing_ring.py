"""Rings: who may open what a publisher sealed, and the keys of those who may.

A *ring* is the content key of one publisher for one group and generation. Its *ring file* wraps
that key to each member's X25519 key by HPKE (RFC 9180) and is signed by the publisher. A member
tells its key by a *sealing key statement*, signed by its node key. Later versions of one ring add
members; taking members out means a new generation, whose key opens later images only, for whoever
had a key may have kept it. Wrapping needs randomness and lives above. Rules: docs/spec/sealing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.cose import Signed, parse_signed, sign
from protocol.digest import ChainId, DidId, Digest, sha256
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_uint,
    check_range,
    check_sorted_unique,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.group_name import check_group_name
from protocol.keys import PublicKey, Signer
from protocol.limits import KIB, MIB
from protocol.sealing import (
    CONTENT_KEY_BYTES,
    GENERATION_MAX,
    RingName,
    SealingSuite,
    ring_id,
)

SEALING_KEY_TAG: Final = "swarmd/sealing-key/1"
"""Domain of a member's statement of its sealing key."""
RING_FILE_TAG: Final = "swarmd/sealing-ring/1"
"""Domain of a publisher's signature under a ring file."""
WRAP_INFO: Final = "swarmd/sealing-wrap/1"
"""Begins the HPKE info of every wrap."""
KEM_X25519: Final = 0x0020
"""DHKEM(X25519, HKDF-SHA256), as numbered by RFC 9180, section 7.1."""
SEALING_KEY_BYTES: Final = 32
"""Bytes of an X25519 public key (RFC 7748)."""
WRAP_BYTES: Final = 32 + CONTENT_KEY_BYTES + 16
"""Encapsulated key, encrypted content key, tag of AES-GCM."""
RING_MEMBERS_MAX: Final = 4096
"""Members of one ring; each takes some 150 bytes."""
RING_FILE_BYTES_MAX: Final = 1 * MIB
"""A full ring file has some 620 KiB."""
STATEMENT_BYTES_MAX: Final = 1 * KIB
"""A sealing key statement has some 240 bytes."""
_RING_ITEMS_MAX: Final = 4 * RING_MEMBERS_MAX + 64
_VERSION_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingKeyStatement:
    """A member says: wrap content keys for me to this key."""

    era: int
    """Era of the chain it was signed in."""
    did: DidId
    """Who says so."""
    key: bytes
    """X25519 public key, 32 bytes."""

    def __post_init__(self) -> None:
        """Refuses a key of another length; raises EncodingError."""
        if len(self.key) != SEALING_KEY_BYTES:
            raise EncodingError(f"sealing key of {len(self.key)} bytes, expected 32")

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        return encode_canonical({0: 1, 1: self.era, 2: self.did, 3: [KEM_X25519, self.key]})


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A parsed statement; not verified until `verify` was called."""

    statement: SealingKeyStatement
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self, key: PublicKey, chain: ChainId) -> None:
        """Checks the signature of the member's node key; raises SignatureError."""
        self.signed.verify(key, tag=SEALING_KEY_TAG, chain=chain, era=self.statement.era)


def parse_statement(raw: bytes) -> SignedStatement:
    """Parses a signed statement without checking the signature.

    Raises:
        EncodingError: malformed or over its bound.
    """
    signed = parse_signed(raw, bytes_max=STATEMENT_BYTES_MAX)
    fields = Fields(
        decode_canonical(signed.payload, bytes_max=STATEMENT_BYTES_MAX), "sealing key statement"
    )
    fields.constant(0, 1)
    statement = SealingKeyStatement(
        era=fields.uint(1), did=DidId(fields.digest(2)), key=_read_key(fields.value(3))
    )
    fields.finish()
    return SignedStatement(statement, signed)


def sign_statement(statement: SealingKeyStatement, key: Signer, chain: ChainId) -> SignedStatement:
    """Signs a statement with the member's node key."""
    raw = sign(statement.encode(), key, tag=SEALING_KEY_TAG, chain=chain, era=statement.era)
    return parse_statement(raw)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RingMember:
    """One who may open what the ring seals."""

    did: DidId
    """Who."""
    key: bytes
    """The X25519 key that the content key is wrapped to."""
    wrap: bytes
    """HPKE ciphertext of the content key, 80 bytes."""

    def to_value(self) -> Value:
        """The wire form: [did, key, wrap]."""
        return [self.did, self.key, self.wrap]

    @classmethod
    def from_value(cls, value: Value) -> RingMember:
        """Reads the wire form; raises EncodingError."""
        did, key, wrap = as_array(value, "ring member", size=3)
        return cls(
            did=DidId(as_bytes(did, "ring member", size=32)),
            key=as_bytes(key, "ring member's key", size=SEALING_KEY_BYTES),
            wrap=as_bytes(wrap, "ring member's wrap", size=WRAP_BYTES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RingFile:
    """The content of a ring file."""

    era: int
    """Era of the chain it was signed in."""
    publisher: DidId
    """Who made the ring."""
    group: str
    """For whose members."""
    generation: int
    """Which key: raised when members are taken out; from 1."""
    version: int
    """Raised with each new file of one generation; from 1."""
    suite: SealingSuite = SealingSuite.AES_256_SIV
    """How chunks and wraps are encrypted."""
    check: bytes
    """Commits to the content key (`ContentKey.check`), 32 bytes."""
    members: tuple[RingMember, ...]
    """1 to 4,096, ascending by DID, each once."""

    def __post_init__(self) -> None:
        """Refuses parts out of range or order; raises EncodingError."""
        check_group_name(self.group)
        check_range(self.generation, "ring generation", minimum=1, maximum=GENERATION_MAX)
        check_range(self.version, "ring version", minimum=1, maximum=_VERSION_MAX)
        if len(self.check) != CONTENT_KEY_BYTES:
            raise EncodingError(f"ring check of {len(self.check)} bytes, expected 32")
        if not 1 <= len(self.members) <= RING_MEMBERS_MAX:
            raise EncodingError(f"ring of {len(self.members)} members, 1 to {RING_MEMBERS_MAX}")
        check_sorted_unique((member.did for member in self.members), "ring members")

    def name(self, chain: ChainId) -> RingName:
        """Whose ring it is on a chain."""
        return RingName(
            chain=chain, publisher=self.publisher, group=self.group, generation=self.generation
        )

    def ring(self, chain: ChainId) -> Digest:
        """The ring's id, which manifests name; the same for every version."""
        return ring_id(self.name(chain), self.check)

    def member(self, did: DidId) -> RingMember | None:
        """The entry of a member, or None."""
        return next((member for member in self.members if member.did == did), None)

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        return encode_canonical(
            {
                0: 1,
                1: self.era,
                2: self.publisher,
                3: self.group,
                4: self.generation,
                5: self.version,
                6: int(self.suite),
                7: self.check,
                8: [member.to_value() for member in self.members],
            }
        )


@dataclass(frozen=True, slots=True)
class SignedRing:
    """A parsed ring file; not verified until `verify` was called."""

    file: RingFile
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    @property
    def digest(self) -> Digest:
        """SHA-256 of the signed bytes; tells two files of one version apart."""
        return sha256(self.signed.raw)

    def verify(self, key: PublicKey, chain: ChainId) -> None:
        """Checks the signature of the publisher's person key; raises SignatureError."""
        self.signed.verify(key, tag=RING_FILE_TAG, chain=chain, era=self.file.era)


def parse_ring(raw: bytes) -> SignedRing:
    """Parses a ring file without checking the signature.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    signed = parse_signed(raw, bytes_max=RING_FILE_BYTES_MAX)
    value = decode_canonical(
        signed.payload, bytes_max=RING_FILE_BYTES_MAX, items_max=_RING_ITEMS_MAX
    )
    fields = Fields(value, "ring file")
    fields.constant(0, 1)
    file = RingFile(
        era=fields.uint(1),
        publisher=DidId(fields.digest(2)),
        group=fields.name(3),
        generation=fields.uint(4, minimum=1, maximum=GENERATION_MAX),
        version=fields.uint(5, minimum=1, maximum=_VERSION_MAX),
        suite=fields.enum(6, SealingSuite),
        check=fields.bytes(7, size=CONTENT_KEY_BYTES),
        members=fields.items(8, RingMember.from_value, minimum=1, maximum=RING_MEMBERS_MAX),
    )
    fields.finish()
    return SignedRing(file, signed)


def sign_ring(file: RingFile, key: Signer, chain: ChainId) -> SignedRing:
    """Signs a ring file with the publisher's person key."""
    return parse_ring(sign(file.encode(), key, tag=RING_FILE_TAG, chain=chain, era=file.era))


def wrap_info(name: RingName, ring: Digest, did: DidId, key: bytes) -> bytes:
    """The HPKE info of one wrap: it opens for this ring and this member alone (Z5)."""
    return encode_canonical([WRAP_INFO, *name.to_values(), ring, did, key])


def ring_members(members: Sequence[RingMember]) -> tuple[RingMember, ...]:
    """Members in the one order that a ring file has."""
    return tuple(sorted(members, key=lambda member: member.did))


def _read_key(value: Value) -> bytes:
    kem, key = as_array(value, "sealing key", size=2)
    if as_uint(kem, "sealing key's algorithm") != KEM_X25519:
        raise EncodingError(f"sealing key of algorithm {kem!r}, expected {KEM_X25519}")
    return as_bytes(key, "sealing key", size=SEALING_KEY_BYTES)
