"""What a proof file may add to its state facts: owners' consent, log entries, receipts.

Each statement leans on something the header commits to: consent and receipts on a state fact, which
they name by its place in the file; log entries on the header's log. Wire forms only; what is true
of them is found out by `ledger.proof_verify`. Format: docs/spec/proofs.md, V20 to V45.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.proof_facts import FACTS_MAX
from protocol.approval import APPROVAL_BYTES_MAX
from protocol.digest import DIGEST_BYTES, Digest, PolicyId
from protocol.encoding import Fields, Value, as_array, as_bytes, as_digest
from protocol.errors import EncodingError
from protocol.group import GROUP_BYTES_MAX, OWNERS_MAX
from protocol.limits import KIB, TRANSACTION_BYTES_MAX

LOG_SIBLINGS_MAX: Final = 63
"""Siblings in a log of fewer than 2^63 entries."""
ROTATIONS_MAX: Final = 32
"""Rotations of one owner root that a file bridges: three years of monthly ones."""
RECEIPT_BYTES_MAX: Final = 4 * KIB
"""One entry of a receipt log; today's take at most 1 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOrigin:
    """How a group that genesis does not name came to be."""

    group: bytes
    """`Group.encode()` as it was created."""
    approvals: tuple[bytes, ...]
    """The governance root's CREATE_GROUP approvals, ascending by key id."""

    def to_value(self) -> Value:
        """The wire form: [group, approvals]."""
        return [self.group, list(self.approvals)]

    @classmethod
    def from_value(cls, value: Value) -> GroupOrigin:
        """Reads the wire form; raises EncodingError."""
        group, approvals = as_array(value, "group origin", size=2)
        if not isinstance(approvals, (list, tuple)) or not 1 <= len(approvals) <= OWNERS_MAX:
            raise EncodingError(f"group origin: approvals are not a list of 1 to {OWNERS_MAX}")
        return cls(
            group=as_bytes(group, "group", maximum=GROUP_BYTES_MAX),
            approvals=tuple(_read_approval(item) for item in approvals),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RootChange:
    """One rotation of a group's owner root, as old and new owners signed it."""

    root: bytes
    """The next root, encoded."""
    policy: PolicyId
    """Policy that was in force, which the approvals name."""
    approvals: tuple[bytes, ...]
    """The ROTATE_ROOT approvals, ascending by key id."""

    def to_value(self) -> Value:
        """The wire form: [root, policy, approvals]."""
        return [self.root, self.policy, list(self.approvals)]

    @classmethod
    def from_value(cls, value: Value) -> RootChange:
        """Reads the wire form; raises EncodingError."""
        root, policy, approvals = as_array(value, "root change", size=3)
        if not isinstance(approvals, (list, tuple)) or not 1 <= len(approvals) <= 2 * OWNERS_MAX:
            raise EncodingError(f"root change: not a list of 1 to {2 * OWNERS_MAX} approvals")
        return cls(
            root=as_bytes(root, "owner root", maximum=GROUP_BYTES_MAX),
            policy=PolicyId(as_digest(policy, "policy of a root change")),
            approvals=tuple(_read_approval(item) for item in approvals),
        )


def _read_approval(value: Value) -> bytes:
    return as_bytes(value, "approval", maximum=APPROVAL_BYTES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What the owners signed about a manifest, and the policy they signed under."""

    fact: int
    """Place of the manifest's record among the facts."""
    approvals: tuple[bytes, ...]
    """The AUTHORISE approvals on record by owners, all of them, ascending by key id."""
    policy: bytes
    """The policy the record names, encoded."""
    origin: GroupOrigin | None = None
    """Present exactly if genesis does not name the group."""
    rotations: tuple[RootChange, ...] = ()
    """From the group's first owner root to the one whose keys counted, oldest first."""

    def to_value(self) -> Value:
        """The wire form: {0: fact, 1: approvals, 2: policy, ? 3: origin, ? 4: rotations}."""
        value: dict[int | str, Value] = {
            0: self.fact,
            1: list(self.approvals),
            2: self.policy,
        }
        if self.origin is not None:
            value[3] = self.origin.to_value()
        if self.rotations:
            value[4] = [change.to_value() for change in self.rotations]
        return value

    @classmethod
    def from_value(cls, value: Value) -> Consent:
        """Reads the wire form; raises EncodingError."""
        fields = Fields(value, "consent")
        consent = cls(
            fact=fields.uint(0, maximum=FACTS_MAX - 1),
            approvals=fields.items(1, _read_approval, minimum=1, maximum=OWNERS_MAX),
            policy=fields.bytes(2, maximum=GROUP_BYTES_MAX),
            origin=fields.optional(3, lambda key: GroupOrigin.from_value(fields.value(key))),
            rotations=fields.optional(4, lambda key: _read_rotations(fields, key)) or (),
        )
        _close(fields, "consent")
        return consent


def _read_rotations(fields: Fields, key: int) -> tuple[RootChange, ...]:
    return fields.items(key, RootChange.from_value, minimum=1, maximum=ROTATIONS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogInclusion:
    """An entry of the ledger's log."""

    index: int
    """Position in the log, from 0."""
    siblings: tuple[Digest, ...]
    """Audit path to the header's log root, leaf side first."""
    entry: bytes | None
    """The entry's bytes (a signed transaction or evidence); None: whoever checks has them."""
    leaf: Digest | None = None
    """The entry's leaf hash, present exactly if `entry` is not."""

    def to_value(self) -> Value:
        """The wire form: {0: index, 1: siblings, 2: entry} or, without entry, {.., 3: leaf}."""
        value: dict[int | str, Value] = {0: self.index, 1: b"".join(self.siblings)}
        if self.entry is not None:
            value[2] = self.entry
        else:
            value[3] = self.leaf
        return value

    @classmethod
    def from_value(cls, value: Value) -> LogInclusion:
        """Reads the wire form; raises EncodingError."""
        fields = Fields(value, "log entry")
        found = cls(
            index=fields.uint(0),
            siblings=_read_siblings(fields, 1),
            entry=fields.optional(2, lambda key: fields.bytes(key, maximum=TRANSACTION_BYTES_MAX)),
            leaf=fields.optional(3, fields.digest),
        )
        _close(fields, "log entry")
        if (found.entry is None) == (found.leaf is None):
            raise EncodingError("log entry: expected its bytes or its leaf hash, one of the two")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptInclusion:
    """An entry of a node's receipt log, under the root that the node anchored."""

    fact: int
    """Place of the node's anchor record among the facts."""
    index: int
    """Position in the receipt log, from 0."""
    entry: bytes
    """The entry's bytes."""
    siblings: tuple[Digest, ...]
    """Audit path to the anchored root, leaf side first."""

    def to_value(self) -> Value:
        """The wire form: {0: fact, 1: index, 2: entry, 3: siblings}."""
        return {0: self.fact, 1: self.index, 2: self.entry, 3: b"".join(self.siblings)}

    @classmethod
    def from_value(cls, value: Value) -> ReceiptInclusion:
        """Reads the wire form; raises EncodingError."""
        fields = Fields(value, "receipt")
        found = cls(
            fact=fields.uint(0, maximum=FACTS_MAX - 1),
            index=fields.uint(1),
            entry=fields.bytes(2, maximum=RECEIPT_BYTES_MAX),
            siblings=_read_siblings(fields, 3),
        )
        _close(fields, "receipt")
        return found


def _read_siblings(fields: Fields, key: int) -> tuple[Digest, ...]:
    joined = fields.bytes(key, maximum=LOG_SIBLINGS_MAX * DIGEST_BYTES)
    if len(joined) % DIGEST_BYTES:
        raise EncodingError("siblings are not a multiple of 32 bytes")
    return tuple(
        Digest(joined[start : start + DIGEST_BYTES])
        for start in range(0, len(joined), DIGEST_BYTES)
    )


def _close(fields: Fields, what: str) -> None:
    if fields.finish():
        raise EncodingError(f"{what}: extensions are not allowed")
