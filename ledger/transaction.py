"""Bodies of transactions: one frozen dataclass and one strict codec for each kind.

The envelope (era, signer, nonce, lifetime, signature) is `protocol.transaction`'s. A body is a map
with integer keys; what it means and when it is allowed is in `ledger.transition`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol.approval import APPROVAL_BYTES_MAX
from protocol.did import (
    KEYS_MAX,
    JoinStatement,
    Keys,
    keys_from_value,
    keys_to_value,
)
from protocol.digest import ChainId, DidId, Digest, ManifestId
from protocol.encoding import Fields, Value, as_bytes, encode_canonical
from protocol.errors import EncodingError
from protocol.group import GROUP_BYTES_MAX, OWNERS_MAX, check_group_name
from protocol.keys import SIGNATURE_BYTES, signing_context
from protocol.limits import MANIFEST_BYTES_MAX, TARGET_GROUPS_MAX

ROTATION_TAG: Final = "swarmd/rotate/1"
"""Domain of the signatures by which new keys take over."""
MapValue = Mapping[int | str, Value]
"""A body as the envelope carries it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateSubject:
    """`did.create`: admits a subject, with the consent of each of its groups."""

    join: JoinStatement
    """Its inception record, signed by all its keys."""
    approvals: tuple[tuple[bytes, ...], ...]
    """For each group of the record, in its order: ENROL approvals by that group's owners."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.join.to_value(), 1: [list(entry) for entry in self.approvals]}

    @classmethod
    def read(cls, fields: Fields) -> CreateSubject:
        """Reads the wire form; raises EncodingError."""
        return cls(
            join=JoinStatement.from_value(fields.value(0)),
            approvals=fields.items(1, _read_approval_list, maximum=TARGET_GROUPS_MAX),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateKeys:
    """`did.rotate`: replaces all keys of a subject by those it committed to."""

    did: DidId
    """Whose keys."""
    keys: Keys
    """The new keys; their digest is the current commitment."""
    next_keys: Digest | None
    """Commitment to the rotation after this one; None: the last one."""
    signatures: tuple[bytes, ...]
    """By each new key over `rotation_message`, in the order of `keys`."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {
            0: self.did,
            1: keys_to_value(self.keys),
            2: self.next_keys,
            3: list(self.signatures),
        }

    @classmethod
    def read(cls, fields: Fields) -> RotateKeys:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            keys=keys_from_value(fields.array(1, maximum=KEYS_MAX)),
            next_keys=None if fields.value(2) is None else fields.digest(2),
            signatures=fields.items(3, _read_signature, maximum=KEYS_MAX),
        )


def rotation_message(
    chain: ChainId, era: int, did: DidId, *, sequence: int, keys: Keys, next_keys: Digest | None
) -> bytes:
    """The bytes that every new key signs.

    Args:
        chain: chain of the ledger.
        era: era of the ledger.
        did: whose keys are replaced.
        sequence: the subject's rotation count after this one.
        keys: the new keys.
        next_keys: commitment to the rotation after this one.
    """
    return signing_context(ROTATION_TAG, chain, era) + encode_canonical(
        [did, sequence, keys_to_value(keys), next_keys]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendSubject:
    """`did.suspend`: leaves a subject nothing but reading."""

    did: DidId
    """Whom."""
    group: str
    """A group the subject belongs to, whose owners decide."""
    approvals: tuple[bytes, ...]
    """SUSPEND approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.did, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> SuspendSubject:
        """Reads the wire form; raises EncodingError."""
        return cls(
            did=DidId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=_read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateGroup:
    """`group.create`: adds a group, by consent of the governance root."""

    group: bytes
    """`Group.encode()`."""
    approvals: tuple[bytes, ...]
    """CREATE_GROUP approvals by governance keys, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.group, 1: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> CreateGroup:
        """Reads the wire form; raises EncodingError."""
        return cls(
            group=fields.bytes(0, maximum=GROUP_BYTES_MAX), approvals=_read_approvals(fields, 1)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPolicy:
    """`policy.set`: schedules another policy for a group."""

    group: str
    """Which group."""
    policy: bytes
    """`Policy.encode()` of the new policy."""
    approvals: tuple[bytes, ...]
    """AMEND approvals, 1 to 32; they name the policy in force."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.group, 1: self.policy, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> SetPolicy:
        """Reads the wire form; raises EncodingError."""
        return cls(
            group=check_group_name(fields.name(0)),
            policy=fields.bytes(1, maximum=GROUP_BYTES_MAX),
            approvals=_read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposeManifest:
    """`manifest.propose`: submits a manifest to the owners of its target groups."""

    manifest: bytes
    """The signed manifest, its original bytes."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest}

    @classmethod
    def read(cls, fields: Fields) -> ProposeManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(manifest=fields.bytes(0, maximum=MANIFEST_BYTES_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveManifest:
    """`manifest.approve`: adds owners' approvals in one group."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    approvals: tuple[bytes, ...]
    """AUTHORISE approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> ApproveManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=_read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeManifest:
    """`manifest.revoke`: adds owners' revocations in one group."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    approvals: tuple[bytes, ...]
    """REVOKE approvals, 1 to 32."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.manifest, 1: self.group, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> RevokeManifest:
        """Reads the wire form; raises EncodingError."""
        return cls(
            manifest=ManifestId(fields.digest(0)),
            group=check_group_name(fields.name(1)),
            approvals=_read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorReceipts:
    """`receipt.anchor`: fixes the signer's receipt log as it is now."""

    size: int
    """Entries of the receipt log."""
    root: Digest
    """RFC 6962 root over them."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.size, 1: self.root}

    @classmethod
    def read(cls, fields: Fields) -> AnchorReceipts:
        """Reads the wire form; raises EncodingError."""
        return cls(size=fields.uint(0), root=fields.digest(1))


Body = (
    CreateSubject
    | RotateKeys
    | SuspendSubject
    | CreateGroup
    | SetPolicy
    | ProposeManifest
    | ApproveManifest
    | RevokeManifest
    | AnchorReceipts
)
"""Everything a transaction may ask for."""
_READERS: Final[Mapping[str, Callable[[Fields], Body]]] = {
    "did.create": CreateSubject.read,
    "did.rotate": RotateKeys.read,
    "did.suspend": SuspendSubject.read,
    "group.create": CreateGroup.read,
    "policy.set": SetPolicy.read,
    "manifest.propose": ProposeManifest.read,
    "manifest.approve": ApproveManifest.read,
    "manifest.revoke": RevokeManifest.read,
    "receipt.anchor": AnchorReceipts.read,
}
_KINDS: Final[Mapping[type, str]] = {
    CreateSubject: "did.create",
    RotateKeys: "did.rotate",
    SuspendSubject: "did.suspend",
    CreateGroup: "group.create",
    SetPolicy: "policy.set",
    ProposeManifest: "manifest.propose",
    ApproveManifest: "manifest.approve",
    RevokeManifest: "manifest.revoke",
    AnchorReceipts: "receipt.anchor",
}
KINDS: Final = tuple(_READERS)
"""Every transaction kind."""
RESERVED_KINDS: Final = ("manifest.revoke", "did.suspend")
"""Kinds that protect: they go first into blocks and have a reserved share of the mempool."""


def kind_of(body: Body) -> str:
    """The kind that an envelope around this body must state."""
    return _KINDS[type(body)]


def decode_body(kind: str, value: MapValue) -> Body:
    """Reads a body of a known kind; its extensions (negative keys) are ignored.

    Raises:
        EncodingError: unknown kind, malformed, or over a bound.
    """
    read = _READERS.get(kind)
    if read is None:
        raise EncodingError(f"unknown transaction kind {kind!r}")
    fields = Fields(value, kind)
    body = read(fields)
    fields.finish()
    return body


def _read_approval(value: Value) -> bytes:
    return as_bytes(value, "approval", maximum=APPROVAL_BYTES_MAX)


def _read_approvals(fields: Fields, key: int) -> tuple[bytes, ...]:
    return fields.items(key, _read_approval, minimum=1, maximum=OWNERS_MAX)


def _read_approval_list(value: Value) -> tuple[bytes, ...]:
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= OWNERS_MAX:
        raise EncodingError(f"approvals are not a list of 1 to {OWNERS_MAX}")
    return tuple(_read_approval(item) for item in value)


def _read_signature(value: Value) -> bytes:
    return as_bytes(value, "rotation signature", size=SIGNATURE_BYTES)
