"""The receipt log: what this node decided and did, append-only, provable to others.

One RFC 6962 log per node with typed entries: grants and denials, authorisations seen, revocations,
fetches, offers and failures. Its root goes into the ledger by `receipt.anchor`, so that an entry
can later be shown to have been there at that time and nothing before it can be changed. It is not
the diagnostic log.

The only receipts file is `receipts.db` (SQLite WAL, synchronous=FULL). Calls block on storage and
are made through a worker thread. The log is bounded: repeated outcomes of one kind are counted, not
listed, and the content of old entries may be pruned. Leaf hashes stay, 32 bytes for each entry, so
that every other entry can still be proven, and a pruned one by whoever kept its bytes.
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
from ledger.records.anchor import AnchorRecord
from protocol.digest import ChainId, Digest
from protocol.encoding import Fields, Value, decode_canonical, encode_canonical
from protocol.errors import NotYetError, PolicyError, StorageError, VerificationError
from protocol.merkle import inclusion_proof, leaf_hash, verify_inclusion

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
    GRANTED = 8
    """A peer was let fetch or serve, or a standing was changed in its favour."""
    STANDING = 9
    """The ledger changed who may do what: quarantine, conviction, capability; detail: the kind."""
    UNLISTED = 10
    """Outcomes that were counted and not listed; detail: how many of which."""
    REPORTED = 11
    """This node reported a peer to the ledger."""
    INSTALLED = 12
    """A device says that it took a release and runs it."""
    INSTALL_FAILED = 13
    """A device says that a release failed on it."""
    COLLECTED = 14
    """An image was deleted to keep what matters more; detail: why."""
    ROTTED = 15
    """Stored chunks no longer matched their digests and are fetched again; detail: how many."""


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
    """`Receipt.encode()`."""
    index: int
    """Its number in the log, from 0."""
    size: int
    """Entries of the log that the root is over."""
    siblings: tuple[Digest, ...]
    """RFC 6962 audit path, leaf side first."""
    root: Digest
    """Root that the path leads to; an anchor names it."""

    def to_value(self) -> Value:
        """The wire form."""
        return [self.entry, self.index, self.size, list(self.siblings), self.root]


def verify_receipt(proof: ReceiptProof) -> Receipt:
    """Checks that a proof shows its entry under its root; whose root it is shows the ledger.

    Raises:
        VerificationError: it does not, or the entry is none.
    """
    verify_inclusion(
        leaf_hash(proof.entry),
        index=proof.index,
        size=proof.size,
        proof=proof.siblings,
        root=proof.root,
    )
    return decode_receipt(proof.entry)


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
        """The newest entries, oldest first; see `numbered`."""
        return tuple(receipt for _, receipt in self.numbered(newest=newest))

    def numbered(self, *, newest: int, since_ms: int = 0) -> tuple[tuple[int, Receipt], ...]:
        """The newest entries with their numbers, oldest first; pruned ones are left out.

        Args:
            newest: at most so many.
            since_ms: none before the last one that is older than this, milliseconds.

        Raises:
            StorageError: unreadable or damaged.
        """
        with self._lock, _storage_errors(self._path):
            rows = self._database.execute(
                "SELECT number, data FROM entry WHERE data != x'' ORDER BY number DESC LIMIT ?",
                (newest,),
            ).fetchall()
        found: list[tuple[int, Receipt]] = []
        try:
            for number, data in rows:
                receipt = decode_receipt(data)
                if receipt.time_ms < since_ms:
                    break
                found.append((number, receipt))
        except VerificationError as error:
            raise StorageError(f"{self._path}: damaged: {error}") from error
        return tuple(reversed(found))

    def prune(self, below: int) -> int:
        """Drops the content of entries below a number; their leaf hashes stay.

        Returns:
            How many entries were pruned.

        Raises:
            StorageError: the disk failed; nothing was pruned.
        """
        with self._lock, _storage_errors(self._path):
            cursor = self._database.execute(
                "UPDATE entry SET data = x'' WHERE number < ? AND data != x''", (below,)
            )
            return cursor.rowcount

    def root_at(self, size: int) -> Digest:
        """The root that the log had at a size, at most the present one.

        Raises:
            StorageError: unreadable, or the log was never that large.
        """
        return Log().extend(self._leaves(size)).root

    def _leaves(self, size: int) -> list[Digest]:
        with self._lock, _storage_errors(self._path):
            rows = self._database.execute(
                "SELECT leaf FROM entry WHERE number < ? ORDER BY number", (size,)
            ).fetchall()
        if len(rows) != size:
            raise StorageError(f"{self._path}: no {size} entries in a log of {self.size}")
        return [Digest(row[0]) for row in rows]

    def receipt_proof(self, index: int, anchor: AnchorRecord) -> ReceiptProof:
        """Proves an entry to a third party against an anchor in the ledger.

        Args:
            index: number of the entry, from 0.
            anchor: this node's newest anchor, as the final state has it.

        Raises:
            NotYetError: `receipt.unanchored`: no anchor covers the entry so far.
            PolicyError: `receipt.unknown` no such entry, `receipt.pruned` its content is gone, or
                `receipt.set_back` this log is not the one that was anchored.
            StorageError: unreadable.
        """
        if not 0 <= index < self.size:
            raise PolicyError("receipt.unknown", f"no entry {index} in a log of {self.size}")
        if index >= anchor.size:
            raise NotYetError("receipt.unanchored", f"{anchor.size} entries are anchored so far")
        if anchor.size > self.size or self.root_at(anchor.size) != anchor.root:
            raise PolicyError("receipt.set_back", "this log is not the one that was anchored")
        proof = self.prove(index, anchor.size)
        if not proof.entry:
            raise PolicyError("receipt.pruned", f"the content of entry {index} was pruned")
        return proof

    def prove(self, number: int, size: int) -> ReceiptProof:
        """Proves an entry against the root that the log had at `size` (an anchored one).

        Raises:
            StorageError: no such entry, or the log was never that large.
        """
        if not 0 <= number < size:
            raise StorageError(f"{self._path}: no entry {number} in a log of {size}")
        leaves = self._leaves(size)
        with self._lock, _storage_errors(self._path):
            row = self._database.execute(
                "SELECT data FROM entry WHERE number = ?", (number,)
            ).fetchone()
        log = Log().extend(leaves)
        return ReceiptProof(
            entry=row[0],
            index=number,
            size=size,
            siblings=inclusion_proof(leaves, number),
            root=log.root,
        )

    def close(self) -> None:
        """Ends all use; may be called twice."""
        with self._lock:
            self._database.close()
