"""Owners' signed statements: approve, revoke, amend, enrol, create, suspend.

COSE over (chain, era, action, subject, group, policy digest, valid-until). An approval is the only
thing that authorises; validators merely order it, and every gateway checks it against its pinned
owner root.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.cose import Signed, parse_signed, sign
from protocol.digest import ChainId, Digest, PolicyId
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import LocalProtocolError, SignatureError, VerificationError
from protocol.group_name import check_group_name
from protocol.keys import PublicKey, Signer
from protocol.owner_root import Holder, OwnerRoot

APPROVAL_TAG: Final = "swarmd/approval/1"
"""Domain of owners' signatures."""
APPROVAL_BYTES_MAX: Final = 512
"""A signed approval takes about 290 bytes."""


class Action(IntEnum):
    """What an owner agrees to."""

    AUTHORISE = 1
    """Subject: manifest id."""
    REVOKE = 2
    """Subject: manifest id."""
    AMEND = 3
    """Subject: id of the new policy; the policy field names the old one."""
    ENROL = 4
    """Subject: DID id that may join the group."""
    CREATE_GROUP = 5
    """Subject: SHA-256 of the group's bytes; signed by the governance root."""
    SUSPEND = 6
    """Subject: DID id that may only read from now on."""
    VALIDATORS = 7
    """Subject: digest of the next validator set; signed by the governance root."""
    PARAMETERS = 8
    """Subject: digest of the new chain parameters; signed by the governance root."""
    UPGRADE = 9
    """Subject: digest of [protocol version, epoch]; signed by the governance root."""
    RECOVER = 10
    """Subject: digest of the recovery of a DID's keys."""
    RESUME = 11
    """Subject: DID id that is no longer suspended."""
    RETIRE = 12
    """Subject: DID id that is revoked for good."""
    CERTIFY = 13
    """Subject: digest of the attributes certified of a DID."""
    ATTEST = 14
    """Subject: digest of an image that an independent builder arrived at."""
    VETO = 15
    """Subject: id of a scheduled policy that must not take effect."""
    ROLLOUT = 16
    """Subject: digest of a command to a rollout."""
    PAUSE = 17
    """Subject: digest of an emergency pause; one emergency key suffices."""
    CONFIRM = 18
    """Subject: digest of an emergency pause that owners prolong or lift."""
    OVERRIDE = 19
    """Subject: manifest id of a release that no pause and no freeze holds back."""
    ROTATE_ROOT = 20
    """Subject: digest of a group's next owner root; signed by the old and the new owners."""
    UPDATE_GROUP = 21
    """Subject: digest of a group's new selector and parent."""
    QUARANTINE = 22
    """Subject: digest of a quarantine that owners set or change."""
    RELEASE = 23
    """Subject: digest of a release from quarantine, which names the subject and a count."""
    GRANT = 24
    """Subject: digest of a capability."""
    WITHDRAW = 25
    """Subject: id of a capability that is withdrawn."""
    CHECKPOINT = 26
    """Subject: digest of a checkpoint; signed by the governance root."""
    RECOVERY = 27
    """Subject: digest of a governance recovery, which begins an era."""


_BELOW_ROOT: Final = (Action.REVOKE, Action.ENROL, Action.SUSPEND, Action.VETO)
"""What fewer owners than the root's threshold may do where the policy says so: nothing of it makes
a gateway accept an image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One owner's statement."""

    era: int
    """Era it is signed for."""
    action: Action
    """What is agreed to."""
    subject: Digest
    """What it is about; see `Action`."""
    group: str
    """The group whose owner speaks."""
    policy: PolicyId
    """Policy under which the owner decided."""
    valid_until_ms: int
    """Header time after which it may no longer enter a block, milliseconds."""

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        return encode_canonical(
            {
                0: 1,
                1: self.era,
                2: int(self.action),
                3: self.subject,
                4: self.group,
                5: self.policy,
                6: self.valid_until_ms,
            }
        )


@dataclass(frozen=True, slots=True)
class SignedApproval:
    """A parsed approval with its original bytes; not verified until `verify` was called."""

    approval: Approval
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self, root: OwnerRoot, chain: ChainId) -> str:
        """Checks that an owner of `root` signed and returns the owner's name.

        Raises:
            SignatureError: the signer is no owner, or chain, era or bytes differ.
        """
        owner = root.owner(self.signed.key_id)
        if owner is None:
            raise SignatureError(f"signer is not an owner of group {self.approval.group!r}")
        key, name = owner
        self.verify_key(key, chain)
        return name

    def verify_holder(self, root: OwnerRoot, chain: ChainId) -> Holder:
        """Checks that somebody whom `root` names signed, an owner or the holder of a role.

        Raises:
            SignatureError: the signer is nobody of this root, or chain, era or bytes differ.
        """
        holder = root.holder(self.signed.key_id)
        if holder is None:
            raise SignatureError(f"signer is nobody in group {self.approval.group!r}")
        self.verify_key(holder.key, chain)
        return holder

    def verify_key(self, key: PublicKey, chain: ChainId) -> None:
        """Checks that a key signed; raises SignatureError."""
        self.signed.verify(key, tag=APPROVAL_TAG, chain=chain, era=self.approval.era)


def parse_approval(raw: bytes) -> SignedApproval:
    """Parses signed approval bytes, without checking the signature.

    Raises:
        EncodingError: malformed or over 512 bytes.
    """
    signed = parse_signed(raw, bytes_max=APPROVAL_BYTES_MAX)
    fields = Fields(decode_canonical(signed.payload, bytes_max=APPROVAL_BYTES_MAX), "approval")
    fields.constant(0, 1)
    approval = Approval(
        era=fields.uint(1),
        action=fields.enum(2, Action),
        subject=fields.digest(3),
        group=check_group_name(fields.name(4)),
        policy=PolicyId(fields.digest(5)),
        valid_until_ms=fields.uint(6),
    )
    fields.finish()
    return SignedApproval(approval, signed)


def sign_approval(approval: Approval, key: Signer, chain: ChainId) -> SignedApproval:
    """Signs an approval with an owner's person key."""
    raw = sign(approval.encode(), key, tag=APPROVAL_TAG, chain=chain, era=approval.era)
    return parse_approval(raw)


def find_holders(
    approvals: Iterable[bytes],
    *,
    root: OwnerRoot,
    chain: ChainId,
    era: int,
    action: Action,
    subject: bytes,
    group: str,
    policy: PolicyId,
) -> tuple[Holder, ...]:
    """Finds everybody whom a root names and who agreed to one thing, each once.

    Approvals for something else, by nobody of the root, or twice by one key do not count; they do
    not spoil the others either, since anybody may append them. What an approval says is compared
    before its signature is checked, so junk costs little. Whether it may still enter a block
    (`valid_until_ms`) is the ledger's question.

    Args:
        approvals: signed approvals, untrusted.
        root: the pinned owner root (of the group, or of governance for CREATE_GROUP).
        chain: chain they must be signed for.
        era: newest era they may be signed for; what owners agreed to before a recovery stays
            agreed (G24).
        action: what must be agreed to.
        subject: what it must be about, 32 bytes.
        group: group it must name.
        policy: policy it must name.

    Returns:
        Owners and holders of roles, in the order given.
    """
    wanted = (action, subject, group, policy)
    found: dict[bytes, Holder] = {}
    for raw in approvals:
        try:
            signed = parse_approval(raw)
            content, key_id = signed.approval, signed.signed.key_id
            said = (content.action, content.subject, content.group, content.policy)
            if said == wanted and content.era <= era and key_id not in found:
                found[key_id] = signed.verify_holder(root, chain)
        except VerificationError:
            continue
    return tuple(found.values())


def verify_threshold(
    approvals: Iterable[bytes],
    *,
    root: OwnerRoot,
    threshold: int,
    chain: ChainId,
    era: int,
    action: Action,
    subject: bytes,
    group: str,
    policy: PolicyId,
) -> tuple[str, ...]:
    """Checks that enough distinct owners agreed to one thing; the heart of promise G2.

    What counts is said at `find_holders`; of those, only owners do here.

    Args:
        approvals: signed approvals, untrusted.
        root: the pinned owner root (of the group, or of governance for CREATE_GROUP).
        threshold: what the policy asks, at least 1.
        chain: chain they must be signed for.
        era: newest era they may be signed for; what owners agreed to before a recovery stays
            agreed (G24). Whether an approval may still enter a block is the transition's question.
        action: what must be agreed to.
        subject: what it must be about, 32 bytes.
        group: group it must name.
        policy: policy it must name.

    Returns:
        Names of the owners that count, in the order given.

    Raises:
        VerificationError: fewer than `threshold` count, or fewer than the root's own threshold,
            which a policy may undercut for revoking, enrolling and suspending only.
        LocalProtocolError: `threshold` is below 1.
    """
    holders = find_holders(
        approvals,
        root=root,
        chain=chain,
        era=era,
        action=action,
        subject=subject,
        group=group,
        policy=policy,
    )
    return check_holders(holders, root=root, threshold=threshold, action=action, group=group)


def check_holders(
    holders: Iterable[Holder], *, root: OwnerRoot, threshold: int, action: Action, group: str
) -> tuple[str, ...]:
    """Checks that there are enough owners among those who agreed; returns the owners' names.

    Raises:
        VerificationError: fewer than `threshold`, or than the root's own threshold, which a policy
            may undercut only for what authorises nothing.
        LocalProtocolError: `threshold` is below 1.
    """
    if threshold < 1:
        raise LocalProtocolError(f"threshold {threshold} would let nobody decide")
    needed = threshold if action in _BELOW_ROOT else max(threshold, root.threshold)
    names = tuple(holder.name for holder in holders if holder.is_owner)
    if len(names) < needed:
        raise VerificationError(
            f"{action.name.lower()} in group {group!r}: {len(names)} valid owner approvals, "
            f"{needed} needed"
        )
    return names
