"""The ledger's database by itself: opening, atomicity, durability, full disk."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import replace

import pytest

from ledger.block_store import STORE_SCHEMA, BlockStore, Durability
from ledger.bodies.receipt import AnchorReceipts
from ledger.certificate import Certificate
from ledger.chain_blocks import Executed, final_block
from ledger.state import LedgerState
from ledger.state_tree import StateTree
from ledger.transition.genesis import genesis_block, genesis_outcome
from ledger.vote import VoteKind
from protocol.digest import TransactionId, sha256
from protocol.errors import LocalProtocolError, StorageError
from protocol.merkle import verify_inclusion
from tests.support.ledger import advance, build_next, make_lab


@pytest.fixture
def lab():
    return make_lab()


def anchor(lab, size):
    body = AnchorReceipts(size=size, root=sha256(b"%d" % size))
    return lab.transaction(lab.gateways[0], body)


@pytest.mark.parametrize(
    ("durability", "synchronous"), [(Durability.FULL, 2), (Durability.BATCHED, 1)]
)
def test_validators_sync_each_commit_and_followers_batch(tmp_path, durability, synchronous):
    store = BlockStore(tmp_path / "ledger.db", durability)
    assert store._database.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert store._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store.identity() is None
    store.close()


def test_an_empty_store_has_no_head(tmp_path):
    store = BlockStore(tmp_path / "ledger.db", Durability.FULL)
    with pytest.raises(StorageError, match="no genesis block"):
        store.head()
    store.close()


def test_files_that_are_no_ledger_are_refused_by_name(tmp_path):
    (tmp_path / "text.db").write_bytes(b"certainly no database " * 100)
    with pytest.raises(StorageError, match=r"text\.db.*not a database"):
        BlockStore(tmp_path / "text.db", Durability.FULL)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE songs (name TEXT)")
    other.close()
    with pytest.raises(StorageError, match=r"other\.db.*not of a ledger"):
        BlockStore(tmp_path / "other.db", Durability.FULL)
    with pytest.raises(StorageError, match="unable to open"):
        BlockStore(tmp_path / "nowhere" / "ledger.db", Durability.FULL)


def test_a_file_system_without_wal_is_refused():
    with pytest.raises(StorageError, match="journal mode delete"):
        BlockStore("", Durability.FULL)  # SQLite's private temporary file has none


def test_a_newer_schema_is_refused(tmp_path):
    BlockStore(tmp_path / "ledger.db", Durability.FULL).close()
    newer = sqlite3.connect(tmp_path / "ledger.db")
    newer.execute(f"PRAGMA user_version={STORE_SCHEMA + 1}")
    newer.close()
    with pytest.raises(StorageError, match=rf"ledger\.db: schema {STORE_SCHEMA + 1} is newer"):
        BlockStore(tmp_path / "ledger.db", Durability.FULL)


def test_a_truncated_database_is_refused(lab, tmp_path):
    chain = lab.open_chain(tmp_path / "ledger.db")
    for size in range(1, 5):
        advance(lab, chain, [anchor(lab, size)])
    chain._store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    chain._store.close()
    data = (tmp_path / "ledger.db").read_bytes()
    (tmp_path / "ledger.db").write_bytes(data[: len(data) // 2])
    with pytest.raises(StorageError, match=r"ledger\.db"):
        lab.open_chain(tmp_path / "ledger.db")


def test_closing_twice_is_harmless_and_use_after_it_an_error(tmp_path):
    store = BlockStore(tmp_path / "ledger.db", Durability.FULL)
    store.close()
    store.close()
    with pytest.raises(StorageError, match="closed"):
        store.identity()


def fill_disk(store, pages=4):
    """Leaves room for a few pages only, as a full disk would."""
    (used,) = store._database.execute("PRAGMA page_count").fetchone()
    store._database.execute(f"PRAGMA max_page_count={used + pages}")


def test_a_full_disk_is_a_typed_error_and_loses_nothing(lab, tmp_path):
    chain = lab.open_chain(tmp_path / "ledger.db")
    advance(lab, chain, [anchor(lab, 1)])
    store = chain._store
    fill_disk(store)
    before = (store.head(), store.state_items(), store.log())
    message = ""
    for size in range(2, 60):
        try:
            advance(lab, chain, [anchor(lab, size)])
        except StorageError as error:
            message = str(error)
            break
        before = (store.head(), store.state_items(), store.log())
    assert re.search(r"ledger\.db.*full", message), "the disk fills at some point"
    assert (store.head(), store.state_items(), store.log()) == before
    assert chain.head == before[0][0], "the head in memory did not run ahead"
    store.close()
    again = lab.open_chain(tmp_path / "ledger.db")
    assert again.head == chain.head
    advance(lab, again)


@pytest.mark.parametrize("statement_count", range(1, 24))
def test_a_run_is_stored_as_a_whole_or_not_at_all(lab, tmp_path, statement_count, monkeypatch):
    """The connection dies at each statement of a commit in turn."""
    chain = lab.open_chain(tmp_path / "ledger.db", Durability.FULL)
    first = build_next(chain, [anchor(lab, 1)])
    second = build_next(chain, [lab.propose(lab.manifest())], parent=first)
    head = chain.head
    seen = 0

    def trace(statement):
        nonlocal seen
        seen += 1
        if seen == statement_count:
            chain._store._database.interrupt()

    # An interrupted statement fails, as one on a dying disk does.
    chain._store._database.set_trace_callback(trace)
    chain._store._database.set_progress_handler(lambda: int(seen >= statement_count), 1)
    try:
        chain.commit(second.block_id, lab.certificate(second))
        is_stored = True
    except StorageError:
        is_stored = False
    chain._store._database.set_trace_callback(None)
    chain._store._database.set_progress_handler(None, 1)
    assert is_stored == (seen < statement_count), "every statement can fail"
    expected = second.header if is_stored else head
    assert chain.head == expected
    chain._store.close()
    again = lab.open_chain(tmp_path / "ledger.db")
    assert again.head == expected
    assert again.state.tree.root == expected.state_root


def test_a_copy_taken_at_any_commit_opens(lab, tmp_path):
    """What is on disk after a commit is complete, with no orderly close."""
    chain = lab.open_chain(tmp_path / "ledger.db", Durability.FULL)
    for size in range(1, 4):
        advance(lab, chain, [anchor(lab, size)])
        copy = tmp_path / f"copy-{size}"
        copy.mkdir()
        for name in ("ledger.db", "ledger.db-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
        assert lab.open_chain(copy / "ledger.db").head == chain.head


def test_log_proofs_lead_to_the_root(lab):
    chain = lab.open_chain()
    for size in range(1, 6):
        advance(lab, chain, [anchor(lab, size)])
    for position in range(5):
        leaf, proof = chain.log_proof(position)
        verify_inclusion(leaf, index=position, size=5, proof=proof, root=chain.head.log_root)
    for position in (-1, 5):
        with pytest.raises(LocalProtocolError):
            chain.log_proof(position)
    with pytest.raises(LocalProtocolError):
        chain._store.log_proof(0, 6)


def test_pending_transactions_keep_their_order_and_go_once():
    store = BlockStore(":memory:", Durability.BATCHED)
    names = [TransactionId(sha256(b"%d" % number)) for number in range(3)]
    for number in (2, 0, 1, 2):
        store.add_pending(names[number], b"%d" % number)
    assert store.pending() == (b"2", b"0", b"1")
    store.drop_pending([names[0]])
    assert store.pending() == (b"2", b"1")
    store.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE headers SET block_id = x'00' WHERE height = 1", "damaged header"),
        ("UPDATE headers SET certificate = x'00' WHERE height = 1", "damaged certificate"),
        ("UPDATE headers SET header = 'text' WHERE height = 1", "str for a blob"),
    ],
)
def test_damaged_rows_are_told_by_name(lab, tmp_path, statement, message):
    chain = lab.open_chain(tmp_path / "ledger.db")
    advance(lab, chain)
    chain._store._database.execute(statement)
    with pytest.raises(StorageError, match=rf"ledger\.db.*{message}"):
        chain.finality(1)


def test_damaged_bodies_and_numbers_are_told(lab, tmp_path):
    chain = lab.open_chain(tmp_path / "ledger.db")
    signed = anchor(lab, 1)
    advance(lab, chain, [signed])
    database = chain._store._database
    name = chain.head.block_id
    database.execute("UPDATE bodies SET block = x'a0' WHERE height = 1")
    with pytest.raises(StorageError, match="damaged block"):
        chain._store.block(name)
    database.execute("UPDATE transactions SET height = 'high'")
    with pytest.raises(StorageError, match="str for an integer"):
        chain.transaction_status(signed.transaction_id)


def test_genesis_and_skip_certificates_are_kept(lab, tmp_path):
    store = BlockStore(tmp_path / "ledger.db", Durability.FULL)
    outcome = genesis_outcome(lab.genesis)
    block = genesis_block(lab.genesis, outcome.state)
    first = Executed(block=block, outcome=outcome, transactions=())
    store.create(lab.chain_id, 0, final_block(first, None))
    assert store.identity() == (lab.chain_id, 0)
    assert store.head() == (block.header, None)
    assert store.state_items() == outcome.writes
    votes = [lab.vote(VoteKind.NULLIFY, i, view=9, block_id=None) for i in range(3)]
    skip = Certificate.of(votes, lab.validator_set)
    store.commit([], certificates=[skip, skip])
    assert store.certificate(skip.digest) == skip
    with pytest.raises(StorageError, match="UNIQUE"):
        store.create(lab.chain_id, 0, final_block(first, None))
    store.close()


@pytest.mark.slow
def test_many_keys_are_read_back_to_the_same_root(lab, tmp_path):
    store = BlockStore(tmp_path / "ledger.db", Durability.BATCHED)
    outcome = genesis_outcome(lab.genesis)
    more = {b"z/" + number.to_bytes(8, "big"): b"v" * 64 for number in range(20_000)}
    writes = {**outcome.writes, **more}
    state = LedgerState(StateTree().update(writes), outcome.state.log)
    grown = replace(outcome, writes=writes, state=state)
    first = Executed(block=genesis_block(lab.genesis, state), outcome=grown, transactions=())
    store.create(lab.chain_id, 0, final_block(first, None))
    store.close()
    chain = lab.open_chain(tmp_path / "ledger.db")
    assert chain.state.tree.root == state.tree.root
