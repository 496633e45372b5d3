"""Own transactions: signing, nonces, and handing them over until they are final.

A submitted transaction is stored durably by the chain before anybody hears of it. It is gossiped and
handed to connected validators, again and again until it is in a final block or has expired, so that
neither a crash of this node nor f silent validators can lose it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ledger.transaction import Body, kind_of
from protocol.digest import DidId, TransactionId
from protocol.errors import NotYetError
from protocol.keys import PrivateKey
from protocol.limits import NONCE_WINDOW
from protocol.transaction import Transaction, parse_transaction, sign_transaction
from swarmd.ledger_host import LedgerHost

logger = logging.getLogger(__name__)

LIFETIME_MS: Final = 6 * 3600 * 1000
"""How long an own transaction may wait for a block, milliseconds of header time."""
RESEND_S: Final = 10.0
"""Pause between two attempts to hand over what is not final, seconds."""


class SubmissionService:
    """Signs and submits transactions of this node."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        own_did: DidId,
        key: PrivateKey,
        time_ms: Callable[[], int],
        offer: Callable[[bytes], Awaitable[None]],
        gossip: Callable[[bytes], Awaitable[None]],
        on_pending: Callable[[], None],
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain, which keeps own transactions durably.
            own_did: who signs.
            key: this node's node key.
            time_ms: the best guess of the next header time, milliseconds.
            offer: hands a transaction to connected validators.
            gossip: publishes a transaction.
            on_pending: told when the own mempool changed.
        """
        self._ledger = ledger
        self._did = own_did
        self._key = key
        self._time_ms = time_ms
        self._offer = offer
        self._gossip = gossip
        self._on_pending = on_pending
        self._lock = trio.Lock()

    async def submit(self, body: Body) -> TransactionId:
        """Signs a transaction with the next free nonce and submits it.

        Returns:
            Its id; `wait_final` waits for a block.

        Raises:
            PolicyError: my own copy of the ledger refuses it.
            NotYetError: too many own transactions wait already.
        """
        async with self._lock:
            chain = self._ledger.chain
            signed = sign_transaction(
                Transaction(
                    era=chain.head.era,
                    signer=self._did,
                    nonce=await self._next_nonce(),
                    valid_until_ms=self._time_ms() + LIFETIME_MS,
                    kind=kind_of(body),
                    body=body.to_value(),
                ),
                self._key,
                self._ledger.chain_id,
            )
            raw = signed.signed.raw
            await self._ledger.submit(raw, is_own=True)
        self._on_pending()
        await self._spread(raw)
        return signed.transaction_id

    async def _next_nonce(self) -> int:
        chain = self._ledger.chain
        account = chain.state.account(self._did)
        pending = await self._ledger.run(chain.own_pending)
        taken = {parse_transaction(raw).transaction.nonce for raw in pending}
        for nonce in range(account.nonce, account.nonce + NONCE_WINDOW):
            if nonce not in taken and not account.is_used(nonce):
                return nonce
        raise NotYetError("tx.nonce", f"{NONCE_WINDOW} own transactions wait for a block already")

    async def _spread(self, raw: bytes) -> None:
        await self._gossip(raw)
        await self._offer(raw)

    async def wait_final(self, transaction: TransactionId, timeout_s: float) -> int:
        """Waits until a transaction is final and returns its height.

        Raises:
            NotYetError: not within `timeout_s`.
        """
        chain = self._ledger.chain
        with trio.move_on_after(timeout_s):
            while True:
                advanced = self._ledger.advanced
                height = (
                    await self._ledger.run(lambda: chain.transaction_status(transaction))
                ).height
                if height is not None:
                    return height
                await advanced.wait()
        raise NotYetError("tx.pending", f"transaction {transaction.hex()[:8]} is not final yet")

    async def run(self) -> None:
        """Hands over what is not final, until cancelled."""
        while True:
            for raw in await self._ledger.run(self._ledger.chain.own_pending):
                await self._spread(raw)
            await trio.sleep(RESEND_S)
