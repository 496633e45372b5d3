"""Certifies this validator's vote keys for coming epochs, and deletes those whose epoch is over."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ledger.bodies.validators import CertifyKey, certify_message
from ledger.records.subject import SubjectStatus
from ledger.transition.kind import Body
from protocol.did import SubjectKind
from protocol.digest import DidId, TransactionId
from protocol.errors import PolicyError, StorageError
from protocol.limits import TRANSACTION_LIFETIME_MS_MAX
from protocol.transaction import parse_transaction
from swarmd.epoch_keys import EpochKeys
from swarmd.ledger_host import LedgerHost

logger = logging.getLogger(__name__)

CERTIFY_AHEAD: Final = 2
"""Epochs for which keys are certified beforehand: one may be slept through."""
RETRY_S: Final = 10.0
"""Pause after a certificate could not be submitted, seconds."""
Submit = Callable[[Body], Awaitable[TransactionId]]
"""Signs and submits an own transaction."""


class VoteKeys:
    """The life of one validator's vote keys."""

    def __init__(
        self, *, keys: EpochKeys, ledger: LedgerHost, own_did: DidId, submit: Submit
    ) -> None:
        """Wires the service.

        Args:
            keys: the files, loaded.
            ledger: own copy of the chain.
            own_did: who this validator is.
            submit: submits an own transaction.
        """
        self.keys: Final = keys
        self._ledger = ledger
        self._did = own_did
        self._submit = submit
        self._submitted: dict[int, int] = {}

    async def run(self) -> None:
        """Keeps keys certified and old ones deleted, block by block, until cancelled."""
        await self._note_pending()
        while True:
            try:
                await self._certify_missing()
                await self._retire()
                await self._ledger.wait_advanced()
            except PolicyError as error:
                logger.info("vote key not certified yet: %s", error)
                await trio.sleep(RETRY_S)
            except StorageError as error:
                logger.error("vote keys: %s", error)  # noqa: TRY400 - no defect
                await trio.sleep(RETRY_S)

    async def _note_pending(self) -> None:
        """Remembers what the last run submitted and no block holds yet."""
        for raw in await self._ledger.run(self._ledger.chain.own_pending):
            transaction = parse_transaction(raw).transaction
            epoch = transaction.body.get(0)
            if transaction.kind == "validator.certify" and isinstance(epoch, int):
                self._submitted[epoch] = self._ledger.chain.head.time_ms

    async def _certify_missing(self) -> None:
        chain = self._ledger.chain
        subject = chain.state.subject(self._did)
        if subject is None or subject.kind is not SubjectKind.VALIDATOR:
            return
        record = chain.state.validator(self._did)
        if subject.status is not SubjectStatus.ACTIVE or record.convicted is not None:
            return
        current = chain.validators.epoch
        for epoch in range(current + 1, current + 1 + CERTIFY_AHEAD):
            if record.key_for(epoch) is None and epoch not in self._submitted:
                key = await trio.to_thread.run_sync(self.keys.for_epoch, epoch)
                message = certify_message(chain.rules.chain, chain.rules.era, self._did, epoch)
                await self._submit(CertifyKey(epoch=epoch, key=key.public, proof=key.sign(message)))
                self._submitted[epoch] = chain.head.time_ms

    async def _retire(self) -> None:
        """Deletes keys of epochs that are over; the hand-over is final and on this disk."""
        tip = self._ledger.chain.tip
        current = tip.rules.validators.epoch
        certified = tip.state.validator(self._did).keys
        keep = tuple(key for epoch, key in certified if epoch >= current)
        is_known = tip.state.subject(self._did) is not None
        count = await trio.to_thread.run_sync(
            lambda: self.keys.retire(current, keep=keep, is_known=is_known)
        )
        if count:
            logger.info("deleted %d vote keys of epochs that are over", count)
        expired_ms = tip.header.time_ms - TRANSACTION_LIFETIME_MS_MAX
        self._submitted = {  # what no block took while it was valid is submitted again
            epoch: since_ms
            for epoch, since_ms in self._submitted.items()
            if epoch > current and since_ms > expired_ms
        }
