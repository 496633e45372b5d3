"""State nodes in the database: the same tree as in memory, no garbage, snapshots, damage."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.block_store import BlockStore, Durability
from ledger.log import Log
from ledger.node_store import READERS_COMMITS
from ledger.state_nodes import decode_leaf, decode_reference, decode_tile
from ledger.state_tree import StateTree
from protocol.errors import EncodingError, StorageError
from protocol.limits import STATE_SNAPSHOTS_KEPT

CONTENTS = st.dictionaries(st.binary(max_size=2), st.binary(max_size=4), max_size=12)


class Shelf:
    """The node tables alone, without blocks."""

    def __init__(self, path: Path | str = ":memory:", interval: int = 1000) -> None:
        self.store = BlockStore(Path(path), Durability.BATCHED, snapshot_interval=interval)
        self.nodes = self.store.nodes
        self.height = 0

    def commit(self, *versions: StateTree) -> None:
        run = [(self.height + i, tree, Log()) for i, tree in enumerate(versions, start=1)]
        with self.store.transaction() as database:
            written = self.nodes.write(database, run)
        self.nodes.adopt(written)
        self.height += len(versions)

    def count(self, table: str = "nodes") -> int:
        ((count,),) = self.store.rows(f"SELECT count(*) FROM {table}")
        return count


def fill(count: int, start: int = 0) -> dict[bytes, bytes]:
    return {b"k/%d" % number: b"v%d" % number for number in range(start, start + count)}


@given(st.lists(CONTENTS, min_size=1, max_size=8), st.binary(max_size=2))
@settings(max_examples=40, deadline=None)
def test_a_stored_tree_is_the_one_in_memory(steps, key):
    shelf = Shelf()
    stored, memory, expected = shelf.nodes.tree(), StateTree(), {}
    for writes in steps:
        stored, memory = stored.update(writes), memory.update(writes)
        expected |= writes
        assert list(stored.scan(b"")) == sorted(expected.items()), "before it is stored"
        shelf.commit(stored)
        assert stored.root == memory.root
        assert stored.prove(key) == memory.prove(key)
        assert dict(stored.items()) == expected
        assert list(stored.scan(key[:1])) == sorted(
            item for item in expected.items() if item[0].startswith(key[:1])
        )
    again = BlockStoreView(shelf)
    assert again.tree.root == memory.root
    assert dict(again.tree.items()) == expected
    assert shelf.nodes.check() == len(expected)


class BlockStoreView:
    """The same tables, read by a store that has nothing in its cache."""

    def __init__(self, shelf: Shelf) -> None:
        self.nodes = type(shelf.nodes)(shelf.store, 1000)
        self.tree = self.nodes.tree()


@given(st.lists(st.tuples(CONTENTS, st.booleans()), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_versions_above_the_stored_one_share_it_whatever_becomes_final_when(steps):
    """Several versions wait; some commits take one of them, some take all as one run."""
    shelf = Shelf()
    waiting: list[StateTree] = []
    tip, expected = shelf.nodes.tree(), {}
    contents: list[dict[bytes, bytes]] = []
    for writes, takes_all in steps:
        tip = tip.update(writes)
        expected = {**expected, **writes}
        waiting.append(tip)
        contents.append(expected)
        taken = len(waiting) if takes_all else 1
        shelf.commit(*waiting[:taken])
        del waiting[:taken], contents[:taken]
        for tree, content in zip(waiting, contents, strict=True):
            assert dict(tree.items()) == content
            assert dict(tree.scan(b"")) == content
    assert dict(tip.items()) == expected


def test_a_side_branch_does_not_disturb_what_becomes_final():
    shelf = Shelf()
    base = StateTree().update(fill(50))
    shelf.commit(base)
    left, right = base.update({b"k/1": b"left"}), base.update({b"k/1": b"right"})
    shelf.commit(left)
    assert (left.get(b"k/1"), right.get(b"k/1"), base.get(b"k/1")) == (b"left", b"right", b"v1")
    assert dict(right.scan(b"k/1"))[b"k/1"] == b"right"
    assert dict(base.scan(b"k/1"))[b"k/1"] == b"v1", "an older version is scanned as it was"
    assert shelf.nodes.check() == 50


def test_garbage_goes_and_readers_keep_their_version_for_a_while():
    shelf = Shelf()
    tree = StateTree().update(fill(200))
    shelf.commit(tree)
    whole = shelf.count()
    old = tree
    for number in range(300):
        tree = tree.update({b"k/%d" % (number % 200): b"w%d" % number})
        shelf.commit(tree)
        if number == READERS_COMMITS - 2:
            assert dict(old.items()) == fill(200), "a reader finishes"
        assert shelf.count() <= whole + 8 * (READERS_COMMITS + 2) + 64
    assert shelf.count("stale") <= 8 * (READERS_COMMITS + 2) + 64
    shelf.nodes._young, shelf.nodes._aged = {}, {}
    with pytest.raises(StorageError, match="no longer kept"):
        dict(old.items())
    assert shelf.nodes.check() == 200


def test_nodes_reachable_by_nobody_are_none():
    """What is stored is what the final version and the list of garbage name, nothing else."""
    shelf = Shelf(interval=7)
    tree = StateTree()
    for number in range(120):
        tree = tree.update(fill(3, start=number * 2))
        shelf.commit(tree)
    reachable = len(set(numbers(shelf, tree.root_node)))
    assert shelf.count() == reachable + shelf.count("stale")


def numbers(shelf: Shelf, node: object) -> list[int]:
    found, pending = [], [node]
    while pending:
        stub = pending.pop()
        if stub is None:
            continue
        if hasattr(stub, "number"):
            found.append(stub.number)
            stub = shelf.nodes.load(stub)
        if hasattr(stub, "left"):
            pending += (stub.left, stub.right)
    return found


def test_snapshots_stay_whole_until_two_newer_ones_exist():
    shelf = Shelf(interval=20)
    tree, contents = StateTree(), {}
    kept: dict[int, dict[bytes, bytes]] = {}
    sizes = []
    for height in range(1, 201):
        writes = {b"k/%d" % (height % 30): b"%d" % height}
        tree, contents = tree.update(writes), {**contents, **writes}
        shelf.commit(tree)
        if height % 20 == 0:
            kept[height] = contents
        expected = sorted(kept)[-STATE_SNAPSHOTS_KEPT:]
        assert [item.height for item in shelf.nodes.snapshots()] == expected
        for item in BlockStoreView(shelf).nodes.snapshots():
            assert dict(item.tree.items()) == kept[item.height]
        sizes.append(shelf.count())
    assert max(sizes[100:]) < 1.3 * max(sizes[60:100]), "expired snapshots leave nothing behind"


def test_a_run_that_passes_a_snapshot_height_keeps_that_version():
    shelf = Shelf(interval=4)
    trees, tree = [], StateTree()
    for height in range(1, 11):
        tree = tree.update({b"k": b"%d" % height, b"l/%d" % height: b""})
        trees.append(tree)
    shelf.commit(*trees)
    assert [item.height for item in shelf.nodes.snapshots()] == [4, 8]
    assert [item.tree.get(b"k") for item in shelf.nodes.snapshots()] == [b"4", b"8"]
    assert [dict(t.items()) for t in trees][3] == dict(shelf.nodes.snapshots()[0].tree.items())
    assert shelf.nodes.check() == 11


def fail_to_commit(shelf: Shelf, tree: StateTree) -> None:
    try:
        with shelf.store.transaction() as database:
            shelf.nodes.write(database, [(2, tree, Log())])
            raise StorageError("the disk is full")
    finally:
        shelf.nodes.abandon()


def test_a_failed_transaction_changes_nothing_in_memory():
    shelf = Shelf()
    base = StateTree().update(fill(40))
    shelf.commit(base)
    after = base.update(fill(40, start=20))
    with pytest.raises(StorageError):
        fail_to_commit(shelf, after)
    assert dict(base.scan(b"k/")) == fill(40)
    assert dict(after.items()) == {**fill(40), **fill(40, start=20)}
    shelf.commit(after)
    assert dict(after.scan(b"k/")) == fill(60)
    assert shelf.nodes.check() == 60


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE nodes SET node = CAST(node || x'00' AS BLOB)", "damaged"),
        ("UPDATE nodes SET node = CAST(substr(node, 1, length(node) - 1) AS BLOB)", "damaged"),
        ("DELETE FROM nodes", "no longer kept"),
    ],
)
def test_damaged_nodes_are_found_when_they_are_read(statement, message):
    shelf = Shelf()
    shelf.commit(StateTree().update(fill(60)))
    for number in range(1, shelf.count() + 1):
        shelf.store._database.execute("SAVEPOINT before")
        shelf.store._database.execute(f"{statement} WHERE number = ?", (number,))
        with pytest.raises(StorageError, match=message):
            dict(BlockStoreView(shelf).tree.items())
        shelf.store._database.execute("ROLLBACK TO before")
        shelf.store._database.execute("RELEASE before")
    assert BlockStoreView(shelf).nodes.check() == 60


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE state SET leaf = leaf + 1 WHERE key = x'6b2f33'",
        "UPDATE state SET mark = x'00' WHERE key = x'6b2f33'",
        "DELETE FROM state WHERE key = x'6b2f33'",
        "INSERT INTO state SELECT x'6b', leaf, mark FROM state LIMIT 1",
    ],
)
def test_a_damaged_index_is_found_by_the_deep_check(statement):
    shelf = Shelf()
    shelf.commit(StateTree().update(fill(20)))
    shelf.store._database.execute(statement)
    with pytest.raises(StorageError, match="damaged"):
        shelf.nodes.check()


def test_scans_of_damaged_rows_fail():
    shelf = Shelf()
    tree = StateTree().update(fill(20))
    shelf.commit(tree)
    shelf.store._database.execute("UPDATE state SET leaf = 1 WHERE key = x'6b2f33'")
    with pytest.raises(StorageError, match="damaged"):
        list(tree.scan(b"k/"))


def test_scans_go_on_beyond_one_page_and_to_the_end_of_the_keys():
    shelf = Shelf()
    contents = {**fill(700), b"\xff\xff": b"last", b"\xff" * 256: b"longest", b"": b"empty"}
    tree = StateTree().update(contents)
    shelf.commit(tree)
    assert list(tree.scan(b"")) == sorted(contents.items())
    assert list(tree.scan(b"\xff")) == [(b"\xff\xff", b"last"), (b"\xff" * 256, b"longest")]
    assert len(list(tree.scan(b"k/"))) == 700


@pytest.mark.parametrize("row", ["", "02", "0200", "0301", "04", "00" * 3, "02" * 6])
def test_rows_of_tiles_are_read_strictly(row):
    source = Shelf().nodes
    with pytest.raises(EncodingError):
        decode_tile(bytes.fromhex(row), source)
    with pytest.raises(EncodingError):
        decode_reference(bytes.fromhex(row), source)


@pytest.mark.parametrize("row", ["", "00", "0002ff"])
def test_rows_of_leaves_are_read_strictly(row):
    with pytest.raises(EncodingError):
        decode_leaf(bytes.fromhex(row))


def test_memory_holds_no_more_than_a_cache_while_versions_always_wait(monkeypatch):
    """The version above the final one must not tie all that was ever written to memory."""
    monkeypatch.setattr("ledger.node_store.CACHED_MAX", 8)
    shelf = Shelf()
    tree = StateTree().update(fill(300))
    waiting = tree.update({b"k/0": b"w"})
    for number in range(200):
        shelf.commit(tree)
        tree, waiting = waiting, waiting.update({b"k/%d" % number: b"w%d" % number})
    held, pending = 0, [waiting.root_node]
    while pending:
        node = pending.pop()
        held += hasattr(node, "left") or hasattr(node, "value")
        if hasattr(node, "left"):
            pending += (node.left, node.right)
    assert held < 120, f"{held} nodes are held in memory"


@pytest.mark.slow
def test_rows_of_an_update_grow_with_the_logarithm():
    """Four levels more of a tree, sixteen times the keys, cost one row more a key."""
    rows = []
    for count in (64, 1024, 16_384):
        shelf = Shelf()
        tree = StateTree().update(fill(count))
        shelf.commit(tree)
        before = shelf.nodes.next_number
        for number in range(50):
            tree = tree.update({b"k/%d" % number: b"w"})
            shelf.commit(tree)
        rows.append((shelf.nodes.next_number - before) / 50)
    assert rows[0] <= 4
    assert all(0.8 <= more - less <= 1.2 for less, more in itertools.pairwise(rows)), rows
