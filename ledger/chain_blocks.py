"""Judging one block: the rules beyond its transactions, and what its execution gives.

`execute_block` is a pure function of a block and its executed parent. `describe` turns an executed
block into what a host wants to know once it is final.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.block import Block
from ledger.block_store import FinalBlock
from ledger.certificate import Certificate
from ledger.errors import (
    ForkAlarmError,
    InvalidBlockError,
    LedgerError,
    UnsupportedVersionError,
)
from ledger.handover import Handover
from ledger.header import Header
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.simplex.rules import check_filler, is_closed, skipped_views, verify_time
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
from ledger.transition.kind import Lane
from ledger.transition.shares import lane_of
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, Verifier
from protocol.digest import BlockId, ChainId, DidId, ManifestId, TransactionId, sha256
from protocol.errors import VerificationError
from protocol.genesis import Parameters
from protocol.limits import BLOCK_EVIDENCE_MAX, BLOCK_TRANSACTIONS_MAX
from protocol.transaction import SignedTransaction

ENTRY_OVERHEAD_BYTES: Final = 3
"""Bytes of CBOR around a transaction in a block."""


SUPPORTED_VERSION: Final = 1
"""Newest protocol version this program executes."""


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
    parameters: Parameters
    """Numbers of the chain in this epoch."""
    version: int
    """Protocol version of this epoch."""

    @classmethod
    def of_state(
        cls, state: LedgerState, *, chain: ChainId, era: int, verifier: Verifier
    ) -> ChainRules:
        """The rules for blocks after a state: those of the epoch that is current in it."""
        record = state.epoch()
        validators = state.validators(record.epoch)
        assert validators is not None, "an epoch's set is written before the epoch begins"
        return cls(
            chain=chain,
            era=era,
            validators=validators,
            verifier=verifier,
            parameters=record.parameters,
            version=record.version,
        )

    def require_version(self) -> None:
        """Refuses to go on in an epoch whose protocol this program does not know (E51).

        Raises:
            UnsupportedVersionError: `chain.version`.
        """
        if self.version > SUPPORTED_VERSION:
            raise UnsupportedVersionError(self.version, SUPPORTED_VERSION)

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


def execute_block(
    block: Block,
    parent: Executed,
    rules: ChainRules,
    read: Callable[[bytes], SignedTransaction] = read_transaction,
) -> Executed:
    """Executes a block on its parent and compares all its header commits to (L30, L31).

    Args:
        block: the block.
        parent: the block before it, executed.
        rules: of its epoch.
        read: parses a transaction, or finds it parsed.

    Raises:
        InvalidBlockError: it breaks a rule; the same verdict wherever and whenever it is judged.
    """
    header = block.header
    _check_header(header, parent.header, rules)
    skipped = list(skipped_views(header.parent_view, header.view))
    _require(header, "block.skips", skipped, [skip.view for skip in block.skips])
    if is_closed(parent.header, header.epoch):
        return _filler(block, parent)
    context = rules.context(height=header.height, time_ms=header.time_ms)
    try:
        transactions = tuple(read(raw) for raw in block.transactions)
        outcome = apply_block(parent.state, context, transactions, block.evidence, rules.verifier)
    except LedgerError as error:
        raise InvalidBlockError(block.block_id, error.rule, str(error)) from error
    _check_roots(header, outcome)
    following = rules.validators if outcome.following is None else outcome.following
    _require(header, "block.next_validators", following.digest, header.next_validators)
    return Executed(block=block, outcome=outcome, transactions=transactions)


def _filler(block: Block, parent: Executed) -> Executed:
    """Executes a block after a closing one, which may do nothing (E14)."""
    if block.transactions or block.evidence:
        raise InvalidBlockError(block.block_id, "block.filler", "a filler holds skip proofs only")
    try:
        check_filler(block.header, parent.header)
    except VerificationError as error:
        raise InvalidBlockError(block.block_id, "block.filler", str(error)) from error
    return Executed(block=block, outcome=idle_outcome(parent), transactions=())


def idle_outcome(parent: Executed) -> Outcome:
    """What a filler does: nothing."""
    return Outcome(state=parent.state, writes={}, leaves=())


def _require(header: Header, rule: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise InvalidBlockError(header.block_id, rule, f"{actual!r}, expected {expected!r}")


def _check_header(header: Header, parent: Header, rules: ChainRules) -> None:
    _require(header, "block.chain", rules.chain, header.chain)
    _require(header, "block.era", rules.era, header.era)
    _require(header, "block.epoch", rules.validators.epoch, header.epoch)
    _require(header, "block.validators", rules.validators.digest, header.validators)
    _require(header, "block.parent", parent.block_id, header.parent)
    _require(header, "block.height", parent.height + 1, header.height)
    before = parent.view_in(header.epoch)
    _require(header, "block.parent_view", before, header.parent_view)
    if header.view <= before:
        raise InvalidBlockError(
            header.block_id, "block.view", f"view {header.view} is not above {before}"
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


def check_linked(blocks: Sequence[Block]) -> None:
    """Checks that a run of blocks hangs together.

    Raises:
        VerificationError: it is empty, or a block does not follow the one before.
    """
    if not blocks:
        raise VerificationError("a run without blocks")
    for parent, block in itertools.pairwise(blocks):
        place = (parent.block_id, parent.header.height + 1)
        if (block.header.parent, block.header.height) != place:
            raise VerificationError(f"block {block.header.height} does not follow its parent")


def split_run(
    run: Sequence[Executed], certificate: Certificate
) -> tuple[Sequence[Executed], Certificate | None, Handover | None]:
    """Parts what becomes final of a certified run from the fillers that only helped (E15).

    Returns:
        The blocks up to the end of their epoch at most; the last one's own certificate, if it is
        that one's; how the epoch ended, if it did.
    """
    closing = next((i for i, item in enumerate(run) if item.header.closes_epoch), None)
    if closing is None:
        return run, certificate, None
    fillers = tuple(item.block for item in run[closing + 1 :])
    handover = Handover(fillers=fillers, certificate=certificate)
    return run[: closing + 1], None if fillers else certificate, handover


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
    following: ValidatorSet | None
    """The next epoch's set if this block closed its epoch, else None."""


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
        following=executed.outcome.following,
    )


def require_expected(
    run: Sequence[Executed], expected: tuple[int, BlockId] | None, certificate: Certificate
) -> None:
    """Checks certified blocks against a header that somebody this node believes vouched for.

    Args:
        run: the blocks.
        expected: height and id of that header; None: there is none.
        certificate: what certifies the blocks.

    Raises:
        ForkAlarmError: `chain.checkpoint`: one of them is another block of that height.
    """
    for item in run:
        header = item.header
        if expected is not None and header.height == expected[0] and header.block_id != expected[1]:
            raise ForkAlarmError(
                header.block_id,
                "chain.checkpoint",
                f"not the block {expected[1].hex()[:8]} that was vouched for at height "
                f"{expected[0]}",
                certificate.encode(),
            )


def describe_arrival(final: Executed, certificate: Certificate) -> CommitResult:
    """Summarises a state that was fetched as a whole, as if one block had brought all of it."""
    state = final.state
    manifests = [
        ManifestChange(
            manifest_id=manifest_id,
            group=group,
            before=None,
            record=ManifestRecord.decode(value),
        )
        for rest, value in state.scan(b"m/")
        for manifest_id, group in (split_manifest_key(b"m/" + rest),)
    ]
    return CommitResult(
        header=final.header,
        certificate=certificate,
        transactions=(),
        manifests=tuple(manifests),
        subjects=tuple(DidId(rest) for rest, _ in state.scan(b"d/")),
        groups=tuple(rest.decode() for rest, _ in state.scan(b"g/")),
        convictions=tuple(split_evidence_key(b"e/" + rest) for rest, _ in state.scan(b"e/")),
        following=None,
    )


def proposed_manifests(executed: Executed) -> tuple[tuple[ManifestId, bytes], ...]:
    """Ids and original bytes of the manifests that a block proposes."""
    found: list[tuple[ManifestId, bytes]] = []
    for signed in executed.transactions:
        raw = signed.transaction.body.get(0)
        if signed.transaction.kind == "manifest.propose" and isinstance(raw, bytes):
            found.append((ManifestId(sha256(raw)), raw))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bytes that transactions of a block may take."""

    all_bytes: int
    """All of them."""
    ordinary_bytes: int
    """Those of ordinary kinds (Q31)."""


def fill_block(
    draft: BlockDraft, candidates: Iterable[SignedTransaction], budget: Budget
) -> tuple[SignedTransaction, ...]:
    """Applies what is valid and fits, in the order given."""
    room, ordinary_room = budget.all_bytes, budget.ordinary_bytes
    taken: list[SignedTransaction] = []
    for signed in candidates:
        size = len(signed.signed.raw) + ENTRY_OVERHEAD_BYTES
        if len(taken) == BLOCK_TRANSACTIONS_MAX:
            break
        is_ordinary = lane_of(signed.transaction.kind) is Lane.ORDINARY
        if size > (min(room, ordinary_room) if is_ordinary else room):
            continue
        try:
            apply_transaction(draft, signed)
        except LedgerError:
            continue
        taken.append(signed)
        room -= size
        ordinary_room -= size if is_ordinary else 0
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


def final_block(
    executed: Executed, certificate: Certificate | None, handover: Handover | None = None
) -> FinalBlock:
    """What the store keeps of an executed block that becomes final."""
    return FinalBlock(
        handover=handover,
        block=executed.block,
        certificate=certificate,
        tree=executed.state.tree,
        leaves=executed.outcome.leaves,
        log=executed.state.log,
        transactions=tuple(
            (signed.transaction_id, signed.transaction.kind) for signed in executed.transactions
        ),
        manifests=proposed_manifests(executed),
    )
