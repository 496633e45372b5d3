"""The log in the ledger's database: leaf hashes, roots of perfect subtrees, who holds which entry.

Leaf hashes are kept for ever, and beside them the root of every perfect subtree whose height is a
multiple of four: any proof then takes a number of rows that grows with the logarithm of the log.
A copy that began with a fetched state has no leaves before its start, only the roots of the
subtrees that made up the log then; proofs about later entries need no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.database import Database
from ledger.disk import Connection
from ledger.log import LEVEL_STEP, Log, decode_log, grow
from protocol.digest import Digest
from protocol.errors import LocalProtocolError, StorageError
from protocol.merkle import EMPTY_ROOT, node_hash, root_from_inclusion

LOG_TABLES: Final = """
CREATE TABLE log (position INTEGER PRIMARY KEY, leaf BLOB NOT NULL);
CREATE TABLE subtrees (
    level INTEGER NOT NULL, position INTEGER NOT NULL, hash BLOB NOT NULL,
    PRIMARY KEY (level, position)
) WITHOUT ROWID;
CREATE TABLE entries (first INTEGER PRIMARY KEY, height INTEGER NOT NULL);
"""
"""`entries` names, for each block that has any, the position of its first entry."""


class LogStore:
    """The tables of the log within a ledger's database."""

    def __init__(self, database: Database) -> None:
        """Works on the tables of an open database."""
        self._database = database

    def log(self) -> Log:
        """The log after the last final block.

        Raises:
            StorageError: it is damaged.
        """
        raw = self._database.blob("SELECT value FROM meta WHERE name = 'log'")
        return self._database.decoded("log", lambda: decode_log(raw or b""))

    def append(self, database: Connection, log: Log, leaves: Sequence[Digest], height: int) -> None:
        """Adds a block's entries, within a transaction.

        Args:
            database: the connection.
            log: the log after the block.
            leaves: leaf hashes of its entries.
            height: its height.
        """
        first = log.size - len(leaves)
        if leaves:
            before = self.log() if first else Log()
            database.executemany("INSERT INTO log VALUES (?, ?)", enumerate(leaves, start=first))
            _, made = grow(before, leaves)
            database.executemany("INSERT INTO subtrees VALUES (?, ?, ?)", made)
            database.execute("INSERT INTO entries VALUES (?, ?)", (first, height))
        database.execute("INSERT OR REPLACE INTO meta VALUES ('log', ?)", (log.encode(),))

    @staticmethod
    def restore(database: Connection, log: Log) -> None:
        """Starts with a log whose entries are not here, within a transaction."""
        position = 0
        rows: list[tuple[int, int, Digest]] = []
        levels = [level for level in range(log.size.bit_length()) if log.size >> level & 1]
        for level, root in zip(reversed(levels), log.frontier, strict=True):
            rows.append((level, position >> level, root))
            position += 1 << level
        for statement in ("DELETE FROM log", "DELETE FROM subtrees", "DELETE FROM entries"):
            database.execute(statement)
        database.executemany("INSERT INTO subtrees VALUES (?, ?, ?)", rows)
        database.execute("INSERT OR REPLACE INTO meta VALUES ('log', ?)", (log.encode(),))

    # Reading.

    def leaf_hashes(self, first: int, end: int) -> list[Digest]:
        """Leaf hashes of positions `first` to `end` - 1.

        Raises:
            LocalProtocolError: not all of them are here.
        """
        rows = self._database.rows(
            "SELECT leaf FROM log WHERE position >= ? AND position < ? ORDER BY position",
            first,
            end,
        )
        if not 0 <= first <= end or len(rows) != end - first:
            raise LocalProtocolError(f"entries {first} to {end} of the log are not all here")
        return [Digest(self._database.bytes_of(row[0])) for row in rows]

    def subtree(self, level: int, index: int) -> Digest:
        """Root of the perfect subtree over entries index * 2^level to (index + 1) * 2^level - 1.

        Raises:
            LocalProtocolError: the log does not reach as far, or its entries are not here.
        """
        if level == 0 and (row := self._leaf(index)) is not None:
            return row
        raw = self._database.blob(
            "SELECT hash FROM subtrees WHERE level = ? AND position = ?", level, index
        )
        if raw is not None:
            return Digest(raw)
        if level == 0:
            raise LocalProtocolError(f"entry {index} of the log is not here")
        return node_hash(self.subtree(level - 1, 2 * index), self.subtree(level - 1, 2 * index + 1))

    def _leaf(self, position: int) -> Digest | None:
        raw = self._database.blob("SELECT leaf FROM log WHERE position = ?", position)
        return None if raw is None else Digest(raw)

    def root(self, size: int) -> Digest:
        """Root of the first `size` entries.

        Raises:
            LocalProtocolError: the log is shorter, or its entries are not here.
        """
        return self._range_root(0, size) if size else EMPTY_ROOT

    def _range_root(self, first: int, count: int) -> Digest:
        """Root over entries that begin at a multiple of the power of two at or above `count`."""
        level = (count - 1).bit_length()
        if count == 1 << level:
            return self.subtree(level, first >> level)
        half = 1 << (level - 1)
        return node_hash(
            self._range_root(first, half), self._range_root(first + half, count - half)
        )

    def proof(self, position: int, size: int) -> tuple[Digest, tuple[Digest, ...]]:
        """Leaf hash and inclusion proof of an entry in the log of `size` entries.

        Raises:
            LocalProtocolError: there is no such entry, or it is older than this copy.
            StorageError: the tables are damaged: the proof does not lead to the log's root.
        """
        log = self.log()
        leaf = self._leaf(position) if 0 <= position < size <= log.size else None
        if leaf is None:
            raise LocalProtocolError(f"no entry {position} in a log of {size}")
        path: list[Digest] = []
        first, count = 0, size
        while count > 1:
            half = 1 << ((count - 1).bit_length() - 1)
            if position < first + half:
                path.append(self._range_root(first + half, count - half))
                count = half
            else:
                path.append(self._range_root(first, half))
                first, count = first + half, count - half
        path.reverse()
        if size == log.size and root_from_inclusion(leaf, position, size, path) != log.root:
            raise StorageError(f"{self._database.path}: damaged log near entry {position}")
        return leaf, tuple(path)

    def entry_place(self, position: int) -> tuple[int, int] | None:
        """Height of the block that holds an entry, and the entry's index in it; None: not here."""
        row = self._database.row(
            "SELECT first, height FROM entries WHERE first <= ? ORDER BY first DESC LIMIT 1",
            position,
        )
        if row is None or position >= self.log().size:
            return None
        return self._database.integer_of(row[1]), position - self._database.integer_of(row[0])

    def check(self) -> int:
        """Recomputes every subtree that is kept; returns the number of leaves.

        Raises:
            StorageError: one does not belong to its leaves, or they do not give the log's root.
        """
        database, log = self._database, self.log()
        found = 0
        try:
            if self.root(log.size) != log.root:
                raise StorageError(f"{database.path}: damaged log: another root")
            (count,) = database.rows("SELECT count(*) FROM log")[0]
            start = log.size - database.integer_of(count)
            for position in range(start - start % _BLOCK, log.size, _BLOCK):
                end = min(position + _BLOCK, log.size)
                leaves = self.leaf_hashes(max(position, start), end)
                found += len(leaves)
                if end - max(position, start) == _BLOCK:
                    self._check_block(position, leaves)
        except LocalProtocolError as error:
            raise StorageError(f"{database.path}: damaged log: {error}") from error
        return found

    def _check_block(self, position: int, leaves: Sequence[Digest]) -> None:
        _, made = grow(Log(), leaves)
        for level, index, digest in made:
            if self.subtree(level, (position >> level) + index) != digest:
                raise StorageError(f"{self._database.path}: damaged log near entry {position}")


_BLOCK: Final = 1 << (2 * LEVEL_STEP)
"""Entries checked at a time: two levels of kept subtrees."""
