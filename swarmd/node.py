"""One node: opens the stores of a data directory and runs its services over them.

`Node` is what the daemon runs and what tests and simulations run in memory: everything it takes
from the world (directory, clock, entropy, wire) comes in as an argument.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

from chunks.file_backend import FileBackend
from chunks.file_store import FileStore
from chunks.room import StoreLimits
from chunks.store import ChunkStore
from ledger.block_store import BlockStore
from ledger.chain import Chain
from ledger.database import Durability
from protocol.did import SubjectKind
from protocol.limits import STATE_SNAPSHOT_INTERVAL
from swarmd.clock import Clock
from swarmd.datadir import DataDir
from swarmd.entropy import Entropy
from swarmd.identity import load_identity, own_subject
from swarmd.keys.passphrase import PassphraseSource, no_passphrase
from swarmd.net.wire import Wire
from swarmd.receipts import ReceiptLog
from swarmd.running_node import RunningNode


class Node:
    """A node of the swarm."""

    def __init__(
        self,
        data: DataDir,
        *,
        clock: Clock,
        entropy: Entropy,
        stop: Callable[[], None],
        wire: Wire | None = None,
        wrap_store: Callable[[ChunkStore], ChunkStore] = lambda store: store,
        files: FileBackend | None = None,
        passphrases: PassphraseSource = no_passphrase,
        snapshot_interval: int = STATE_SNAPSHOT_INTERVAL,
    ) -> None:
        """Names what the node runs on; `running` opens it.

        Args:
            data: its data directory, locked by the caller.
            clock: monotonic seconds and the wall clock.
            entropy: randomness.
            stop: begins an orderly stop of the process.
            wire: what carries bytes; None: TCP.
            wrap_store: puts something between services and image store (simulated faults).
            files: what the image store asks of the operating system; None: just that.
            passphrases: asked if the node's keys are encrypted.
            snapshot_interval: heights between versions kept for peers; tests take a short one.
        """
        self._snapshot_interval = snapshot_interval
        self._passphrases = passphrases
        self._wrap_store = wrap_store
        self._files = files
        self.services: RunningNode | None = None
        """What runs inside `running`."""
        self._data = data
        self._clock = clock
        self._entropy = entropy
        self._stop = stop
        self._wire = wire

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[str, ...]]:
        """Runs the node within the block; yields the multiaddrs it listens on.

        Raises:
            ConfigError, StorageError, TransportError: it cannot start.
        """
        config = self._data.load_config()
        genesis = self._data.load_genesis()
        self._data.bind_chain(genesis.chain)
        did, kind = own_subject(self._data, genesis)
        identity = load_identity(self._data, did, kind, self._passphrases)
        durability = Durability.FULL if kind is SubjectKind.VALIDATOR else Durability.BATCHED
        block_store = BlockStore(
            self._data.ledger_file, durability, snapshot_interval=self._snapshot_interval
        )
        try:
            chain = Chain.open(block_store, genesis)
            storage = config.storage
            limits = StoreLimits(
                quota_bytes=storage.quota_bytes,
                files_max=storage.files_max,
                reserve_bytes=storage.reserve_bytes,
            )
            store = FileStore.open(self._data.images, backend=self._files, limits=limits)
            receipts = ReceiptLog(self._data.receipts / "receipts.db", genesis.chain)
            try:
                running = RunningNode(
                    data=self._data,
                    clock=self._clock,
                    entropy=self._entropy,
                    stop=self._stop,
                    config=config,
                    genesis=genesis,
                    identity=identity,
                    chain=chain,
                    store=self._wrap_store(store),
                    receipt_log=receipts,
                    passphrases=self._passphrases,
                )
                self.services = running
                async with running.serve(self._wire) as addresses:
                    yield addresses
            finally:
                receipts.close()
                store.close()
        finally:
            block_store.close()
