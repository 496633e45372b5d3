"""Device groups at their creation: a name, an owner root, a policy, a place among other groups.

An owner root is a threshold of person keys that every gateway of the group pins; it is what a
gateway checks approvals against, whatever validators say. A policy is a small integer-only record;
a manifest is judged under the policy that was in force when it was proposed. Owner roots, policies
and names have modules of their own and can be imported from here too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from protocol.calendar import DAY_MS, DURATION_MS_MAX
from protocol.digest import Digest, tagged_digest
from protocol.encoding import (
    Extensions,
    Fields,
    Key,
    Value,
    check_extensions,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.group_name import check_group_name
from protocol.limits import KIB
from protocol.owner_root import OWNERS_MAX, OwnerRoot
from protocol.policy import (
    AMEND_DELAY_MS,
    OFFER_FRESHNESS_MS,
    POLICY_BYTES_MAX,
    PUBLISHERS_MAX,
    SERVE_FRESHNESS_MS,
    Policy,
    check_policy_fits,
    decode_policy,
)
from protocol.rule import Scope
from protocol.rule_codec import check_rule, rule_to_value
from protocol.selector import Selector, selector_from_value

__all__ = (
    "AMEND_DELAY_MS",
    "DAY_MS",
    "DURATION_MS_MAX",
    "GROUP_BYTES_MAX",
    "GROUP_CHILDREN_MAX",
    "GROUP_DEPTH_MAX",
    "OFFER_FRESHNESS_MS",
    "OWNERS_MAX",
    "POLICY_BYTES_MAX",
    "PUBLISHERS_MAX",
    "SERVE_FRESHNESS_MS",
    "Group",
    "OwnerRoot",
    "Placement",
    "Policy",
    "adoption_digest",
    "check_group_name",
    "check_placements",
    "check_policy_fits",
    "decode_group",
    "decode_placement",
    "decode_policy",
)

GROUP_BYTES_MAX: Final = 15 * KIB
"""Encoded group, owner root and policy included: below the 16 KiB of a state value."""
GROUP_DEPTH_MAX: Final = 8
"""Groups from one to the top of its tree, both included."""
GROUP_CHILDREN_MAX: Final = 200
"""Groups directly below one: the ledger's list of them stays below 14 KiB."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a group stands among others, and whom it takes by attributes."""

    parent: str | None = None
    """Group whose members alone may belong by the selector; None: a top group."""
    selector: Selector | None = None
    """Whom it takes by certified attributes; None: only subjects that name it."""

    def __post_init__(self) -> None:
        """Refuses a bad parent's name or a selector beyond the bounds of the language."""
        if self.parent is not None:
            check_group_name(self.parent)
        if self.selector is not None:
            check_rule(self.selector, Scope.SUBJECT)

    def fields(self, first: int) -> dict[Key, Value]:
        """Wire form: two fields from `first` on, absent where there is nothing to say."""
        value: dict[Key, Value] = {}
        if self.parent is not None:
            value[first] = self.parent
        if self.selector is not None:
            value[first + 1] = rule_to_value(self.selector)
        return value

    @classmethod
    def read(cls, fields: Fields, first: int) -> Placement:
        """Reads the two fields; raises EncodingError."""
        return cls(
            fields.optional(first, fields.name),
            fields.optional(first + 1, lambda key: selector_from_value(fields.value(key))),
        )

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: 1, **self.fields(1)})

    def digest(self) -> Digest:
        """What a group's owners sign to give it this place."""
        return tagged_digest("swarmd/group-update/1", self.encode())


def decode_placement(data: bytes) -> Placement:
    """Reads a placement; raises EncodingError."""
    fields = Fields(decode_canonical(data, bytes_max=GROUP_BYTES_MAX), "placement")
    fields.constant(0, 1)
    placement = Placement.read(fields, 1)
    if fields.finish():
        raise EncodingError("placement: extensions are not allowed")
    return placement


def adoption_digest(child: str) -> Digest:
    """What the owners of a parent sign to take a group in."""
    return tagged_digest("swarmd/group-adoption/1", encode_canonical([child]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A device group at its creation."""

    name: str
    """Unique in the chain; see `check_group_name`."""
    owner_root: OwnerRoot
    """What gateways of this group pin."""
    policy: Policy
    """Rules in force from the start."""
    placement: Placement = field(default_factory=Placement)
    """Where it stands among other groups, and whom it takes by attributes."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses a bad name, a group that is its own parent, and a policy that its owners could
        never satisfy or undercut.
        """
        check_group_name(self.name)
        check_policy_fits(self.policy, self.owner_root)
        if self.placement.parent == self.name:
            raise EncodingError(f"group {self.name!r} is its own parent")
        check_extensions(self.extensions, "group")

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: self.name,
                2: self.owner_root.to_value(),
                3: self.policy.encode(),
                **self.placement.fields(4),
                **self.extensions,
            }
        )


def check_placements(groups: Sequence[Group]) -> None:
    """Checks the places of groups that come into being together.

    Raises:
        EncodingError: a parent that is not among them, a circle, more than 8 levels, or more than
            200 groups below one.
    """
    parents = {group.name: group.placement.parent for group in groups}
    for name, parent in parents.items():
        above, depth = parent, 1
        while above is not None:
            depth += 1
            if above not in parents:
                raise EncodingError(f"group {name!r} is below {above!r}, which does not exist")
            if depth > GROUP_DEPTH_MAX:
                raise EncodingError(f"group {name!r} is below more than 7 others, or itself")
            above = parents[above]
    placed = Counter(group.placement.parent for group in groups if group.placement != Placement())
    if placed and max(placed.values()) > GROUP_CHILDREN_MAX:
        raise EncodingError(f"more than {GROUP_CHILDREN_MAX} groups below one")


def decode_group(data: bytes) -> Group:
    """Reads a group.

    Raises:
        EncodingError: malformed, or rules its owners cannot satisfy.
    """
    fields = Fields(decode_canonical(data, bytes_max=GROUP_BYTES_MAX), "group")
    fields.constant(0, 1)
    return Group(
        name=fields.name(1),
        owner_root=OwnerRoot.from_value(fields.value(2)),
        policy=decode_policy(fields.bytes(3, maximum=POLICY_BYTES_MAX)),
        placement=Placement.read(fields, 4),
        extensions=fields.finish(),
    )
