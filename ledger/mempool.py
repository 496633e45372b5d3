"""The mempool: transactions that wait for a block, bounded for each signer, tenant and in all.

A machine without I/O. What enters was well signed by a known active subject and judged against the
newest final state; what is valid, or may become so once others are final, stays. After each final
block everything is looked at again. Kinds that protect go first and have a quarter of the space for
themselves, of which one sponsor may hold a quarter; what is beyond that waits as ordinary ones do.
Sponsors take turns, and so do tenants once more waits than a block takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.account import AccountRecord
from ledger.records.subject import SubjectRecord
from ledger.state import LedgerState, StateReader
from ledger.transition.context import BlockContext
from ledger.transition.envelope import (
    check_admissible,
    check_envelope,
    judge_body,
    read_transaction,
)
from ledger.transition.kind import Lane
from ledger.transition.shares import (
    ORDINARY_BYTES_MAX,
    ORDINARY_COUNT_MAX,
    RESERVED_DIVISOR,
    lane_of,
    tenant_of,
)
from protocol.did import SubjectKind
from protocol.digest import DidId, TransactionId, sha256
from protocol.limits import KIB, MIB, NONCE_WINDOW
from protocol.transaction import SignedTransaction

TRANSACTIONS_MAX: Final = 4096
"""Transactions in all: eight full blocks."""
BYTES_MAX: Final = 8 * MIB
"""Bytes in all: 32 full blocks."""
SIGNER_BYTES_MAX: Final = 128 * KIB
"""Bytes of one signer: six full manifests; the count is bound by the nonce window."""
TENANT_TRANSACTIONS_MAX: Final = 768
"""Transactions of one tenant: a quarter of what ordinary ones may be, two blocks of them."""
TENANT_BYTES_MAX: Final = 1536 * KIB
"""Bytes of one tenant: a quarter of what ordinary ones may take."""
RESERVED_SIGNER_BYTES_MAX: Final = 128 * KIB
"""Bytes of one signer in the reserve: a full nonce window of revocations with 32 approvals."""
SPONSOR_TRANSACTIONS_MIN: Final = NONCE_WINDOW
"""Transactions that one sponsor may have in the reserve, however small that is."""
REJUDGED_MAX: Final = 128
"""Transactions judged anew, signatures and all, after each block: about 40 ms."""
K = TypeVar("K")
Tenant = str | DidId
"""A group that answers for its gateways, or a signer that answers for itself."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A transaction in the mempool."""

    signed: SignedTransaction
    """The transaction."""
    tenant: Tenant
    """Who answers for it."""
    sponsor: Tenant
    """Who answers for it in the reserve (Q46)."""
    is_reserved: bool
    """Whether it is of a kind that protects, was valid when it was last judged, and its signer and
    sponsor had room in the reserve."""

    @property
    def size_bytes(self) -> int:
        """Bytes it takes."""
        return len(self.signed.signed.raw)


@dataclass(slots=True)
class Tally:
    """Transactions counted together."""

    count: int = 0
    """How many."""
    size_bytes: int = 0
    """Their bytes."""

    def add(self, waiting: Waiting, sign: int) -> None:
        """Counts one in (1) or out (-1)."""
        self.count += sign
        self.size_bytes += sign * waiting.size_bytes


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
        self._all = Tally()
        self._ordinary = Tally()
        self._signers: dict[DidId, Tally] = {}
        self._tenants: dict[Tenant, Tally] = {}
        self._reserved_signers: dict[DidId, Tally] = {}
        self._sponsors: dict[Tenant, Tally] = {}

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

    def read(self, raw: bytes) -> SignedTransaction:
        """Parses a transaction, unless it waits here and was parsed.

        Raises:
            LedgerError: `tx.malformed`.
        """
        waiting = self._waiting.get(TransactionId(sha256(raw)))
        return read_transaction(raw) if waiting is None else waiting.signed

    def statistics(self) -> MempoolStatistics:
        """How full it is."""
        return MempoolStatistics(
            count=len(self._waiting),
            size_bytes=self._all.size_bytes,
            reserved_count=self._all.count - self._ordinary.count,
        )

    def add(self, raw: bytes, state: LedgerState, context: BlockContext) -> SignedTransaction:
        """Takes a transaction, unless a rule or a bound refuses it.

        Args:
            raw: signed transaction, untrusted.
            state: newest final state.
            context: of a next block, made now.

        Raises:
            LedgerNotYetError: `mempool.full`, `mempool.signer`, `mempool.tenant`, or a rule of the
                envelope.
            LedgerError: `mempool.known`, `mempool.nonce`, or the rule it breaks for good.
        """
        signed = read_transaction(raw)
        self.take(signed, state, context)
        return signed

    def take(self, signed: SignedTransaction, state: LedgerState, context: BlockContext) -> None:
        """Does what `add` does, for a transaction that was parsed already."""
        if signed.transaction_id in self._waiting:
            raise LedgerError("mempool.known", "this transaction waits already")
        transaction = signed.transaction
        if (transaction.signer, transaction.nonce) in self._by_nonce:
            raise LedgerError("mempool.nonce", "another transaction with this nonce waits")
        # Bounds come before signatures: a flood must not cost a verification each.
        tenant: Tenant = tenant_of(state, transaction.signer) or transaction.signer
        sponsor = _sponsor_of(state, transaction.signer)
        is_protecting = lane_of(transaction.kind) is Lane.PROTECTING
        is_claimed = is_protecting and self._has_share(signed, sponsor)
        self._check_room(signed, tenant, is_reserved=is_claimed)
        is_reserved = _judge(signed, state, context) and is_claimed
        if is_claimed and not is_reserved:
            self._check_room(signed, tenant, is_reserved=False)
        self._insert(Waiting(signed, tenant, sponsor, is_reserved))

    def _has_share(self, signed: SignedTransaction, sponsor: Tenant) -> bool:
        """Whether signer and sponsor may have one more in the reserve (Q46).

        Without this, owners of one group, who approve of whatever they like, could fill it.
        """
        size = len(signed.signed.raw)
        own = self._reserved_signers.get(signed.transaction.signer, Tally())
        if own.size_bytes + size > RESERVED_SIGNER_BYTES_MAX:
            return False
        shared = self._sponsors.get(sponsor, Tally())
        part = RESERVED_DIVISOR * RESERVED_DIVISOR
        count_max = max(TRANSACTIONS_MAX // part, SPONSOR_TRANSACTIONS_MIN)
        return shared.count < count_max and shared.size_bytes + size <= BYTES_MAX // part

    def _check_room(self, signed: SignedTransaction, tenant: Tenant, *, is_reserved: bool) -> None:
        size = len(signed.signed.raw)
        self._check_space(size, is_reserved=is_reserved)
        if is_reserved:
            return
        own = self._signers.get(signed.transaction.signer, Tally())
        if own.size_bytes + size > SIGNER_BYTES_MAX:
            raise LedgerNotYetError(
                "mempool.signer",
                f"signer has {own.size_bytes} bytes waiting, at most {SIGNER_BYTES_MAX}",
            )
        shared = self._tenants.get(tenant, Tally())
        if shared.count >= TENANT_TRANSACTIONS_MAX or shared.size_bytes + size > TENANT_BYTES_MAX:
            raise LedgerNotYetError(
                "mempool.tenant",
                f"its tenant has {shared.count} transactions of {shared.size_bytes} bytes waiting",
            )

    def _check_space(self, size_bytes: int, *, is_reserved: bool) -> None:
        held, count_max, bytes_max = self._all, TRANSACTIONS_MAX, BYTES_MAX
        if not is_reserved:
            held = self._ordinary
            count_max -= TRANSACTIONS_MAX // RESERVED_DIVISOR
            bytes_max -= BYTES_MAX // RESERVED_DIVISOR
        if held.count + 1 > count_max or held.size_bytes + size_bytes > bytes_max:
            raise LedgerNotYetError(
                "mempool.full",
                f"{held.count} transactions of {held.size_bytes} bytes wait already",
            )

    def _insert(self, waiting: Waiting) -> None:
        transaction = waiting.signed.transaction
        self._waiting[waiting.signed.transaction_id] = waiting
        self._by_nonce[transaction.signer, transaction.nonce] = waiting.signed.transaction_id
        self._count(waiting, 1)

    def _count(self, waiting: Waiting, sign: int) -> None:
        self._all.add(waiting, sign)
        signer = waiting.signed.transaction.signer
        if waiting.is_reserved:
            _tally(self._reserved_signers, signer, waiting, sign)
            _tally(self._sponsors, waiting.sponsor, waiting, sign)
        else:
            self._ordinary.add(waiting, sign)
        _tally(self._signers, signer, waiting, sign)
        _tally(self._tenants, waiting.tenant, waiting, sign)

    def remove(self, transaction_id: TransactionId) -> None:
        """Drops a transaction, if it waits."""
        waiting = self._waiting.pop(transaction_id, None)
        if waiting is None:
            return
        transaction = waiting.signed.transaction
        del self._by_nonce[transaction.signer, transaction.nonce]
        self._count(waiting, -1)

    def select(self) -> Iterator[SignedTransaction]:
        """All transactions in the order in which a block should take them (Q40)."""
        reserved = [item for item in self._waiting.values() if item.is_reserved]
        ordinary = [item for item in self._waiting.values() if not item.is_reserved]
        held = self._ordinary
        if held.count > ORDINARY_COUNT_MAX or held.size_bytes > ORDINARY_BYTES_MAX:
            ordinary = _in_turns(ordinary, lambda item: item.tenant)
        protecting = _in_turns(reserved, lambda item: item.sponsor)
        return (waiting.signed for waiting in (*protecting, *ordinary))

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
        known = _Remembered(state)
        for index, waiting in enumerate(list(self._waiting.values())):
            try:
                check_admissible(known, waiting.signed.transaction, context)
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
        signed, sponsor = waiting.signed, waiting.sponsor
        is_reserved = _judge(signed, state, context)
        if is_reserved and not waiting.is_reserved:
            is_reserved = self._has_share(signed, sponsor)
        if is_reserved != waiting.is_reserved:
            self._count(waiting, -1)
            following = replace(waiting, is_reserved=is_reserved)
            self._waiting[signed.transaction_id] = following
            self._count(following, 1)


@dataclass(slots=True)
class _Remembered(StateReader):
    """Reads a state and remembers whom it read: a signer has up to 16 transactions waiting."""

    state: LedgerState
    subjects: dict[DidId, SubjectRecord | None] = field(default_factory=dict)
    accounts: dict[DidId, AccountRecord] = field(default_factory=dict)

    def get(self, key: bytes) -> bytes | None:
        return self.state.get(key)

    def subject(self, did: DidId) -> SubjectRecord | None:
        if did not in self.subjects:
            self.subjects[did] = self.state.subject(did)
        return self.subjects[did]

    def account(self, did: DidId) -> AccountRecord:
        if did not in self.accounts:
            self.accounts[did] = self.state.account(did)
        return self.accounts[did]


def _tally(tallies: dict[K, Tally], name: K, waiting: Waiting, sign: int) -> None:
    """Counts one in or out under a name; nothing is kept of a name without any."""
    tally = tallies.setdefault(name, Tally())
    tally.add(waiting, sign)
    if not tally.count:
        del tallies[name]


def _sponsor_of(state: StateReader, signer: DidId) -> Tenant:
    """Who answers for a signer in the reserve: the first of its groups, or the signer (Q46).

    Unlike `tenant_of` this counts publishers against their group: its owners admit as many as they
    like, and each would have a share of its own. Only governance admits validators.
    """
    subject = state.subject(signer)
    if subject is None or subject.kind is SubjectKind.VALIDATOR or not subject.groups:
        return signer
    return subject.groups[0]


def _in_turns(waiting: Sequence[Waiting], party: Callable[[Waiting], Tenant]) -> list[Waiting]:
    """Lets parties take turns: the first of each, then the second of each, by arrival."""
    taken: dict[Tenant, int] = {}
    ranked: list[tuple[int, int, Waiting]] = []
    for arrival, item in enumerate(waiting):
        rank = taken.get(party(item), 0)
        taken[party(item)] = rank + 1
        ranked.append((rank, arrival, item))
    ranked.sort(key=lambda entry: entry[:2])
    return [item for _, _, item in ranked]


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
    return lane_of(signed.transaction.kind) is Lane.PROTECTING
