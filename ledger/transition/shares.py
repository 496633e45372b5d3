"""Shares of signers, tenants and lanes: what one may take of the ledger (docs/spec/quotas.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.account import AccountRecord
from ledger.state import Draft, StateReader
from ledger.state_keys import account_key, tenant_key
from ledger.transition.context import BlockContext
from ledger.transition.kind import Lane
from ledger.transition.kinds import KINDS
from protocol.did import SubjectKind
from protocol.digest import DidId
from protocol.limits import BLOCK_BYTES_MAX, BLOCK_TRANSACTIONS_MAX, MIB
from protocol.transaction import SignedTransaction

HOUR_MS: Final = 3_600_000
"""An hour of header time, milliseconds."""
TRANSACTIONS_PER_HOUR_MAX: Final = 3600
"""Of one signer: one a second, a thousand times what a gateway needs."""
LEDGER_BYTES_MAX: Final = 64 * MIB
"""Transactions and state of one signer, for good: 3,000 full manifests or 200,000 anchors."""
TENANT_TRANSACTIONS_PER_HOUR_MAX: Final = 72_000
"""Of all gateways of a group: 20 a second, a tenth of what four validators order."""
TENANT_STATE_BYTES_MAX: Final = 256 * MIB
"""State that the gateways of a group add, for good: 100,000 of them take about 100 MiB."""
RESERVED_DIVISOR: Final = 4
"""One part in four of a block, in count and bytes, is kept for the kinds that protect."""
ORDINARY_COUNT_MAX: Final = BLOCK_TRANSACTIONS_MAX - BLOCK_TRANSACTIONS_MAX // RESERVED_DIVISOR
"""Transactions of ordinary kinds in a block."""
ORDINARY_BYTES_MAX: Final = BLOCK_BYTES_MAX - BLOCK_BYTES_MAX // RESERVED_DIVISOR
"""Their bytes."""


def lane_of(kind: str) -> Lane:
    """The lane of a kind; an unknown one has no privilege."""
    known = KINDS.get(kind)
    return Lane.ORDINARY if known is None else known.lane


def tenant_of(state: StateReader, signer: DidId) -> str | None:
    """The group that answers for a signer, or None for one that is its own tenant (Q1).

    A gateway is there for a group, and its owners enrolled it: the first of its groups answers.
    Publishers and validators answer for themselves.
    """
    subject = state.subject(signer)
    if subject is None or subject.kind is not SubjectKind.GATEWAY or not subject.groups:
        return None
    return subject.groups[0]


def charge(draft: Draft, signed: SignedTransaction, context: BlockContext) -> None:
    """Marks the nonce as used; counts the transaction against signer and tenant (Q10 to Q14).

    Raises:
        LedgerNotYetError: `tx.rate`, `tx.tenant_rate`.
        LedgerError: `tx.share`, `tx.tenant_share`.
    """
    growth = max(draft.growth_bytes(), 0)
    hour = context.time_ms // HOUR_MS
    _charge_tenant(draft, signed, hour, growth)
    _charge_signer(draft, signed, hour, growth)


def _charge_signer(draft: Draft, signed: SignedTransaction, hour: int, growth: int) -> None:
    transaction = signed.transaction
    account = draft.account(transaction.signer)
    if account.hour != hour:
        account = replace(account, hour=hour, hour_count=0, guarded_count=0)
    count = account.hour_count + 1
    used_bytes = account.ledger_bytes + growth + len(signed.signed.raw)
    guarded = account.guarded_count
    if lane_of(transaction.kind) is Lane.ORDINARY:
        if count > TRANSACTIONS_PER_HOUR_MAX:
            raise LedgerNotYetError("tx.rate", f"over {TRANSACTIONS_PER_HOUR_MAX} in this hour")
        if used_bytes > LEDGER_BYTES_MAX:
            raise LedgerError("tx.share", f"the signer has used its {LEDGER_BYTES_MAX} bytes")
    else:
        guarded += _guarded(account, transaction.kind)
    nonce, used = account.with_nonce(transaction.nonce)
    following = replace(
        account,
        nonce=nonce,
        used=used,
        hour_count=count,
        ledger_bytes=used_bytes,
        guarded_count=guarded,
    )
    draft.put(account_key(transaction.signer), following.encode())


def _guarded(account: AccountRecord, kind: str) -> int:
    """What a protecting kind adds to the count of those that no owner bounds (Q13)."""
    most = KINDS[kind].hourly_max
    if most is None:
        return 0
    if account.guarded_count >= most:
        raise LedgerNotYetError("tx.rate", f"over {most} of {kind} and its like in this hour")
    return 1


def _charge_tenant(draft: Draft, signed: SignedTransaction, hour: int, growth: int) -> None:
    group = tenant_of(draft, signed.transaction.signer)
    if group is None:
        return
    tenant = draft.tenant(group)
    count = 1 + (tenant.hour_count if tenant.hour == hour else 0)
    state_bytes = tenant.state_bytes + growth
    if lane_of(signed.transaction.kind) is Lane.ORDINARY:
        if count > TENANT_TRANSACTIONS_PER_HOUR_MAX:
            raise LedgerNotYetError(
                "tx.tenant_rate",
                f"gateways of {group!r} sent {TENANT_TRANSACTIONS_PER_HOUR_MAX} in this hour",
            )
        if growth and state_bytes > TENANT_STATE_BYTES_MAX:
            raise LedgerError(
                "tx.tenant_share",
                f"gateways of {group!r} have added their {TENANT_STATE_BYTES_MAX} bytes of state",
            )
    following = replace(tenant, hour=hour, hour_count=count, state_bytes=state_bytes)
    draft.put(tenant_key(group), following.encode())


@dataclass(slots=True)
class BlockShare:
    """What ordinary transactions have taken of one block (Q30)."""

    count: int = 0
    """How many."""
    size_bytes: int = 0
    """Their bytes."""

    def require(self, signed: SignedTransaction) -> None:
        """Refuses an ordinary transaction that would enter the reserved part.

        Raises:
            LedgerNotYetError: `block.share`.
        """
        size = self.size_bytes + len(signed.signed.raw)
        if self.count >= ORDINARY_COUNT_MAX or size > ORDINARY_BYTES_MAX:
            raise LedgerNotYetError(
                "block.share", "the rest of the block is kept for the kinds that protect"
            )

    def take(self, signed: SignedTransaction) -> None:
        """Counts an ordinary transaction that was accepted."""
        self.count += 1
        self.size_bytes += len(signed.signed.raw)
