"""Judges a manifest under a policy: every condition, with its reason, in one order (K30 to K39).

The transition asks `is_satisfied`; `swarmd ledger explain` shows the very same reasons. A manifest
is judged under the policy in force at its proposal; only freezes are also those of the policy in
force now, because whoever freezes a group means what waits in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.records.facts import ManifestFacts
from ledger.records.manifest import ManifestRecord
from ledger.rules.evaluate import Facts, Reason, evaluate
from ledger.rules.release import Release, release_fields
from protocol.owner_root import Holder
from protocol.policy import Policy
from protocol.rule import RuleField


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing a policy asks for, and whether it is met."""

    rule: str
    """Stable name, such as `policy.approvals`."""
    reason: Reason
    """Whether and why."""

    @property
    def holds(self) -> bool:
        """Whether it is met; what is unknown is not."""
        return self.reason.truth is True


@dataclass(frozen=True, slots=True)
class Judgement:
    """All conditions of a policy for one manifest."""

    conditions: tuple[Condition, ...]
    """In the order of the policy's fields."""

    @property
    def is_satisfied(self) -> bool:
        """Whether the manifest may be authorised."""
        return all(condition.holds for condition in self.conditions)

    @property
    def missing(self) -> tuple[Condition, ...]:
        """What is not met."""
        return tuple(condition for condition in self.conditions if not condition.holds)


def judge(release: Release, policy: Policy, in_force: Policy, time_ms: int) -> Judgement:
    """Judges a release at a header time.

    Args:
        release: its facts at that time.
        policy: the policy in force at its proposal.
        in_force: the policy in force now, for its freezes.
        time_ms: header time, milliseconds.
    """
    conditions = [
        Condition("policy.approvals", _approvals(release, policy)),
        Condition("policy.attestations", _attestations(release, policy)),
        Condition("policy.soak", _soak(release.record, policy, time_ms)),
        Condition("policy.freeze", _freeze(release.record, (policy, in_force), time_ms)),
    ]
    if policy.rule is not None:
        conditions.append(Condition("policy.rule", evaluate(policy.rule, release.facts)))
    return Judgement(tuple(conditions))


def _approvals(release: Release, policy: Policy) -> Reason:
    needed = max(policy.approve_threshold, release.root.threshold)
    names = [holder.name for holder in release.owners]
    text = f"{needed} of {len(release.root.owners)} owners approve; so far {_names(names)}"
    return Reason(len(names) >= needed, text)


def _attestations(release: Release, policy: Policy) -> Reason:
    names = [holder.name for holder in release.builders]
    text = f"{policy.attestations} builders attest the image; so far {_names(names)}"
    return Reason(len(names) >= policy.attestations, text)


def _names(names: list[str]) -> str:
    return ", ".join(names) or "nobody"


def _soak(record: ManifestRecord, policy: Policy, time_ms: int) -> Reason:
    age_ms = time_ms - record.proposed_ms
    text = f"{policy.soak_ms} ms pass since the proposal; {age_ms} ms have"
    return Reason(age_ms >= policy.soak_ms, text)


def _freeze(record: ManifestRecord, policies: tuple[Policy, Policy], time_ms: int) -> Reason:
    if record.is_override:
        return Reason(True, "an override release: no freeze holds it back")
    is_frozen = any(policy.is_frozen(time_ms) for policy in policies)
    return Reason(not is_frozen, "the group is frozen" if is_frozen else "no freeze is in effect")


def check_consent(
    policy: Policy,
    record: ManifestRecord,
    content: ManifestFacts,
    group: str,
    *,
    holders: tuple[Holder, ...],
    builders: int,
) -> Reason:
    """Judges a policy's rule by what can be shown from signatures and the manifest alone.

    For gateways and proofs, which do not take the validators' word: who signed is known, and so is
    the manifest; counters, header time and the publisher's groups are not and count as unknown.

    Args:
        policy: the policy in force at the proposal.
        record: where the manifest stands.
        content: facts of the verified manifest.
        group: which group judges.
        holders: whoever signed a verified approval, as the owner root then in force names them.
        builders: how many builders' attestations were verified.

    Returns:
        A reason that is false only if the rule cannot have been satisfied.
    """
    if builders < policy.attestations:
        text = f"{policy.attestations} builders attest the image; verified are {builders}"
        return Reason(False, text)
    if policy.rule is None:
        return Reason(True, "the policy has no rule")
    fields = release_fields(record, content, group)
    fields[RuleField.APPROVALS] = (sum(holder.is_owner for holder in holders),)
    fields[RuleField.ATTESTATIONS] = (builders,)
    # Who signed after the authorisation is on record too: a rule with `not` or an upper bound may
    # have held before that (K37).
    return evaluate(policy.rule, Facts(fields=fields, holders=holders, may_be_fewer=True))
