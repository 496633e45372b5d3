"""Genesis: the document every node of a chain starts from. Its SHA-256 is the chain id.

It holds the validators, the first subjects with proof that they hold their keys, the first groups
with owner roots and policies, and the offline governance root. It holds no addresses: where peers
are is configuration, who they are is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from protocol.did import DidRecord, JoinStatement, KeyPurpose, SubjectKind
from protocol.digest import ChainId, DidId, sha256
from protocol.encoding import (
    Extensions,
    Fields,
    Value,
    as_bytes,
    check_extensions,
    check_range,
    check_sorted_unique,
    check_text,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.group import DAY_MS, GROUP_BYTES_MAX, Group, OwnerRoot, check_placements, decode_group
from protocol.keys import PublicKey
from protocol.limits import (
    HEARTBEAT_INTERVAL_MS,
    MIB,
    NAME_BYTES_MAX,
    VALIDATORS_MAX,
    VALIDATORS_MIN,
)

GENESIS_SCHEMA: Final = 1
"""Schema number of the document."""
GENESIS_BYTES_MAX: Final = 4 * MIB
"""About 8,000 first members."""
RECORDS_MAX: Final = 8192
"""Subjects a genesis may name; later ones come by transaction."""
GROUPS_MAX: Final = 256
"""Groups a genesis may name."""
_ITEMS_MAX: Final = 8 * RECORDS_MAX
"""Data items of the document: a join statement has up to 7, all else fits the rest."""
_HEARTBEAT_MS_MIN: Final = 1000
EPOCH_MS: Final = 7 * DAY_MS
"""Usual length of an epoch: 52 hand-overs a year for whoever was offline that long."""
EPOCH_MS_MIN: Final = 2000
"""Laboratories only: a hand-over takes a few message delays."""
EPOCH_MS_MAX: Final = 366 * DAY_MS
"""Vote keys must not grow older than a year."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Numbers that hold for the whole chain until governance changes them."""

    heartbeat_ms: int = HEARTBEAT_INTERVAL_MS
    """An idle chain finalizes an empty block this often, milliseconds, 1 s to a day."""
    epoch_ms: int = EPOCH_MS
    """The first block this long after its epoch began ends the epoch, milliseconds of header time,
    2 s to 366 days."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses numbers out of range.

        Raises:
            EncodingError: one is.
        """
        check_range(self.heartbeat_ms, "heartbeat", minimum=_HEARTBEAT_MS_MIN, maximum=DAY_MS)
        check_range(self.epoch_ms, "epoch", minimum=EPOCH_MS_MIN, maximum=EPOCH_MS_MAX)
        check_extensions(self.extensions, "parameters")

    def to_value(self) -> Value:
        """The wire form."""
        return {0: self.heartbeat_ms, 1: self.epoch_ms, **self.extensions}

    @classmethod
    def from_value(cls, value: Value) -> Parameters:
        """Reads the wire form.

        Raises:
            EncodingError: malformed or out of range.
        """
        fields = Fields(value, "parameters")
        return cls(heartbeat_ms=fields.uint(0), epoch_ms=fields.uint(1), extensions=fields.finish())


@dataclass(frozen=True, slots=True, kw_only=True)
class Genesis:
    """The content of a genesis document."""

    name: str
    """For people, 1 to 64 bytes."""
    era: int
    """0; raised by governance recovery."""
    time_ms: int
    """Header time of the genesis block, milliseconds since 1970."""
    parameters: Parameters
    """Numbers of the chain."""
    validators: tuple[DidId, ...]
    """The first validator set; the position is the validator's index."""
    joins: tuple[JoinStatement, ...]
    """First subjects, ascending by DID id, each with proof of its keys."""
    groups: tuple[Group, ...]
    """First groups, ascending by name."""
    governance_root: OwnerRoot
    """Offline threshold keys of the whole chain."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    """Canonical bytes."""
    chain: ChainId = field(init=False, repr=False, compare=False)
    """The chain id: SHA-256 of the canonical bytes."""

    def __post_init__(self) -> None:
        """Checks every part, also against each other, and encodes the document, once.

        Raises:
            EncodingError: a part is malformed or does not fit the others.
            SignatureError: a subject does not hold a key it names.
        """
        check_genesis(self)
        encoded = encode_canonical(
            {
                0: GENESIS_SCHEMA,
                1: self.name,
                2: self.era,
                3: self.time_ms,
                4: self.parameters.to_value(),
                5: list(self.validators),
                6: [join.to_value() for join in self.joins],
                7: [group.encode() for group in self.groups],
                8: self.governance_root.to_value(),
                **self.extensions,
            }
        )
        if len(encoded) > GENESIS_BYTES_MAX:
            raise EncodingError(f"genesis of {len(encoded)} bytes, at most {GENESIS_BYTES_MAX}")
        object.__setattr__(self, "encoded", encoded)
        object.__setattr__(self, "chain", ChainId(sha256(encoded)))

    def encode(self) -> bytes:
        """Canonical bytes; their SHA-256 is the chain id."""
        return self.encoded

    @property
    def records(self) -> tuple[DidRecord, ...]:
        """The records of all first subjects, in order."""
        return tuple(join.record for join in self.joins)

    def record(self, did: DidId) -> DidRecord | None:
        """The record of one subject, or None."""
        return next((record for record in self.records if record.did == did), None)

    def validator_keys(self) -> tuple[tuple[DidId, PublicKey], ...]:
        """DID and vote key of each validator, in index order."""
        records = {record.did: record for record in self.records}
        keys: list[tuple[DidId, PublicKey]] = []
        for did in self.validators:
            key = records[did].key(KeyPurpose.VALIDATOR)
            assert key is not None, "check_genesis: every validator has a validator record"
            keys.append((did, key))
        return tuple(keys)

    def group(self, name: str) -> Group | None:
        """A group by name, or None."""
        return next((group for group in self.groups if group.name == name), None)


def decode_genesis(data: bytes) -> Genesis:
    """Reads and checks a genesis document, signatures of its subjects included.

    Raises:
        EncodingError: malformed, or parts that do not fit each other.
        SignatureError: a subject does not hold a key it names.
    """
    value = decode_canonical(data, bytes_max=GENESIS_BYTES_MAX, items_max=_ITEMS_MAX)
    fields = Fields(value, "genesis")
    fields.constant(0, GENESIS_SCHEMA)
    return Genesis(
        name=fields.name(1),
        era=fields.uint(2, maximum=0),
        time_ms=fields.uint(3),
        parameters=Parameters.from_value(fields.value(4)),
        validators=tuple(
            DidId(item)
            for item in fields.digests(5, minimum=VALIDATORS_MIN, maximum=VALIDATORS_MAX)
        ),
        joins=fields.items(6, JoinStatement.from_value, maximum=RECORDS_MAX),
        groups=fields.items(7, _read_group, maximum=GROUPS_MAX),
        governance_root=OwnerRoot.from_value(fields.value(8)),
        extensions=fields.finish(),
    )


def _read_group(value: Value) -> Group:
    return decode_group(as_bytes(value, "genesis group", maximum=GROUP_BYTES_MAX))


def check_genesis(genesis: Genesis) -> None:
    """Checks what spans several parts of a genesis document.

    Raises:
        EncodingError: a number or name out of range, unsorted or repeated subjects or groups, a key
            held by two subjects, a group in an impossible place, a member of an unknown group, a
            validator that is no validator subject.
        SignatureError: a subject does not hold a key it names.
    """
    check_text(genesis.name, "genesis name", maximum=NAME_BYTES_MAX, empty=False)
    check_range(genesis.era, "genesis era", maximum=0)
    check_range(genesis.time_ms, "genesis time")
    check_range(
        len(genesis.validators), "validators", minimum=VALIDATORS_MIN, maximum=VALIDATORS_MAX
    )
    check_extensions(genesis.extensions, "genesis")
    records = tuple(join.verify() for join in genesis.joins)
    check_sorted_unique((record.did for record in records), "genesis subjects")
    check_sorted_unique((group.name.encode() for group in genesis.groups), "genesis groups")
    check_placements(genesis.groups)
    keys = [key.raw for record in records for _, key in record.keys]
    if len(set(keys)) != len(keys):
        raise EncodingError("genesis: two subjects share a key")
    names = {group.name for group in genesis.groups}
    for record in records:
        if unknown := sorted(set(record.groups) - names):
            raise EncodingError(f"genesis: {record.name!r} belongs to unknown group {unknown[0]!r}")
    kinds = {record.did: record.kind for record in records}
    if len(set(genesis.validators)) != len(genesis.validators):
        raise EncodingError("genesis: a validator is named twice")
    for did in genesis.validators:
        if kinds.get(did) is not SubjectKind.VALIDATOR:
            raise EncodingError(f"genesis: validator {did.hex()[:8]} has no validator record")
