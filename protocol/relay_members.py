"""What a relay knows of each other node: its roles, what it holds, what it is owed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from protocol.exchange_events import PeerId
from protocol.relay_chunks import ChunkSet
from protocol.relay_estimates import DelayEstimate
from protocol.relay_messages import PushFlag, Ready, Role, delegate_name

MEMBERS_MAX: Final = 4096
"""Members of one relay; more join as peers that are only pulled from."""
RECEIVING: Final = (Role.RECEIVES, Role.RESUMES)
"""Roles to which pushes are welcome."""
HOLDING: Final = (Role.HOLDS, Role.SEEDS)
"""Roles of those who hold everything."""
ALLOWANCE_START: Final = 4
"""Units a relayer may have uncredited before its first credit."""


@dataclass(slots=True, eq=False)
class RelayTask:
    """A unit that this node passes on at somebody's request."""

    seeder: PeerId | None
    """Who gets the credit; None: nobody, because this node seeds."""
    first: int
    """First chunk number of the unit."""
    left: int = 0
    """Pushes that have not left yet."""
    credit_at: int = 0
    """The credit is due when no more than so many are left."""
    is_credited: bool = False
    """Whether the credit was given."""


@dataclass(slots=True, eq=False)
class Duty:
    """One push that is owed to one member."""

    first: int
    """First chunk number."""
    count: int
    """How many chunks."""
    size_bytes: int
    """Bytes of these chunks together."""
    flags: PushFlag = PushFlag.NONE
    """What the member shall do with it."""
    delegates: tuple[bytes, ...] = ()
    """Whom the member shall pass it to."""
    task: RelayTask | None = None
    """What it is part of."""


@dataclass(slots=True, eq=False)
class OutUnit:
    """A unit that a relayer was given and has not been credited for."""

    first: int
    """First chunk number."""
    count: int
    """How many chunks."""
    size_bytes: int
    """Bytes of these chunks together."""
    pushed_at: float
    """When it was handed to the host, seconds."""
    vouched_at: float = 0.0
    """When another member announced it first, seconds; meaningful once there are vouchers."""
    vouchers: int = 0
    """Other members that announced it."""
    credited_at: float | None = None
    """When the relayer returned a credit, seconds; None: not yet."""


@dataclass(slots=True, eq=False)
class RelayerRecord:
    """How a member does as a relayer of one object that this node seeds."""

    is_local: bool
    """Whether it is in this node's site."""
    out: dict[int, OutUnit] = field(default_factory=dict)
    """Units not credited or not vouched for, by first chunk number, oldest first."""
    lapsed: dict[int, OutUnit] = field(default_factory=dict)
    """Units taken back last; a late credit for one of them ends the pause."""
    given: dict[int, int] = field(default_factory=dict)
    """First chunk number to count of units it was given and few others announced so far."""
    uncredited_count: int = 0
    """Units of `out` that it has returned no credit for; the rest waits for a voucher."""
    allowance: int = ALLOWANCE_START
    """How many units it may have without credit."""
    base_s: float | None = None
    """What a credit takes while the relayer has nothing else to do, seconds: about the least seen.
    """
    gap_s: float | None = None
    """Mean time between its credits, seconds; None before the second."""
    is_limited: bool = False
    """Its allowance was cut, because its credits took long."""
    latency: DelayEstimate = field(default_factory=lambda: DelayEstimate(0.0))
    """From push to credit, seconds."""
    last_credit_at: float = 0.0
    """When its last credit counted, seconds."""
    vouched_count: int = 0
    """Its units that were credited and announced by others."""
    doubtful_count: int = 0
    """Its units that were credited, but that nobody announced in time."""
    is_checked: bool = False
    """Whether a check of its progress is armed."""
    is_paused: bool = False
    """It made no progress: it gets nothing until it does."""
    probe_at: float = 0.0
    """When a paused relayer is tried again, seconds."""
    pause_s: float = 0.0
    """How long its last pause was, seconds; 0: never paused, or it worked since."""
    is_usable: bool = False
    """Whether it is neither paused nor convicted, as counted."""
    is_able: bool = False
    """Whether it may be given a unit, as counted."""
    is_growing: bool = False
    """Whether it waits only for its first credits, as counted."""
    bucket: int | None = None
    """Where it waits to be chosen."""


class Member:
    """Another node of the relay."""

    __slots__ = (
        "asked",
        "complainers",
        "in_normal_ring",
        "in_urgent_ring",
        "is_convicted",
        "is_leaf",
        "is_writable",
        "known",
        "load_bytes",
        "name",
        "normal",
        "peer",
        "pending_bytes",
        "received_with",
        "reported",
        "roles",
        "seeded",
        "site",
        "skips",
        "told_ready",
        "urgent",
    )

    def __init__(self, peer: PeerId) -> None:
        """Starts without roles: it takes no part until it says so."""
        self.peer: Final = peer
        """Transport key."""
        self.name: Final = delegate_name(peer)
        """How pushes name it."""
        self.site = b""
        """Its local network."""
        self.is_leaf = False
        """Whether it never relays."""
        self.roles: dict[int, Role] = {}
        """Its part for each object."""
        self.reported: dict[int, None] = {}
        """Objects of which its bitfield came."""
        self.received_with: dict[int, None] = {}
        """Objects that it was receiving when this node became complete: what it lacks is owed to it
        by others, or pulled."""
        self.seeded: dict[int, None] = {}
        """Objects it has begun to seed: a share of them is its own."""
        self.known = ChunkSet()
        """What it holds, or is about to receive from this node."""
        self.asked = ChunkSet()
        """Of that, what it asked for: no claim that it holds it, rather the opposite."""
        self.load_bytes = 0
        """What it said is queued at it."""
        self.urgent: deque[Duty] = deque()
        """Pushes that others wait for: with delegates, or on another relayer's behalf."""
        self.normal: deque[Duty] = deque()
        """All other pushes."""
        self.in_urgent_ring = False
        """Whether it waits in the ring of urgent duties."""
        self.in_normal_ring = False
        """Whether it waits in the ring of the others."""
        self.is_writable = True
        """Whether it may be handed a push: none is under way."""
        self.skips: list[tuple[int, int]] = []
        """Runs to be told as skipped."""
        self.pending_bytes = 0
        """Bytes it pushed that are not verified yet."""
        self.told_ready: dict[int, None] = {}
        """Objects this node ever said RECEIVES for to it, so that a push is no offence."""
        self.complainers: dict[PeerId, None] = {}
        """Who complained about it."""
        self.is_convicted = False
        """Enough members complained: never a relayer of this manifest again."""

    def receives(self, number: int) -> bool:
        """Whether pushes of an object are welcome to it."""
        return self.roles.get(number) in RECEIVING

    def seeds(self, number: int) -> bool:
        """Whether it pushes an object now."""
        return self.roles.get(number) is Role.SEEDS


class MemberTable:
    """Everybody who takes part, by key and by name."""

    def __init__(self) -> None:
        """Starts empty."""
        self._members: dict[PeerId, Member] = {}
        self._names: dict[bytes, Member] = {}
        self._receivers: dict[int, dict[Member, None]] = {}
        self._seeders: dict[int, dict[Member, None]] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def __len__(self) -> int:
        return len(self._members)

    def find(self, peer: PeerId) -> Member | None:
        """The member with a key."""
        return self._members.get(peer)

    def named(self, name: bytes) -> Member | None:
        """The member with a name."""
        return self._names.get(name)

    def join(self, peer: PeerId) -> Member | None:
        """Adds a peer; None if there are too many."""
        if len(self._members) >= MEMBERS_MAX:
            return None
        member = self._members[peer] = Member(peer)
        self._names[member.name] = member
        return member

    def leave(self, member: Member) -> None:
        """Removes a member."""
        self.set_roles(member, {})
        del self._members[member.peer]
        if self._names.get(member.name) is member:
            del self._names[member.name]

    def take_ready(self, member: Member, message: Ready) -> None:
        """Notes what a member says of itself."""
        member.site, member.is_leaf = message.site, message.is_leaf
        self.set_roles(member, dict(message.roles))

    def set_roles(self, member: Member, roles: dict[int, Role]) -> None:
        """Replaces a member's roles."""
        for number in member.roles:
            self._receivers.get(number, {}).pop(member, None)
            self._seeders.get(number, {}).pop(member, None)
        member.roles = roles
        for number, role in roles.items():
            if role in RECEIVING:
                self._receivers.setdefault(number, {})[member] = None
            elif role is Role.SEEDS:
                self._seeders.setdefault(number, {})[member] = None

    def receivers(self, number: int) -> dict[Member, None]:
        """Who welcomes pushes of an object."""
        return self._receivers.get(number, {})

    def seeders(self, number: int) -> dict[Member, None]:
        """Who pushes an object now."""
        return self._seeders.get(number, {})

    def holders_count(self, number: int) -> int:
        """How many members hold an object completely. Not for every event: looks at all."""
        return sum(1 for member in self._members.values() if member.roles.get(number) in HOLDING)
