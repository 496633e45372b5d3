"""Reading the head of a stored ledger, at a start and after a state was fetched.

Nothing here grows with the ledger: the root's row, the log's frontier and one block are compared
with the head's header. What lies below the root is checked when it is read, or by a deep check.
"""

from __future__ import annotations

from ledger.block_store import BlockStore
from ledger.certificate import Certificate
from ledger.chain_blocks import Executed
from ledger.state import LedgerState
from ledger.state_nodes import resolve
from ledger.transition.block import Outcome
from ledger.transition.genesis import genesis_block
from protocol.errors import StorageError
from protocol.genesis import Genesis


def load_final(store: BlockStore, genesis: Genesis) -> tuple[Executed, Certificate | None]:
    """The last final block with the state after it, and its own certificate if it has one.

    Raises:
        StorageError: header, state, log and body of the store contradict each other.
    """
    header, certificate = store.head()
    state = LedgerState(store.nodes.tree(), store.log())
    resolve(state.tree.root_node)
    if state.tree.root != header.state_root:
        raise StorageError(f"{store.path}: damaged state: not that of final block {header.height}")
    if (state.log.size, state.log.root) != (header.log_size, header.log_root):
        raise StorageError(f"{store.path}: damaged log: not that of final block {header.height}")
    if header.height == 0 and header != genesis_block(genesis, state).header:
        raise StorageError(f"{store.path}: damaged genesis block")
    block = store.block(header.block_id)
    if block is None:
        raise StorageError(f"{store.path}: damaged, block {header.height} has no body")
    outcome = Outcome(state=state, writes={}, leaves=())
    return Executed(block=block, outcome=outcome, transactions=()), certificate
