"""Looks for the note that outside witnesses cosigned, and compares it with this node's own log."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import trio

from protocol.errors import StorageError, VerificationError
from protocol.tlog import NOTE_BYTES_MAX, log_origin, parse_checkpoint, parse_note
from swarmd.datadir import read_bounded
from swarmd.ledger_host import LedgerHost
from swarmd.witnesses import WitnessBook, WitnessedHead

logger = logging.getLogger(__name__)

LOOK_S: Final = 10.0
"""How often the data directory is looked at; notes are renewed every few minutes at most."""


class WitnessService:
    """Keeps the book of witnesses up to date."""

    def __init__(self, path: Path, ledger: LedgerHost, book: WitnessBook) -> None:
        """Reads the note at `path`, compares it with `ledger`, and tells `book`."""
        self._path = path
        self._ledger = ledger
        self._book = book
        self._complaint = ""

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_S)

    async def look(self) -> None:
        """Reads the note once; one that is missing, malformed or contradicts the log counts not."""
        try:
            head = await self._ledger.run(self._read)
            complaint = ""
        except (StorageError, VerificationError) as error:
            head, complaint = None, str(error)
        if complaint and complaint != self._complaint:
            logger.warning("the witnessed checkpoint does not count: %s", complaint)
        self._complaint = complaint
        self._book.learn(head)

    def _read(self) -> WitnessedHead | None:
        """Reads and compares, in the ledger's worker thread.

        Raises:
            StorageError: the file cannot be read.
            VerificationError: it is no checkpoint of this log.
        """
        if not self._path.exists():
            return None
        note = parse_note(read_bounded(self._path, bytes_max=NOTE_BYTES_MAX))
        checkpoint = parse_checkpoint(note.text)
        chain = self._ledger.chain
        origin = log_origin(chain.rules.chain, chain.rules.era)
        if checkpoint.origin != origin:
            raise VerificationError(f"it is about {checkpoint.origin[:80]!r}, not {origin!r}")
        own = chain.log_root_at(checkpoint.size)
        if own is None:
            raise VerificationError(f"it is about {checkpoint.size} entries, not all are here")
        root, height = own
        if root != checkpoint.root:
            raise VerificationError(
                f"witnesses saw another log of {checkpoint.size} entries: compare copies at once"
            )
        return WitnessedHead(note=note, checkpoint=checkpoint, height=height)
