"""`em/`: emergency pauses of a group, or of the whole chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.records.codec import RECORD_SCHEMA, close_record, open_record
from protocol.digest import Digest, ManifestId
from protocol.encoding import Fields, Value, check_sorted_unique, encode_canonical

PAUSES_MAX: Final = 64
"""Keys on one record: the 32 that a root may name and as many that it named ten days ago."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseEntry:
    """The newest pause of one emergency key (R60)."""

    key_id: Digest
    """Which key."""
    product: str | None
    """Only this product; None: every one."""
    manifest: ManifestId | None
    """Only this release; None: every one."""
    sequence: int
    """The number its key gave it, above those of its earlier ones."""
    began_ms: int
    """Header time at which it began, milliseconds."""
    until_ms: int
    """Header time at which it lapses or lapsed; that of its lifting if owners lifted it."""
    is_confirmed: bool = False
    """Whether owners prolonged it."""
    is_lifted: bool = False
    """Whether owners lifted it."""

    def is_active(self, time_ms: int) -> bool:
        """Tells whether it holds offers back at a header time."""
        return not self.is_lifted and time_ms < self.until_ms

    def covers(self, product: str, manifest: ManifestId) -> bool:
        """Tells whether a release falls under it."""
        return self.product in (None, product) and self.manifest in (None, manifest)

    def to_value(self) -> Value:
        """The form inside the record."""
        return {
            1: self.key_id,
            2: self.product,
            3: self.manifest,
            4: self.sequence,
            5: self.began_ms,
            6: self.until_ms,
            7: self.is_confirmed,
            8: self.is_lifted,
        }

    @classmethod
    def from_value(cls, value: Value) -> PauseEntry:
        """Reads the form inside the record; raises EncodingError."""
        fields = Fields(value, "pause")
        entry = cls(
            key_id=fields.digest(1),
            product=nullable_product(fields, 2),
            manifest=nullable_manifest(fields, 3),
            sequence=fields.uint(4, minimum=1),
            began_ms=fields.uint(5),
            until_ms=fields.uint(6),
            is_confirmed=fields.boolean(7),
            is_lifted=fields.boolean(8),
        )
        close_record(fields, "pause")
        return entry


def nullable_product(fields: Fields, key: int) -> str | None:
    """Reads a product's identifier or null; raises EncodingError."""
    return None if fields.value(key) is None else fields.identifier(key)


def nullable_manifest(fields: Fields, key: int) -> ManifestId | None:
    """Reads a manifest id or null; raises EncodingError."""
    return None if fields.value(key) is None else ManifestId(fields.digest(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class PausesRecord:
    """`em/<group>`, or `em/` for the whole chain: each key's newest pause."""

    entries: tuple[PauseEntry, ...] = ()
    """At most 64, ascending by key id."""

    def of(self, key_id: Digest) -> PauseEntry | None:
        """A key's newest pause."""
        return next((entry for entry in self.entries if entry.key_id == key_id), None)

    def holding(self, product: str, manifest: ManifestId, time_ms: int) -> PauseEntry | None:
        """The first active pause that a release falls under, or None."""
        return next(
            (
                entry
                for entry in self.entries
                if entry.is_active(time_ms) and entry.covers(product, manifest)
            ),
            None,
        )

    def replaced(self, entry: PauseEntry) -> PausesRecord:
        """The record with one key's pause exchanged or added."""
        others = [other for other in self.entries if other.key_id != entry.key_id]
        return PausesRecord(entries=tuple(sorted((*others, entry), key=lambda item: item.key_id)))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical({0: RECORD_SCHEMA, 1: [entry.to_value() for entry in self.entries]})

    @classmethod
    def decode(cls, data: bytes) -> PausesRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "pauses")
        entries = fields.items(1, PauseEntry.from_value, maximum=PAUSES_MAX)
        check_sorted_unique((entry.key_id for entry in entries), "pauses")
        close_record(fields, "pauses")
        return cls(entries=entries)
