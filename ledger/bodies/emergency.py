"""Bodies of `emergency.*`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.bodies.codec import MapValue, read_approval, read_approvals
from ledger.records.emergency import nullable_manifest, nullable_product
from protocol.digest import Digest, ManifestId, tagged_digest
from protocol.encoding import Fields, encode_canonical
from protocol.group import check_group_name

PAUSE_TAG: Final = "swarmd/emergency-pause/1"
"""Domain of what an emergency key signs."""
DECISION_TAG: Final = "swarmd/emergency-decision/1"
"""Domain of what owners sign about a pause."""


def _nullable_group(fields: Fields, key: int) -> str | None:
    return None if fields.value(key) is None else check_group_name(fields.name(key))


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseOffers:
    """`emergency.pause`: holds offers back for 72 hours, by one emergency key."""

    group: str | None
    """In which group; None: in every group, by an emergency key of the governance root."""
    product: str | None
    """Only this product; None: every one."""
    manifest: ManifestId | None
    """Only this release; None: every one."""
    sequence: int
    """A number above that of this key's last pause in this group; the ledger's time serves."""
    approval: bytes
    """The key's PAUSE approval."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.group,
            1: self.product,
            2: self.manifest,
            3: self.sequence,
            4: self.approval,
        }

    @classmethod
    def read(cls, fields: Fields) -> PauseOffers:
        """Reads the wire form; raises EncodingError."""
        return cls(
            group=_nullable_group(fields, 0),
            product=nullable_product(fields, 1),
            manifest=nullable_manifest(fields, 2),
            sequence=fields.uint(3, minimum=1),
            approval=read_approval(fields.value(4)),
        )

    @property
    def subject(self) -> Digest:
        """What the emergency key approves (R61)."""
        value = encode_canonical([self.group, self.product, self.manifest, self.sequence])
        return tagged_digest(PAUSE_TAG, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidePause:
    """`emergency.confirm`: prolongs a pause, or lifts it, by the owners."""

    group: str | None
    """Which group's pause; None: one of the whole chain."""
    key_id: Digest
    """Whose pause."""
    sequence: int
    """Which of that key's pauses."""
    until_ms: int
    """Header time until which it shall last, milliseconds; 0 lifts it."""
    approvals: tuple[bytes, ...]
    """CONFIRM approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.group,
            1: self.key_id,
            2: self.sequence,
            3: self.until_ms,
            4: list(self.approvals),
        }

    @classmethod
    def read(cls, fields: Fields) -> DecidePause:
        """Reads the wire form; raises EncodingError."""
        return cls(
            group=_nullable_group(fields, 0),
            key_id=fields.digest(1),
            sequence=fields.uint(2, minimum=1),
            until_ms=fields.uint(3),
            approvals=read_approvals(fields, 4),
        )

    @property
    def subject(self) -> Digest:
        """What owners approve (R63)."""
        value = encode_canonical([self.group, self.key_id, self.sequence, self.until_ms])
        return tagged_digest(DECISION_TAG, value)
