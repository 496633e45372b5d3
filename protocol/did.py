"""Subjects of the ledger: their keys, inception records and DID texts.

A subject (validator, gateway, publisher, person) is named by the digest of its inception record, so
its name survives every key rotation: `did:swarm:<first 8 hex of the chain id>:<base32 of the id>`.
A bare transport key is also a `did:key` (W3C did:key method, Ed25519 multicodec 0xed).
Rotation is bound by `next_keys`: the digest of the key list that may replace the current one. A
vote key is in no such list: it serves one epoch, and later ones are certified epoch by epoch.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import base58

from protocol.digest import ZERO_DIGEST, ChainId, DidId, Digest, short, tagged_digest
from protocol.encoding import (
    Extensions,
    Fields,
    Value,
    as_array,
    as_bytes,
    as_uint,
    check_extensions,
    check_sorted_unique,
    check_text,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, SignatureError
from protocol.group import check_group_name
from protocol.keys import SIGNATURE_BYTES, PublicKey, Signer, signing_context
from protocol.limits import NAME_BYTES_MAX, TARGET_GROUPS_MAX

RECORD_SCHEMA: Final = 1
"""Schema number of an inception record."""
RECORD_BYTES_MAX: Final = 2048
"""Encoded record: 4 keys and 16 group names fit."""
KEYS_MAX: Final = 4
"""At most one key of each purpose."""
_ED25519_MULTICODEC: Final = b"\xed\x01"
JOIN_TAG: Final = "swarmd/join/1"
"""Domain of the signatures that prove possession of a record's keys."""


class SubjectKind(IntEnum):
    """What a subject is."""

    VALIDATOR = 1
    GATEWAY = 2
    PUBLISHER = 3
    PERSON = 4


class KeyPurpose(IntEnum):
    """What a key may sign; no key serves two purposes."""

    TRANSPORT = 1
    """Proves the peer in the Noise handshake."""
    NODE = 2
    """Signs transactions, announcements and receipts of a node."""
    VALIDATOR = 3
    """Signs votes and freshness statements."""
    PERSON = 4
    """Signs manifests and approvals."""


_PURPOSES_OF_KIND: Final = {
    SubjectKind.VALIDATOR: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.VALIDATOR),
    SubjectKind.GATEWAY: (KeyPurpose.TRANSPORT, KeyPurpose.NODE),
    SubjectKind.PUBLISHER: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.PERSON),
    SubjectKind.PERSON: (KeyPurpose.PERSON,),
}
Keys = tuple[tuple[KeyPurpose, PublicKey], ...]
"""Keys by purpose, ascending."""


def keys_to_value(keys: Keys) -> Value:
    """The wire form of a key list: [[purpose, [algorithm, bytes]], ...]."""
    return [[int(purpose), key.to_value()] for purpose, key in keys]


def keys_from_value(items: Sequence[Value]) -> Keys:
    """Reads a key list: 1 to 4 keys of strictly ascending purpose.

    Raises:
        EncodingError: anything else.
    """
    if not 1 <= len(items) <= KEYS_MAX:
        raise EncodingError(f"{len(items)} keys, allowed 1 to {KEYS_MAX}")
    keys: list[tuple[KeyPurpose, PublicKey]] = []
    for item in items:
        purpose, key = as_array(item, "key entry", size=2)
        number = as_uint(purpose, "key purpose", maximum=max(KeyPurpose))
        if number < 1 or (keys and number <= keys[-1][0]):
            raise EncodingError("key purposes are not strictly ascending from 1")
        keys.append((KeyPurpose(number), PublicKey.from_value(key)))
    return tuple(keys)


def rotating(purposes: Sequence[KeyPurpose]) -> tuple[KeyPurpose, ...]:
    """The purposes whose keys a rotation or a recovery replaces: all but votes.

    The vote key of a record serves one epoch (E4, L51); were it part of later key lists, its
    holder would have to keep it for ever.
    """
    return tuple(purpose for purpose in purposes if purpose is not KeyPurpose.VALIDATOR)


def with_rotated(keys: Keys, replaced: Keys) -> Keys:
    """A record's keys after a rotation: those given, and the vote key of before."""
    given = dict(replaced)
    return tuple((purpose, given.get(purpose, key)) for purpose, key in keys)


def next_keys_digest(keys: Keys) -> Digest:
    """The commitment to a future key list, which names no vote key."""
    return tagged_digest("swarmd/next-keys/1", encode_canonical(keys_to_value(keys)))


@dataclass(frozen=True, slots=True, kw_only=True)
class DidRecord:
    """An inception record: what a subject is when it enters the ledger."""

    kind: SubjectKind
    """What the subject is; decides which keys it has."""
    name: str
    """For people to read, 1 to 64 bytes; not unique."""
    keys: Keys
    """Current keys, one for each purpose its kind needs."""
    next_keys: Digest | None
    """Commitment to the keys of the next rotation; None: these keys can never rotate."""
    groups: tuple[str, ...]
    """Device groups this subject belongs to, ascending, at most 16."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses a record that `decode_record` would refuse.

        Raises:
            EncodingError: keys that do not fit the kind, a repeated key, a bad name, or groups that
                are badly named, unsorted or too many.
        """
        check_text(self.name, "name", maximum=NAME_BYTES_MAX, empty=False)
        if tuple(purpose for purpose, _ in self.keys) != _PURPOSES_OF_KIND[self.kind]:
            raise EncodingError(f"keys of a {self.kind.name.lower()} are incomplete or too many")
        if len({key for _, key in self.keys}) != len(self.keys):
            raise EncodingError("one key serves two purposes")
        check_groups(self.groups)
        check_extensions(self.extensions, "DID record")

    def key(self, purpose: KeyPurpose) -> PublicKey | None:
        """The key of one purpose, or None if the kind has none."""
        return next((key for having, key in self.keys if having == purpose), None)

    @property
    def did(self) -> DidId:
        """The subject's permanent name."""
        return DidId(tagged_digest("swarmd/did/1", self.encode()))

    def encode(self) -> bytes:
        """Canonical bytes; they are what is hashed and signed."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: int(self.kind),
                2: self.name,
                3: keys_to_value(self.keys),
                4: self.next_keys,
                5: list(self.groups),
                **self.extensions,
            }
        )


def decode_record(data: bytes) -> DidRecord:
    """Reads an inception record.

    Raises:
        EncodingError: malformed, or keys that do not fit the kind.
    """
    fields = Fields(decode_canonical(data, bytes_max=RECORD_BYTES_MAX), "DID record")
    fields.constant(0, RECORD_SCHEMA)
    return DidRecord(
        kind=fields.enum(1, SubjectKind),
        name=fields.name(2),
        keys=keys_from_value(fields.array(3, maximum=KEYS_MAX)),
        next_keys=None if fields.value(4) is None else fields.digest(4),
        groups=read_groups(fields, 5, minimum=0),
        extensions=fields.finish(),
    )


def check_groups(groups: Sequence[str]) -> None:
    """Checks a list of group names: each well formed, strictly ascending, at most 16.

    Raises:
        EncodingError: it is something else.
    """
    if len(groups) > TARGET_GROUPS_MAX:
        raise EncodingError(f"{len(groups)} groups, at most {TARGET_GROUPS_MAX}")
    check_sorted_unique((check_group_name(group).encode() for group in groups), "groups")


def read_groups(fields: Fields, key: int, *, minimum: int) -> tuple[str, ...]:
    """Reads a strictly ascending list of group names."""

    def read(item: Value) -> str:
        if not isinstance(item, str):
            raise EncodingError("group name is not text")
        return check_group_name(item)

    groups = fields.items(key, read, minimum=minimum, maximum=TARGET_GROUPS_MAX)
    check_groups(groups)
    return groups


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinStatement:
    """A record with a signature by each of its keys.

    It proves possession, and binds the node key to the transport key: both sign the same record.
    """

    record_bytes: bytes
    """The original encoded record."""
    signatures: tuple[bytes, ...]
    """64 bytes each, in the order of the record's keys."""
    record: DidRecord = field(init=False, repr=False, compare=False)
    """The decoded record."""

    def __post_init__(self) -> None:
        """Decodes the record, once.

        Raises:
            EncodingError: the record is malformed.
        """
        object.__setattr__(self, "record", decode_record(self.record_bytes))

    def verify(self) -> DidRecord:
        """Checks every signature and returns the record.

        Raises:
            SignatureError: a key did not sign.
        """
        record = self.record
        if len(self.signatures) != len(record.keys):
            raise SignatureError("join statement: one signature for each key is needed")
        for (_, key), signature in zip(record.keys, self.signatures, strict=True):
            key.verify(signature, _join_message(self.record_bytes))
        return record

    def to_value(self) -> Value:
        """The wire form: [record bytes, [signature, ...]]."""
        return [self.record_bytes, list(self.signatures)]

    @classmethod
    def from_value(cls, value: Value) -> JoinStatement:
        """Reads the wire form without verifying the signatures.

        Raises:
            EncodingError: malformed.
        """
        record, signatures = as_array(value, "join statement", size=2)
        if not isinstance(signatures, (list, tuple)) or not 1 <= len(signatures) <= KEYS_MAX:
            raise EncodingError("join statement: signatures are not a list of 1 to 4")
        return cls(
            record_bytes=as_bytes(record, "join statement record", maximum=RECORD_BYTES_MAX),
            signatures=tuple(
                as_bytes(item, "join signature", size=SIGNATURE_BYTES) for item in signatures
            ),
        )


def _join_message(record_bytes: bytes) -> bytes:
    """What the keys of a record sign; no chain, since genesis is made of join statements."""
    return signing_context(JOIN_TAG, ChainId(ZERO_DIGEST), 0) + record_bytes


def sign_join(record: DidRecord, keys: Sequence[Signer]) -> JoinStatement:
    """Signs a record with all its private keys, given in the order of `record.keys`."""
    raw = record.encode()
    return JoinStatement(
        record_bytes=raw, signatures=tuple(key.sign(_join_message(raw)) for key in keys)
    )


def did_text(chain: ChainId, did: DidId) -> str:
    """Writes `did:swarm:<chain>:<id>`."""
    return f"did:swarm:{short(chain)}:{base64.b32encode(did).decode().rstrip('=').lower()}"


def parse_did_text(text: str, chain: ChainId) -> DidId:
    """Reads `did:swarm:<chain>:<id>`.

    Raises:
        EncodingError: another method, another chain, or not the one spelling of an id.
    """
    prefix = f"did:swarm:{short(chain)}:"
    if not text.startswith(prefix) or len(text) > 80:
        raise EncodingError(f"{text[:64]!r} is not a DID of chain {short(chain)}")
    try:
        raw = base64.b32decode(text[len(prefix) :].upper() + "====")
    except ValueError as error:
        raise EncodingError(f"{text[:80]!r} is not base32") from error
    did = DidId(raw)
    if len(raw) != 32 or did_text(chain, did) != text:
        raise EncodingError(f"{text[:80]!r} is not the canonical spelling of a DID")
    return did


def did_key_text(key: PublicKey) -> str:
    """Writes an Ed25519 public key as `did:key:z6Mk...`."""
    return "did:key:z" + base58.b58encode(_ED25519_MULTICODEC + key.raw).decode()


def parse_did_key(text: str) -> PublicKey:
    """Reads an Ed25519 `did:key`.

    Raises:
        EncodingError: another method, another key type, or a non-canonical spelling.
    """
    if not text.startswith("did:key:z") or len(text) > 80:
        raise EncodingError(f"{text[:80]!r} is not a base58btc did:key")
    try:
        raw = base58.b58decode(text[len("did:key:z") :])
    except ValueError as error:
        raise EncodingError(f"{text[:80]!r} is not base58btc") from error
    if raw[:2] != _ED25519_MULTICODEC:
        raise EncodingError(f"{text[:80]!r} is not an Ed25519 key")
    key = PublicKey(raw[2:])
    if did_key_text(key) != text:
        raise EncodingError(f"{text[:80]!r} is not the canonical spelling")
    return key
