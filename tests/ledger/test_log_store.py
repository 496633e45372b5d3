"""The log's tables: proofs, ranges and subtrees against the definitions of RFC 6962."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.block_store import BlockStore, Durability
from ledger.log import Log, grow
from protocol.digest import sha256
from protocol.errors import LocalProtocolError, StorageError
from protocol.merkle import inclusion_proof, merkle_root, verify_inclusion

LEAVES = [sha256(b"leaf %d" % number) for number in range(700)]


def make_store(*counts: int, start: Log | None = None):
    """Entries of blocks 1, 2, 3, ... after a log that began elsewhere."""
    store = BlockStore(":memory:", Durability.BATCHED)
    log = start or Log()
    with store.transaction() as database:
        if start is not None:
            store.entries.restore(database, start)
        for height, count in enumerate(counts, start=1):
            leaves = LEAVES[log.size : log.size + count]
            log = log.extend(leaves)
            store.entries.append(database, log, leaves, height)
    return store, log


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.data())
@settings(max_examples=30, deadline=None)
def test_proofs_equal_those_of_the_definition_at_every_size(counts, data):
    store, log = make_store(*counts)
    assert log.root == merkle_root(LEAVES[: log.size])
    size = data.draw(st.integers(0, log.size))
    assert store.entries.root(size) == merkle_root(LEAVES[:size])
    if size:
        position = data.draw(st.integers(0, size - 1))
        leaf, proof = store.entries.proof(position, size)
        assert (leaf, proof) == (LEAVES[position], inclusion_proof(LEAVES[:size], position))
    assert store.entries.check() == log.size
    store.close()


@given(st.integers(1, 300), st.lists(st.integers(0, 60), min_size=1, max_size=5), st.data())
@settings(max_examples=30, deadline=None)
def test_a_log_that_began_elsewhere_proves_what_came_after(before, counts, data):
    start = Log().extend(LEAVES[:before])
    store, log = make_store(*counts, start=start)
    assert store.entries.check() == log.size - before
    if log.size > before:
        position = data.draw(st.integers(before, log.size - 1))
        leaf, proof = store.entries.proof(position, log.size)
        verify_inclusion(leaf, index=position, size=log.size, proof=proof, root=log.root)
    with pytest.raises(LocalProtocolError, match="no entry"):
        store.entries.proof(before - 1, log.size)
    with pytest.raises(LocalProtocolError, match="not all here"):
        store.entries.leaf_hashes(before - 1, log.size)
    assert store.entries.entry_place(before - 1) is None
    store.close()


def test_entries_are_found_by_position():
    store, log = make_store(3, 0, 2, 1)
    places = [store.entries.entry_place(position) for position in range(log.size + 1)]
    assert places == [(1, 0), (1, 1), (1, 2), (3, 0), (3, 1), (4, 0), None]
    assert store.entries.leaf_hashes(1, 4) == LEAVES[1:4]
    assert store.entries.leaf_hashes(2, 2) == []
    with pytest.raises(LocalProtocolError):
        store.entries.leaf_hashes(0, 7)
    store.close()


def test_subtrees_are_those_of_the_definition():
    store, _ = make_store(512, 88)
    for level in range(10):
        for index in range(600 >> level):
            first = index << level
            assert store.entries.subtree(level, index) == merkle_root(
                LEAVES[first : first + (1 << level)]
            )
        with pytest.raises(LocalProtocolError, match="not here"):
            store.entries.subtree(level, 600 >> level)
    store.close()


def test_a_proof_reads_few_rows():
    """Cost grows with the logarithm: rows read for a proof, at two sizes a factor of 16 apart."""
    costs = []
    for size in (40, 640):
        store, log = make_store(size)
        statements: list[str] = []
        store._database.set_trace_callback(statements.append)
        store.entries.proof(size // 2 + 1, log.size)
        costs.append(len(statements))
        store.close()
    assert costs[1] < 3 * costs[0], costs


def test_growing_names_the_subtrees_that_are_kept():
    log, made = grow(Log(), LEAVES[:300])
    assert log == Log().extend(LEAVES[:300])
    assert [(level, index) for level, index, _ in made if level == 8] == [(8, 0)]
    assert len([1 for level, *_ in made if level == 4]) == 18
    assert {level for level, *_ in made} == {4, 8}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log SET leaf = zeroblob(32) WHERE position = 7",
        "DELETE FROM log WHERE position = 300",
        "UPDATE subtrees SET hash = zeroblob(32) WHERE level = 4 AND position = 3",
        "UPDATE subtrees SET hash = zeroblob(32) WHERE level = 8 AND position = 0",
    ],
)
def test_damage_is_found_by_the_deep_check(statement):
    store, _ = make_store(600)
    assert store.entries.check() == 600
    store._database.execute(statement)
    with pytest.raises(StorageError, match="damaged log"):
        store.entries.check()
    store.close()


def test_a_damaged_log_proves_nothing():
    store, log = make_store(600)
    store._database.execute("UPDATE subtrees SET hash = zeroblob(32) WHERE level = 8")
    with pytest.raises(StorageError, match="damaged log"):
        store.entries.proof(550, log.size)
    store.close()
