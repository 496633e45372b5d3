"""Forms of evidence by which a node's own signatures contradict each other.

The only thing that convicts is what the culprit itself signed. Two forms concern every node: two
anchors of one receipt log that disagree, and an announcement that a manifest is authorised at a
header whose own state says otherwise. (Votes that contradict each other are the third form, for
validators; docs/spec/consensus.md has it.) Nothing here is checked: `ledger.contradiction` does
that, from the bytes and the culprit's key alone, so that everybody can.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.announcement import ANNOUNCEMENT_BYTES_MAX
from protocol.digest import Digest, tagged_digest
from protocol.encoding import Value, as_bytes, as_uint, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import KIB

CONTRADICTION_TAG: Final = "swarmd/contradiction/1"
"""Domain of evidence digests."""
ANCHOR_TRANSACTION_BYTES_MAX: Final = KIB
"""A signed `receipt.anchor` takes about 250 bytes."""
CONTRADICTION_HEADER_BYTES_MAX: Final = 4 * KIB
"""Encoded header in evidence; its own reader has a lower bound."""
CONTRADICTION_PROOF_BYTES_MAX: Final = 12 * KIB
"""State proof in evidence: with 32 approvers and as many revokers 2.5 KiB of value, and 8 KiB of
siblings at the greatest depth."""


class Offence(IntEnum):
    """What a conviction is for; the numbers are on the wire."""

    CONFLICTING_ANCHORS = 1
    """Signed two roots for one size of its receipt log."""
    FALSE_ANNOUNCEMENT = 2
    """Signed that a manifest is authorised at a header where it is not."""


@dataclass(frozen=True, slots=True)
class ConflictingAnchors:
    """Two signed `receipt.anchor` transactions of one signer and size, with two roots."""

    first: bytes
    """One signed transaction."""
    second: bytes
    """The other; greater than `first` as byte strings, so that a pair has one form."""

    def __post_init__(self) -> None:
        """Refuses a pair in the wrong order; raises EncodingError."""
        if self.first >= self.second:
            raise EncodingError("conflicting anchors: not two transactions in ascending order")

    @property
    def offence(self) -> Offence:
        """What it shows, if it holds."""
        return Offence.CONFLICTING_ANCHORS

    def to_value(self) -> Value:
        """The wire form."""
        return [int(self.offence), self.first, self.second]


@dataclass(frozen=True, slots=True)
class FalseAnnouncement:
    """A signed announcement, the header it names, and what that header's state says."""

    announcement: bytes
    """The signed announcement."""
    header: bytes
    """The header whose id the author signed, encoded."""
    proof: bytes
    """State proof under that header's state root of the manifest's standing, encoded."""

    @property
    def offence(self) -> Offence:
        """What it shows, if it holds."""
        return Offence.FALSE_ANNOUNCEMENT

    def to_value(self) -> Value:
        """The wire form."""
        return [int(self.offence), self.announcement, self.header, self.proof]


Contradiction = ConflictingAnchors | FalseAnnouncement
"""Any form."""


def contradiction_digest(evidence: Contradiction) -> Digest:
    """What a conviction record names."""
    return tagged_digest(CONTRADICTION_TAG, encode_canonical(evidence.to_value()))


def read_contradiction(value: Value) -> Contradiction:
    """Reads the wire form.

    Raises:
        EncodingError: malformed, over a bound, or of an unknown form.
    """
    if not isinstance(value, (list, tuple)) or not value:
        raise EncodingError("contradiction: not a list")
    form = as_uint(value[0], "contradiction's form")
    parts = value[1:]
    if form == Offence.CONFLICTING_ANCHORS and len(parts) == 2:
        first, second = (
            as_bytes(part, "anchor transaction", maximum=ANCHOR_TRANSACTION_BYTES_MAX)
            for part in parts
        )
        return ConflictingAnchors(first, second)
    if form == Offence.FALSE_ANNOUNCEMENT and len(parts) == 3:
        return FalseAnnouncement(
            announcement=as_bytes(parts[0], "announcement", maximum=ANNOUNCEMENT_BYTES_MAX),
            header=as_bytes(parts[1], "header", maximum=CONTRADICTION_HEADER_BYTES_MAX),
            proof=as_bytes(parts[2], "state proof", maximum=CONTRADICTION_PROOF_BYTES_MAX),
        )
    raise EncodingError(f"contradiction: form {form} with {len(parts)} parts is not known")
