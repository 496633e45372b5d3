"""Bodies of `report.*` and `quarantine.*`, and what owners sign for the latter."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.bodies.codec import MapValue, read_approvals
from protocol.contradiction import Contradiction, read_contradiction
from protocol.defence import QuarantineLevel
from protocol.digest import DidId, Digest, tagged_digest
from protocol.encoding import Fields, encode_canonical
from protocol.group import check_group_name

QUARANTINE_TAG: Final = "swarmd/quarantine/1"
"""Domain of what QUARANTINE approvals name."""
RELEASE_TAG: Final = "swarmd/release/1"
"""Domain of what RELEASE approvals name."""


class Complaint(IntEnum):
    """What a member says it saw; the numbers are on the wire. None of it can be proven."""

    BAD_CHUNK = 1
    """Sent bytes that do not match their digest."""
    UNAUTHORISED = 2
    """Served or announced what is not authorised."""
    CONFLICTING_ANCHORS = 3
    """Showed anchors that conflict."""
    FORGED = 4
    """Sent a signature, certificate or proof that does not verify."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportTamper:
    """`report.tamper`: a member's opinion on a peer of one of its groups."""

    subject: DidId
    """The peer."""
    group: str
    """The group in which both exchange images."""
    complaint: Complaint
    """What it is said to have done."""
    evidence: Digest | None = None
    """SHA-256 of what the reporter keeps about it; nobody checks it."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.subject, 1: self.group, 2: int(self.complaint), 3: self.evidence}

    @classmethod
    def read(cls, fields: Fields) -> ReportTamper:
        """Reads the wire form; raises EncodingError."""
        return cls(
            subject=DidId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            complaint=fields.enum(2, Complaint),
            evidence=None if fields.value(3) is None else fields.digest(3),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContradiction:
    """`report.contradiction`: proof that a subject's own signatures contradict each other."""

    subject: DidId
    """Whose."""
    evidence: Contradiction
    """The proof."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.subject, 1: self.evidence.to_value()}

    @classmethod
    def read(cls, fields: Fields) -> ReportContradiction:
        """Reads the wire form; raises EncodingError."""
        return cls(subject=DidId(fields.digest(0)), evidence=read_contradiction(fields.value(1)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetQuarantine:
    """`quarantine.set`: owners put a member of their group into quarantine."""

    subject: DidId
    """Whom."""
    group: str
    """In which group."""
    level: QuarantineLevel
    """1 or 2."""
    until_ms: int | None
    """Header time from which it no longer holds; None: until it is released."""
    approvals: tuple[bytes, ...]
    """QUARANTINE approvals, 1 to 32; subject: `quarantine_digest`."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.subject,
            1: self.group,
            2: int(self.level),
            3: self.until_ms,
            4: list(self.approvals),
        }

    @classmethod
    def read(cls, fields: Fields) -> SetQuarantine:
        """Reads the wire form; raises EncodingError."""
        return cls(
            subject=DidId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            level=QuarantineLevel(fields.uint(2, minimum=1, maximum=max(QuarantineLevel))),
            until_ms=None if fields.value(3) is None else fields.uint(3),
            approvals=read_approvals(fields, 4),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseQuarantine:
    """`quarantine.release`: owners end a quarantine, whatever its cause."""

    subject: DidId
    """Whom."""
    group: str
    """In which group."""
    approvals: tuple[bytes, ...]
    """RELEASE approvals, 1 to 32; subject: `release_digest`."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.subject, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> ReleaseQuarantine:
        """Reads the wire form; raises EncodingError."""
        return cls(
            subject=DidId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=read_approvals(fields, 2),
        )


def quarantine_digest(
    did: DidId, group: str, *, level: int, until_ms: int | None, sequence: int
) -> Digest:
    """What owners sign who put a subject into quarantine.

    Args:
        did: whom.
        group: in which group.
        level: 1 or 2.
        until_ms: header time from which it no longer holds, or None.
        sequence: changes of the subject's quarantine in the group after this one.
    """
    content = encode_canonical([did, group, level, until_ms, sequence])
    return tagged_digest(QUARANTINE_TAG, content)


def release_digest(did: DidId, group: str, sequence: int) -> Digest:
    """What owners sign who release a subject; `sequence` as in `quarantine_digest`."""
    return tagged_digest(RELEASE_TAG, encode_canonical([did, group, sequence]))
