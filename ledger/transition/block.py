"""The transition: what a block does to the ledger. Start reading here.

`begin` opens a draft over the parent's state, `apply_transaction` applies one transaction to it or
refuses it with a stable code and no effect, `finish` gives the new state. `apply_block` is the
whole rule: every transaction of a block must be valid, in order, then every piece of evidence.

There are no actions between blocks. What time brings about (expiry of manifests, policies that take
effect) is a function of header time and is evaluated where it is asked for. Owners' approvals
decide; validators' keys appear in no rule that authorises anything. Integers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ledger.log import Log
from ledger.state import Draft, LedgerState
from ledger.transition.context import BlockContext
from ledger.transition.envelope import judge_transaction
from ledger.transition.kind import Lane
from ledger.transition.shares import BlockShare, lane_of
from ledger.transition.validators import close_epoch, convict
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, Verifier
from protocol.digest import Digest
from protocol.merkle import leaf_hash
from protocol.transaction import SignedTransaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a block did."""

    state: LedgerState
    """State and log after it."""
    writes: dict[bytes, bytes]
    """State keys it set, with their values."""
    leaves: tuple[Digest, ...]
    """Leaf hashes it added to the log: transactions, then evidence."""
    following: ValidatorSet | None = None
    """The next epoch's set if the block closes its epoch; None: the epoch goes on (E10)."""


@dataclass(slots=True)
class BlockDraft:
    """A block in the making."""

    parent: LedgerState
    """State before it."""
    context: BlockContext
    """What its transactions may know."""
    state: Draft
    """Writes so far."""
    log: Log
    """Log so far."""
    leaves: list[Digest]
    """Leaf hashes added so far."""
    ordinary: BlockShare = field(default_factory=BlockShare)
    """What ordinary transactions took so far."""


def begin(parent: LedgerState, context: BlockContext) -> BlockDraft:
    """Opens a block over its parent's state."""
    return BlockDraft(parent, context, Draft(parent), parent.log, [])


def apply_transaction(block: BlockDraft, signed: SignedTransaction) -> None:
    """Applies one transaction, or refuses it and leaves the block as it was.

    Raises:
        LedgerNotYetError: it may become valid later, or in a block with more room for its lane.
        LedgerError: it never will.
    """
    is_ordinary = lane_of(signed.transaction.kind) is Lane.ORDINARY
    if is_ordinary:
        block.ordinary.require(signed)
    draft = judge_transaction(block.state, signed, block.context)
    if is_ordinary:
        block.ordinary.take(signed)
    block.state.absorb(draft.writes)
    leaf = leaf_hash(signed.signed.raw)
    block.log = block.log.append(leaf)
    block.leaves.append(leaf)


def apply_evidence(block: BlockDraft, evidence: Evidence, verifier: Verifier) -> None:
    """Records a conviction, or refuses the evidence and leaves the block as it was (L59).

    Raises:
        LedgerError: `evidence.epoch`, `evidence.signature`, or `evidence.known`: one conviction for
            each signer and epoch.
    """
    convict(block.state, evidence, block.context, verifier)
    leaf = leaf_hash(evidence.encoded)
    block.log = block.log.append(leaf)
    block.leaves.append(leaf)


def finish(block: BlockDraft) -> Outcome:
    """Closes a block, and its epoch where that is due: the tree and log after it."""
    following = close_epoch(block.state, block.context)
    writes = dict(block.state.writes)
    state = LedgerState(block.parent.tree.update(writes), block.log)
    return Outcome(state=state, writes=writes, leaves=tuple(block.leaves), following=following)


def apply_block(
    parent: LedgerState,
    context: BlockContext,
    transactions: Sequence[SignedTransaction],
    evidence: Sequence[Evidence],
    verifier: Verifier,
) -> Outcome:
    """Executes a whole block (L30).

    Raises:
        LedgerError: the first entry that is not valid makes the block invalid.
    """
    block = begin(parent, context)
    for signed in transactions:
        apply_transaction(block, signed)
    for item in evidence:
        apply_evidence(block, item, verifier)
    return finish(block)
