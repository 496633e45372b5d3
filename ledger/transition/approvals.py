"""How the transition checks owners' approvals, whatever they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ledger.errors import LedgerError
from ledger.state import Draft
from ledger.state_keys import approval_key
from ledger.transition.context import BlockContext
from protocol.approval import Action, SignedApproval, parse_approval
from protocol.digest import Digest, PolicyId
from protocol.errors import EncodingError, SignatureError
from protocol.keys import PublicKey
from protocol.owner_root import OWNER_ROLE, OwnerRoot


@dataclass(frozen=True, slots=True, kw_only=True)
class Consent:
    """What a list of approvals must agree to."""

    root: OwnerRoot
    """Whose keys count."""
    action: Action
    """To do what."""
    subject: Digest
    """With what."""
    group: str
    """In which group."""
    policy: PolicyId
    """Deciding under which policy."""
    role: str | None = OWNER_ROLE
    """Whose approvals are taken: owners', those of another role, or None: of all whom it names."""


def check_approvals(
    approvals: Sequence[bytes], consent: Consent, context: BlockContext
) -> tuple[SignedApproval, ...]:
    """Checks that every approval is by a distinct owner and to exactly this consent (L42).

    A transaction with a single unfit approval is refused whole: its submitter chose the list.

    Returns:
        The approvals, ascending by key id.

    Raises:
        LedgerError: `approval.*` names what is wrong with one of them.
    """
    checked: dict[Digest, SignedApproval] = {}
    for raw in approvals:
        signed = _check_approval(raw, consent, context)
        if signed.signed.key_id in checked:
            raise LedgerError("approval.duplicate", "one owner's approval is given twice")
        checked[signed.signed.key_id] = signed
    return tuple(checked[key_id] for key_id in sorted(checked))


def _check_approval(raw: bytes, consent: Consent, context: BlockContext) -> SignedApproval:
    try:
        signed = parse_approval(raw)
    except EncodingError as error:
        raise LedgerError("approval.malformed", str(error)) from error
    approval = signed.approval
    _require_equal("approval.era", context.era, approval.era)
    _require_equal("approval.action", consent.action.name, approval.action.name)
    _require_equal("approval.subject", consent.subject.hex(), approval.subject.hex())
    _require_equal("approval.group", consent.group, approval.group)
    _require_equal("approval.policy", consent.policy.hex(), approval.policy.hex())
    if approval.valid_until_ms < context.time_ms:
        raise LedgerError(
            "approval.expired",
            f"approval valid until {approval.valid_until_ms}, header time is {context.time_ms}",
        )
    key = _signer(signed.signed.key_id, consent)
    try:
        signed.verify_key(key, context.chain)
    except SignatureError as error:
        raise LedgerError("approval.signature", str(error)) from error
    return signed


def _signer(key_id: bytes, consent: Consent) -> PublicKey:
    holder = consent.root.holder(key_id)
    if holder is None or not (consent.role is None or holder.has_role(consent.role)):
        who = consent.role or "owner or holder of a role"
        raise LedgerError("approval.owner", f"signer is no {who} for {consent.group!r}")
    return holder.key


def _require_equal(rule: str, expected: object, actual: object) -> None:
    if actual != expected:
        raise LedgerError(rule, f"approval is for {actual}, expected {expected}")


def require_threshold(count: int, needed: int, what: str) -> None:
    """Checks that enough owners agreed.

    Raises:
        LedgerError: `approval.threshold`.
    """
    if count < needed:
        raise LedgerError("approval.threshold", f"{what} needs {needed} approvals, got {count}")


def require_newer(draft: Draft, approvals: Sequence[SignedApproval]) -> None:
    """Checks that no owner's approval is as old as one of theirs that served before.

    For what may happen again and again: each time an owner's approval must be valid for longer than
    the one on record, so that nobody repeats the past by submitting it anew.

    Raises:
        LedgerError: `approval.used`.
    """
    for signed in approvals:
        content, key_id = signed.approval, signed.signed.key_id
        raw = draft.approval(content.subject, content.action, key_id, content.group)
        if raw is not None and parse_approval(raw).approval.valid_until_ms >= (
            content.valid_until_ms
        ):
            raise LedgerError("approval.used", "an owner's approval is no newer than its last one")


def record_approvals(
    draft: Draft, approvals: Sequence[SignedApproval], *, under: Digest | None = None
) -> tuple[Digest, ...]:
    """Writes approvals to the state, where gateways and proofs find them; returns their key ids.

    Args:
        draft: where they are written.
        approvals: what was checked.
        under: the subject in their state keys; None: the subject that they name.
    """
    for signed in approvals:
        content, key_id = signed.approval, signed.signed.key_id
        key = approval_key(under or content.subject, content.action, key_id, content.group)
        draft.put(key, signed.signed.raw)
    return tuple(signed.signed.key_id for signed in approvals)
