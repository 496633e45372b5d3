"""The receipt service: nothing waits for a disk, nothing floods it, what is anchored fits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from ledger.bodies.receipt import AnchorReceipts
from protocol.digest import sha256
from protocol.errors import NotYetError, PolicyError, StorageError
from swarmd.ledger_host import LedgerHost
from swarmd.receipts import Receipt, ReceiptKind, ReceiptLog, verify_receipt
from swarmd.services.receipts import (
    ANCHOR_INTERVAL_S,
    COUNTS_MAX,
    FIRST_ANCHOR_S,
    NOTES_PER_HOUR_MAX,
    QUEUE_MAX,
    REPEAT_S,
    REPEATS_MAX,
    WRITE_RETRY_S,
    ReceiptService,
)
from tests.support.ledger import Lab, advance, make_lab


class Bench:
    def __init__(self, path: Path) -> None:
        self.lab: Lab = make_lab()
        self.chain = self.lab.open_chain()
        self.log = ReceiptLog(path / "receipts.db", self.lab.chain_id)
        self.anchors: list[AnchorReceipts] = []
        self.refuse_anchors = False
        self.service = ReceiptService(
            log=self.log,
            ledger=LedgerHost(self.chain, lambda: 0),
            own_did=self.lab.gateways[0].did,
            time_ms=lambda: 7,
        )

    async def submit(self, body: AnchorReceipts) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.refuse_anchors:
            raise NotYetError("tx.nonce", "not now")
        self.anchors.append(body)
        return b""

    async def settle(self) -> None:
        """Lets the writer finish: it works in threads, of which a mock clock knows nothing."""
        while True:
            # A note between channel and list is in neither: its task is about to run.
            await trio.testing.wait_all_tasks_blocked()
            waiting = self.service._receive.statistics().current_buffer_used
            if not waiting and not self.service._unwritten:
                return
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[Bench]:
    bench = Bench(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.service.run, bench.submit)
        await trio.testing.wait_all_tasks_blocked()
        yield bench
        nursery.cancel_scope.cancel()
    bench.log.close()


async def test_notes_are_written_and_cut_to_size(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        await bench.service.note(ReceiptKind.FETCHED, manifest=b"m" * 32)
        bench.service.note_nowait(
            ReceiptKind.FAILED, subject="a\u202eb\n", detail="\U0001f600" * 200 + "\ud800"
        )
        await bench.settle()
        (_, fetched), (number, failed) = bench.service.numbered(9)
        assert number == 1
        assert (fetched.kind, fetched.time_ms, fetched.height) == (ReceiptKind.FETCHED, 7, 0)
        assert failed.subject == "a?b?"
        assert failed.detail == "\U0001f600" * 63
        assert bench.service.size == 2


async def test_what_others_provoke_is_noted_once_an_hour(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:
        for _ in range(100):
            for subject in ("192.0.2.1", "192.0.2.2"):
                bench.service.note_once(ReceiptKind.REFUSED, subject=subject, detail="rule")
        await bench.settle()
        assert bench.service.size == 2
        mock_clock.jump(REPEAT_S + 1)
        bench.service.note_once(ReceiptKind.REFUSED, subject="192.0.2.1", detail="rule")
        await bench.settle()
        details = [entry.detail for entry in bench.service.newest(9)]
        assert sorted(details) == ["198 more: refused rule", "rule", "rule", "rule"]


async def test_memory_queue_and_disk_are_bounded(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    bench = Bench(tmp_path)  # nobody writes
    hours = REPEATS_MAX // NOTES_PER_HOUR_MAX + 1
    for hour in range(hours):
        for index in range(NOTES_PER_HOUR_MAX + 10):  # one device, many addresses
            bench.service.note_once(ReceiptKind.OFFERED, subject=f"{hour}.{index}", detail="http")
        assert len(bench.service._seen) <= NOTES_PER_HOUR_MAX * (hour + 1)
        mock_clock.jump(REPEAT_S)
    assert len(bench.service._seen) == REPEATS_MAX
    assert bench.service.dropped == hours * (NOTES_PER_HOUR_MAX + 10) - QUEUE_MAX
    await bench.service.flush()
    assert bench.service.size == QUEUE_MAX + 1
    (counted,) = bench.service.newest(1)
    assert counted.detail == f"{bench.service.dropped} more: offered http"
    bench.log.close()


class FullLog:
    """A log whose disk is full for a while."""

    def __init__(self, log: ReceiptLog) -> None:
        self.log = log
        self.is_full = True

    def append(self, receipts: tuple[Receipt, ...]) -> None:
        if self.is_full:
            raise StorageError("database or disk is full")
        self.log.append(receipts)

    def __getattr__(self, name: str) -> object:
        return getattr(self.log, name)


async def test_a_full_disk_makes_receipts_wait_and_loses_none(
    tmp_path: Path, mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as bench:
        full = bench.service._log = FullLog(bench.log)  # type: ignore[assignment]
        bench.service.note_nowait(ReceiptKind.FETCHED)
        while "wait for the disk" not in caplog.text:
            await trio.lowlevel.checkpoint()
        bench.service.note_nowait(ReceiptKind.OFFERED)
        await bench.service.flush()
        assert "receipts are lost" in caplog.text
        full.is_full = False  # type: ignore[attr-defined]
        mock_clock.jump(WRITE_RETRY_S + 1)
        await bench.settle()
        kinds = [entry.kind for entry in bench.service.newest(9)]
        assert kinds == [ReceiptKind.FETCHED, ReceiptKind.OFFERED]


async def test_the_root_is_anchored_once_it_has_grown(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    async with running(tmp_path) as bench:

        async def after(seconds: float) -> None:
            mock_clock.jump(seconds)
            await trio.testing.wait_all_tasks_blocked()

        await after(FIRST_ANCHOR_S)
        assert not bench.anchors  # nothing to anchor
        bench.service.note_nowait(ReceiptKind.FETCHED)
        await bench.settle()
        bench.refuse_anchors = True
        await after(FIRST_ANCHOR_S)
        bench.refuse_anchors = False
        await after(FIRST_ANCHOR_S * 6)
        assert bench.anchors == [AnchorReceipts(size=1, root=bench.log.root)]
        bench.service.note_nowait(ReceiptKind.FETCHED)
        await bench.settle()
        await after(ANCHOR_INTERVAL_S - 1)
        assert len(bench.anchors) == 1
        await after(1)
        assert bench.anchors[1] == AnchorReceipts(size=2, root=bench.log.root)
        # Final now: the same root is not submitted again.
        body = bench.anchors[1]
        advance(bench.lab, bench.chain, [bench.lab.transaction(bench.lab.gateways[0], body)])
        await after(ANCHOR_INTERVAL_S)
        assert len(bench.anchors) == 2


async def test_a_denial_flood_under_many_names_is_counted_by_rule(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    bench = Bench(tmp_path)
    for index in range(NOTES_PER_HOUR_MAX + 5_000):
        bench.service.answered(f"peer {index}", "serve", b"m" * 32, f"rule.{index % 200}")
    assert len(bench.service._unlisted) <= COUNTS_MAX + 1
    await bench.service.flush()
    entries = bench.service.newest(1000)
    listed = [entry for entry in entries if entry.kind is ReceiptKind.REFUSED]
    counted = [entry for entry in entries if entry.kind is ReceiptKind.UNLISTED]
    assert len(listed) == NOTES_PER_HOUR_MAX
    assert sum(int(entry.detail.split()[0]) for entry in counted) == 5_000
    bench.log.close()


async def test_answers_are_noted_when_they_change(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    bench = Bench(tmp_path)
    for rule in (None, None, "quarantine.peer", "quarantine.peer", None):
        bench.service.answered("peer", "serve", b"m" * 32, rule)
    await bench.service.flush()
    kinds = [entry.kind for entry in bench.service.newest(9)]
    assert kinds == [ReceiptKind.GRANTED, ReceiptKind.REFUSED, ReceiptKind.UNLISTED]
    bench.log.close()


@pytest.mark.parametrize("is_shorter", [True, False])
async def test_a_log_that_was_set_back_is_never_anchored_again(
    tmp_path: Path,
    mock_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    *,
    is_shorter: bool,
) -> None:
    bench = Bench(tmp_path)
    size = 9 if is_shorter else 1
    body = AnchorReceipts(size=size, root=sha256(b"what a lost disk held"))
    advance(bench.lab, bench.chain, [bench.lab.transaction(bench.lab.gateways[0], body)])
    bench.service.note_nowait(ReceiptKind.FETCHED)
    bench.service.note_nowait(ReceiptKind.FETCHED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.service.run, bench.submit)
        await trio.testing.wait_all_tasks_blocked()
        await bench.settle()
        mock_clock.jump(FIRST_ANCHOR_S)
        while bench.service.set_back is None:
            await trio.lowlevel.checkpoint()
        assert "set back" in caplog.text
        mock_clock.jump(ANCHOR_INTERVAL_S * 3)
        await bench.settle()
        nursery.cancel_scope.cancel()
    assert not bench.anchors
    bench.log.close()


async def test_an_entry_is_proven_to_a_third_party_by_the_anchor(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(5):
        bench.service.note_nowait(ReceiptKind.FETCHED)
    with pytest.raises(NotYetError):
        bench.service.receipt_proof(0)
    await bench.service.flush()
    size, root = bench.log.head
    bench.service.note_nowait(ReceiptKind.OFFERED)
    await bench.service.flush()
    body = AnchorReceipts(size=size, root=root)
    advance(bench.lab, bench.chain, [bench.lab.transaction(bench.lab.gateways[0], body)])
    anchor = bench.chain.state.anchor(bench.lab.gateways[0].did)
    assert anchor is not None
    for index in range(size):
        proof = bench.service.receipt_proof(index)
        assert verify_receipt(proof).kind is ReceiptKind.FETCHED
        assert (proof.size, proof.root) == (anchor.size, anchor.root)
    with pytest.raises(NotYetError, match="unanchored"):
        bench.service.receipt_proof(size)
    with pytest.raises(PolicyError, match="unknown"):
        bench.service.receipt_proof(size + 1)
    bench.log.prune(2)
    with pytest.raises(PolicyError, match="pruned"):
        bench.service.receipt_proof(1)
    assert verify_receipt(bench.service.receipt_proof(2))
    bench.log.close()
