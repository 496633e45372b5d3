"""What a policy means, in sentences; what differs between two; what may hurt whoever adopts it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime

from ledger.rules.evaluate import who_text, window_text
from protocol.calendar import HOUR_MS
from protocol.owner_root import BUILDER_ROLE, OwnerRoot
from protocol.policy import Policy, vetoes_needed
from protocol.rule import (
    HOLDERS_MAX,
    Age,
    All,
    AnyOf,
    Compare,
    Count,
    InGroup,
    KOf,
    Not,
    OneOf,
    Rule,
    Within,
    rule_cost,
    rule_nodes,
    walk,
)
from swarmd.rule_text import duration_text


def policy_sentences(
    policy: Policy, root: OwnerRoot | None, *, owners: int | None = None
) -> list[str]:
    """Says what a policy asks, one sentence for each thing.

    Args:
        policy: the policy.
        root: whose policy it is, if that is known.
        owners: of how many owners, where nothing more of a root is known.
    """
    count = owners if root is None else len(root.owners)
    of = "" if count is None else f" of {count}"
    vetoes = policy.veto_threshold if count is None else vetoes_needed(policy, count)
    said = [
        f"A release needs {policy.approve_threshold}{of} owners to approve it.",
        f"{policy.revoke_threshold}{of} owners take a release back.",
        f"{policy.enrol_threshold}{of} owners admit a member.",
        f"{policy.amend_threshold}{of} owners change this policy; "
        f"the change waits {duration_text(policy.amend_delay_ms)}"
        + (f", and {vetoes} owners can stop it meanwhile." if vetoes else "."),
        f"Nothing new is offered after {duration_text(policy.offer_freshness_ms)} without news.",
        f"Nothing is served after {duration_text(policy.serve_freshness_ms)} without news.",
    ]
    return [*said, *_optional_sentences(policy)]


def _optional_sentences(policy: Policy) -> Iterator[str]:
    if policy.publishers:
        yield f"Only {len(policy.publishers)} named publishers may propose."
    if policy.attestations:
        yield f"{policy.attestations} builders must attest the image."
    if policy.soak_ms:
        yield f"A release waits {duration_text(policy.soak_ms)} after its proposal."
    if policy.manifest_lifetime_ms_max is not None:
        yield f"A release must expire within {duration_text(policy.manifest_lifetime_ms_max)}."
    if policy.rule is not None:
        yield f"Besides, {rule_words(policy.rule)}."
    for freeze in policy.freezes:
        yield f"Frozen from {_time(freeze.from_ms)} to {_time(freeze.to_ms)}."
    if policy.maintenance:
        windows = "; ".join(window_text(window) for window in policy.maintenance)
        yield f"Devices are offered releases only within: {windows}."
    for first, second in policy.separation:
        yield f"Nobody is both {first} and {second}."
    if policy.rollout is not None:
        shares = ", ".join(f"{stage.share / 100:g} %" for stage in policy.rollout.stages)
        yield f"Releases reach devices in stages of {shares}."
    if policy.defence is not None:
        yield "It has self-defence rules of its own."
    if policy.witnesses is not None:
        count = len(policy.witnesses.keys)
        yield f"{policy.witnesses.threshold} of {count} outside witnesses must have seen the log."
    if policy.closed:
        yield "Members take nothing that only a parent of this group authorised."


def _time(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def rule_words(rule: Rule) -> str:
    """A rule as one clause."""
    match rule:
        case All(parts):
            return "(" + " and ".join(rule_words(part) for part in parts) + ")"
        case AnyOf(parts):
            return "(" + " or ".join(rule_words(part) for part in parts) + ")"
        case Not(part):
            return f"it is not so that {rule_words(part)}"
        case KOf(count, who):
            return f"{count} approvals by {' or '.join(who_text(one) for one in who)}"
        case Compare(field, comparison, value):
            return f"{field.label} {comparison.symbol} {value}"
        case OneOf(field, values):
            return f"{field.label} is one of {', '.join(str(value) for value in values)}"
        case Within(window):
            return f"it is {window_text(window)}"
        case Age(moment, comparison, duration_ms):
            since = moment.name.lower().replace("_", " ")
            return f"time since {since} {comparison.symbol} {duration_text(duration_ms)}"
        case Count(counter, window_ms, comparison, number):
            what = f"releases {counter.name.lower()} within {duration_text(window_ms)}"
            return f"{what} {comparison.symbol} {number}"
        case InGroup(group):
            return f"the publisher belongs to {group}"


def rule_size(rule: Rule) -> dict[str, int]:
    """Nodes, depth and greatest cost of a rule."""
    return {
        "nodes": rule_nodes(rule),
        "depth": max(depth for _, depth in walk(rule)),
        "cost": rule_cost(rule, HOLDERS_MAX),
    }


def policy_warnings(
    policy: Policy, root: OwnerRoot | None, *, owners: int | None = None
) -> list[str]:
    """Says what may hurt: keys that must not be lost, roles nobody holds, waits that are short."""
    return [
        *_warnings(policy),
        *_owner_warnings(policy, owners if root is None else len(root.owners)),
        *([] if root is None else _role_warnings(policy, root)),
    ]


def _warnings(policy: Policy) -> Iterator[str]:
    if policy.amend_delay_ms == HOUR_MS:
        yield "A change takes effect after an hour: there is hardly time to veto it."
    if policy.revoke_threshold > policy.approve_threshold:
        yield "Taking a release back needs more owners than approving it."


def _owner_warnings(policy: Policy, count: int | None) -> Iterator[str]:
    if count is None:
        return
    if policy.amend_threshold == count:
        yield "If one owner key is lost, this policy and the owner root can never be changed again."
    if policy.approve_threshold == count:
        yield "If one owner key is lost, nothing can be authorised."
    if policy.amend_threshold == 1:
        yield "One stolen owner key can change everything."
    if vetoes_needed(policy, count) == 1 and count > 1:
        yield "One owner alone can stop every change of this policy."


def _role_warnings(policy: Policy, root: OwnerRoot) -> Iterator[str]:
    if policy.attestations and policy.attestations == root.role_size(BUILDER_ROLE):
        yield "If one builder's key is lost, nothing can be attested."
    rule = policy.rule
    for node in () if rule is None else (node for node, _ in walk(rule)):
        if isinstance(node, KOf):
            yield from _reachable(node, root)


def _reachable(node: KOf, root: OwnerRoot) -> Iterator[str]:
    able = [
        holder
        for holder in root.holders()
        if any(
            holder.has_role(one) if isinstance(one, str) else holder.key.key_id == one
            for one in node.who
        )
    ]
    text = f"{node.count} approvals by {' or '.join(who_text(one) for one in node.who)}"
    if len(able) < node.count:
        yield f"Only {len(able)} keys could ever give {text}."
    elif len(able) == node.count:
        yield f"Every key that can give {text} is needed: losing one blocks that part of the rule."


def policy_changes(old: Policy, new: Policy) -> list[str]:
    """Names of the fields in which two policies differ, with both values, shortened."""
    changed = []
    for item in fields(Policy):
        before, after = getattr(old, item.name), getattr(new, item.name)
        if before != after:
            changed.append(f"{item.name}: {str(before)[:80]} -> {str(after)[:80]}")
    return changed
