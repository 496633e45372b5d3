"""Policies: the rules under which a group's owners decide.

A policy is a record of integers, names and one optional rule; nothing in it is executed. A manifest
is judged under the policy that was in force when it was proposed. A field that says nothing beyond
its default is not written, so that each policy has one encoding and one id. Numbered rules:
docs/spec/contracts.md (K10 to K19).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from protocol.calendar import (
    DAY_MS,
    DURATION_MS_MAX,
    HOUR_MS,
    Freeze,
    WeeklyWindow,
    check_freezes,
)
from protocol.defence import DefenceRules
from protocol.digest import DidId, PolicyId, tagged_digest
from protocol.encoding import (
    Extensions,
    Fields,
    Key,
    Value,
    as_array,
    check_extensions,
    check_range,
    check_sorted_unique,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.limits import KIB
from protocol.owner_root import (
    BUILDER_ROLE,
    OWNERS_MAX,
    ROLE_KEYS_MAX,
    OwnerRoot,
    check_role_name,
)
from protocol.rollout import RolloutPlan
from protocol.rule import Rule, Scope
from protocol.rule_codec import check_rule, rule_from_value, rule_to_value
from protocol.tlog import NoteKey, SignatureType, parse_note_key

POLICY_BYTES_MAX: Final = 8 * KIB
"""Encoded policy, bytes: a full rule takes 4 KiB, full lists of all else together 4 KiB."""
PUBLISHERS_MAX: Final = 32
"""Publishers one policy names."""
FREEZES_MAX: Final = 64
"""Freezes one policy names: a year of weekly ones and some more."""
WINDOWS_MAX: Final = 16
"""Maintenance windows: two for each day of a week and two more."""
SEPARATIONS_MAX: Final = 16
"""Pairs of roles that one policy keeps apart."""
WITNESSES_MAX: Final = 16
"""Outside witnesses one policy names."""
AMEND_DELAY_MS: Final = DAY_MS
"""Default wait between a policy change and its effect, milliseconds."""
AMEND_DELAY_MS_MIN: Final = HOUR_MS
"""Least wait: a veto must be possible to collect, and gateways must hear of it."""
OFFER_FRESHNESS_MS: Final = 3 * DAY_MS
"""Default age of the newest header beyond which nothing new is offered, milliseconds."""
SERVE_FRESHNESS_MS: Final = 7 * DAY_MS
"""Default age beyond which nothing is served, milliseconds."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Outside witnesses of the log, some of which must have cosigned what a gateway believes."""

    threshold: int
    """How many must have, at least 1."""
    keys: tuple[NoteKey, ...]
    """Whose cosignatures count, ascending by their C2SP verifier keys, at most 16."""

    def __post_init__(self) -> None:
        """Refuses a threshold that cannot be met, unsorted keys, and keys that do not cosign."""
        if not 1 <= self.threshold <= len(self.keys) <= WITNESSES_MAX:
            raise EncodingError(f"{self.threshold} of {len(self.keys)} witnesses, at most 16")
        check_sorted_unique((key.encode().encode() for key in self.keys), "witnesses")
        if any(key.kind is not SignatureType.COSIGNATURE for key in self.keys):
            raise EncodingError("a witness has no key for cosignatures")
        if len({key.key for key in self.keys}) != len(self.keys):
            raise EncodingError("two witnesses share a key")

    def to_value(self) -> Value:
        """The wire form: [threshold, [C2SP verifier keys]]."""
        return [self.threshold, [key.encode() for key in self.keys]]

    @classmethod
    def from_value(cls, value: Value) -> Witnesses:
        """Reads the wire form; raises EncodingError."""
        threshold, keys = as_array(value, "witnesses", size=2)
        if isinstance(threshold, bool) or not isinstance(threshold, int):
            raise EncodingError("witnesses: the threshold is not an integer")
        if not isinstance(keys, (list, tuple)) or not len(keys) <= WITNESSES_MAX:
            raise EncodingError(f"witnesses: not a list of at most {WITNESSES_MAX} keys")
        return cls(threshold, tuple(_read_note_key(key) for key in keys))


def _read_note_key(value: Value) -> NoteKey:
    if not isinstance(value, str):
        raise EncodingError("witness key is not text")
    return parse_note_key(value)


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
    """Header time between a policy change and its effect, milliseconds, 1 hour at least."""
    offer_freshness_ms: int = OFFER_FRESHNESS_MS
    """Age of the newest header beyond which nothing new is offered, milliseconds."""
    serve_freshness_ms: int = SERVE_FRESHNESS_MS
    """Age of the newest header beyond which nothing is served, milliseconds."""
    publishers: tuple[DidId, ...] = ()
    """Who may propose, ascending, at most 32; empty: any publisher that belongs to the group."""
    rule: Rule | None = None
    """What must hold beside `approve_threshold` before a manifest is authorised."""
    veto_threshold: int | None = None
    """Owners that stop a scheduled policy; None: see `vetoes_needed`."""
    freezes: tuple[Freeze, ...] = ()
    """When nothing is authorised and nothing new is offered, ascending and apart, at most 64."""
    maintenance: tuple[WeeklyWindow, ...] = ()
    """When releases are offered to devices, at most 16; empty: always."""
    separation: tuple[tuple[str, str], ...] = ()
    """Pairs of roles of which no key may hold both, each pair and the list ascending."""
    manifest_lifetime_ms_max: int | None = None
    """A manifest must expire within this time of its proposal, milliseconds; None: it need not."""
    rollout: RolloutPlan | None = None
    """How releases reach devices; None: all of them at once."""
    defence: DefenceRules | None = None
    """How the group defends itself; None: it takes no reports."""
    witnesses: Witnesses | None = None
    """Outside witnesses that gateways ask for; None: none."""
    soak_ms: int = 0
    """Least header time between a manifest's proposal and its authorisation, milliseconds."""
    attestations: int = 0
    """Builders that must have attested the image of a manifest before it is authorised."""
    closed: bool = False
    """Whether members take nothing that only an ancestor of this group authorised."""
    extensions: Extensions = field(default_factory=dict, hash=False)
    """Unknown non-critical fields, kept because they are part of what is hashed."""

    def __post_init__(self) -> None:
        """Refuses rules that contradict each other.

        Raises:
            EncodingError: a threshold or duration out of range, changing the rules made easier than
                approving, offers allowed longer than serving, a list that is unsorted or too long,
                a rule beyond the bounds of the language.
        """
        self._check_thresholds()
        self._check_times()
        if len(self.publishers) > PUBLISHERS_MAX:
            raise EncodingError(f"{len(self.publishers)} publishers, at most {PUBLISHERS_MAX}")
        check_sorted_unique(self.publishers, "publishers")
        _check_separation(self.separation)
        if self.rule is not None:
            check_rule(self.rule, Scope.RELEASE)
        check_extensions(self.extensions, "policy")

    def _check_thresholds(self) -> None:
        thresholds = (self.approve_threshold, self.revoke_threshold, self.enrol_threshold)
        if min(thresholds) < 1 or max(*thresholds, self.amend_threshold) > OWNERS_MAX:
            raise EncodingError(f"policy thresholds must be 1 to {OWNERS_MAX}")
        if self.amend_threshold < self.approve_threshold:
            raise EncodingError("changing a policy must need as many owners as approving")
        if self.veto_threshold is not None:
            check_range(self.veto_threshold, "veto threshold", minimum=1, maximum=OWNERS_MAX)
        check_range(self.attestations, "attestations", maximum=ROLE_KEYS_MAX)

    def _check_times(self) -> None:
        check_range(
            self.amend_delay_ms,
            "amend delay",
            minimum=AMEND_DELAY_MS_MIN,
            maximum=DURATION_MS_MAX,
        )
        check_range(self.serve_freshness_ms, "serve freshness", maximum=DURATION_MS_MAX)
        if not 0 < self.offer_freshness_ms <= self.serve_freshness_ms:
            raise EncodingError("freshness for offers must be positive and within that for serving")
        check_range(self.soak_ms, "soak", maximum=DURATION_MS_MAX)
        lifetime_ms = self.manifest_lifetime_ms_max
        if lifetime_ms is not None:
            check_range(lifetime_ms, "manifest lifetime", minimum=1, maximum=DURATION_MS_MAX)
            if lifetime_ms <= self.soak_ms:
                raise EncodingError("a manifest would expire before it has soaked")
        check_range(len(self.freezes), "number of freezes", maximum=FREEZES_MAX)
        check_freezes(self.freezes)
        check_range(len(self.maintenance), "number of windows", maximum=WINDOWS_MAX)
        keys = [(one.days, one.from_minute, one.to_minute) for one in self.maintenance]
        if sorted(set(keys)) != keys:
            raise EncodingError("maintenance windows: not strictly ascending")

    @property
    def policy_id(self) -> PolicyId:
        """Digest that approvals name."""
        return PolicyId(tagged_digest("swarmd/policy/1", self.encode()))

    def is_frozen(self, time_ms: int) -> bool:
        """Tells whether a header time is inside a freeze."""
        return any(freeze.contains(time_ms) for freeze in self.freezes)

    def is_open(self, time_ms: int) -> bool:
        """Tells whether a header time is inside a maintenance window, or there are none."""
        return not self.maintenance or any(one.contains(time_ms) for one in self.maintenance)

    def encode(self) -> bytes:
        """Canonical bytes."""
        value: dict[Key, Value] = {
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
        optional: dict[Key, Value] = {
            9: None if self.rule is None else rule_to_value(self.rule),
            10: self.veto_threshold,
            11: [freeze.to_value() for freeze in self.freezes],
            12: [window.to_value() for window in self.maintenance],
            13: [list(pair) for pair in self.separation],
            14: self.manifest_lifetime_ms_max,
            15: None if self.rollout is None else self.rollout.to_value(),
            16: None if self.defence is None else self.defence.to_value(),
            17: None if self.witnesses is None else self.witnesses.to_value(),
            18: self.soak_ms,
            19: self.attestations,
            20: self.closed,
        }
        value.update((key, item) for key, item in optional.items() if item)
        return encode_canonical(value)


def _check_separation(pairs: Sequence[tuple[str, str]]) -> None:
    check_range(len(pairs), "number of separations", maximum=SEPARATIONS_MAX)
    for first, second in pairs:
        if check_role_name(first) >= check_role_name(second):
            raise EncodingError(f"separated roles {first!r}, {second!r} are not ascending")
    check_sorted_unique((f"{first} {second}".encode() for first, second in pairs), "separations")


def decode_policy(data: bytes) -> Policy:
    """Reads a policy record.

    Raises:
        EncodingError: malformed, a field that repeats its default, or rules that contradict each
            other.
    """
    fields = Fields(decode_canonical(data, bytes_max=POLICY_BYTES_MAX), "policy")
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
        rule=fields.optional(9, lambda key: rule_from_value(fields.value(key), Scope.RELEASE)),
        veto_threshold=fields.optional(10, lambda key: fields.uint(key, minimum=1)),
        freezes=_read_list(fields, 11, Freeze.from_value, FREEZES_MAX),
        maintenance=_read_list(fields, 12, WeeklyWindow.from_value, WINDOWS_MAX),
        separation=_read_list(fields, 13, _read_pair, SEPARATIONS_MAX),
        manifest_lifetime_ms_max=fields.optional(14, lambda key: fields.uint(key, minimum=1)),
        rollout=fields.optional(15, lambda key: RolloutPlan.from_value(fields.value(key))),
        defence=fields.optional(16, lambda key: DefenceRules.from_value(fields.value(key))),
        witnesses=fields.optional(17, lambda key: Witnesses.from_value(fields.value(key))),
        soak_ms=fields.optional(18, lambda key: fields.uint(key, minimum=1)) or 0,
        attestations=fields.optional(19, lambda key: fields.uint(key, minimum=1)) or 0,
        closed=fields.optional(20, lambda key: _read_true(fields, key)) or False,
        extensions=fields.finish(),
    )


def _read_list(fields: Fields, key: int, read: Callable[[Value], T], maximum: int) -> tuple[T, ...]:
    found = fields.optional(key, lambda at: fields.items(at, read, minimum=1, maximum=maximum))
    return found or ()


def _read_pair(value: Value) -> tuple[str, str]:
    first, second = as_array(value, "separation", size=2)
    if not isinstance(first, str) or not isinstance(second, str):
        raise EncodingError("separation: not two names of roles")
    return first, second


def _read_true(fields: Fields, key: int) -> bool:
    if not fields.boolean(key):
        raise EncodingError(f"policy: field {key} repeats its default")
    return True


def vetoes_needed(policy: Policy, owners: int) -> int:
    """Owners that stop a scheduled policy: what the policy says, or as many as could have denied
    the amendment its threshold (owners - amend threshold + 1); `owners` is how many there are now.

    The default follows the owner root, so that a rotation cannot make a veto impossible.
    """
    if policy.veto_threshold is not None:
        return policy.veto_threshold
    return max(1, owners - policy.amend_threshold + 1)


def check_owner_count(policy: Policy, owners: int) -> None:
    """Checks that a number of owners can meet every threshold of a policy.

    Raises:
        EncodingError: a threshold is above it.
    """
    highest = max(
        policy.approve_threshold,
        policy.revoke_threshold,
        policy.amend_threshold,
        policy.enrol_threshold,
        policy.veto_threshold or 0,
    )
    if highest > owners:
        raise EncodingError(f"policy needs {highest} approvals of {owners} owners")


def check_policy_fits(policy: Policy, root: OwnerRoot) -> None:
    """Checks a policy against the owners that must live under it.

    Raises:
        EncodingError: a threshold above the number of owners or of builders, fewer approvals than
            the owner root's threshold (a policy may tighten the root, never undercut it), a key in
            two roles that must be separate.
    """
    check_owner_count(policy, len(root.owners))
    if min(policy.approve_threshold, policy.amend_threshold) < root.threshold:
        raise EncodingError(f"policy undercuts the owner root's threshold of {root.threshold}")
    builders = root.role_size(BUILDER_ROLE)
    if policy.attestations > builders:
        raise EncodingError(f"policy needs {policy.attestations} attestations of {builders}")
    for first, second in policy.separation:
        for holder in root.holders():
            if holder.has_role(first) and holder.has_role(second):
                raise EncodingError(f"{holder.name!r} is both {first} and {second}")
