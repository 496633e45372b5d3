"""Judging one block: the rules beyond its transactions, and what its execution gives.

`execute_block` is a pure function of a block and its executed parent. `describe` turns an executed
block into what a host wants to know once it is final.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.block import Block
from ledger.block_store import FinalBlock
from ledger.certificate import Certificate
from ledger.errors import InvalidBlockError, LedgerError
from ledger.header import Header
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.simplex.rules import skipped_views, verify_time
from ledger.state import LedgerState
from ledger.state_keys import split_evidence_key, split_manifest_key
from ledger.transition.block import (
    BlockDraft,
    Outcome,
    apply_block,
    apply_evidence,
    apply_transaction,
)
from ledger.transition.context import BlockContext
from ledger.transition.envelope import read_transaction
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, Verifier
from protocol.digest import ChainId, DidId, ManifestId, TransactionId, sha256
from protocol.errors import VerificationError
from protocol.limits import BLOCK_EVIDENCE_MAX, BLOCK_TRANSACTIONS_MAX
from protocol.transaction import SignedTransaction

ENTRY_OVERHEAD_BYTES: Final = 3
"""Bytes of CBOR around a transaction in a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRules:
    """What all blocks of an epoch have in common."""

    chain: ChainId
    """Chain id."""
    era: int
    """Era of the chain."""
    validators: ValidatorSet
    """Who certifies."""
    verifier: Verifier
    """Checks votes."""

    def context(self, *, height: int, time_ms: int) -> BlockContext:
        """The context of a block."""
        return BlockContext(
            chain=self.chain,
            era=self.era,
            height=height,
            time_ms=time_ms,
            validators=self.validators,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """A block that was executed and found valid."""

    block: Block
    """The block."""
    outcome: Outcome
    """State and log after it, and what it wrote."""
    transactions: tuple[SignedTransaction, ...]
    """Its transactions, parsed."""

    @property
    def header(self) -> Header:
        """The block's header."""
        return self.block.header

    @property
    def state(self) -> LedgerState:
        """State after it."""
        return self.outcome.state


def execute_block(block: Block, parent: Executed, rules: ChainRules) -> Executed:
    """Executes a block on its parent and compares all its header commits to (L30, L31).

    Raises:
        InvalidBlockError: it breaks a rule; the same verdict wherever and whenever it is judged.
    """
    header = block.header
    _check_header(header, parent.header, rules)
    skipped = list(skipped_views(header.parent_view, header.view))
    _require(header, "block.skips", skipped, [skip.view for skip in block.skips])
    context = rules.context(height=header.height, time_ms=header.time_ms)
    try:
        transactions = tuple(read_transaction(raw) for raw in block.transactions)
        outcome = apply_block(parent.state, context, transactions, block.evidence, rules.verifier)
    except LedgerError as error:
        raise InvalidBlockError(block.block_id, error.rule, str(error)) from error
    _check_roots(header, outcome)
    return Executed(block=block, outcome=outcome, transactions=transactions)


def _require(header: Header, rule: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise InvalidBlockError(header.block_id, rule, f"{actual!r}, expected {expected!r}")


def _check_header(header: Header, parent: Header, rules: ChainRules) -> None:
    _require(header, "block.chain", rules.chain, header.chain)
    _require(header, "block.era", rules.era, header.era)
    _require(header, "block.epoch", rules.validators.epoch, header.epoch)
    _require(header, "block.validators", rules.validators.digest, header.validators)
    _require(header, "block.next_validators", rules.validators.digest, header.next_validators)
    _require(header, "block.parent", parent.block_id, header.parent)
    _require(header, "block.height", parent.height + 1, header.height)
    _require(header, "block.parent_view", parent.view, header.parent_view)
    if header.view <= parent.view:
        raise InvalidBlockError(
            header.block_id, "block.view", f"view {header.view} is not above {parent.view}"
        )
    _require(header, "block.proposer", rules.validators.leader(header.view), header.proposer)
    if header.time_ms <= parent.time_ms:
        raise InvalidBlockError(
            header.block_id, "block.time", f"{header.time_ms} is not after {parent.time_ms}"
        )


def _check_roots(header: Header, outcome: Outcome) -> None:
    log = outcome.state.log
    _require(header, "block.log_size", log.size, header.log_size)
    _require(header, "block.log_root", log.root.hex(), header.log_root.hex())
    _require(header, "block.state_root", outcome.state.tree.root.hex(), header.state_root.hex())


def check_clock(header: Header, parent: Header, now_ms: int) -> None:
    """Checks a proposal's time against its parent's and the validator's clock (C52).

    Raises:
        InvalidBlockError: `block.time`.
    """
    try:
        verify_time(header, parent, now_ms=now_ms)
    except VerificationError as error:
        raise InvalidBlockError(header.block_id, "block.time", str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestChange:
    """A manifest's standing changed in one group."""

    manifest_id: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    before: ManifestStatus | None
    """Status before the block; None: it was proposed in it."""
    record: ManifestRecord
    """Its record after the block; a change may be another approval only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitResult:
    """What a host learns when a block becomes final."""

    header: Header
    """The block's header."""
    certificate: Certificate
    """Finalizes this block or a descendant in the same run."""
    transactions: tuple[tuple[TransactionId, str], ...]
    """Id and kind of each transaction applied, in order."""
    manifests: tuple[ManifestChange, ...]
    """Manifests proposed, approved, authorised or revoked."""
    subjects: tuple[DidId, ...]
    """Subjects admitted, rotated or suspended."""
    groups: tuple[str, ...]
    """Groups created or given another policy."""
    convictions: tuple[tuple[int, int], ...]
    """(epoch, index) of validators convicted of contradicting themselves."""


def describe(executed: Executed, before: LedgerState, certificate: Certificate) -> CommitResult:
    """Summarises an executed block for its host; `before` is the parent's state."""
    manifests: list[ManifestChange] = []
    subjects: list[DidId] = []
    groups: list[str] = []
    convictions: list[tuple[int, int]] = []
    for key, value in executed.outcome.writes.items():
        if key.startswith(b"m/"):
            manifest_id, group = split_manifest_key(key)
            known = before.manifest(manifest_id, group)
            record = ManifestRecord.decode(value)
            status = None if known is None else known.status
            change = ManifestChange(
                manifest_id=manifest_id, group=group, before=status, record=record
            )
            manifests.append(change)
        elif key.startswith(b"d/"):
            subjects.append(DidId(key[2:]))
        elif key.startswith(b"g/"):
            groups.append(key[2:].decode())
        elif key.startswith(b"e/"):
            convictions.append(split_evidence_key(key))
    return CommitResult(
        header=executed.header,
        certificate=certificate,
        transactions=tuple(
            (signed.transaction_id, signed.transaction.kind) for signed in executed.transactions
        ),
        manifests=tuple(manifests),
        subjects=tuple(subjects),
        groups=tuple(groups),
        convictions=tuple(convictions),
    )


def proposed_manifests(executed: Executed) -> tuple[tuple[ManifestId, bytes], ...]:
    """Ids and original bytes of the manifests that a block proposes."""
    found: list[tuple[ManifestId, bytes]] = []
    for signed in executed.transactions:
        raw = signed.transaction.body.get(0)
        if signed.transaction.kind == "manifest.propose" and isinstance(raw, bytes):
            found.append((ManifestId(sha256(raw)), raw))
    return tuple(found)


def fill_block(
    draft: BlockDraft, candidates: Iterable[SignedTransaction], budget: int
) -> tuple[SignedTransaction, ...]:
    """Applies what is valid and fits, in the order given."""
    taken: list[SignedTransaction] = []
    for signed in candidates:
        size = len(signed.signed.raw) + ENTRY_OVERHEAD_BYTES
        if len(taken) == BLOCK_TRANSACTIONS_MAX:
            break
        if size > budget:
            continue
        try:
            apply_transaction(draft, signed)
        except LedgerError:
            continue
        taken.append(signed)
        budget -= size
    return tuple(taken)


def convict(
    draft: BlockDraft, evidence: Sequence[Evidence], verifier: Verifier
) -> tuple[Evidence, ...]:
    """Records what evidence is new and valid, up to the bound of a block."""
    accepted: list[Evidence] = []
    for item in evidence:
        if len(accepted) == BLOCK_EVIDENCE_MAX:
            break
        try:
            apply_evidence(draft, item, verifier)
        except LedgerError:
            continue
        accepted.append(item)
    return tuple(accepted)


def final_block(executed: Executed, certificate: Certificate | None) -> FinalBlock:
    """What the store keeps of an executed block that becomes final."""
    return FinalBlock(
        block=executed.block,
        certificate=certificate,
        writes=executed.outcome.writes,
        leaves=executed.outcome.leaves,
        log=executed.state.log,
        transactions=tuple(
            (signed.transaction_id, signed.transaction.kind) for signed in executed.transactions
        ),
        manifests=proposed_manifests(executed),
    )
