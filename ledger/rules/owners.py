"""Follows rotations of owner roots from a pinned one, by signatures and not by the state's word."""

from __future__ import annotations

from ledger.state import StateReader
from protocol.approval import Action
from protocol.digest import ChainId, Digest
from protocol.errors import VerificationError
from protocol.owner_root import OwnerRoot
from protocol.rotation import root_digest, verify_rotation


def follow_rotation(
    state: StateReader, group: str, pinned: OwnerRoot, *, chain: ChainId
) -> OwnerRoot | None:
    """The root that follows a trusted one, or None if it is the newest (K55).

    Whoever pins a root calls this until it returns None, and keeps every root on the way: a
    manifest's record names the version under which it was authorised.

    Raises:
        VerificationError: the state names a next root that the owners did not agree to.
    """
    record = state.rotation(group, pinned.version + 1)
    if record is None:
        return None
    subject = root_digest(record.owner_root)
    stored = (
        state.approval(Digest(subject), Action.ROTATE_ROOT, key_id, group)
        for key_id in record.signers
    )
    verify_rotation(
        pinned,
        record.owner_root,
        (raw for raw in stored if raw is not None),
        chain=chain,
        era=record.era,
        group=group,
        policy=record.policy,
    )
    return record.owner_root


def follow_rotations(
    state: StateReader, group: str, pinned: OwnerRoot, *, chain: ChainId
) -> tuple[OwnerRoot, ...]:
    """Every root from the pinned one to the one in force, ascending by version.

    Raises:
        VerificationError: a step that the owners did not agree to, or an end that is not the root
            which the group's record names.
    """
    roots = [pinned]
    while (following := follow_rotation(state, group, roots[-1], chain=chain)) is not None:
        roots.append(following)
    record = state.group(group)
    if record is None or record.owner_root != roots[-1]:
        raise VerificationError(f"group {group!r}: the ledger names other owners than pinned")
    return tuple(roots)
