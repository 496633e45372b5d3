"""Own transactions: signing, nonces, and handing them over until they are final.

A submitted transaction is stored durably by the chain before anybody hears of it. It is gossiped
and handed to connected validators, again and again until it is in a final block or has expired, so
that neither a crash of this node nor f silent validators can lose it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from ledger.chain_blocks import CommitResult
from ledger.transition.kind import Body
from ledger.transition.kinds import kind_of
from protocol.digest import DidId, TransactionId
from protocol.errors import NotYetError, PolicyError, StorageError
from protocol.keys import PrivateKey
from protocol.limits import NONCE_WINDOW
from protocol.transaction import Transaction, parse_transaction, sign_transaction
from swarmd.ledger_host import LedgerHost

logger = logging.getLogger(__name__)

LIFETIME_MS: Final = 6 * 3600 * 1000
"""How long an own transaction may wait for a block, milliseconds of header time."""
FINAL_MAX: Final = 1024
"""Lately final transactions whose height is remembered without asking the store."""
KNOWN_RULES: Final = ("mempool.known", "tx.final")
"""Refusals that mean: it is here already, or will be told as final."""
RESEND_S: Final = 10.0
"""Pause between two attempts to hand over what is not final, seconds; a metered node's first."""
RESEND_S_MAX: Final = 900.0
"""Longest pause on a metered node, seconds."""


@dataclass(slots=True)
class _Turn:
    """When a transaction is handed over again."""

    at: float
    pause_s: float
    is_looked_for: bool


class SubmissionService:
    """Signs and submits transactions of this node."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        own_did: DidId,
        key: PrivateKey,
        time_ms: Callable[[], int],
        offer: Callable[[Sequence[bytes]], Awaitable[None]],
        gossip: Callable[[bytes], Awaitable[None]],
        on_pending: Callable[[], None],
        needs_gossip: Callable[[], bool],
        look: Callable[[], None] | None = None,
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain, which keeps own transactions durably.
            own_did: who signs.
            key: this node's node key.
            time_ms: the best guess of the next header time, milliseconds.
            offer: hands transactions to connected validators.
            gossip: publishes a transaction.
            on_pending: told when the own mempool changed.
            needs_gossip: whether fewer than a quorum of validators can be handed it directly.
            look: asks peers what is final, on a metered node; None: this node is told of blocks.
        """
        self._look = look
        self._ledger = ledger
        self._did = own_did
        self._key = key
        self._time_ms = time_ms
        self._offer = offer
        self._gossip = gossip
        self._on_pending = on_pending
        self._needs_gossip = needs_gossip
        self._lock = trio.Lock()
        self._waiting: dict[TransactionId, bytes] = {}
        self._final: OrderedDict[TransactionId, int] = OrderedDict()
        self._refused: OrderedDict[TransactionId, PolicyError] = OrderedDict()
        self._turns: dict[TransactionId, _Turn] = {}
        self._news = trio.Event()
        self._to_offer = trio.Event()
        self._loaded = trio.Event()

    async def submit(self, body: Body) -> TransactionId:
        """Signs a transaction with the next free nonce and submits it.

        Returns:
            Its id; `wait_final` waits for a block.

        Raises:
            PolicyError: my own copy of the ledger refuses it.
            NotYetError: too many own transactions wait already.
        """
        await self._loaded.wait()
        async with self._lock:
            chain = self._ledger.chain
            signed = sign_transaction(
                Transaction(
                    era=chain.head.era,
                    signer=self._did,
                    nonce=self._next_nonce(),
                    valid_until_ms=self._time_ms() + LIFETIME_MS,
                    kind=kind_of(body),
                    body=body.to_value(),
                ),
                self._key,
                self._ledger.chain_id,
            )
            raw = signed.signed.raw
            await self._ledger.submit(raw, is_own=True)
            self._waiting[signed.transaction_id] = raw
        self._on_pending()
        if self._needs_gossip():
            await self._gossip(raw)
        self._to_offer.set()
        return signed.transaction_id

    def _next_nonce(self) -> int:
        account = self._ledger.chain.state.account(self._did)
        taken = {parse_transaction(raw).transaction.nonce for raw in self._waiting.values()}
        for nonce in range(account.nonce, account.nonce + NONCE_WINDOW):
            if nonce not in taken and not account.is_used(nonce):
                return nonce
        raise NotYetError("tx.nonce", f"{NONCE_WINDOW} own transactions wait for a block already")

    def on_commit(self, result: CommitResult) -> None:
        """Commit listener: notes what became final."""
        for transaction, _kind in result.transactions:
            self._waiting.pop(transaction, None)
            self._final[transaction] = result.header.height
            self._turns.pop(transaction, None)
        while len(self._final) > FINAL_MAX:
            self._final.popitem(last=False)
        if self._waiting:
            self._to_offer.set()  # some may have become hopeless
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def _height_of(self, transaction: TransactionId) -> int | None:
        """The height at which a transaction became final: lately, or ever.

        Raises:
            PolicyError: it never will.
        """
        if (refused := self._refused.get(transaction)) is not None:
            raise PolicyError(refused.rule, str(refused))
        if transaction in self._final or transaction in self._waiting:
            return self._final.get(transaction)
        chain = self._ledger.chain
        return (await self._ledger.run(lambda: chain.transaction_status(transaction))).height

    async def wait_final(self, transaction: TransactionId, timeout_s: float) -> int:
        """Waits until a transaction is final and returns its height.

        Raises:
            NotYetError: not within `timeout_s`.
            PolicyError: the ledger moved on so that it never will be.
        """
        with trio.move_on_after(timeout_s):
            while True:
                news = self._news
                height = await self._height_of(transaction)
                if height is not None:
                    return height
                await news.wait()
        raise NotYetError("tx.pending", f"transaction {transaction.hex()[:8]} is not final yet")

    async def run(self) -> None:
        """Hands over what is not final, at once and then again and again, until cancelled."""
        for raw in await self._ledger.run(self._ledger.chain.own_pending):
            self._waiting[parse_transaction(raw).transaction_id] = raw
        self._loaded.set()  # not before: the nonces of the last run are taken
        gossip_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            while True:
                self._to_offer = trio.Event()
                self._forget_expired()
                await self._forget_hopeless()
                now = trio.current_time()
                due: list[bytes] = []
                for transaction, raw in tuple(self._waiting.items()):
                    if now >= gossip_at:
                        await self._gossip(raw)
                    if self._is_due(transaction, now):
                        due.append(raw)
                if due:
                    # Beside the others: a validator that never answers holds up none of them.
                    nursery.start_soon(self._offer, due)
                if now >= gossip_at:
                    gossip_at = now + RESEND_S
                with trio.move_on_after(RESEND_S):
                    await self._to_offer.wait()

    def _is_due(self, transaction: TransactionId, now: float) -> bool:
        """Whether a transaction is to be handed over now; sets when it is looked at again.

        On a metered node, whom nobody tells of blocks, what was handed over is looked for first,
        and each time it was not there it rests twice as long.
        """
        turn = self._turns.get(transaction)
        if turn is None:
            self._turns[transaction] = _Turn(now + RESEND_S, RESEND_S, is_looked_for=False)
            return True
        if now < turn.at:
            return False
        if self._look is None:
            turn.at = now + RESEND_S
        elif not turn.is_looked_for:
            self._look()
            turn.at, turn.is_looked_for = now + RESEND_S, True
            return False
        else:
            turn.pause_s = min(2 * turn.pause_s, RESEND_S_MAX)
            turn.at, turn.is_looked_for = now + turn.pause_s, False
        return True

    async def _forget_hopeless(self) -> None:
        """Gives up what my own copy refuses for good by now: another transaction came first.

        Validators would take it for an offence, and its nonce is needed.
        """
        chain = self._ledger.chain
        for transaction, raw in tuple(self._waiting.items()):
            if transaction in chain.mempool:
                continue
            try:
                await self._ledger.submit(raw, is_own=True)
            except NotYetError:
                continue
            except StorageError as error:
                logger.error(  # noqa: TRY400 - no defect
                    "own transaction not kept: %s", error
                )
            except PolicyError as error:
                if error.rule not in KNOWN_RULES and transaction in self._waiting:
                    self._forget_refused(transaction, error)

    def _forget_refused(self, transaction: TransactionId, error: PolicyError) -> None:
        logger.warning("transaction %s will never be final: %s", transaction.hex()[:8], error)
        del self._waiting[transaction]
        self._turns.pop(transaction, None)
        self._refused[transaction] = error
        self._tell()
        while len(self._refused) > FINAL_MAX:
            self._refused.popitem(last=False)

    def _forget_expired(self) -> None:
        now_ms = self._ledger.chain.head.time_ms
        for transaction, raw in tuple(self._waiting.items()):
            if parse_transaction(raw).transaction.valid_until_ms < now_ms:
                del self._waiting[transaction]
                self._turns.pop(transaction, None)
                logger.warning("transaction %s expired before it was final", transaction.hex()[:8])
