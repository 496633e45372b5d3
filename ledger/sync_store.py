"""A state that is being fetched, in the ledger's database beside the one that holds.

Each verified page enters with the progress it means, in one transaction, so a crash costs at most
the page in work. Nothing of it is visible until `finish` puts it in the place of the old state, log
and head, as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.block import Block
from ledger.block_store import BlockStore
from ledger.certificate import decode_certificate
from ledger.disk import Connection
from ledger.header import decode_header
from ledger.light import decode_epoch_step
from ledger.log_store import LogStore
from ledger.node_store import FETCHED_NUMBERS, MARK_BYTES, SYNC_STATE_TABLE
from ledger.state_nodes import (
    NodeWriter,
    Stub,
    decode_reference,
    encode_leaf,
    encode_reference,
)
from ledger.state_range import StatePage
from ledger.state_sync import SyncPlan, SyncTarget, decode_sync_plan, decode_sync_target
from ledger.state_tree import StateTree
from protocol.digest import Digest, ManifestId, sha256
from protocol.errors import LocalProtocolError, StorageError, VerificationError

_MANIFEST_PREFIX: Final = b"m/"
_MANIFEST_END: Final = b"m0"


class SyncStore:
    """One fetch at a time; calls block, one at a time, as those of the store it belongs to."""

    def __init__(self, store: BlockStore) -> None:
        """Finds what an earlier process left.

        Raises:
            StorageError: it is damaged.
        """
        self._store = store
        self.target: SyncTarget | None = None
        """The version being fetched; None: no fetch is under way."""
        self.plan = SyncPlan()
        """What of it is missing."""
        self._tree = StateTree()
        self._first = self._next = 0
        self._load()

    def _load(self) -> None:
        store = self._store
        raw = store.blob("SELECT value FROM sync WHERE name = 'target'")
        if raw is None:
            self.target = None
            return
        target = store.decoded("sync target", lambda: decode_sync_target(raw))
        plan = store.blob("SELECT value FROM sync WHERE name = 'plan'") or b""
        root = store.blob("SELECT value FROM sync WHERE name = 'root'") or b""
        first = store.blob("SELECT value FROM sync WHERE name = 'first'") or b""
        self.plan = store.decoded("sync plan", lambda: decode_sync_plan(plan))
        self._tree = StateTree(
            store.decoded("sync root", lambda: decode_reference(root, store.nodes))
        )
        self._first = int.from_bytes(first, "big")
        newest = store.row("SELECT max(number) FROM nodes WHERE number >= ?", self._first)
        assert newest is not None, "an aggregate has a row"
        self._next = self._first if newest[0] is None else store.integer_of(newest[0]) + 1
        self.target = target

    def begin(self, target: SyncTarget) -> None:
        """Starts to fetch a version, or goes on if it is the one under way.

        Raises:
            StorageError: it could not be written.
        """
        if self.target is not None and self.target.header == target.header:
            return
        self.abort()
        store = self._store
        first = (store.nodes.next_number // FETCHED_NUMBERS + 1) * FETCHED_NUMBERS
        plan = SyncPlan()
        with store.transaction() as database:
            _put(database, "target", target.encode())
            _put(database, "plan", plan.encode())
            _put(database, "root", encode_reference(None))
            _put(database, "first", first.to_bytes(8, "big"))
        self.target, self.plan, self._tree = target, plan, StateTree()
        self._first = self._next = first

    def abort(self) -> None:
        """Forgets the fetch under way, if there is one."""
        if self.target is None:
            return
        with self._store.transaction() as database:
            database.execute("DELETE FROM nodes WHERE number >= ?", (self._first,))
            database.execute("DELETE FROM sync_state")
            database.execute("DELETE FROM sync")
        self.target = None

    def add_page(self, start: Digest, page: StatePage) -> None:
        """Keeps a verified page that was asked for from `start` on.

        Raises:
            StorageError: it could not be written; nothing was.
        """
        store = self._store
        tree = self._tree.update(dict(page.leaves))
        writer = NodeWriter(store.nodes, self._next)
        root, gone = writer.write(tree.root_node, self._tree.root_node)
        plan = decode_sync_plan(self.plan.encode())
        plan.done(start, page)
        with store.transaction() as database:
            _insert(database, writer)
            database.executemany("DELETE FROM nodes WHERE number = ?", [(n,) for n in gone])
            _put(database, "root", encode_reference(root))
            _put(database, "plan", plan.encode())
        self.plan.done(start, page)
        self._next = writer.next_number
        store.nodes.settle(writer)
        tree.settle(root)
        self._tree = tree

    def missing_manifests(self, count_max: int) -> list[ManifestId]:
        """Ids of manifests that the fetched state names and nobody has brought yet."""
        rows = self._store.rows(
            "SELECT DISTINCT substr(key, 3, 32) AS id FROM sync_state WHERE key >= ? AND key < ? "
            "AND NOT EXISTS (SELECT 1 FROM manifests WHERE manifests.id = substr(key, 3, 32)) "
            "LIMIT ?",
            _MANIFEST_PREFIX,
            _MANIFEST_END,
            count_max,
        )
        return [ManifestId(Digest(self._store.bytes_of(row[0]))) for row in rows]

    def add_manifests(self, manifests: Sequence[tuple[ManifestId, bytes]]) -> None:
        """Keeps manifests.

        Raises:
            VerificationError: one is not what its id says; none is kept.
        """
        for name, raw in manifests:
            if ManifestId(sha256(raw)) != name:
                raise VerificationError(f"manifest {name.hex()[:8]} has other bytes")
        with self._store.transaction() as database:
            self._store.manifests.insert(database, manifests)

    def finish(self, block: Block) -> None:
        """Puts the fetched state in the place of the old one.

        Args:
            block: the block whose header commits to it.

        Raises:
            LocalProtocolError: something is missing, or the block is another.
            StorageError: what was stored is not what the header commits to, the chain moved on
                meanwhile, or it could not be written.
        """
        store, target = self._store, self.target
        if target is None or not self.plan.is_complete or self.missing_manifests(1):
            raise LocalProtocolError("the state is not complete")
        if block.header != target.header:
            raise LocalProtocolError("not the block of the fetched state")
        root = self._tree.root_node
        if self._tree.root != target.header.state_root or not isinstance(root, Stub):
            raise StorageError(f"{store.path}: damaged, the fetched state has another root")
        if store.head()[0].height >= target.header.height:
            raise StorageError(f"{store.path}: the chain is beyond the fetched state already")
        with store.transaction() as database:
            self._replace_state(database, root, target)
            self._replace_history(database, block, target)
        self.target = None
        store.nodes.reload()

    def _replace_state(self, database: Connection, root: Stub, target: SyncTarget) -> None:
        database.execute("DELETE FROM stale")
        # Not at once: somebody may still read the old state.
        database.execute(
            "INSERT INTO stale SELECT 0, ?, number FROM nodes WHERE number < ?",
            (target.header.height, self._first),
        )
        for statement in (
            "DELETE FROM snapshots",
            "DROP TABLE state",
            "ALTER TABLE sync_state RENAME TO state",
            SYNC_STATE_TABLE,
            "DELETE FROM sync",
        ):
            database.execute(statement)
        reference = encode_reference(root)
        database.execute("INSERT OR REPLACE INTO meta VALUES ('root', ?)", (reference,))
        database.execute(
            "INSERT INTO snapshots VALUES (?, ?, ?, ?)",
            (target.header.height, self._next - 1, reference, target.log.encode()),
        )

    @staticmethod
    def _replace_history(database: Connection, block: Block, target: SyncTarget) -> None:
        """Head, log and hand-overs; bodies before a gap would serve nobody."""
        header = block.header
        database.execute("DELETE FROM bodies WHERE height > 0")
        own = decode_certificate(target.certificate).block_id == header.block_id
        database.execute(
            "INSERT INTO headers VALUES (?, ?, ?, ?)",
            (header.height, header.block_id, header.encoded, target.certificate if own else None),
        )
        database.execute("INSERT INTO bodies VALUES (?, ?)", (header.height, block.encoded))
        database.execute(
            "INSERT OR REPLACE INTO meta VALUES ('start', ?)", (header.height.to_bytes(8, "big"),)
        )
        LogStore.restore(database, target.log)
        database.executemany(
            "INSERT OR REPLACE INTO epoch_steps VALUES (?, ?)",
            [(decode_header(decode_epoch_step(raw).header).epoch, raw) for raw in target.steps],
        )


def _put(database: Connection, name: str, value: bytes) -> None:
    database.execute("INSERT OR REPLACE INTO sync VALUES (?, ?)", (name, value))


def _insert(database: Connection, writer: NodeWriter) -> None:
    database.executemany("INSERT INTO nodes VALUES (?, ?)", writer.tiles)
    database.executemany(
        "INSERT INTO nodes VALUES (?, ?)",
        [(number, encode_leaf(leaf)) for number, leaf in writer.leaves],
    )
    database.executemany(
        "INSERT OR REPLACE INTO sync_state VALUES (?, ?, ?)",
        [(leaf.key, number, leaf.hash[:MARK_BYTES]) for number, leaf in writer.leaves],
    )
