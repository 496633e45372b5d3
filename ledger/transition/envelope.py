"""Who may submit what: a transaction's envelope, judged before its body (L40)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.state import Draft, StateReader
from ledger.transition.census import count_members
from ledger.transition.context import BlockContext
from ledger.transition.kind import Body
from ledger.transition.kinds import KINDS, decode_body
from ledger.transition.shares import charge
from protocol.did import KeyPurpose
from protocol.digest import ChainId, TransactionId
from protocol.errors import EncodingError, SignatureError
from protocol.keys import PublicKey
from protocol.limits import NONCE_WINDOW, TRANSACTION_LIFETIME_MS_MAX
from protocol.transaction import SignedTransaction, Transaction, parse_transaction

VERIFIED_MAX: Final = 8192
"""Signatures remembered as good: two full mempools, about 2 MiB."""


class _Verified:
    """Transactions known to be signed by a key: mempool, proposal and block check each once.

    It changes no verdict: the id covers every byte, and bytes, key and chain decide.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[TransactionId, PublicKey, ChainId], None] = OrderedDict()

    def verify(self, signed: SignedTransaction, key: PublicKey, chain: ChainId) -> None:
        """Checks a signature unless it was found good lately; raises SignatureError."""
        name = (signed.transaction_id, key, chain)
        if name in self._known:
            return
        signed.verify(key, chain)
        self._known[name] = None
        if len(self._known) > VERIFIED_MAX:
            self._known.popitem(last=False)


_VERIFIED: Final = _Verified()


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
    KINDS[signed.transaction.kind].apply(draft, signed.transaction.signer, body, context)
    count_members(draft)
    charge(draft, signed, context)
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
        _VERIFIED.verify(signed, key, context.chain)
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
