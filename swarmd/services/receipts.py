"""The receipt service: notes outcomes in the receipt log and anchors its root in the ledger.

Notes are queued (bounded) and written together, so that deciding never waits for a disk; while the
disk refuses, they wait. What others can provoke at will (grants, refusals, transfers to devices) is
noted once an hour for each subject, so that nobody can fill the disk with it. Nothing is lost in
silence: whatever is not listed is counted by kind and rule, and the counts are written once an hour
as an entry of their own. The root is anchored when the log has grown and the anchor interval has
passed; an anchor that did not become final is submitted again. A log that was set back, by a disk
or a backup, is never anchored again: two roots for one size would convict this node.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from ledger.bodies.receipt import AnchorReceipts
from ledger.chain_blocks import CommitResult
from ledger.errors import LedgerNotYetError
from ledger.proof_make import ProofBuilder
from ledger.records.anchor import AnchorRecord
from protocol.digest import DidId
from protocol.errors import NotYetError, StorageError, SwarmError
from swarmd.ledger_host import LedgerHost
from swarmd.receipts import DETAIL_BYTES_MAX, Receipt, ReceiptKind, ReceiptLog, ReceiptProof

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
COUNTS_MAX: Final = 64
"""Kinds and rules that are counted apart; what comes beyond is counted together."""
ANSWERS_MAX: Final = 4096
"""Remembered answers to peers; the oldest is forgotten first."""
ENTRIES_KEPT: Final = 100_000
"""Entries whose content is kept, about 20 MiB: 8 days at the highest rate, years at the usual."""
STANDING_KINDS: Final = ("cap.", "quarantine.", "report.contradiction")
"""Beginnings of the transaction kinds that change who may do what."""
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
        self._continued: AnchorRecord | None = None
        self._hour_began = trio.current_time()
        self._hour_count = 0
        self._unlisted: dict[tuple[ReceiptKind, str], int] = {}
        self._answers: dict[tuple[str, str, bytes], str] = {}
        self.dropped = 0
        """Outcomes not listed because the queue or an hour's share was full; they are counted."""
        self.set_back: str | None = None
        """Why this log is not anchored any more; None: it is."""

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
        receipt = self._receipt(kind, manifest=manifest, subject=subject, detail=detail)
        try:
            self._send.send_nowait(receipt)
        except trio.WouldBlock:
            self._count(kind, detail)
            self.dropped += 1

    def _receipt(
        self, kind: ReceiptKind, *, manifest: bytes = b"", subject: str = "", detail: str = ""
    ) -> Receipt:
        return Receipt(
            kind=kind,
            time_ms=self._time_ms(),
            height=self._ledger.chain.head.height,
            manifest=manifest,
            subject=_fit(subject),
            detail=_fit(detail),
        )

    def _count(self, kind: ReceiptKind, detail: str) -> None:
        """Counts an outcome that is not listed."""
        key = (kind, detail.partition(":")[0][:64])
        if key not in self._unlisted and len(self._unlisted) >= COUNTS_MAX:
            key = (kind, "other")
        self._unlisted[key] = self._unlisted.get(key, 0) + 1

    def answered(self, subject: str, action: str, manifest: bytes, rule: str | None) -> None:
        """Notes an answer to a peer when it is another than the last one.

        Args:
            subject: the peer.
            action: what it asked for.
            manifest: about which manifest.
            rule: why not; None: it was granted.
        """
        key = (subject, action, manifest)
        text = "" if rule is None else rule
        if self._answers.get(key) == text:
            return
        self._answers[key] = text
        while len(self._answers) > ANSWERS_MAX:
            self._answers.pop(next(iter(self._answers)))
        kind = ReceiptKind.GRANTED if rule is None else ReceiptKind.REFUSED
        detail = action if rule is None else f"{rule}: {action}"
        self.note_once(kind, subject=subject, detail=detail, manifest=manifest)

    def on_commit(self, result: CommitResult) -> None:
        """Commit listener: notes the transactions that change who may do what."""
        for transaction, kind in result.transactions:
            if kind.startswith(STANDING_KINDS):
                self.note_once(ReceiptKind.STANDING, subject=transaction.hex(), detail=kind)

    def note_once(
        self, kind: ReceiptKind, *, subject: str, detail: str, manifest: bytes = b""
    ) -> None:
        """Notes an outcome, once an hour for each kind, subject, detail and manifest."""
        now = trio.current_time()
        key = (kind, subject, detail, manifest)
        last = self._seen.pop(key, None)
        is_due = last is None or now - last > REPEAT_S
        if not is_due:
            self._count(kind, detail)
        elif not self._may_note(now):
            self._count(kind, detail)
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
            nursery.start_soon(self._keep_counting)
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

    async def _keep_counting(self) -> None:
        while True:
            await trio.sleep(REPEAT_S)
            self._note_counts()
            anchored = self._ledger.chain.state.anchor(self._own_did)
            below = min(self._log.size - ENTRIES_KEPT, 0 if anchored is None else anchored.size)
            if below > 0:
                try:
                    await trio.to_thread.run_sync(self._log.prune, below)
                except StorageError as error:
                    logger.error("receipts not pruned: %s", error)  # noqa: TRY400 - no defect

    def _note_counts(self) -> None:
        """Writes what was counted since the last time; what finds no room stays counted."""
        counts, self._unlisted = self._unlisted, {}
        for (kind, detail), count in counts.items():
            text = f"{count} more: {kind.name.lower()} {detail}".rstrip()
            receipt = self._receipt(ReceiptKind.UNLISTED, detail=text)
            try:
                self._send.send_nowait(receipt)
            except trio.WouldBlock:
                self._unlisted[kind, detail] = count

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
        """Writes what waits, and what was counted; for an orderly stop."""
        self._unwritten += self._drain()
        self._note_counts()
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
            try:
                if anchored is not None and not await self._continues(anchored):
                    return
                if size == 0 or (anchored is not None and anchored.size >= size):
                    continue
                await submit(AnchorReceipts(size=size, root=root))
                wait_s = ANCHOR_INTERVAL_S
            except SwarmError as error:
                logger.info("receipts not anchored yet: %s", error)
                wait_s = FIRST_ANCHOR_S * 6

    async def _continues(self, anchored: AnchorRecord) -> bool:
        """Whether this log goes on from what was anchored; says why not in `set_back`."""
        if anchored == self._continued:
            return True
        if anchored.size > self._log.size:
            self.set_back = f"{anchored.size} entries were anchored, {self._log.size} are here"
        elif await trio.to_thread.run_sync(self._log.root_at, anchored.size) != anchored.root:
            self.set_back = f"the first {anchored.size} entries are not those that were anchored"
        else:
            self._continued = anchored
            return True
        logger.error("the receipt log was set back and is not anchored any more: %s", self.set_back)
        return False

    def newest(self, count: int) -> tuple[Receipt, ...]:
        """The newest entries; blocks on storage, call through a worker thread."""
        return self._log.entries(newest=count)

    def numbered(self, count: int, since_ms: int = 0) -> tuple[tuple[int, Receipt], ...]:
        """The newest entries with their numbers; blocks on storage, call through a worker thread.

        Args:
            count: at most so many.
            since_ms: none older than this, ledger time in milliseconds.
        """
        return self._log.numbered(newest=count, since_ms=since_ms)

    def receipt_proof(self, index: int) -> ReceiptProof:
        """Proves an entry against this node's newest anchor; blocks on storage.

        Raises:
            NotYetError: `receipt.unanchored`.
            PolicyError: see `ReceiptLog.receipt_proof`.
            StorageError: unreadable.
        """
        anchor = self._ledger.chain.state.anchor(self._own_did)
        if anchor is None:
            raise NotYetError("receipt.unanchored", "no entry is anchored so far")
        return self._log.receipt_proof(index, anchor)

    @property
    def size(self) -> int:
        """Entries written so far."""
        return self._log.size

    def add_to(self, builder: ProofBuilder, number: int) -> None:
        """Adds an anchored entry of this node's log to a proof; blocks on storage.

        Raises:
            LedgerNotYetError: `proof.unanchored`: the newest anchor does not cover it.
            StorageError: the log was never that large, or is not readable.
        """
        size = builder.anchored_size(self._own_did)
        if number >= size:
            raise LedgerNotYetError(
                "proof.unanchored", f"the newest anchor covers {size} entries, not {number}"
            )
        proof = self._log.prove(number, size)
        builder.add_receipt(self._own_did, index=number, entry=proof.entry, siblings=proof.siblings)


def _fit(text: str) -> str:
    """Cuts a text to the entry's bound and drops characters an entry may not hold."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean.encode()[: DETAIL_BYTES_MAX - 4].decode(errors="ignore")
