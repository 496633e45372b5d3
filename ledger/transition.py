"""The transition: what a block does to the ledger. Start reading here.

`begin` opens a draft over the parent's state, `apply_transaction` applies one transaction to it or
refuses it with a stable code and no effect, `finish` gives the new state. `apply_block` is the
whole rule: every transaction of a block must be valid, in order, then every piece of evidence.

There are no actions between blocks. What time brings about (expiry of manifests, policies that take
effect) is a function of header time and is evaluated where it is asked for. Owners' approvals
decide; validators' keys appear in no rule that authorises anything. Integers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.log import Log
from ledger.records import ConvictionRecord, SubjectRecord, SubjectStatus
from ledger.state import Draft, LedgerState, StateReader
from ledger.state_keys import account_key, evidence_key
from ledger.transaction import (
    RESERVED_KINDS,
    AnchorReceipts,
    ApproveManifest,
    Body,
    CreateGroup,
    CreateSubject,
    ProposeManifest,
    RevokeManifest,
    RotateKeys,
    SetPolicy,
    SuspendSubject,
    decode_body,
)
from ledger.transition_approvals import BlockContext
from ledger.transition_group import create_group, set_policy
from ledger.transition_manifest import approve_manifest, propose_manifest, revoke_manifest
from ledger.transition_subject import (
    anchor_receipts,
    create_subject,
    rotate_keys,
    suspend_subject,
)
from ledger.vote import Evidence, Verifier
from protocol.did import KeyPurpose
from protocol.digest import DidId, Digest, sha256
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.limits import MIB, NONCE_WINDOW, TRANSACTION_LIFETIME_MS_MAX
from protocol.merkle import leaf_hash
from protocol.transaction import SignedTransaction, Transaction, parse_transaction

HOUR_MS: Final = 3_600_000
"""An hour of header time, milliseconds."""
TRANSACTIONS_PER_HOUR_MAX: Final = 3600
"""Of one signer: one a second, a thousand times what a gateway needs."""
LEDGER_BYTES_MAX: Final = 64 * MIB
"""Transactions and state of one signer, for good: 3,000 full manifests or 200,000 anchors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a block did."""

    state: LedgerState
    """State and log after it."""
    writes: dict[bytes, bytes]
    """State keys it set, with their values."""
    leaves: tuple[Digest, ...]
    """Leaf hashes it added to the log: transactions, then evidence."""


@dataclass(slots=True)
class BlockDraft:
    """A block in the making."""

    parent: LedgerState
    """State before it."""
    context: BlockContext
    """What its transactions may know."""
    state: Draft
    """Writes so far."""
    log: Log
    """Log so far."""
    leaves: list[Digest]
    """Leaf hashes added so far."""


def begin(parent: LedgerState, context: BlockContext) -> BlockDraft:
    """Opens a block over its parent's state."""
    return BlockDraft(parent, context, Draft(parent), parent.log, [])


def apply_transaction(block: BlockDraft, signed: SignedTransaction) -> None:
    """Applies one transaction, or refuses it and leaves the block as it was.

    Raises:
        LedgerNotYetError: it may become valid later.
        LedgerError: it never will.
    """
    draft = judge_transaction(block.state, signed, block.context)
    block.state.absorb(draft.writes)
    leaf = leaf_hash(signed.signed.raw)
    block.log = block.log.append(leaf)
    block.leaves.append(leaf)


def apply_evidence(block: BlockDraft, evidence: Evidence, verifier: Verifier) -> None:
    """Records a conviction, or refuses the evidence and leaves the block as it was (L59).

    Raises:
        LedgerError: `evidence.epoch`, `evidence.signature`, or `evidence.known`: one conviction for
            each signer and epoch.
    """
    context, epoch, signer = block.context, evidence.epoch, evidence.signer
    if epoch != context.validators.epoch:
        raise LedgerError("evidence.epoch", f"evidence of epoch {epoch} in another epoch")
    if block.state.conviction(epoch, signer) is not None:
        raise LedgerError("evidence.known", f"validator {signer} is convicted already")
    try:
        evidence.verify(context.validators, context.chain, context.era, verifier)
    except VerificationError as error:
        raise LedgerError("evidence.signature", str(error)) from error
    record = ConvictionRecord(evidence=sha256(evidence.encoded), height=context.height)
    block.state.put(evidence_key(epoch, signer), record.encode())
    leaf = leaf_hash(evidence.encoded)
    block.log = block.log.append(leaf)
    block.leaves.append(leaf)


def finish(block: BlockDraft) -> Outcome:
    """Closes a block: the tree and log after it."""
    writes = dict(block.state.writes)
    state = LedgerState(block.parent.tree.update(writes), block.log)
    return Outcome(state=state, writes=writes, leaves=tuple(block.leaves))


def apply_block(
    parent: LedgerState,
    context: BlockContext,
    transactions: Sequence[SignedTransaction],
    evidence: Sequence[Evidence],
    verifier: Verifier,
) -> Outcome:
    """Executes a whole block (L30).

    Raises:
        LedgerError: the first entry that is not valid makes the block invalid.
    """
    block = begin(parent, context)
    for signed in transactions:
        apply_transaction(block, signed)
    for item in evidence:
        apply_evidence(block, item, verifier)
    return finish(block)


def read_transaction(raw: bytes) -> SignedTransaction:
    """Parses a transaction.

    Raises:
        LedgerError: `tx.malformed`.
    """
    try:
        return parse_transaction(raw)
    except EncodingError as error:
        raise LedgerError("tx.malformed", str(error)) from error


def judge_transaction(
    state: StateReader, signed: SignedTransaction, context: BlockContext
) -> Draft:
    """Computes what a transaction would write; `state` is not changed.

    Raises:
        LedgerNotYetError: it may become valid later.
        LedgerError: it never will.
    """
    check_envelope(state, signed, context)
    return judge_body(state, signed, context)


def judge_body(state: StateReader, signed: SignedTransaction, context: BlockContext) -> Draft:
    """Does what `judge_transaction` does, for an envelope that was checked against this state."""
    body = _read_body(signed.transaction)
    draft = Draft(state)
    _apply_body(draft, signed.transaction.signer, body, context)
    _charge(draft, signed, context)
    return draft


def check_envelope(state: StateReader, signed: SignedTransaction, context: BlockContext) -> None:
    """Checks era, signer, signature, lifetime and nonce (L40).

    Raises:
        LedgerNotYetError: `tx.signer` unknown, `tx.lifetime` too far ahead, `tx.nonce_ahead`.
        LedgerError: `tx.era`, `tx.signer_status`, `tx.signer_key`, `tx.signature`, `tx.expired`,
            `tx.nonce`.
    """
    transaction = signed.transaction
    if transaction.era != context.era:
        raise LedgerError("tx.era", f"era {transaction.era}, expected {context.era}")
    subject = state.subject(transaction.signer)
    if subject is None:
        raise LedgerNotYetError("tx.signer", f"signer {transaction.signer.hex()[:8]} is unknown")
    _check_signature(subject, signed, context)
    check_admissible(state, transaction, context)


def _check_signature(
    subject: SubjectRecord, signed: SignedTransaction, context: BlockContext
) -> None:
    key = subject.key(KeyPurpose.NODE)
    if key is None:
        raise LedgerError("tx.signer_key", f"a {subject.kind.name.lower()} has no node key")
    try:
        signed.verify(key, context.chain)
    except SignatureError as error:
        raise LedgerError("tx.signature", str(error)) from error


def check_admissible(state: StateReader, transaction: Transaction, context: BlockContext) -> None:
    """Checks what can change after a transaction was found well signed: status, time and nonce.

    Raises:
        LedgerNotYetError: `tx.lifetime`, `tx.nonce_ahead`.
        LedgerError: `tx.signer_status`, `tx.expired`, `tx.nonce`.
    """
    subject = state.subject(transaction.signer)
    if subject is None or subject.status is not SubjectStatus.ACTIVE:
        raise LedgerError("tx.signer_status", "the signer is not an active subject")
    until, now = transaction.valid_until_ms, context.time_ms
    if until < now:
        raise LedgerError("tx.expired", f"valid until {until}, header time is {now}")
    if until > now + TRANSACTION_LIFETIME_MS_MAX:
        raise LedgerNotYetError("tx.lifetime", f"valid until {until}, over 24 h after {now}")
    account = state.account(transaction.signer)
    if account.is_used(transaction.nonce):
        raise LedgerError("tx.nonce", f"nonce {transaction.nonce} is used")
    if transaction.nonce >= account.nonce + NONCE_WINDOW:
        raise LedgerNotYetError(
            "tx.nonce_ahead",
            f"nonce {transaction.nonce} is {NONCE_WINDOW} or more above {account.nonce}",
        )


def _read_body(transaction: Transaction) -> Body:
    try:
        return decode_body(transaction.kind, transaction.body)
    except EncodingError as error:
        raise LedgerError("tx.body", str(error)) from error


def _apply_body(draft: Draft, signer: DidId, body: Body, context: BlockContext) -> None:
    match body:
        case CreateSubject():
            create_subject(draft, body, context)
        case RotateKeys():
            rotate_keys(draft, body, context)
        case SuspendSubject():
            suspend_subject(draft, body, context)
        case CreateGroup():
            create_group(draft, body, context)
        case SetPolicy():
            set_policy(draft, body, context)
        case ProposeManifest():
            propose_manifest(draft, signer, body, context)
        case ApproveManifest():
            approve_manifest(draft, body, context)
        case RevokeManifest():
            revoke_manifest(draft, body, context)
        case AnchorReceipts():
            anchor_receipts(draft, signer, body, context)
        case _:
            assert_never(body)


def _charge(draft: Draft, signed: SignedTransaction, context: BlockContext) -> None:
    """Marks the nonce as used and counts the transaction against its signer's shares (L41).

    Kinds that protect are counted but never refused: owners' approvals bound them already.
    """
    transaction = signed.transaction
    account = draft.account(transaction.signer)
    hour = context.time_ms // HOUR_MS
    count = 1 + (account.hour_count if account.hour == hour else 0)
    is_bounded = transaction.kind not in RESERVED_KINDS
    if is_bounded and count > TRANSACTIONS_PER_HOUR_MAX:
        raise LedgerNotYetError("tx.rate", f"over {TRANSACTIONS_PER_HOUR_MAX} in this hour")
    used_bytes = account.ledger_bytes + max(draft.growth_bytes(), 0) + len(signed.signed.raw)
    if is_bounded and used_bytes > LEDGER_BYTES_MAX:
        raise LedgerError("tx.share", f"the signer has used its {LEDGER_BYTES_MAX} bytes")
    nonce, used = account.with_nonce(transaction.nonce)
    following = replace(
        account, nonce=nonce, used=used, hour=hour, hour_count=count, ledger_bytes=used_bytes
    )
    draft.put(account_key(transaction.signer), following.encode())
