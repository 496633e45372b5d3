"""State nodes in the ledger's database: the final version, snapshots for peers, and their garbage.

Rows are numbered in order of writing and never change. A version that becomes final brings the rows
it adds and the list of those that only older versions need. Those stay for as long as somebody may
still read an older version: a few commits for readers inside this process, and as long as a
snapshot lives for one that holds them. Snapshots are versions at every `SNAPSHOT_INTERVAL`-th
height; the newest two are kept, so that peers that fetch the state (docs/spec/state-sync.md) find
the same one at every node. Garbage goes in portions, in the transaction of the block after.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.database import Database
from ledger.disk import Connection
from ledger.log import Log, decode_log
from ledger.state_nodes import (
    Inner,
    Leaf,
    Node,
    NodeWriter,
    Stub,
    decode_leaf,
    decode_reference,
    decode_tile,
    encode_leaf,
    encode_reference,
)
from ledger.state_tree import KEY_BYTES_MAX, StateTree
from protocol.errors import EncodingError, StorageError
from protocol.limits import STATE_SNAPSHOT_INTERVAL, STATE_SNAPSHOTS_KEPT

SYNC_STATE_TABLE: Final = (
    "CREATE TABLE sync_state (key BLOB PRIMARY KEY, leaf INTEGER NOT NULL, mark BLOB NOT NULL) "
    "WITHOUT ROWID;"
)
"""The index of a state that is being fetched; in the end it takes the place of `state`."""
NODE_TABLES: Final = f"""
{SYNC_STATE_TABLE}
CREATE TABLE nodes (number INTEGER PRIMARY KEY, node BLOB NOT NULL);
CREATE TABLE state (key BLOB PRIMARY KEY, leaf INTEGER NOT NULL, mark BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE sync (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE stale (
    snapshot INTEGER NOT NULL, version INTEGER NOT NULL, number INTEGER NOT NULL,
    PRIMARY KEY (snapshot, version, number)
) WITHOUT ROWID;
CREATE TABLE snapshots (
    height INTEGER PRIMARY KEY, last_number INTEGER NOT NULL, root BLOB NOT NULL, log BLOB NOT NULL
);
"""
"""`state` is the index of keys of the final version; `mark` begins a leaf's hash. `stale` names the
newest snapshot that holds a row, or 0, and the height that made the row superfluous."""
NUMBERS_END: Final = 1 << 48
"""Numbers are below this: six bytes in a tile."""
FETCHED_NUMBERS: Final = 1 << 38
"""A state that is fetched takes its numbers from the next multiple of this, so that blocks may go
on beside it; there is room for a thousand fetches."""
CACHED_MAX: Final = 6144
"""Nodes in each of the cache's two generations; a full tile takes about 5 KiB of memory."""
READERS_COMMITS: Final = 16
"""Commits for which a version can still be read: whoever took a tip is done long before."""
GARBAGE_FACTOR: Final = 4
"""Rows dropped for each one written, so that garbage shrinks faster than it grows."""
GARBAGE_MIN: Final = 64
"""Rows dropped with each block at least."""
SCAN_ROWS: Final = 256
"""Keys read at a time, so that no reader holds back the log's checkpoint."""
MARK_BYTES: Final = 8
"""Bytes of a leaf's hash in the index: they tell damage, nobody attacks his own index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A version that peers may fetch."""

    height: int
    """Height of its block."""
    last_number: int
    """Rows above this number are younger."""
    tree: StateTree
    """Its keys and values."""
    log: Log
    """The log after the same block."""


class NodeStore:
    """The tables of state nodes within a ledger's database."""

    def __init__(self, database: Database, interval: int = STATE_SNAPSHOT_INTERVAL) -> None:
        """Reads where the tables stand; a snapshot is kept at heights divisible by `interval`.

        Raises:
            StorageError: the tables are damaged.
        """
        self._database = database
        self.interval: Final = interval
        """Heights between versions kept for peers."""
        self._young: dict[int, Leaf | Inner] = {}
        self._aged: dict[int, Leaf | Inner] = {}
        self._commits: deque[int] = deque(maxlen=READERS_COMMITS)
        self.reload()

    def reload(self) -> None:
        """Reads root, numbers and snapshots from the tables."""
        database = self._database
        fetched = database.blob("SELECT value FROM sync WHERE name = 'first'")
        end = NUMBERS_END if fetched is None else int.from_bytes(fetched, "big")
        newest = database.row("SELECT max(number) FROM nodes WHERE number < ?", end)
        assert newest is not None, "an aggregate has a row"
        self._next = 1 if newest[0] is None else database.integer_of(newest[0]) + 1
        raw = database.blob("SELECT value FROM meta WHERE name = 'root'")
        self._root: Stub | None = None if raw is None else self._reference(raw)
        self._current = self._root
        rows = database.rows("SELECT height, last_number, root, log FROM snapshots ORDER BY height")
        self._snapshots = tuple(self._read_snapshot(*row) for row in rows)

    def _reference(self, raw: bytes) -> Stub | None:
        return self._database.decoded("root", lambda: decode_reference(raw, self))

    def _read_snapshot(self, height: object, last: object, root: object, log: object) -> Snapshot:
        database = self._database
        return Snapshot(
            height=database.integer_of(height),
            last_number=database.integer_of(last),
            tree=StateTree(self._reference(database.bytes_of(root))),
            log=database.decoded("log", lambda: decode_log(database.bytes_of(log))),
        )

    @property
    def next_number(self) -> int:
        """Number of the next new row."""
        return self._next

    # Reading, from any thread.

    def tree(self) -> StateTree:
        """The final version."""
        return StateTree(self._root)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """The versions that peers may fetch, oldest first."""
        return self._snapshots

    def load(self, stub: Stub) -> Leaf | Inner:
        """Reads the node behind a reference and checks its hash.

        Raises:
            StorageError: it is damaged, or of a version that is no longer kept.
        """
        number = stub.number
        node = self._young.get(number)
        if node is None:
            node = self._aged.get(number) or self._read(stub)
            self._remember(number, node)
        if node.hash != stub.hash:
            raise StorageError(f"{self._database.path}: damaged state node {number}")
        return node

    def _read(self, stub: Stub) -> Leaf | Inner:
        database, number = self._database, stub.number
        rows = database.shared_rows("SELECT node FROM nodes WHERE number = ?", number)
        if not rows:
            raise StorageError(f"{database.path}: state node {number} is damaged or no longer kept")
        raw = database.bytes_of(rows[0][0])
        node: Leaf | Inner
        try:
            node = decode_leaf(raw) if stub.is_leaf else decode_tile(raw, self)
        except EncodingError as error:
            raise StorageError(f"{database.path}: damaged state node {number}: {error}") from error
        node.stub = stub
        return node

    def _remember(self, number: int, node: Leaf | Inner) -> None:
        """Two generations instead of a list of uses: no step of it can fail between threads."""
        young = self._young
        young[number] = node
        if len(young) >= CACHED_MAX:
            self._aged, self._young = young, {}

    def scan(self, prefix: bytes, root: Stub) -> Iterator[tuple[bytes, bytes | None]]:
        """Keys that start with `prefix`, ascending; values too, if `root` is the final version's.

        Raises:
            StorageError: a row is damaged.
        """
        start, end = prefix, _after_prefix(prefix)
        while True:
            rows = self._database.shared_rows(
                "SELECT key, mark, node FROM state LEFT JOIN nodes ON number = leaf "
                "WHERE key >= ? AND key < ? ORDER BY key LIMIT ?",
                start,
                end,
                SCAN_ROWS,
            )
            # Asked after the query: a commit clears it before it shows anything new.
            current = self._current
            is_current = current is not None and current.number == root.number
            for key, mark, node in rows:
                leaf = self._indexed_leaf(key, mark, node)
                yield leaf.key, leaf.value if is_current else None
            if len(rows) < SCAN_ROWS:
                return
            start = self._database.bytes_of(rows[-1][0]) + b"\0"

    def _indexed_leaf(self, key: object, mark: object, node: object) -> Leaf:
        database = self._database
        leaf = database.decoded("leaf", lambda: decode_leaf(database.bytes_of(node)))
        if leaf.key != key or leaf.hash[:MARK_BYTES] != mark:
            raise StorageError(f"{database.path}: damaged index of the state")
        return leaf

    # Writing, inside a transaction of the caller's.

    def write(
        self, database: Connection, versions: Sequence[tuple[int, StateTree, Log]]
    ) -> Written:
        """Writes the last of several consecutive versions, and those that become snapshots.

        Args:
            database: the connection, in a transaction.
            versions: height, tree and log after each block of a run, oldest first.

        Returns:
            What to `adopt` once the transaction is durable.
        """
        writer = NodeWriter(self, self._next)
        snapshots = list(self._snapshots)
        old: Node = self._root
        stub = self._root
        self._current = None
        for height, tree, log in versions:
            is_snapshot = height % self.interval == 0 and height > 0
            if not is_snapshot and tree is not versions[-1][1]:
                continue
            stub, gone = writer.write(tree.root_node, old)
            old = tree.root_node
            database.executemany(
                "INSERT OR IGNORE INTO stale VALUES (?, ?, ?)",
                [(_holder(snapshots, number), height, number) for number in gone],
            )
            if is_snapshot:
                made = self._insert_snapshot(database, height, writer.next_number - 1, stub, log)
                snapshots = [*snapshots, made][-STATE_SNAPSHOTS_KEPT:]
        self._insert_rows(database, writer)
        database.execute(
            "INSERT OR REPLACE INTO meta VALUES ('root', ?)", (encode_reference(stub),)
        )
        height, tree, _ = versions[-1]
        written = Written(
            writer=writer, root=stub, tree=tree, snapshots=tuple(snapshots), height=height
        )
        self._collect_garbage(database, written)
        return written

    def _insert_snapshot(
        self, database: Connection, height: int, last: int, root: Stub | None, log: Log
    ) -> Snapshot:
        database.execute(
            "INSERT INTO snapshots VALUES (?, ?, ?, ?)",
            (height, last, encode_reference(root), log.encode()),
        )
        return Snapshot(height=height, last_number=last, tree=StateTree(root), log=log)

    @staticmethod
    def _insert_rows(database: Connection, writer: NodeWriter) -> None:
        database.executemany("INSERT INTO nodes VALUES (?, ?)", writer.tiles)
        database.executemany(
            "INSERT INTO nodes VALUES (?, ?)",
            [(number, encode_leaf(leaf)) for number, leaf in writer.leaves],
        )
        database.executemany(
            "INSERT OR REPLACE INTO state VALUES (?, ?, ?)",
            [(leaf.key, number, leaf.hash[:MARK_BYTES]) for number, leaf in writer.leaves],
        )

    def _collect_garbage(self, database: Connection, written: Written) -> None:
        """Drops a portion of the rows that nobody can ask for any more."""
        live = written.snapshots[0].height if written.snapshots else written.height + 1
        database.execute("DELETE FROM snapshots WHERE height < ?", (live,))
        if len(self._commits) < READERS_COMMITS:
            return
        limit = GARBAGE_MIN + GARBAGE_FACTOR * (
            len(written.writer.tiles) + len(written.writer.leaves)
        )
        rows = database.execute(
            "SELECT snapshot, version, number FROM stale WHERE snapshot < ? AND version <= ? "
            "LIMIT ?",
            (live, self._commits[0], limit),
        ).fetchall()
        database.executemany("DELETE FROM nodes WHERE number = ?", [row[2:] for row in rows])
        database.executemany(
            "DELETE FROM stale WHERE snapshot = ? AND version = ? AND number = ?", rows
        )

    def adopt(self, written: Written) -> None:
        """Takes over what `write` wrote, now that it is durable."""
        self._snapshots = written.snapshots
        self._commits.append(written.height)
        self._next = written.writer.next_number
        self.settle(written.writer)
        written.tree.settle(written.root)
        self._root = written.root
        self._current = written.root

    def settle(self, writer: NodeWriter) -> None:
        """Keeps new nodes at hand, now that their rows are durable."""
        for number, node in writer.settle():
            if isinstance(node, Inner):
                self._remember(number, node)

    def abandon(self) -> None:
        """Goes back to what is stored, since a transaction failed."""
        self._current = self._root

    def check(self) -> int:
        """Reads every node of the final version and compares the index; returns the keys.

        Raises:
            StorageError: something is damaged.
        """
        database, count = self._database, 0
        pending: list[Node] = [self._root]
        while pending:
            node = pending.pop()
            if isinstance(node, Inner):
                pending += (node.right, node.left)
            elif isinstance(node, Stub) and not node.is_leaf:
                pending.append(self._checked(node))
            elif isinstance(node, Stub):
                leaf = self._checked(node)
                assert isinstance(leaf, Leaf), "the reference says so"
                row = database.row("SELECT leaf, mark FROM state WHERE key = ?", leaf.key)
                if row != (node.number, leaf.hash[:MARK_BYTES]):
                    raise StorageError(f"{database.path}: damaged index of the state")
                count += 1
        if database.row("SELECT count(*) FROM state") != (count,):
            raise StorageError(f"{database.path}: damaged index of the state: keys too many")
        return count

    def _checked(self, stub: Stub) -> Leaf | Inner:
        """What the disk holds, whatever the cache does."""
        node = self._read(stub)
        if node.hash != stub.hash:
            raise StorageError(f"{self._database.path}: damaged state node {stub.number}")
        return node


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a transaction wrote, for when it is durable."""

    writer: NodeWriter
    """Its rows."""
    root: Stub | None
    """Where the new version's root is."""
    tree: StateTree
    """The new version."""
    snapshots: tuple[Snapshot, ...]
    """Snapshots after it."""
    height: int
    """Height of the new version."""


def _holder(snapshots: Sequence[Snapshot], number: int) -> int:
    """Height of the newest snapshot that holds a row, or 0."""
    return max((item.height for item in snapshots if item.last_number >= number), default=0)


def _after_prefix(prefix: bytes) -> bytes:
    """The least byte string above all keys that start with `prefix`."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\xff" * (KEY_BYTES_MAX + 1)
