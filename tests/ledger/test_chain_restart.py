"""The chain over its database: restarts, failures, databases of others, damage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import (
    LedgerError,
)
from protocol.digest import TransactionId, sha256
from protocol.errors import StorageError
from tests.support.ledger import (
    GENESIS_MS,
    advance,
    authorise,
    build_next,
    make_lab,
)


def anchor(lab, size=1, index=0):
    body = AnchorReceipts(size=size, root=sha256(b"%d" % size))
    return lab.transaction(lab.gateways[index], body)


def snapshot(chain):
    return (
        chain.head,
        chain.certificate,
        chain.state,
        chain.mempool.pending,
        chain._store.head(),
        chain._store.state_items(),
    )


def test_own_transactions_survive_a_restart_until_they_are_final(tmp_path):
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    own, foreign, late = anchor(lab, 1), anchor(lab, 1, index=1), anchor(lab, 2)
    brief = lab.transaction(
        lab.publisher, AnchorReceipts(size=1, root=sha256(b"")), valid_until_ms=GENESIS_MS + 100
    )
    for signed, is_own in ((own, True), (foreign, False), (late, True), (brief, True)):
        chain.submit(signed.signed.raw, now_ms=GENESIS_MS, is_own=is_own)
    chain._store.close()
    chain = lab.open_chain(tmp_path / "ledger.db")
    assert chain.mempool.pending == (
        own.transaction_id,
        late.transaction_id,
        brief.transaction_id,
    )
    block = build_next(chain)
    chain.commit(block.block_id, lab.certificate(block))
    assert chain.mempool.pending == ()
    with pytest.raises(LedgerError, match=r"tx\.final"):
        chain.submit(own.signed.raw, now_ms=GENESIS_MS)
    # What expired leaves the store with the next block, or at the next start.
    assert chain._store.pending() == (brief.signed.raw,)
    advance(lab, chain)
    assert chain._store.pending() == ()


def test_pending_transactions_are_judged_at_the_start(tmp_path):
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    store = chain._store
    store.add_pending(TransactionId(sha256(b"junk")), b"junk")
    ahead = lab.transaction(lab.gateways[0], AnchorReceipts(size=1, root=sha256(b"")), nonce=16)
    store.add_pending(ahead.transaction_id, ahead.signed.raw)
    store.close()
    chain = lab.open_chain(tmp_path / "ledger.db")
    assert chain.mempool.pending == ()
    assert chain._store.pending() == (ahead.signed.raw,), "what may become valid is kept"


def test_a_transaction_that_cannot_be_kept_is_not_accepted(tmp_path):
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    signed = anchor(lab)
    chain._store._database.execute("PRAGMA query_only=ON")
    with pytest.raises(StorageError):
        chain.submit(signed.signed.raw, now_ms=GENESIS_MS, is_own=True)
    assert signed.transaction_id not in chain.mempool


def test_a_failed_commit_adopts_nothing_and_can_be_repeated(tmp_path):
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    block = build_next(chain, [anchor(lab)])
    before = snapshot(chain)
    chain._store._database.execute("PRAGMA query_only=ON")
    with pytest.raises(StorageError, match=r"ledger\.db"):
        chain.commit(block.block_id, lab.certificate(block))
    chain._store._database.execute("PRAGMA query_only=OFF")
    assert snapshot(chain) == before
    assert len(chain.commit(block.block_id, lab.certificate(block))) == 1


def test_a_restart_continues_where_the_chain_was(tmp_path):
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    manifest = lab.manifest()
    authorise(lab, chain, manifest)
    head, root, log = chain.head, chain.state.tree.root, chain.state.log
    chain._store.close()
    again = lab.open_chain(tmp_path / "ledger.db")
    assert (again.head, again.state.tree.root, again.state.log) == (head, root, log)
    advance(lab, again, [lab.revoke(manifest.manifest_id)])


@pytest.mark.parametrize("steps", [0, 2])
def test_a_database_of_another_chain_is_refused_by_name(tmp_path, steps):
    lab, other = make_lab(), make_lab(gateways=3)
    chain = lab.open_chain(tmp_path / "ledger.db")
    for _ in range(steps):
        advance(lab, chain)
    chain._store.close()
    with pytest.raises(StorageError, match=rf"ledger\.db.*{lab.chain_id.hex()[:8]}"):
        other.open_chain(tmp_path / "ledger.db")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE nodes SET node = x'02'", "state"),
        ("DELETE FROM nodes", "state"),
        ("UPDATE meta SET value = x'00' WHERE name = 'root'", "state"),
        ("UPDATE meta SET value = x'0100' WHERE name = 'root'", "root"),
        ("UPDATE meta SET value = x'a200000180' WHERE name = 'log'", "log"),
        ("DELETE FROM bodies WHERE height = 2", "body"),
        ("UPDATE headers SET certificate = NULL WHERE height = 2", "certificate"),
        ("UPDATE headers SET header = x'00' WHERE height = 2", "header"),
        ("DELETE FROM headers WHERE height = 2", "state"),
        ("DELETE FROM headers", "genesis"),
        ("DELETE FROM headers WHERE height = 0", "genesis"),
        ("UPDATE meta SET value = 'text' WHERE name = 'chain'", "str for a blob"),
    ],
)
def test_a_damaged_database_is_refused_by_name(tmp_path, statement, message):
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    advance(lab, chain)
    advance(lab, chain, [anchor(lab)])
    chain._store._database.execute(statement)
    chain._store.close()
    with pytest.raises(StorageError, match=rf"ledger\.db.*{message}"):
        lab.open_chain(tmp_path / "ledger.db")


def test_a_genesis_block_that_the_document_does_not_give_is_refused(tmp_path):
    lab = make_lab()
    chain = lab.open_chain(tmp_path / "ledger.db")
    forged = replace(chain.head, time_ms=GENESIS_MS + 1)
    chain._store._database.execute(
        "UPDATE headers SET header = ?, block_id = ?", (forged.encoded, forged.block_id)
    )
    chain._store.close()
    with pytest.raises(StorageError, match=r"ledger\.db.*genesis"):
        lab.open_chain(tmp_path / "ledger.db")
