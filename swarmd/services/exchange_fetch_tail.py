"""What follows the writes of one component and need not hold up the next one.

Checkpoints wait for the disk, and the digest of the whole costs as much as verifying the chunks:
both run in threads of their own while chunks go on arriving. Nothing depends on how far they are:
finishing the component does what is left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import trio

from chunks.store import ChunkStore, Download
from protocol.errors import StorageError

logger = logging.getLogger(__name__)

CHECKPOINT_GAP_S: Final = 0.1
"""Least time between two checkpoints, seconds: where chunks come faster than 40 MiB/s, what one
covers grows instead of what all of them cost."""

T = TypeVar("T")


class TailOwner(Protocol):
    """The service, as the tail of a fetch sees it."""

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Runs work in a worker thread of the service's limiter."""
        ...

    async def in_sync_thread(self, call: Callable[[], T]) -> T:
        """Runs work that mostly waits for the disk in a thread outside that limiter."""
        ...


class FetchTail:
    """See the module's docstring."""

    def __init__(self, store: ChunkStore, owner: TailOwner) -> None:
        """Waits until there is a download and something to do."""
        self.download: Download | None = None
        """What is being written, once it is prepared."""
        self._store = store
        self._owner = owner
        self._is_checkpoint_due = trio.Event()
        self._is_hashing_due = trio.Event()

    def checkpoint_soon(self) -> None:
        """Notes that much was written since the last checkpoint."""
        self._is_checkpoint_due.set()

    def hash_soon(self) -> None:
        """Notes that there is something to hash ahead."""
        self._is_hashing_due.set()

    async def run_checkpoints(self) -> None:
        """Makes a checkpoint when one is due, and not too often, until cancelled."""
        while True:
            await self._is_checkpoint_due.wait()
            self._is_checkpoint_due = trio.Event()
            await self._owner.in_sync_thread(self._checkpoint)
            await trio.sleep(CHECKPOINT_GAP_S)

    def _checkpoint(self) -> None:
        if self.download is None:
            return
        try:
            self._store.checkpoint(self.download)
        except StorageError as error:
            # The store has closed the download, or it is over: the next write will tell.
            logger.debug("no checkpoint: %s", error)

    async def run_hashing(self) -> None:
        """Hashes what has arrived in order, as soon as it has, until cancelled."""
        while True:
            await self._is_hashing_due.wait()
            self._is_hashing_due = trio.Event()
            before, reached = -1, 0
            while before < reached:
                before, reached = reached, await self._owner.in_thread(self._hash_ahead)

    def _hash_ahead(self) -> int:
        """Returns the index of the first chunk that was not taken."""
        if self.download is None:
            return 0
        try:
            return self._store.hash_ahead(self.download)
        except StorageError as error:
            logger.debug("not hashed ahead: %s", error)  # finishing will tell
            return 0
