"""Device groups, their owner roots and policies: who may authorise what.

An owner root is a threshold of person keys that every gateway of the group pins; it is what a
gateway checks approvals against, whatever validators say. A policy is a small integer-only record;
a manifest is judged under the policy that was in force when it was proposed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from protocol.digest import DidId, PolicyId, tagged_digest
from protocol.encoding import (
    Extensions,
    Fields,
    check_extensions,
    check_range,
    check_sorted_unique,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.owner_root import OWNERS_MAX, OwnerRoot

__all__ = (  # owner roots had their home here; most readers want both
    "AMEND_DELAY_MS",
    "DAY_MS",
    "DURATION_MS_MAX",
    "GROUP_BYTES_MAX",
    "OFFER_FRESHNESS_MS",
    "OWNERS_MAX",
    "PUBLISHERS_MAX",
    "SERVE_FRESHNESS_MS",
    "Group",
    "OwnerRoot",
    "Policy",
    "check_group_name",
    "check_policy_fits",
    "decode_group",
    "decode_policy",
)

PUBLISHERS_MAX: Final = 32
"""Publishers one policy names."""
GROUP_BYTES_MAX: Final = 8192
"""Encoded group, owner root and policy included."""
DAY_MS: Final = 24 * 3600 * 1000
"""A day in milliseconds."""
DURATION_MS_MAX: Final = 366 * DAY_MS
"""Longest wait or age a policy may name: beyond it a slip would be for ever."""
OFFER_FRESHNESS_MS: Final = 3 * DAY_MS
"""Default age of the newest header beyond which nothing new is offered, milliseconds."""
SERVE_FRESHNESS_MS: Final = 7 * DAY_MS
"""Default age beyond which nothing is served, milliseconds."""
AMEND_DELAY_MS: Final = DAY_MS
"""Default wait between a policy change and its effect, milliseconds."""
_GROUP_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


def check_group_name(name: str) -> str:
    """Checks a group's name: 1 to 64 of `a-z 0-9 . _ -`, ends alphanumeric; it is part of topics.

    Raises:
        EncodingError: it is something else.
    """
    if not _GROUP_NAME.fullmatch(name):
        raise EncodingError(f"group name {name[:80]!r} is not 1 to 64 of a-z, 0-9, '.', '_', '-'")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The rules of a group."""

    approve_threshold: int
    """Owner approvals that authorise a manifest."""
    revoke_threshold: int
    """Owner approvals that revoke one."""
    amend_threshold: int
    """Owner approvals that change this policy; never below `approve_threshold`."""
    enrol_threshold: int
    """Owner approvals that admit a member to the group."""
    amend_delay_ms: int = AMEND_DELAY_MS
    """Header time between a policy change and its effect, milliseconds."""
    offer_freshness_ms: int = OFFER_FRESHNESS_MS
    """Age of the newest header beyond which nothing new is offered, milliseconds."""
    serve_freshness_ms: int = SERVE_FRESHNESS_MS
    """Age of the newest header beyond which nothing is served, milliseconds."""
    publishers: tuple[DidId, ...] = ()
    """Who may propose, ascending, at most 32; empty: any publisher that belongs to the group."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses rules that contradict each other.

        Raises:
            EncodingError: a threshold or duration out of range, changing the rules made easier than
                approving, offers allowed longer than serving, unsorted publishers.
        """
        thresholds = (self.approve_threshold, self.revoke_threshold, self.enrol_threshold)
        if min(thresholds) < 1 or max(*thresholds, self.amend_threshold) > OWNERS_MAX:
            raise EncodingError(f"policy thresholds must be 1 to {OWNERS_MAX}")
        if self.amend_threshold < self.approve_threshold:
            raise EncodingError("changing a policy must need as many owners as approving")
        check_range(self.amend_delay_ms, "amend delay", maximum=DURATION_MS_MAX)
        check_range(self.serve_freshness_ms, "serve freshness", maximum=DURATION_MS_MAX)
        if not 0 < self.offer_freshness_ms <= self.serve_freshness_ms:
            raise EncodingError("freshness for offers must be positive and within that for serving")
        if len(self.publishers) > PUBLISHERS_MAX:
            raise EncodingError(f"{len(self.publishers)} publishers, at most {PUBLISHERS_MAX}")
        check_sorted_unique(self.publishers, "publishers")
        check_extensions(self.extensions, "policy")

    @property
    def policy_id(self) -> PolicyId:
        """Digest that approvals name."""
        return PolicyId(tagged_digest("swarmd/policy/1", self.encode()))

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: self.approve_threshold,
                2: self.revoke_threshold,
                3: self.amend_threshold,
                4: self.enrol_threshold,
                5: self.amend_delay_ms,
                6: self.offer_freshness_ms,
                7: self.serve_freshness_ms,
                8: list(self.publishers),
                **self.extensions,
            }
        )


def decode_policy(data: bytes) -> Policy:
    """Reads a policy record.

    Raises:
        EncodingError: malformed, or rules that contradict each other.
    """
    fields = Fields(decode_canonical(data, bytes_max=GROUP_BYTES_MAX), "policy")
    fields.constant(0, 1)
    return Policy(
        approve_threshold=fields.uint(1),
        revoke_threshold=fields.uint(2),
        amend_threshold=fields.uint(3),
        enrol_threshold=fields.uint(4),
        amend_delay_ms=fields.uint(5),
        offer_freshness_ms=fields.uint(6),
        serve_freshness_ms=fields.uint(7),
        publishers=tuple(DidId(item) for item in fields.digests(8, maximum=PUBLISHERS_MAX)),
        extensions=fields.finish(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A device group at its creation."""

    name: str
    """Unique in the chain; see `check_group_name`."""
    owner_root: OwnerRoot
    """What gateways of this group pin."""
    policy: Policy
    """Rules in force from the start."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses a bad name and a policy that its owners could never satisfy or undercut."""
        check_group_name(self.name)
        check_policy_fits(self.policy, self.owner_root)
        check_extensions(self.extensions, "group")

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {
                0: 1,
                1: self.name,
                2: self.owner_root.to_value(),
                3: self.policy.encode(),
                **self.extensions,
            }
        )


def check_policy_fits(policy: Policy, root: OwnerRoot) -> None:
    """Checks a policy against the owners that must live under it.

    Raises:
        EncodingError: a threshold above the number of owners, or fewer approvals than the owner
            root's threshold (a policy may tighten the root, never undercut it).
    """
    highest = max(
        policy.approve_threshold,
        policy.revoke_threshold,
        policy.amend_threshold,
        policy.enrol_threshold,
    )
    if highest > len(root.owners):
        raise EncodingError(f"policy needs {highest} approvals of {len(root.owners)} owners")
    if min(policy.approve_threshold, policy.amend_threshold) < root.threshold:
        raise EncodingError(f"policy undercuts the owner root's threshold of {root.threshold}")


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
        policy=decode_policy(fields.bytes(3, maximum=GROUP_BYTES_MAX)),
        extensions=fields.finish(),
    )
