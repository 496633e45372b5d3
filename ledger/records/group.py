"""`g/<group>`: who owns a group and which rules hold."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.records.codec import (
    RECORD_SCHEMA,
    close_record,
    open_record,
    read_key_ids,
)
from protocol.digest import Digest, PolicyId
from protocol.encoding import (
    Value,
    as_array,
    as_digest,
    as_uint,
    encode_canonical,
)
from protocol.group import OWNERS_MAX, OwnerRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """`g/<group>`: who owns a group and which rules hold."""

    owner_root: OwnerRoot
    """What gateways of the group pin."""
    policy: PolicyId
    """Policy in force until `scheduled` takes effect."""
    scheduled: tuple[PolicyId, int] | None
    """Next policy and the header time from which it holds, milliseconds."""
    creators: tuple[Digest, ...]
    """Key ids of the governance approvals that created it, ascending; none: genesis did."""

    def policy_at(self, time_ms: int) -> PolicyId:
        """The policy in force at a header time."""
        if self.scheduled is not None and time_ms >= self.scheduled[1]:
            return self.scheduled[0]
        return self.policy

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: self.owner_root.to_value(),
                2: self.policy,
                3: self.scheduled,
                4: self.creators,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> GroupRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "group")
        scheduled = fields.value(3)
        record = cls(
            owner_root=OwnerRoot.from_value(fields.value(1)),
            policy=PolicyId(fields.digest(2)),
            scheduled=None if scheduled is None else _read_scheduled(scheduled),
            creators=read_key_ids(fields.digests(4, maximum=OWNERS_MAX)),
        )
        close_record(fields, "group")
        return record


def _read_scheduled(value: Value) -> tuple[PolicyId, int]:
    policy, time_ms = as_array(value, "scheduled policy", size=2)
    return PolicyId(as_digest(policy, "scheduled policy")), as_uint(time_ms, "scheduled policy")
