"""The mempool: transactions that wait for a block, bounded for each signer and in all.

A machine without I/O. What enters was well signed by a known active subject and judged against the
newest final state; what is valid, or may become so once others are final, stays. After each final
block everything is looked at again. Kinds that protect (`PROTECTING_KINDS`) go first and have a
quarter of the space for themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.state import LedgerState
from ledger.transition.context import BlockContext
from ledger.transition.envelope import (
    check_admissible,
    check_envelope,
    judge_body,
    read_transaction,
)
from ledger.transition.kinds import PROTECTING_KINDS
from protocol.digest import DidId, TransactionId, sha256
from protocol.limits import KIB, MIB
from protocol.transaction import SignedTransaction

TRANSACTIONS_MAX: Final = 4096
"""Transactions in all: eight full blocks."""
BYTES_MAX: Final = 8 * MIB
"""Bytes in all: 32 full blocks."""
SIGNER_BYTES_MAX: Final = 128 * KIB
"""Bytes of one signer: six full manifests; the count is bound by the nonce window."""
RESERVED_DIVISOR: Final = 4
"""One part in four of count and bytes is kept for the kinds that protect."""
REJUDGED_MAX: Final = 128
"""Transactions judged anew, signatures and all, after each block: about 40 ms."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction in the mempool."""

    signed: SignedTransaction
    """The transaction."""
    is_reserved: bool
    """Whether it is of a kind that protects and was valid when it was last judged."""

    @property
    def size_bytes(self) -> int:
        """Bytes it takes."""
        return len(self.signed.signed.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class MempoolStatistics:
    """How full the mempool is."""

    count: int
    """Transactions."""
    size_bytes: int
    """Their bytes."""
    reserved_count: int
    """Those of kinds that protect."""


class Mempool:
    """Transactions in order of arrival."""

    def __init__(self) -> None:
        """Starts empty."""
        self._waiting: dict[TransactionId, Waiting] = {}
        self._by_nonce: dict[tuple[DidId, int], TransactionId] = {}
        self._signer_bytes: dict[DidId, int] = {}
        self._size_bytes = 0
        self._ordinary_count = 0
        self._ordinary_bytes = 0

    def __contains__(self, transaction_id: TransactionId) -> bool:
        return transaction_id in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def pending(self) -> tuple[TransactionId, ...]:
        """Ids of all that wait, in order of arrival."""
        return tuple(self._waiting)

    def get(self, transaction_id: TransactionId) -> bytes | None:
        """The bytes of a waiting transaction, or None."""
        waiting = self._waiting.get(transaction_id)
        return None if waiting is None else waiting.signed.signed.raw

    def statistics(self) -> MempoolStatistics:
        """How full it is."""
        return MempoolStatistics(
            count=len(self._waiting),
            size_bytes=self._size_bytes,
            reserved_count=len(self._waiting) - self._ordinary_count,
        )

    def add(self, raw: bytes, state: LedgerState, context: BlockContext) -> SignedTransaction:
        """Takes a transaction, unless a rule or a bound refuses it.

        Args:
            raw: signed transaction, untrusted.
            state: newest final state.
            context: of a next block, made now.

        Raises:
            LedgerNotYetError: `mempool.full`, `mempool.signer`, or a rule of the envelope.
            LedgerError: `mempool.known`, `mempool.nonce`, or the rule it breaks for good.
        """
        if TransactionId(sha256(raw)) in self._waiting:
            raise LedgerError("mempool.known", "this transaction waits already")
        signed = read_transaction(raw)
        transaction = signed.transaction
        if (transaction.signer, transaction.nonce) in self._by_nonce:
            raise LedgerError("mempool.nonce", "another transaction with this nonce waits")
        # Bounds come before signatures: a flood must not cost a verification each.
        self._check_signer_bound(transaction.signer, len(raw))
        self._check_space(len(raw), is_reserved=transaction.kind in PROTECTING_KINDS)
        waiting = Waiting(signed, is_reserved=_judge(signed, state, context))
        self._check_space(len(raw), is_reserved=waiting.is_reserved)
        self._insert(waiting)
        return signed

    def _check_signer_bound(self, signer: DidId, size_bytes: int) -> None:
        used = self._signer_bytes.get(signer, 0)
        if used + size_bytes > SIGNER_BYTES_MAX:
            raise LedgerNotYetError(
                "mempool.signer", f"signer has {used} bytes waiting, at most {SIGNER_BYTES_MAX}"
            )

    def _check_space(self, size_bytes: int, *, is_reserved: bool) -> None:
        count, used = len(self._waiting), self._size_bytes
        count_max, bytes_max = TRANSACTIONS_MAX, BYTES_MAX
        if not is_reserved:
            count, used = self._ordinary_count, self._ordinary_bytes
            count_max -= TRANSACTIONS_MAX // RESERVED_DIVISOR
            bytes_max -= BYTES_MAX // RESERVED_DIVISOR
        if count + 1 > count_max or used + size_bytes > bytes_max:
            raise LedgerNotYetError(
                "mempool.full", f"{count} transactions of {used} bytes wait already"
            )

    def _insert(self, waiting: Waiting) -> None:
        transaction = waiting.signed.transaction
        signer = transaction.signer
        self._waiting[waiting.signed.transaction_id] = waiting
        self._by_nonce[signer, transaction.nonce] = waiting.signed.transaction_id
        self._signer_bytes[signer] = self._signer_bytes.get(signer, 0) + waiting.size_bytes
        self._count(waiting, 1)

    def _count(self, waiting: Waiting, sign: int) -> None:
        self._size_bytes += sign * waiting.size_bytes
        if not waiting.is_reserved:
            self._ordinary_count += sign
            self._ordinary_bytes += sign * waiting.size_bytes

    def remove(self, transaction_id: TransactionId) -> None:
        """Drops a transaction, if it waits."""
        waiting = self._waiting.pop(transaction_id, None)
        if waiting is None:
            return
        transaction = waiting.signed.transaction
        del self._by_nonce[transaction.signer, transaction.nonce]
        self._signer_bytes[transaction.signer] -= waiting.size_bytes
        if not self._signer_bytes[transaction.signer]:
            del self._signer_bytes[transaction.signer]
        self._count(waiting, -1)

    def select(self) -> Iterator[SignedTransaction]:
        """All transactions in the order in which a block should take them."""
        ordered = sorted(self._waiting.values(), key=lambda waiting: not waiting.is_reserved)
        return (waiting.signed for waiting in ordered)

    def revalidate(
        self, included: Sequence[TransactionId], state: LedgerState, context: BlockContext
    ) -> tuple[TransactionId, ...]:
        """Looks at everything again after a final block.

        Status, lifetime and nonce of all are checked; the oldest ones are judged in full.

        Args:
            included: transactions of the block.
            state: state after it.
            context: of a next block.

        Returns:
            What was dropped because it can never be valid any more, without `included`.
        """
        for transaction_id in included:
            self.remove(transaction_id)
        dropped: list[TransactionId] = []
        for index, waiting in enumerate(list(self._waiting.values())):
            try:
                check_admissible(state, waiting.signed.transaction, context)
                if index < REJUDGED_MAX:
                    self._rejudge(waiting, state, context)
            except LedgerNotYetError:
                continue
            except LedgerError:
                dropped.append(waiting.signed.transaction_id)
                self.remove(waiting.signed.transaction_id)
        return tuple(dropped)

    def _rejudge(self, waiting: Waiting, state: LedgerState, context: BlockContext) -> None:
        """Judges a transaction again; one that has become valid may become reserved."""
        following = Waiting(waiting.signed, is_reserved=_judge(waiting.signed, state, context))
        if following.is_reserved != waiting.is_reserved:
            self._count(waiting, -1)
            self._waiting[waiting.signed.transaction_id] = following
            self._count(following, 1)


def _judge(signed: SignedTransaction, state: LedgerState, context: BlockContext) -> bool:
    """Judges a transaction by the newest final state; tells whether it has the reserved share.

    One that only waits for others to become final is let through, but without that share: else
    anybody could fill it with revocations of manifests that do not exist.

    Raises:
        LedgerError: the envelope is not valid, or the body never will be.
    """
    check_envelope(state, signed, context)
    try:
        judge_body(state, signed, context)
    except LedgerNotYetError:
        return False
    return signed.transaction.kind in PROTECTING_KINDS
