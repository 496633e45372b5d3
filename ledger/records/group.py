"""`g/`, `gp/`, `gc/`, `or/`, `ev/`: who owns a group, where it stands, what happened in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ledger.records.codec import (
    RECORD_SCHEMA,
    close_record,
    open_record,
    read_key_ids,
)
from protocol.digest import Digest, PolicyId
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_digest,
    as_uint,
    check_sorted_unique,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.group import GROUP_CHILDREN_MAX, OWNERS_MAX, OwnerRoot, check_group_name
from protocol.rule import EVENTS_KEPT, Counter

_ROTATORS_MAX: Final = 2 * OWNERS_MAX
"""Old and new owners may all be different."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRecord:
    """`g/<group>`: who owns a group and which rules hold."""

    owner_root: OwnerRoot
    """What gateways of the group follow from the root they pinned."""
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

    def waiting(self, time_ms: int) -> PolicyId | None:
        """The policy that is scheduled and not yet in force at a header time, if any."""
        if self.scheduled is not None and time_ms < self.scheduled[1]:
            return self.scheduled[0]
        return None

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


def encode_children(children: tuple[str, ...]) -> bytes:
    """`gc/<group>`: the canonical bytes of a list of groups, ascending."""
    return encode_canonical({0: RECORD_SCHEMA, 1: children})


def decode_children(data: bytes) -> tuple[str, ...]:
    """Reads the canonical bytes; raises EncodingError."""
    fields = open_record(data, "children")
    children = fields.items(1, _read_group, maximum=GROUP_CHILDREN_MAX)
    check_sorted_unique((name.encode() for name in children), "children")
    close_record(fields, "children")
    return children


def _read_group(value: Value) -> str:
    if not isinstance(value, str):
        raise EncodingError("group name is not text")
    return check_group_name(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationRecord:
    """`or/<group>/<version>`: how a group came to an owner root."""

    owner_root: OwnerRoot
    """The root that began here."""
    signers: tuple[Digest, ...]
    """Key ids of the ROTATE_ROOT approvals, old owners' and new ones', ascending."""
    policy: PolicyId
    """Policy that was in force, which they name."""
    era: int
    """Era they are signed for."""
    height: int
    """Height from which it holds."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {
                0: RECORD_SCHEMA,
                1: self.owner_root.to_value(),
                2: self.signers,
                3: self.policy,
                4: self.era,
                5: self.height,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> RotationRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "rotation")
        record = cls(
            owner_root=OwnerRoot.from_value(fields.value(1)),
            signers=read_key_ids(fields.digests(2, maximum=_ROTATORS_MAX)),
            policy=PolicyId(fields.digest(3)),
            era=fields.uint(4),
            height=fields.uint(5),
        )
        close_record(fields, "rotation")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsRecord:
    """`ev/<group>`: when a group lately proposed, authorised and revoked; header times, ms.

    Each list holds the newest 32, ascending; rules count to fewer, so that what was dropped never
    changes an answer.
    """

    proposed: tuple[int, ...] = ()
    """Of proposals."""
    authorised: tuple[int, ...] = ()
    """Of authorisations."""
    revoked: tuple[int, ...] = ()
    """Of revocations."""

    def of(self, counter: Counter) -> tuple[int, ...]:
        """The times of one kind of event."""
        match counter:
            case Counter.PROPOSED:
                return self.proposed
            case Counter.AUTHORISED:
                return self.authorised
            case Counter.REVOKED:
                return self.revoked

    def having(self, counter: Counter, time_ms: int) -> EventsRecord:
        """This record with one more event, which is the newest."""
        times = (*self.of(counter), time_ms)[-EVENTS_KEPT:]
        match counter:
            case Counter.PROPOSED:
                return replace(self, proposed=times)
            case Counter.AUTHORISED:
                return replace(self, authorised=times)
            case Counter.REVOKED:
                return replace(self, revoked=times)

    def encode(self) -> bytes:
        """The canonical bytes."""
        return encode_canonical(
            {0: RECORD_SCHEMA, 1: self.proposed, 2: self.authorised, 3: self.revoked}
        )

    @classmethod
    def decode(cls, data: bytes) -> EventsRecord:
        """Reads the canonical bytes; raises EncodingError."""
        fields = open_record(data, "events")
        record = cls(
            proposed=_read_times(fields, 1),
            authorised=_read_times(fields, 2),
            revoked=_read_times(fields, 3),
        )
        close_record(fields, "events")
        return record


def _read_times(fields: Fields, key: int) -> tuple[int, ...]:
    times = fields.items(key, lambda item: as_uint(item, "event"), maximum=EVENTS_KEPT)
    if tuple(sorted(times)) != times:
        raise EncodingError("events: times do not ascend")
    return times
