"""Rotation of owner roots: the old owners and the new ones agree, each by their own threshold.

Whoever pins a root follows its rotations by signatures alone: neither validators nor a minority of
owners can put other keys in its place (the TUF specification, section 5.3, updates roots this way).
Versions rise by one, so that a step cannot be left out or replayed. K50 to K56.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from protocol.approval import Action, verify_threshold
from protocol.digest import ChainId, Digest, PolicyId, tagged_digest
from protocol.encoding import encode_canonical
from protocol.errors import VerificationError
from protocol.owner_root import OwnerRoot

ROOT_TAG: Final = "swarmd/owner-root/1"
"""Domain of the digest by which owners agree to a root."""


def root_digest(root: OwnerRoot) -> Digest:
    """What ROTATE_ROOT approvals name: the next root, its version included."""
    return tagged_digest(ROOT_TAG, encode_canonical(root.to_value()))


def verify_rotation(
    old: OwnerRoot,
    new: OwnerRoot,
    approvals: Iterable[bytes],
    *,
    chain: ChainId,
    era: int,
    group: str,
    policy: PolicyId,
) -> None:
    """Checks one step from a trusted root to the next.

    An owner of both roots counts for both. What the group's policy asks beyond the roots' own
    thresholds is the ledger's question.

    Args:
        old: the root trusted so far.
        new: the one that shall follow.
        approvals: signed ROTATE_ROOT approvals, untrusted.
        chain: chain they must be signed for.
        era: era they must be signed for.
        group: whose root it is.
        policy: policy that was in force, which they must name.

    Raises:
        VerificationError: the version does not follow, or too few owners of either root agreed.
    """
    if new.version != old.version + 1:
        raise VerificationError(f"owner root {new.version} does not follow {old.version}")
    given = tuple(approvals)
    for root in (old, new):
        verify_threshold(
            given,
            root=root,
            threshold=root.threshold,
            chain=chain,
            era=era,
            action=Action.ROTATE_ROOT,
            subject=root_digest(new),
            group=group,
            policy=policy,
        )
