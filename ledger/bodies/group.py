"""Bodies of `group.*` and `policy.*`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.bodies.codec import MapValue, read_approval, read_approvals
from protocol.digest import PolicyId
from protocol.encoding import Fields
from protocol.group import GROUP_BYTES_MAX, OWNERS_MAX, POLICY_BYTES_MAX, check_group_name
from protocol.limits import KIB
from protocol.rule import RULE_BYTES_MAX

ROOT_BYTES_MAX: Final = 8 * KIB
"""Encoded owner root: 64 entries of at most 104 bytes, and names of roles."""
PLACEMENT_BYTES_MAX: Final = RULE_BYTES_MAX + 128
"""Encoded placement: a selector and a name."""


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
            group=fields.bytes(0, maximum=GROUP_BYTES_MAX), approvals=read_approvals(fields, 1)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateGroup:
    """`group.update`: gives a group another parent or selector."""

    group: str
    """Which group."""
    placement: bytes
    """`Placement.encode()` of its new place."""
    approvals: tuple[bytes, ...]
    """UPDATE_GROUP approvals by its owners, 1 to 32; they name the placement's digest."""
    adoption: tuple[bytes, ...]
    """UPDATE_GROUP approvals by owners of a new parent, at most 32; none where it stays."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.group, 1: self.placement, 2: list(self.approvals), 3: list(self.adoption)}

    @classmethod
    def read(cls, fields: Fields) -> UpdateGroup:
        """Reads the wire form; raises EncodingError."""
        return cls(
            group=check_group_name(fields.name(0)),
            placement=fields.bytes(1, maximum=PLACEMENT_BYTES_MAX),
            approvals=read_approvals(fields, 2),
            adoption=fields.items(3, read_approval, maximum=OWNERS_MAX),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateRoot:
    """`group.rotate`: replaces a group's owner root."""

    group: str
    """Which group."""
    root: bytes
    """The next root, canonical bytes."""
    approvals: tuple[bytes, ...]
    """ROTATE_ROOT approvals by old and new owners, 1 to 64."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.group, 1: self.root, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> RotateRoot:
        """Reads the wire form; raises EncodingError."""
        return cls(
            group=check_group_name(fields.name(0)),
            root=fields.bytes(1, maximum=ROOT_BYTES_MAX),
            approvals=fields.items(2, read_approval, minimum=1, maximum=2 * OWNERS_MAX),
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
            policy=fields.bytes(1, maximum=POLICY_BYTES_MAX),
            approvals=read_approvals(fields, 2),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VetoPolicy:
    """`policy.veto`: stops a scheduled policy within its delay."""

    group: str
    """Which group."""
    policy: PolicyId
    """The policy that must not take effect."""
    approvals: tuple[bytes, ...]
    """VETO approvals, 1 to 32; they name the policy in force."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.group, 1: self.policy, 2: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> VetoPolicy:
        """Reads the wire form; raises EncodingError."""
        return cls(
            group=check_group_name(fields.name(0)),
            policy=PolicyId(fields.digest(1)),
            approvals=read_approvals(fields, 2),
        )
