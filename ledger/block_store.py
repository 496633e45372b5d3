"""The ledger's database: final blocks, current state, log leaves, manifests, own transactions.

SQLite in WAL mode. A run of final blocks enters in one transaction: blocks, the certificate of the
last one, state, log. A validator's store syncs on each commit (`synchronous=FULL`); a follower's
may lose the last commits with the power, never their order, since it can fetch them again. Calls
block: a host makes them in worker threads, one at a time. Every failure is a `StorageError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.block import Block, decode_block_of
from ledger.certificate import Certificate, decode_certificate
from ledger.database import Database, Durability
from ledger.disk import Connection, Disk
from ledger.handover import Handover, decode_handover
from ledger.header import Header, decode_header
from ledger.log import Log
from ledger.log_store import LOG_TABLES, LogStore
from ledger.manifest_store import MANIFEST_TABLES, ManifestStore
from ledger.node_store import NODE_TABLES, NodeStore, Written
from ledger.state_tree import StateTree
from protocol.digest import BlockId, ChainId, Digest, ManifestId, TransactionId
from protocol.errors import StorageError
from protocol.limits import STATE_SNAPSHOT_INTERVAL

STORE_SCHEMA: Final = 3
"""Version of the tables; another one is refused."""
PRUNED_MAX: Final = 256
"""Bodies dropped in one call: at most 64 MiB, some 10 ms."""
_TABLES: Final = f"""
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE headers (
    height INTEGER PRIMARY KEY, block_id BLOB NOT NULL UNIQUE,
    header BLOB NOT NULL, certificate BLOB
);
CREATE TABLE bodies (height INTEGER PRIMARY KEY, block BLOB NOT NULL);
{NODE_TABLES}
{LOG_TABLES}
CREATE TABLE transactions (
    id BLOB PRIMARY KEY, height INTEGER NOT NULL, kind TEXT NOT NULL
) WITHOUT ROWID;
{MANIFEST_TABLES}
CREATE TABLE certificates (
    digest BLOB PRIMARY KEY, view INTEGER NOT NULL, certificate BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX certificates_by_view ON certificates (view);
CREATE TABLE handovers (
    epoch INTEGER PRIMARY KEY, height INTEGER NOT NULL UNIQUE, handover BLOB NOT NULL
);
CREATE TABLE recoveries (
    era INTEGER PRIMARY KEY, height INTEGER NOT NULL UNIQUE, recovery BLOB NOT NULL
);
CREATE TABLE epoch_steps (epoch INTEGER PRIMARY KEY, step BLOB NOT NULL);
CREATE TABLE pending (id BLOB PRIMARY KEY, position INTEGER NOT NULL, raw BLOB NOT NULL);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalBlock:
    """One block of a run that becomes final, with all that it changes."""

    block: Block
    """The block."""
    certificate: Certificate | None
    """Its finalize certificate; None where a later block of the run carries one."""
    tree: StateTree
    """State after it."""
    leaves: tuple[Digest, ...]
    """Leaf hashes it adds to the log."""
    log: Log
    """Log after it."""
    transactions: tuple[tuple[TransactionId, str], ...]
    """Id and kind of each transaction."""
    manifests: tuple[tuple[ManifestId, bytes], ...]
    """Manifests it proposes."""
    handover: Handover | None = None
    """Present exactly if the block closes its epoch."""


class BlockStore(Database):
    """One ledger database."""

    def __init__(
        self,
        path: Path,
        durability: Durability,
        disk: Disk | None = None,
        *,
        snapshot_interval: int = STATE_SNAPSHOT_INTERVAL,
    ) -> None:
        """Opens or creates the database; `open` or `create` of a chain comes next.

        Args:
            path: the file; `:memory:` keeps everything in memory.
            durability: when a commit is safe.
            disk: what it lies on; this machine's file system unless given.
            snapshot_interval: heights between versions kept for peers; tests take a short one.

        Raises:
            StorageError: not a database, damaged, not writable, or of another schema.
        """
        super().__init__(path, durability, disk, schema=(STORE_SCHEMA, _TABLES))
        try:
            self.nodes: Final = NodeStore(self, snapshot_interval)
            """The state."""
            self.entries: Final = LogStore(self)
            """The log."""
            self.manifests: Final = ManifestStore(self)
            """What was proposed."""
        except StorageError:
            self.close()
            raise

    # Chain and head.

    def identity(self) -> tuple[ChainId, int] | None:
        """Chain id and era of the ledger in it, or None if it is empty."""
        chain = self.blob("SELECT value FROM meta WHERE name = 'chain'")
        if chain is None:
            return None
        era = self.blob("SELECT value FROM meta WHERE name = 'era'") or b""
        return ChainId(chain), int.from_bytes(era, "big")

    def create(self, chain: ChainId, era: int, genesis: FinalBlock) -> None:
        """Starts a ledger with its genesis block and state.

        Raises:
            StorageError: it could not be written; nothing was.
        """
        with self._state_change(), self.transaction() as database:
            database.executemany(
                "INSERT INTO meta VALUES (?, ?)",
                [("chain", chain), ("era", era.to_bytes(8, "big"))],
            )
            self._insert(database, genesis)
            written = self._write_state(database, [genesis])
        self.nodes.adopt(written)

    def begin_era(self, era: int, first: FinalBlock, recovery: bytes) -> None:
        """Goes on in another era, from a block that a recovery file makes final.

        Args:
            era: the era.
            first: its first block, on the last final one.
            recovery: the file.

        Raises:
            StorageError: it could not be written; nothing was.
        """
        with self._state_change(), self.transaction() as database:
            database.execute(
                "UPDATE meta SET value = ? WHERE name = 'era'", (era.to_bytes(8, "big"),)
            )
            database.execute(
                "INSERT INTO recoveries VALUES (?, ?, ?)",
                (era, first.block.header.height, recovery),
            )
            self._insert(database, first)
            written = self._write_state(database, [first])
        self.nodes.adopt(written)

    def commit(
        self,
        blocks: Sequence[FinalBlock],
        *,
        certificates: Iterable[Certificate] = (),
        dropped: Iterable[TransactionId] = (),
    ) -> None:
        """Adds a run of final blocks as a whole or not at all.

        Args:
            blocks: oldest first, the last one with a certificate.
            certificates: of other kinds, that show how the blocks came to be final.
            dropped: own transactions that can no longer enter a block.

        Raises:
            StorageError: it could not be written (the disk may be full); nothing was.
        """
        written = None
        with self._state_change(), self.transaction() as database:
            for item in blocks:
                self._insert(database, item)
            if blocks:
                written = self._write_state(database, blocks)
            database.executemany(
                "INSERT OR IGNORE INTO certificates VALUES (?, ?, ?)",
                [(item.digest, item.view, item.encode()) for item in certificates],
            )
            _drop_pending(database, dropped)
        if written is not None:
            self.nodes.adopt(written)

    @contextmanager
    def _state_change(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.nodes.abandon()
            raise

    def _write_state(self, database: Connection, blocks: Sequence[FinalBlock]) -> Written:
        versions = [(item.block.header.height, item.tree, item.log) for item in blocks]
        return self.nodes.write(database, versions)

    def _insert(self, database: Connection, item: FinalBlock) -> None:
        header = item.block.header
        certificate = None if item.certificate is None else item.certificate.encode()
        if item.handover is not None:
            database.execute(
                "INSERT INTO handovers VALUES (?, ?, ?)",
                (header.epoch, header.height, item.handover.encode()),
            )
        database.execute(
            "INSERT INTO headers VALUES (?, ?, ?, ?)",
            (header.height, header.block_id, header.encoded, certificate),
        )
        database.execute("INSERT INTO bodies VALUES (?, ?)", (header.height, item.block.encoded))
        self.entries.append(database, item.log, item.leaves, header.height)
        database.executemany(
            "INSERT INTO transactions VALUES (?, ?, ?)",
            [(name, header.height, kind) for name, kind in item.transactions],
        )
        self.manifests.insert(database, item.manifests)
        _drop_pending(database, (name for name, _ in item.transactions))

    def head(self) -> tuple[Header, Certificate | None]:
        """The last final header with its certificate.

        None at genesis and at the start of an era, which need none, for the block of a fetched
        state, which may be final by a descendant, and for a closing block that is final by a filler
        (see `handover`).

        Raises:
            StorageError: there is none, or it is damaged.
        """
        row = self.row(
            "SELECT header, block_id, certificate FROM headers ORDER BY height DESC LIMIT 1"
        )
        if row is None:
            raise StorageError(f"{self.path}: no genesis block in it")
        header = self._header(row[0], row[1])
        is_start = not header.view or header.height == self.start_height()
        if row[2] is None and not is_start and not header.closes_epoch:
            raise StorageError(f"{self.path}: damaged, the last block has no certificate")
        return header, self._certificate(row[2])

    def trusted_epoch(self) -> int | None:
        """The newest epoch known otherwise than by old keys; None: not noted yet."""
        raw = self.blob("SELECT value FROM meta WHERE name = 'trusted_epoch'")
        return None if raw is None else int.from_bytes(raw, "big")

    def keep_trusted_epoch(self, epoch: int) -> None:
        """Notes it, durably.

        Raises:
            StorageError: it could not be written.
        """
        with self.transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO meta VALUES ('trusted_epoch', ?)",
                (epoch.to_bytes(8, "big"),),
            )

    def start_height(self) -> int:
        """Where this copy's history starts: 0, or the height of a state that was fetched."""
        raw = self.blob("SELECT value FROM meta WHERE name = 'start'")
        return int.from_bytes(raw or b"", "big")

    def epoch_step(self, epoch: int) -> bytes | None:
        """The hand-over of an epoch before a fetched state, as it was fetched; None: not here."""
        return self.blob("SELECT step FROM epoch_steps WHERE epoch = ?", epoch)

    def certificate_of(self, height: int) -> Certificate | None:
        """The certificate of a height's own block; None: it is final by another, or unknown."""
        raw = self.blob("SELECT certificate FROM headers WHERE height = ?", height)
        return None if raw is None else self._certificate(raw)

    def _certificate(self, raw: object) -> Certificate | None:
        if raw is None:
            return None
        return self.decoded("certificate", lambda: decode_certificate(self.bytes_of(raw)))

    def state_items(self) -> dict[bytes, bytes]:
        """All state keys with their values, read through the index; for tests and small states."""
        return dict(self.nodes.tree().scan(b""))

    def log(self) -> Log:
        """The log after the last final block."""
        return self.entries.log()

    # History.

    def header(self, height: int) -> Header | None:
        """The final header of a height, or None."""
        row = self.row("SELECT header, block_id FROM headers WHERE height = ?", height)
        return None if row is None else self._header(row[0], row[1])

    def height_of(self, block_id: BlockId) -> int | None:
        """The height of a final block, or None."""
        row = self.row("SELECT height FROM headers WHERE block_id = ?", block_id)
        return None if row is None else self.integer_of(row[0])

    def _header(self, raw: object, block_id: object) -> Header:
        header = self.decoded("header", lambda: decode_header(self.bytes_of(raw)))
        if header.block_id != block_id:
            raise StorageError(f"{self.path}: damaged header of height {header.height}")
        return header

    def finality(self, height: int) -> tuple[Header, Certificate] | None:
        """The first certified header at or above a height, or None above the last one."""
        row = self.row(
            "SELECT header, block_id, certificate FROM headers "
            "WHERE height >= ? AND certificate IS NOT NULL ORDER BY height LIMIT 1",
            height,
        )
        if row is None:
            return None
        header = self._header(row[0], row[1])
        certificate = self._certificate(row[2])
        assert certificate is not None, "the query asks for rows with a certificate"
        return header, certificate

    def handover(self, epoch: int) -> tuple[int, Handover] | None:
        """How an epoch ended: height of the block that closed it, and proof; None: it has not."""
        row = self.row("SELECT height, handover FROM handovers WHERE epoch = ?", epoch)
        if row is None:
            return None
        raw = self.bytes_of(row[1])
        return self.integer_of(row[0]), self.decoded("handover", lambda: decode_handover(raw))

    def recovery(self, era: int) -> tuple[int, bytes] | None:
        """How an era began: height of its first block, and the recovery file; None: not here."""
        row = self.row("SELECT height, recovery FROM recoveries WHERE era = ?", era)
        return None if row is None else (self.integer_of(row[0]), self.bytes_of(row[1]))

    def block(self, block_id: BlockId) -> Block | None:
        """A final block by id, or None if unknown or pruned."""
        raw = self.blob(
            "SELECT block FROM bodies JOIN headers USING (height) WHERE block_id = ?", block_id
        )
        if raw is None:
            return None
        return self.decoded("block", lambda: decode_block_of(raw, block_id))

    def blocks(self, from_height: int, *, bytes_max: int, count_max: int) -> list[bytes]:
        """Encoded blocks of one epoch, the last one certified or closing the epoch.

        None across the start of an era: that block is adopted by command, not fetched.

        Args:
            from_height: first height.
            bytes_max: aimed bound of all blocks, bytes; one run up to a certificate may exceed it.
            count_max: aimed bound of their number, likewise.
        """
        run: list[bytes] = []
        complete, used = 0, 0
        with self.guard():
            for height, raw, is_certified, epoch in self._database.execute(
                "SELECT height, block, certificate IS NOT NULL, epoch FROM bodies JOIN headers "
                "USING (height) LEFT JOIN handovers USING (height) WHERE height >= ? AND "
                "height < (SELECT coalesce(min(height), 1 << 62) FROM recoveries "
                "WHERE height >= ?) ORDER BY height",
                (from_height, from_height),
            ):
                block = self.bytes_of(raw)
                is_over = used + len(block) > bytes_max or len(run) >= count_max
                if height != from_height + len(run) or (complete and is_over):
                    break
                run.append(block)
                used += len(block)
                if is_certified or epoch is not None:
                    complete = len(run)
                if epoch is not None:
                    break
        return run[:complete]

    def first_body(self) -> int:
        """The least height whose body is kept, genesis aside."""
        row = self.row("SELECT min(height) FROM bodies WHERE height > 0")
        return 1 if row is None or row[0] is None else self.integer_of(row[0])

    def prune_bodies(self, below_height: int) -> int:
        """Drops a portion of the bodies below a height, the oldest first; returns how many.

        Headers with their certificates stay: they show forks, and proofs at any height need them.
        """
        end = min(below_height, self.first_body() + PRUNED_MAX)
        count = self.row("SELECT count(*) FROM bodies WHERE height > 0 AND height < ?", end)
        assert count is not None, "an aggregate has a row"
        if count[0]:
            with self.transaction() as database:
                database.execute("DELETE FROM bodies WHERE height > 0 AND height < ?", (end,))
        return self.integer_of(count[0])

    def check(self) -> tuple[int, int]:
        """Reads the whole state and log; returns the numbers of keys and of log entries.

        Raises:
            StorageError: something is damaged.
        """
        return self.nodes.check(), self.entries.check()

    def certificate(self, digest: Digest) -> Certificate | None:
        """A certificate kept beside the blocks, such as one that a skip proof names, or None."""
        raw = self.blob("SELECT certificate FROM certificates WHERE digest = ?", digest)
        return None if raw is None else self._certificate(raw)

    def certificates(self, view: int) -> tuple[Certificate, ...]:
        """All certificates of a view kept beside the blocks, ascending by digest."""
        rows = self.rows(
            "SELECT certificate FROM certificates WHERE view = ? ORDER BY digest", view
        )
        held = (self._certificate(row[0]) for row in rows)
        return tuple(item for item in held if item is not None)

    def transaction_height(self, transaction_id: TransactionId) -> int | None:
        """Height of the block that holds a transaction, or None."""
        row = self.row("SELECT height FROM transactions WHERE id = ?", transaction_id)
        return None if row is None else self.integer_of(row[0])

    def log_proof(self, position: int, size: int) -> tuple[Digest, tuple[Digest, ...]]:
        """Leaf hash and inclusion proof of a log entry in the log of `size` entries.

        Raises:
            LocalProtocolError: there is no such entry.
        """
        return self.entries.proof(position, size)

    # Own transactions that wait.

    def add_pending(self, transaction_id: TransactionId, raw: bytes) -> None:
        """Keeps a transaction submitted here until it is final or dropped.

        Raises:
            StorageError: it could not be written.
        """
        with self.transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO pending SELECT ?, coalesce(max(position), 0) + 1, ? "
                "FROM pending",
                (transaction_id, raw),
            )

    def drop_pending(self, transaction_ids: Iterable[TransactionId]) -> None:
        """Forgets transactions that can no longer enter a block."""
        with self.transaction() as database:
            _drop_pending(database, transaction_ids)

    def pending(self) -> tuple[bytes, ...]:
        """Transactions submitted here that are not final, oldest first."""
        rows = self.rows("SELECT raw FROM pending ORDER BY position")
        return tuple(self.bytes_of(row[0]) for row in rows)


def _drop_pending(database: Connection, names: Iterable[TransactionId]) -> None:
    database.executemany("DELETE FROM pending WHERE id = ?", [(name,) for name in names])
