"""The receipt log: what this node decided and did, append-only, provable to others.

One RFC 6962 log per node with typed entries: authorisations seen, revocations, fetches, offers and
refusals by rule. Its root goes into the ledger by `receipt.anchor`, so that an entry can later be
shown to have been there at that time and nothing before it can be changed. It is not the
diagnostic log.

The only receipts file is `receipts.db` (SQLite WAL, synchronous=FULL). Calls block on storage and
are made through a worker thread. The log is bounded: repeated refusals of one kind are counted,
not listed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from threading import Lock
from typing import Final

from ledger.log import Log, decode_log
from protocol.digest import ChainId, Digest
from protocol.encoding import Fields, Value, decode_canonical, encode_canonical
from protocol.errors import StorageError, VerificationError
from protocol.merkle import inclusion_proof, leaf_hash

ENTRY_BYTES_MAX: Final = 1024
"""One encoded entry."""
SCHEMA_VERSION: Final = 1
"""Version of the database; a newer one is refused."""
DETAIL_BYTES_MAX: Final = 256
"""Free text of an entry, bytes."""


class ReceiptKind(IntEnum):
    """What happened."""

    AUTHORISED = 1
    """A manifest became authorised for a group of this node, approvals checked."""
    REFUSED = 2
    """Something was refused by a rule, named in the detail."""
    FETCHED = 3
    """All images of a manifest are complete and verified."""
    REVOKED = 4
    """A manifest was revoked; serving and offering stopped."""
    OFFERED = 5
    """An image was handed to a device."""
    FAILED = 6
    """An attempt failed."""
    ALARM = 7
    """The validators certified what the rules or the owners forbid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One entry."""

    kind: ReceiptKind
    """What happened."""
    time_ms: int
    """This node's ledger time (newest header time plus monotonic time since), milliseconds."""
    height: int
    """Height of its newest final header."""
    manifest: bytes
    """Manifest concerned, 32 bytes, or empty."""
    subject: str
    """Who asked or was concerned: a device's address, a peer's name, or empty."""
    detail: str
    """Rule or reason."""

    def encode(self) -> bytes:
        """Canonical bytes; the log's leaf is their RFC 6962 leaf hash."""
        return encode_canonical(
            {
                0: 1,
                1: int(self.kind),
                2: self.time_ms,
                3: self.height,
                4: self.manifest,
                5: self.subject,
                6: self.detail,
            }
        )


def decode_receipt(data: bytes) -> Receipt:
    """Reads an entry."""
    fields = Fields(decode_canonical(data, bytes_max=ENTRY_BYTES_MAX), "receipt")
    fields.constant(0, 1)
    receipt = Receipt(
        kind=ReceiptKind(fields.uint(1, minimum=1, maximum=max(ReceiptKind))),
        time_ms=fields.uint(2),
        height=fields.uint(3),
        manifest=fields.bytes(4, maximum=32),
        subject=fields.text(5, maximum=DETAIL_BYTES_MAX),
        detail=fields.text(6, maximum=DETAIL_BYTES_MAX),
    )
    fields.finish()
    return receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptProof:
    """Shows that an entry is in the log of a given size and root."""

    entry: bytes
    index: int
    size: int
    siblings: tuple[Digest, ...]
    root: Digest

    def to_value(self) -> Value:
        """The wire form."""
        return [self.entry, self.index, self.size, list(self.siblings), self.root]


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"{path}: {error}") from error


class ReceiptLog:
    """The log and its database; safe for calls from several threads."""

    def __init__(self, path: Path, chain: ChainId) -> None:
        """Opens or creates the log.

        Raises:
            StorageError: unreadable, damaged, of another chain, or made by a newer version.
        """
        self._path = path
        self._lock = Lock()
        with _storage_errors(path):
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            try:
                self._database.execute("PRAGMA journal_mode=WAL")
                self._database.execute("PRAGMA synchronous=FULL")
                self._log = self._prepare(chain)
            except BaseException:
                self._database.close()
                raise

    def _prepare(self, chain: ChainId) -> Log:
        version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
        if version > SCHEMA_VERSION:
            raise StorageError(f"{self._path}: made by a newer version (schema {version})")
        if version == 0:
            self._create(chain)
        meta = dict(self._database.execute("SELECT name, value FROM meta").fetchall())
        if meta.get("chain") != chain:
            raise StorageError(f"{self._path}: belongs to another chain")
        try:
            log = decode_log(meta.get("log", b""))
        except VerificationError as error:
            raise StorageError(f"{self._path}: damaged: {error}") from error
        count, newest = self._database.execute("SELECT count(*), max(number) FROM entry").fetchone()
        if count != log.size or (newest is not None and newest != count - 1):
            raise StorageError(f"{self._path}: damaged: {count} entries, log size {log.size}")
        return log

    def _create(self, chain: ChainId) -> None:
        """Makes tables and first rows in one transaction: a power cut leaves all or nothing."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute(
            "CREATE TABLE entry (number INTEGER PRIMARY KEY, data BLOB NOT NULL,"
            " leaf BLOB NOT NULL) STRICT"
        )
        self._database.execute(
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT"
        )
        self._database.execute("INSERT INTO meta VALUES ('chain', ?)", (chain,))
        self._database.execute("INSERT INTO meta VALUES ('log', ?)", (Log().encode(),))
        self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._database.execute("COMMIT")

    @property
    def size(self) -> int:
        """Entries so far."""
        return self._log.size

    @property
    def root(self) -> Digest:
        """RFC 6962 root over all entries."""
        return self._log.root

    @property
    def head(self) -> tuple[int, Digest]:
        """Size and root of one moment: another thread may append between two questions."""
        log = self._log
        return log.size, log.root

    def append(self, receipts: Sequence[Receipt]) -> None:
        """Adds entries durably, in one transaction.

        Raises:
            StorageError: the disk failed; nothing was added.
        """
        if not receipts:
            return
        with self._lock, _storage_errors(self._path):
            rows = []
            log = self._log
            for receipt in receipts:
                data = receipt.encode()
                leaf = leaf_hash(data)
                rows.append((log.size, data, leaf))
                log = log.append(leaf)
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany("INSERT INTO entry VALUES (?, ?, ?)", rows)
                self._database.execute(
                    "UPDATE meta SET value = ? WHERE name = 'log'", (log.encode(),)
                )
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:  # a full disk has rolled back already
                    self._database.execute("ROLLBACK")
                raise
            self._log = log

    def entries(self, *, newest: int) -> tuple[Receipt, ...]:
        """The newest entries, oldest first.

        Raises:
            StorageError: unreadable or damaged.
        """
        with self._lock, _storage_errors(self._path):
            rows = self._database.execute(
                "SELECT data FROM entry ORDER BY number DESC LIMIT ?", (newest,)
            ).fetchall()
        try:
            return tuple(decode_receipt(row[0]) for row in reversed(rows))
        except VerificationError as error:
            raise StorageError(f"{self._path}: damaged: {error}") from error

    def prove(self, number: int, size: int) -> ReceiptProof:
        """Proves an entry against the root that the log had at `size` (an anchored one).

        Raises:
            StorageError: no such entry, or the log was never that large.
        """
        with self._lock, _storage_errors(self._path):
            rows = self._database.execute(
                "SELECT leaf, data FROM entry WHERE number < ? ORDER BY number", (size,)
            ).fetchall()
        if not 0 <= number < size or len(rows) != size:
            raise StorageError(f"{self._path}: no entry {number} in a log of {size}")
        leaves = [row[0] for row in rows]
        log = Log().extend(Digest(leaf) for leaf in leaves)
        return ReceiptProof(
            entry=rows[number][1],
            index=number,
            size=size,
            siblings=inclusion_proof(leaves, number),
            root=log.root,
        )

    def close(self) -> None:
        """Ends all use; may be called twice."""
        with self._lock:
            self._database.close()
