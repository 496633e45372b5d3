"""Shares of a signer: what one may take of the ledger (L41)."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.state import Draft
from ledger.state_keys import account_key
from ledger.transition.context import BlockContext
from ledger.transition.kinds import PROTECTING_KINDS
from protocol.limits import MIB
from protocol.transaction import SignedTransaction

HOUR_MS: Final = 3_600_000
"""An hour of header time, milliseconds."""
TRANSACTIONS_PER_HOUR_MAX: Final = 3600
"""Of one signer: one a second, a thousand times what a gateway needs."""
LEDGER_BYTES_MAX: Final = 64 * MIB
"""Transactions and state of one signer, for good: 3,000 full manifests or 200,000 anchors."""


def charge(draft: Draft, signed: SignedTransaction, context: BlockContext) -> None:
    """Marks the nonce as used and counts the transaction against its signer's shares (L41).

    Kinds that protect are counted but never refused: owners' approvals bound them already.
    """
    transaction = signed.transaction
    account = draft.account(transaction.signer)
    hour = context.time_ms // HOUR_MS
    count = 1 + (account.hour_count if account.hour == hour else 0)
    is_bounded = transaction.kind not in PROTECTING_KINDS
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
