"""A validator's run on a ledger store, and what must be in it after any power loss."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ledger.block import Block
from ledger.block_store import BlockStore, Durability
from ledger.bodies.receipt import AnchorReceipts
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.disk import Disk
from protocol.digest import TransactionId, sha256
from protocol.errors import StorageError
from protocol.transaction import SignedTransaction
from tests.support.crash_states import CrashState, lay_out
from tests.support.ledger import Lab, build_next, make_lab
from tests.support.memory_files import MemoryFiles
from tests.support.recording_vfs import RecordingDisk

FOLDER = Path("/disk")
"""Folder of the store on the recorded disk."""
DATABASE = "ledger.db"
"""File of the store."""
BLOCKS = 9
"""Blocks of a run."""
State = dict[bytes, bytes]


@dataclass(frozen=True)
class Script:
    """Blocks with their certificates, and transactions that this node submits itself."""

    lab: Lab
    blocks: list[tuple[Block, Certificate]]
    """Heights 1, 2, ...: one transaction of this node and one of another in each."""
    states: list[State]
    """All state keys after each height, genesis first."""
    own: list[SignedTransaction]
    """This node's: the one at index i enters block i + 1, if there is one."""


@cache
def make_script() -> Script:
    """Makes the run's blocks once."""
    lab = make_lab()
    chain = lab.open_chain()
    own, other = lab.gateways
    mine = [
        lab.transaction(own, AnchorReceipts(size=size, root=sha256(b"own %d" % size)))
        for size in range(1, BLOCKS + 4)
    ]
    blocks, states = [], [dict(chain.state.scan(b""))]
    for index in range(BLOCKS):
        body = AnchorReceipts(size=index + 1, root=sha256(b"other %d" % index))
        block = build_next(chain, [mine[index], lab.transaction(other, body)])
        certificate = lab.certificate(block)
        chain.commit(block.block_id, certificate)
        blocks.append((block, certificate))
        states.append(dict(chain.state.scan(b"")))
    return Script(lab, blocks, states, mine)


@dataclass
class StoreRun:
    """What was acknowledged, each with the number of disk operations before it."""

    files: MemoryFiles
    begun: list[tuple[int, int]] = field(default_factory=list)
    """Heights whose commit began."""
    committed: list[tuple[int, int]] = field(default_factory=list)
    """Heights whose commit returned."""
    kept: list[tuple[int, TransactionId]] = field(default_factory=list)
    """Own transactions that were accepted."""
    error: StorageError | None = None
    """What ended the run early."""

    def height(self, marks: list[tuple[int, int]], prefix: int) -> int | None:
        """The highest among heights noted by then; None before genesis."""
        return max((height for mark, height in marks if mark <= prefix), default=None)


def run_node(
    disk: RecordingDisk, *, blocks: int = BLOCKS, durability: Durability = Durability.FULL
) -> StoreRun:
    """Submits, commits, prunes and restarts; ends at the first error."""
    script, run = make_script(), StoreRun(disk.files)
    try:
        run.begun.append((0, 0))
        store = BlockStore(FOLDER / DATABASE, durability, disk)
        chain = Chain.open(store, script.lab.genesis)
        run.committed.append((len(disk.files.operations), 0))
        for signed in script.own[:3]:
            _submit(run, chain, signed)
        for height, (block, certificate) in enumerate(script.blocks[:blocks], start=1):
            run.begun.append((len(disk.files.operations), height))
            chain.commit(block.block_id, certificate, ancestors=[block])
            run.committed.append((len(disk.files.operations), height))
            _submit(run, chain, script.own[height + 2])
            if height % 4 == 0:
                store.prune_bodies(height - 1)
            if height == 5:
                store.close()
                store = BlockStore(FOLDER / DATABASE, durability, disk)
                chain = Chain.open(store, script.lab.genesis)
        store.close()
    except StorageError as error:
        run.error = error
    finally:
        disk.kill()
    return run


def _submit(run: StoreRun, chain: Chain, signed: SignedTransaction) -> None:
    name = chain.submit(signed.signed.raw, now_ms=chain.head.time_ms + 1, is_own=True)
    run.kept.append((len(run.files.operations), name))


def problem_after(
    run: StoreRun, state: CrashState, directory: Path, *, may_lag: bool = False
) -> str | None:
    """Opens a crash state with the production code; what is wrong with it, or None.

    Args:
        run: what happened.
        state: what the power loss left.
        directory: an empty place for it.
        may_lag: whether acknowledged commits may be missing, the newest first.
    """
    lay_out(state.image, directory)
    return judge(run, state.prefix, directory, Disk(), may_lag=may_lag)


def judge(
    run: StoreRun, prefix: int, directory: Path, disk: Disk, *, may_lag: bool = False
) -> str | None:
    """Compares a store with what was acknowledged before an operation."""
    script = make_script()
    try:
        store = BlockStore(directory / DATABASE, Durability.FULL, disk)
    except StorageError as error:
        return f"cannot be opened: {error}"
    with contextlib.closing(store):
        must, may = run.height(run.committed, prefix), run.height(run.begun, prefix)
        if store.identity() is None:
            return None if must is None or may_lag else "genesis is lost"
        try:
            chain = Chain.open(store, script.lab.genesis)
            height = chain.head.height
            if not may_lag and must is not None and height < must:
                return f"commit of height {must} was acknowledged, the head is {height}"
            if may is None or height > may:
                return f"head {height} was never written"
            lost = None if may_lag else _lost_pending(run, store, prefix)
            return lost or _contradiction(chain, store, height)
        except StorageError as error:
            return f"contradicts itself: {error}"


def _contradiction(chain: Chain, store: BlockStore, height: int) -> str | None:
    """What of state, headers and blocks is not that of the head, or None."""
    script = make_script()
    if dict(chain.state.scan(b"")) != script.states[height]:
        return f"state is not that of block {height}"
    if height and chain.head.block_id != script.blocks[height - 1][0].block_id:
        return f"head {height} is another block"
    for below in range(1, height + 1):
        block, _ = script.blocks[below - 1]
        if store.height_of(block.block_id) != below:
            return f"block {below} is missing below head {height}"
        if store.finality(below) is None:
            return f"finality of block {below} is missing"
    if height < len(script.blocks):
        block, certificate = script.blocks[height]
        chain.commit(block.block_id, certificate, ancestors=[block])
    return None


def _lost_pending(run: StoreRun, store: BlockStore, prefix: int) -> str | None:
    waiting = {TransactionId(sha256(raw)) for raw in store.pending()}
    for mark, name in run.kept:
        if mark <= prefix and name not in waiting and store.transaction_height(name) is None:
            return f"own transaction {name.hex()[:8]} is lost"
    return None
