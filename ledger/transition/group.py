"""What `group.create`, `group.update` and `group.rotate` do; policies are next door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ledger.bodies.group import CreateGroup, RotateRoot, UpdateGroup
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.group import GroupRecord, RotationRecord, encode_children
from ledger.rules.membership import ancestors_of, height_of
from ledger.state import Draft
from ledger.state_keys import (
    children_key,
    group_key,
    origin_key,
    placement_key,
    policy_key,
    rotation_key,
)
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_newer,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from protocol.approval import Action, SignedApproval, parse_approval
from protocol.digest import DidId, Digest, PolicyId, sha256
from protocol.encoding import decode_canonical
from protocol.errors import EncodingError
from protocol.group import (
    GROUP_BYTES_MAX,
    GROUP_CHILDREN_MAX,
    GROUP_DEPTH_MAX,
    Group,
    Placement,
    adoption_digest,
    check_policy_fits,
    decode_group,
    decode_placement,
)
from protocol.owner_root import OwnerRoot
from protocol.rotation import root_digest


def create_group(draft: Draft, _signer: DidId, body: CreateGroup, context: BlockContext) -> None:
    """Adds a group if enough governance keys agree (L53).

    Raises:
        LedgerError: `group.malformed`, `group.known`, `approval.*`, and those of `place_group`.
    """
    try:
        group = decode_group(body.group)
    except EncodingError as error:
        raise LedgerError("group.malformed", str(error)) from error
    if draft.group(group.name) is not None:
        raise LedgerError("group.known", f"group {group.name!r} exists already")
    root = draft.governance_root()
    consent = Consent(
        root=root,
        action=Action.CREATE_GROUP,
        subject=sha256(body.group),
        group=group.name,
        policy=group.policy.policy_id,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), root.threshold, "a new group")
    write_group(draft, group, creators=record_approvals(draft, checked))
    place_group(draft, group.name, group.placement)


def write_group(draft: Draft, group: Group, *, creators: tuple[Digest, ...]) -> None:
    """Writes a new group, its first policy and its original bytes, which proofs show.

    Its place among other groups is `place_group`'s, once they all exist.
    """
    policy_id = group.policy.policy_id
    record = GroupRecord(
        owner_root=group.owner_root,
        policy=policy_id,
        scheduled=None,
        creators=creators,
    )
    draft.put(policy_key(policy_id), group.policy.encode())
    draft.put(group_key(group.name), record.encode())
    draft.put(origin_key(group.name), group.encode())


def place_group(draft: Draft, name: str, placement: Placement) -> None:
    """Gives a group its place: parent, selector, and its entry among the parent's children (K61).

    Raises:
        LedgerNotYetError: `group.unknown`: there is no such parent.
        LedgerError: `group.circular`, `group.depth`, `group.children`.
    """
    old = draft.placement(name)
    if placement == old:
        return
    parent = placement.parent
    if parent is not None:
        _check_parent(draft, name, parent)
    _move(draft, name, old, placement)
    draft.put(placement_key(name), placement.encode())


def _check_parent(draft: Draft, name: str, parent: str) -> None:
    if draft.group(parent) is None:
        raise LedgerNotYetError("group.unknown", f"group {parent!r} does not exist")
    above = (parent, *ancestors_of(draft, parent))
    if name in above:
        raise LedgerError("group.circular", f"group {parent!r} is below {name!r}")
    depth = len(above) + height_of(draft, name)
    if depth > GROUP_DEPTH_MAX:
        raise LedgerError("group.depth", f"{depth} levels of groups, at most {GROUP_DEPTH_MAX}")


def _move(draft: Draft, name: str, old: Placement, new: Placement) -> None:
    """Lists a group where `groups_of` looks for it: under its parent, or among those that take
    members by selector alone.
    """
    for placement, is_listed in ((old, False), (new, True)):
        if placement == Placement():
            continue
        known = dict.fromkeys(draft.children(placement.parent))
        if is_listed:
            known[name] = None
        else:
            known.pop(name, None)
        if len(known) > GROUP_CHILDREN_MAX:
            raise LedgerError("group.children", f"more than {GROUP_CHILDREN_MAX} groups below one")
        draft.put(children_key(placement.parent), encode_children(tuple(sorted(known))))


def update_group(draft: Draft, _signer: DidId, body: UpdateGroup, context: BlockContext) -> None:
    """Moves a group if its owners agree, and those of a new parent too (K62, K63).

    Without the parent's consent anybody's group could make its members members of another.

    Raises:
        LedgerError: `group.unknown`, `group.malformed`, `group.same`, `group.adoption`,
            `approval.*`, and those of `place_group`.
    """
    group = find_group(draft, body.group)
    try:
        placement = decode_placement(body.placement)
    except EncodingError as error:
        raise LedgerError("group.malformed", str(error)) from error
    old = draft.placement(body.group)
    if placement == old:
        raise LedgerError("group.same", "the group has this place already")
    current = group.policy_at(context.time_ms)
    consent = Consent(
        root=group.owner_root,
        action=Action.UPDATE_GROUP,
        subject=placement.digest(),
        group=body.group,
        policy=current,
    )
    needed = draft.policy(current).amend_threshold
    _take(draft, body.approvals, consent, needed, context, what="a group's new place")
    if placement.parent is not None and placement.parent != old.parent:
        _adopt(draft, body.group, placement.parent, body.adoption, context)
    elif body.adoption:
        raise LedgerError("group.adoption", "this place needs nobody's consent but the owners'")
    place_group(draft, body.group, placement)


def _adopt(
    draft: Draft, child: str, parent: str, approvals: Sequence[bytes], context: BlockContext
) -> None:
    record = find_group(draft, parent)
    current = record.policy_at(context.time_ms)
    consent = Consent(
        root=record.owner_root,
        action=Action.UPDATE_GROUP,
        subject=adoption_digest(child),
        group=parent,
        policy=current,
    )
    needed = draft.policy(current).enrol_threshold
    _take(draft, approvals, consent, needed, context, what="a new child group")


def _take(
    draft: Draft,
    approvals: Sequence[bytes],
    consent: Consent,
    needed: int,
    context: BlockContext,
    *,
    what: str,
) -> None:
    checked = check_approvals(approvals, consent, context)
    require_threshold(len(checked), needed, what)
    require_newer(draft, checked)
    record_approvals(draft, checked)


def rotate_root(draft: Draft, _signer: DidId, body: RotateRoot, context: BlockContext) -> None:
    """Replaces a group's owner root if the old owners and the new ones agree (K50 to K54).

    Of the old ones as many must agree as may change the policy: who owns the group is more than any
    policy says.

    Raises:
        LedgerError: `group.unknown`, `root.malformed`, `root.version`, `root.unfit`, `approval.*`.
    """
    group = find_group(draft, body.group)
    root = _read_root(body.root)
    if root.version != group.owner_root.version + 1:
        raise LedgerError(
            "root.version", f"root {root.version} does not follow {group.owner_root.version}"
        )
    current = group.policy_at(context.time_ms)
    for policy_id in (current, group.waiting(context.time_ms)):
        if policy_id is not None:
            _check_fits(draft, policy_id, root)
    consent = Consent(
        root=group.owner_root,
        action=Action.ROTATE_ROOT,
        subject=root_digest(root),
        group=body.group,
        policy=current,
    )
    needed = max(group.owner_root.threshold, draft.policy(current).amend_threshold)
    signers = _both(body.approvals, consent, root, needed, context)
    record = RotationRecord(
        owner_root=root,
        signers=record_approvals(draft, signers),
        policy=current,
        era=context.era,
        height=context.height,
    )
    draft.put(rotation_key(body.group, root.version), record.encode())
    draft.put(group_key(body.group), replace(group, owner_root=root).encode())


def _read_root(raw: bytes) -> OwnerRoot:
    try:
        return OwnerRoot.from_value(decode_canonical(raw, bytes_max=GROUP_BYTES_MAX))
    except EncodingError as error:
        raise LedgerError("root.malformed", str(error)) from error


def _check_fits(draft: Draft, policy_id: PolicyId, root: OwnerRoot) -> None:
    try:
        check_policy_fits(draft.policy(policy_id), root)
    except EncodingError as error:
        raise LedgerError("root.unfit", str(error)) from error


def _both(
    approvals: Sequence[bytes],
    consent: Consent,
    root: OwnerRoot,
    needed: int,
    context: BlockContext,
) -> tuple[SignedApproval, ...]:
    """Checks old owners' and new owners' approvals; an owner of both signs once."""
    old: list[bytes] = []
    new: list[bytes] = []
    for raw in approvals:
        key_id = _key_id(raw)
        if key_id is not None and root.owner(key_id) is not None:
            new.append(raw)
        if key_id is None or consent.root.owner(key_id) is not None or raw not in new:
            old.append(raw)
    checked_old = check_approvals(old, consent, context)
    require_threshold(len(checked_old), needed, "another owner root (old owners)")
    checked_new = check_approvals(new, replace(consent, root=root), context)
    require_threshold(len(checked_new), root.threshold, "another owner root (new owners)")
    every = {signed.signed.key_id: signed for signed in (*checked_old, *checked_new)}
    return tuple(every[key_id] for key_id in sorted(every))


def _key_id(raw: bytes) -> bytes | None:
    try:
        return parse_approval(raw).signed.key_id
    except EncodingError:
        return None


def find_group(draft: Draft, name: str) -> GroupRecord:
    """A group's record.

    Raises:
        LedgerNotYetError: `group.unknown`.
    """
    group = draft.group(name)
    if group is None:
        raise LedgerNotYetError("group.unknown", f"group {name!r} does not exist")
    return group


KINDS: Final = (
    Kind(
        name="group.create",
        body=CreateGroup,
        read=CreateGroup.read,
        apply=create_group,
    ),
    Kind(
        name="group.update",
        body=UpdateGroup,
        read=UpdateGroup.read,
        apply=update_group,
    ),
    Kind(
        name="group.rotate",
        body=RotateRoot,
        read=RotateRoot.read,
        apply=rotate_root,
        lane=Lane.PROTECTING,
    ),
)
"""Kinds of this area."""
