"""Bodies of `group.*` and `policy.*`."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.bodies.codec import MapValue, read_approvals
from protocol.encoding import Fields
from protocol.group import GROUP_BYTES_MAX, check_group_name


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
            approvals=read_approvals(fields, 2),
        )
