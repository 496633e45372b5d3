"""`cap/` and `ci/`: capabilities of a subject in a group, and every one ever granted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.records.codec import RECORD_SCHEMA, close_record, nullable_uint, open_record
from protocol.capability import CAPABILITY_BYTES_MAX, Capability, decode_capability
from protocol.digest import DidId, Digest
from protocol.encoding import Value, as_bytes, encode_canonical

CAPABILITIES_MAX: Final = 16
"""Capabilities of one subject in one group that are in force at a time."""


@dataclass(frozen=True, slots=True)
class CapabilitiesRecord:
    """`cap/<did><group>`: what is granted and not withdrawn; expiry follows from header time."""

    granted: tuple[Capability, ...] = ()
    """In the order of their grants, at most 16."""

    def in_force(self, time_ms: int) -> tuple[Capability, ...]:
        """Those that are not void at a header time."""
        return tuple(item for item in self.granted if time_ms <= item.expires_ms)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: [item.encode() for item in self.granted]})

    @classmethod
    def decode(cls, data: bytes) -> CapabilitiesRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "capabilities")
        record = cls(fields.items(1, _read_capability, maximum=CAPABILITIES_MAX))
        close_record(fields, "capabilities")
        return record


def _read_capability(value: Value) -> Capability:
    return decode_capability(as_bytes(value, "capability", maximum=CAPABILITY_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueRecord:
    """`ci/<capability id>`: that a capability was granted, so that none is granted twice."""

    subject: DidId
    """To whom."""
    group: str
    """In which group."""
    granted_height: int
    """Height of the grant."""
    granters: tuple[Digest, ...]
    """Key ids of the owners that granted it, ascending; see `approval_key`."""
    root_version: int
    """Version of the owner root whose keys counted then."""
    withdrawn_height: int | None = None
    """Height of its withdrawal."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: self.subject,
                2: self.group,
                3: self.granted_height,
                4: self.granters,
                5: self.root_version,
                6: self.withdrawn_height,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> IssueRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "issue")
        record = cls(
            subject=DidId(fields.digest(1)),
            group=fields.name(2),
            granted_height=fields.uint(3),
            granters=fields.digests(4, maximum=32),
            root_version=fields.uint(5, minimum=1),
            withdrawn_height=nullable_uint(fields, 6),
        )
        close_record(fields, "issue")
        return record
