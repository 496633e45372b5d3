"""Drops bodies of old blocks, a portion at a time, in the ledger's worker thread.

How many are kept is the operator's setting; a daemon that keeps all runs nothing of this. What
peers need to follow from a kept version of the state stays in any case.
"""

from __future__ import annotations

import logging
from typing import Final

from protocol.errors import StorageError
from swarmd.ledger_host import LedgerHost

logger = logging.getLogger(__name__)

EVERY_BLOCKS: Final = 64
"""Blocks between two looks: each costs a query, and a transaction if there is something to drop."""


class PruningService:
    """Keeps the newest bodies only."""

    def __init__(self, ledger: LedgerHost, keep_blocks: int) -> None:
        """Keeps `keep_blocks` bodies; 0 keeps all."""
        self._ledger = ledger
        self._keep_blocks = keep_blocks

    async def run(self) -> None:
        """Prunes at the start and as the chain grows, until cancelled."""
        if self._keep_blocks == 0:
            return
        pruned_at = -EVERY_BLOCKS
        while True:
            height = self._ledger.chain.head.height
            if height >= pruned_at + EVERY_BLOCKS:
                pruned_at = height
                await self.prune()
            else:
                await self._ledger.wait_advanced()

    async def prune(self) -> int:
        """Drops what is too old, in portions; others use the store in between. Returns how much."""
        chain, dropped = self._ledger.chain, 0
        try:
            while count := await self._ledger.run(lambda: chain.prune(self._keep_blocks)):
                dropped += count
        except StorageError as error:
            logger.error(  # noqa: TRY400 - no defect
                "old blocks cannot be dropped: %s", error
            )
        return dropped
