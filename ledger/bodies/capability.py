"""Bodies of `cap.*`."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.bodies.codec import MapValue, read_approvals
from protocol.capability import CAPABILITY_BYTES_MAX
from protocol.digest import Digest
from protocol.encoding import Fields


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantCapability:
    """`cap.grant`: owners let a subject do something in their group."""

    capability: bytes
    """`Capability.encode()`."""
    approvals: tuple[bytes, ...]
    """GRANT approvals, 1 to 32; subject: the capability's id."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.capability, 1: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> GrantCapability:
        """Reads the wire form; raises EncodingError."""
        return cls(
            capability=fields.bytes(0, maximum=CAPABILITY_BYTES_MAX),
            approvals=read_approvals(fields, 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeCapability:
    """`cap.revoke`: owners withdraw a capability for good."""

    capability: Digest
    """Its id."""
    approvals: tuple[bytes, ...]
    """WITHDRAW approvals, 1 to 32; subject: the id."""

    def to_value(self) -> MapValue:
        """The wire form."""
        return {0: self.capability, 1: list(self.approvals)}

    @classmethod
    def read(cls, fields: Fields) -> RevokeCapability:
        """Reads the wire form; raises EncodingError."""
        return cls(capability=fields.digest(0), approvals=read_approvals(fields, 1))
