"""The receipt service: notes outcomes in the receipt log and anchors its root in the ledger.

Notes are queued (bounded) and written together, so that deciding never waits for a disk; while the
disk refuses, they wait, and what finds the queue full is counted. What others can provoke at will
(refusals, transfers to devices) is noted once an hour for each subject, so that nobody can fill the
disk with it. The root is anchored when the log has grown and the anchor interval has passed; an
anchor that did not become final is submitted again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ledger.bodies.receipt import AnchorReceipts
from protocol.digest import DidId
from protocol.errors import StorageError, SwarmError
from swarmd.ledger_host import LedgerHost
from swarmd.receipts import DETAIL_BYTES_MAX, Receipt, ReceiptKind, ReceiptLog

logger = logging.getLogger(__name__)

ANCHOR_INTERVAL_S: Final = 3600.0
"""Least time between two anchors, seconds: 24 transactions a day and node."""
FIRST_ANCHOR_S: Final = 5.0
"""The first anchor after a start comes this soon, seconds."""
QUEUE_MAX: Final = 1024
"""Receipts that wait to be written; beyond it the newest are dropped and counted."""
REPEAT_S: Final = 3600.0
"""The same outcome for the same subject is noted this often, seconds."""
NOTES_PER_HOUR_MAX: Final = 512
"""Outcomes an hour that others can provoke, however many names they come under: 4 MiB a day."""
REPEATS_MAX: Final = 4096
"""Remembered outcomes."""
WRITE_RETRY_S: Final = 10.0
"""Pause after the disk refused, seconds."""


class ReceiptService:
    """Writes and anchors the receipt log of this node."""

    def __init__(
        self,
        *,
        log: ReceiptLog,
        ledger: LedgerHost,
        own_did: DidId,
        time_ms: Callable[[], int],
    ) -> None:
        """Wires the service; `time_ms` is this node's ledger time."""
        self._log = log
        self._ledger = ledger
        self._own_did = own_did
        self._time_ms = time_ms
        self._send, self._receive = trio.open_memory_channel[Receipt](QUEUE_MAX)
        self._seen: dict[tuple[ReceiptKind, str, str, bytes], float] = {}
        self._unwritten: list[Receipt] = []
        self._writing = trio.Lock()
        self._hour_began = trio.current_time()
        self._hour_count = 0
        self.dropped = 0
        """Receipts lost because the queue or an hour's share was full."""

    async def note(
        self,
        kind: ReceiptKind,
        *,
        manifest: bytes = b"",
        subject: str = "",
        detail: str = "",
    ) -> None:
        """Notes an outcome; returns at once."""
        self.note_nowait(kind, manifest=manifest, subject=subject, detail=detail)
        await trio.lowlevel.checkpoint()

    def note_nowait(
        self,
        kind: ReceiptKind,
        *,
        manifest: bytes = b"",
        subject: str = "",
        detail: str = "",
    ) -> None:
        """Notes an outcome without waiting."""
        receipt = Receipt(
            kind=kind,
            time_ms=self._time_ms(),
            height=self._ledger.chain.head.height,
            manifest=manifest,
            subject=_fit(subject),
            detail=_fit(detail),
        )
        try:
            self._send.send_nowait(receipt)
        except trio.WouldBlock:
            self.dropped += 1

    def note_once(
        self, kind: ReceiptKind, *, subject: str, detail: str, manifest: bytes = b""
    ) -> None:
        """Notes an outcome, once an hour for each kind, subject, detail and manifest."""
        now = trio.current_time()
        key = (kind, subject, detail, manifest)
        last = self._seen.pop(key, None)
        is_due = last is None or now - last > REPEAT_S
        if is_due and not self._may_note(now):
            self.dropped += 1
            return
        self._seen[key] = now if last is None or is_due else last
        while len(self._seen) > REPEATS_MAX:
            self._seen.pop(next(iter(self._seen)))
        if is_due:
            self.note_nowait(kind, manifest=manifest, subject=subject, detail=detail)

    def _may_note(self, now: float) -> bool:
        """Whether this hour still has room for what others provoke."""
        if now - self._hour_began >= REPEAT_S:
            self._hour_began, self._hour_count = now, 0
        self._hour_count += 1
        return self._hour_count <= NOTES_PER_HOUR_MAX

    async def run(self, submit: Callable[[AnchorReceipts], Awaitable[bytes]]) -> None:
        """Writes and anchors until cancelled; `submit` signs and submits a transaction body."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_writing)
            nursery.start_soon(self._keep_anchoring, submit)

    async def _keep_writing(self) -> None:
        async for first in self._receive:
            self._unwritten += [first, *self._drain()]
            while self._unwritten:
                try:
                    await self._write()
                except StorageError as error:
                    logger.error(  # noqa: TRY400 - no defect
                        "receipts wait for the disk: %s", error
                    )
                    await trio.sleep(WRITE_RETRY_S)

    async def _write(self) -> None:
        """Writes what is unwritten, all or nothing; never abandoned half-way."""
        with trio.CancelScope(shield=True):
            async with self._writing:
                batch = tuple(self._unwritten)
                await trio.to_thread.run_sync(self._log.append, batch)
                del self._unwritten[: len(batch)]

    def _drain(self) -> list[Receipt]:
        waiting: list[Receipt] = []
        while True:
            try:
                waiting.append(self._receive.receive_nowait())
            except trio.WouldBlock:
                return waiting

    async def flush(self) -> None:
        """Writes what waits; for an orderly stop."""
        self._unwritten += self._drain()
        if self._unwritten:
            try:
                await self._write()
            except StorageError as error:
                logger.error(  # noqa: TRY400 - no defect
                    "receipts are lost: %s", error
                )

    async def _keep_anchoring(self, submit: Callable[[AnchorReceipts], Awaitable[bytes]]) -> None:
        wait_s = FIRST_ANCHOR_S
        while True:
            await trio.sleep(wait_s)
            wait_s = FIRST_ANCHOR_S
            anchored = self._ledger.chain.state.anchor(self._own_did)
            size, root = self._log.head
            if size == 0 or (anchored is not None and anchored.size >= size):
                continue
            try:
                await submit(AnchorReceipts(size=size, root=root))
                wait_s = ANCHOR_INTERVAL_S
            except SwarmError as error:
                logger.info("receipts not anchored yet: %s", error)
                wait_s = FIRST_ANCHOR_S * 6

    def newest(self, count: int) -> tuple[Receipt, ...]:
        """The newest entries; blocks on storage, call through a worker thread."""
        return self._log.entries(newest=count)

    @property
    def size(self) -> int:
        """Entries written so far."""
        return self._log.size


def _fit(text: str) -> str:
    """Cuts a text to the entry's bound and drops characters an entry may not hold."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean.encode()[: DETAIL_BYTES_MAX - 4].decode(errors="ignore")
