"""The receipt log: append-only, provable, and whole after every kind of damage."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.digest import ChainId, sha256
from protocol.errors import EncodingError, StorageError, VerificationError
from protocol.merkle import leaf_hash, verify_inclusion
from swarmd.receipts import (
    SCHEMA_VERSION,
    Receipt,
    ReceiptKind,
    ReceiptLog,
    decode_receipt,
    verify_receipt,
)

CHAIN = ChainId(sha256(b"chain"))
RECEIPT = Receipt(
    kind=ReceiptKind.REFUSED,
    time_ms=1,
    height=2,
    manifest=b"m" * 32,
    subject="192.0.2.1",
    detail="manifest.revoked",
)


def receipts(count: int, *, start: int = 0) -> list[Receipt]:
    return [replace(RECEIPT, time_ms=start + index) for index in range(count)]


@pytest.mark.parametrize("kind", ReceiptKind)
def test_entries_survive_encoding(kind: ReceiptKind) -> None:
    receipt = replace(RECEIPT, kind=kind, manifest=b"")
    assert decode_receipt(receipt.encode()) == receipt


@pytest.mark.parametrize(
    "damage", [b"", b"junk", RECEIPT.encode() + b"\x00", RECEIPT.encode()[:-1]]
)
def test_damaged_entries_are_refused(damage: bytes) -> None:
    with pytest.raises(EncodingError):
        decode_receipt(damage)


def test_entries_are_kept_and_proven(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(5))
    anchored = log.head
    log.append(receipts(8, start=5))
    log.append([])
    log.close()
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    assert log.size == 13
    assert log.head == (13, log.root)
    assert log.entries(newest=3) == tuple(receipts(3, start=10))
    for number in range(5):
        proof = log.prove(number, anchored[0])
        assert proof.root == anchored[1]
        assert decode_receipt(proof.entry) == replace(RECEIPT, time_ms=number)
        verify_inclusion(
            leaf_hash(proof.entry),
            index=proof.index,
            size=proof.size,
            proof=proof.siblings,
            root=anchored[1],
        )
        assert proof.to_value()[4] == proof.root  # type: ignore[index]
    other = log.prove(3, 5)
    with pytest.raises(VerificationError):
        verify_inclusion(
            leaf_hash(RECEIPT.encode()), index=3, size=5, proof=other.siblings, root=anchored[1]
        )
    log.close()
    log.close()


@pytest.mark.parametrize(("number", "size"), [(3, 3), (-1, 3), (0, 4), (0, 0)])
def test_what_is_not_there_is_not_proven(tmp_path: Path, number: int, size: int) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(3))
    with pytest.raises(StorageError):
        log.prove(number, size)
    log.close()


@given(counts=st.lists(st.integers(0, 9), max_size=6), newest=st.integers(1, 20))
@settings(max_examples=20)
def test_batches_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], newest: int
) -> None:
    path = tmp_path_factory.mktemp("log")
    log, whole = ReceiptLog(path / "a.db", CHAIN), ReceiptLog(path / "b.db", CHAIN)
    entries = receipts(sum(counts))
    start = 0
    for count in counts:
        log.append(entries[start : start + count])
        start += count
    whole.append(entries)
    assert log.head == whole.head
    assert log.entries(newest=newest) == tuple(entries[-newest:])
    log.close()
    whole.close()


def test_a_failing_disk_adds_nothing(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(2))
    before = log.head
    log._database.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StorageError, match="full"):
        log.append(receipts(200))
    assert log.head == before
    log._database.execute("PRAGMA max_page_count = 10000")
    log.append(receipts(1, start=2))
    assert log.entries(newest=9) == tuple(receipts(3))
    log.close()


def test_another_chain(tmp_path: Path) -> None:
    ReceiptLog(tmp_path / "r.db", CHAIN).close()
    with pytest.raises(StorageError, match="another chain"):
        ReceiptLog(tmp_path / "r.db", ChainId(sha256(b"other")))


def test_a_newer_version(tmp_path: Path) -> None:
    ReceiptLog(tmp_path / "r.db", CHAIN).close()
    database = sqlite3.connect(tmp_path / "r.db")
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    database.close()
    with pytest.raises(StorageError, match="newer version"):
        ReceiptLog(tmp_path / "r.db", CHAIN)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM entry WHERE number = 1",
        "DELETE FROM entry WHERE number = 2",
        "UPDATE entry SET number = 9 WHERE number = 2",
        "UPDATE meta SET value = x'00' WHERE name = 'log'",
        "DELETE FROM meta WHERE name = 'log'",
        "DROP TABLE entry",
    ],
)
def test_damage_is_noticed_at_the_start(tmp_path: Path, damage: str) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(3))
    log._database.execute(damage)
    log.close()
    with pytest.raises(StorageError, match=r"r\.db"):
        ReceiptLog(tmp_path / "r.db", CHAIN)


def test_a_damaged_entry_is_a_typed_error(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(3))
    log._database.execute("UPDATE entry SET data = x'00' WHERE number = 1")
    with pytest.raises(StorageError, match="damaged"):
        log.entries(newest=3)
    log.close()


def test_no_database_at_all(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"this is no database, but it is long enough for one" * 40)
    with pytest.raises(StorageError, match="not a database"):
        ReceiptLog(tmp_path / "r.db", CHAIN)
    with pytest.raises(StorageError):
        ReceiptLog(tmp_path / "missing" / "r.db", CHAIN)


@pytest.mark.parametrize("cut_at", range(1, 9))
def test_power_cut_while_it_is_made(tmp_path: Path, cut_at: int) -> None:
    """Every statement of the creation is the last: the next start finds nothing or all."""

    class Cut(BaseException):
        pass

    class Dying(ReceiptLog):
        def _create(self, chain: ChainId) -> None:
            database, count = self._database, 0

            class Counting:
                def execute(self, *arguments: object) -> sqlite3.Cursor:
                    nonlocal count
                    count += 1
                    if count == cut_at:
                        raise Cut
                    return database.execute(*arguments)  # type: ignore[arg-type]

            self._database = Counting()  # type: ignore[assignment]
            try:
                super()._create(chain)
            finally:
                self._database = database

    with contextlib.suppress(Cut):
        Dying(tmp_path / "r.db", CHAIN).close()
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(1))
    assert log.size == 1
    log.close()


def test_power_cut_between_two_appends_loses_nothing(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(3))
    # What a power cut leaves: database and write-ahead log as they are, nobody closed them.
    for suffix in ("", "-wal"):
        path = tmp_path / f"r.db{suffix}"
        (tmp_path / f"after.db{suffix}").write_bytes(path.read_bytes())
    log.close()
    survivor = ReceiptLog(tmp_path / "after.db", CHAIN)
    assert survivor.entries(newest=9) == tuple(receipts(3))
    survivor.close()


def test_pruning_keeps_root_and_every_other_proof(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(9))
    head, before = log.head, log.prove(7, 9)
    pruned = log.prove(2, 9)
    assert log.prune(5) == 5
    assert log.prune(5) == 0
    assert log.head == head
    assert log.prove(7, 9) == before
    assert [number for number, _ in log.numbered(newest=100)] == [5, 6, 7, 8]
    assert verify_receipt(pruned), "who kept the bytes can still show them"
    assert log.prove(2, 9).siblings == pruned.siblings
    log.close()
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(1, start=9))
    assert log.root_at(9) == head[1]
    log.close()


def test_entries_since_a_time(tmp_path: Path) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(9))
    assert [number for number, _ in log.numbered(newest=100, since_ms=6)] == [6, 7, 8]
    assert [number for number, _ in log.numbered(newest=2, since_ms=6)] == [7, 8]
    log.close()


@pytest.mark.parametrize("altered", ["entry", "index", "size", "root", "siblings"])
def test_an_altered_proof_shows_nothing(tmp_path: Path, altered: str) -> None:
    log = ReceiptLog(tmp_path / "r.db", CHAIN)
    log.append(receipts(5))
    proof = log.prove(3, 5)
    verify_receipt(proof)
    changes = {
        "entry": RECEIPT.encode(),
        "index": 2,
        "size": 4,
        "root": sha256(b""),
        "siblings": proof.siblings[::-1],
    }
    with pytest.raises(VerificationError):
        verify_receipt(replace(proof, **{altered: changes[altered]}))
    log.close()
