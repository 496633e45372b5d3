"""What a node's copy of the ledger can tell: head, records, history.

Answers are about final blocks only, but for `block`, which also finds executed ones above the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ledger.block import Block
from ledger.block_store import BlockStore
from ledger.certificate import Certificate
from ledger.chain_blocks import ChainRules, Executed
from ledger.errors import UnsupportedVersionError
from ledger.header import Header, decode_header
from ledger.light import EpochStep, TrustAnchor, decode_epoch_step
from ledger.manifest_store import ManifestStore
from ledger.mempool import Mempool
from ledger.records.group import GroupRecord
from ledger.records.manifest import LatestRecord, ManifestRecord
from ledger.records.subject import SubjectRecord
from ledger.state import LedgerState
from ledger.state_keys import split_manifest_key
from ledger.state_range import StatePage
from ledger.state_serving import manifests, state_head, state_page
from ledger.sync_store import SyncStore
from ledger.transition.validators import next_set
from ledger.trust import EpochTrust
from ledger.validators import ValidatorSet
from protocol.approval import Action
from protocol.digest import BlockId, DidId, Digest, ManifestId, TransactionId
from protocol.errors import LocalProtocolError, StorageError
from protocol.genesis import Genesis
from protocol.governance import GOVERNANCE_GROUP, Checkpoint, checkpoint_digest
from protocol.group import Policy
from protocol.keys import PublicKey
from protocol.state_messages import STATE_STEPS_MAX, StateHeadAnswer

BLOCKS_COUNT_MAX: Final = 256
"""Blocks in one answer to a follower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionStatus:
    """Where a transaction stands at this node."""

    height: int | None
    """Height of the final block that holds it, or None."""
    is_pending: bool
    """Whether it waits in this node's mempool."""


@dataclass(frozen=True, slots=True)
class Tip:
    """What a node believes at one moment; take it once where several parts must agree."""

    final: Executed
    """The last final block with the state after it."""
    certificate: Certificate | None
    """Its finalize certificate; None at genesis, and where a filler made a closing block final."""
    rules: ChainRules
    """What holds for the next block: after a closing block, the next epoch's."""

    @property
    def header(self) -> Header:
        """Its header."""
        return self.final.header

    @property
    def state(self) -> LedgerState:
        """State after it."""
        return self.final.state


class ChainQueries:
    """The reading half of `ledger.chain.Chain`."""

    def __init__(
        self, store: BlockStore, genesis: Genesis, rules: ChainRules, final: Executed
    ) -> None:
        """Made by `Chain.open`.

        Raises:
            StorageError: the genesis block is not in the store.
        """
        self.genesis: Final = genesis
        """The document the chain starts from."""
        self.mempool: Final = Mempool()
        """Transactions that wait for a block."""
        first = store.header(0)
        if first is None:
            raise StorageError(f"{store.path}: damaged, no genesis block in it")
        self._store = store
        self._tip = Tip(final, None, rules)
        self.anchor: Final = self._first_anchor(TrustAnchor.of_genesis(genesis, first.block_id))
        """What genesis, or the recovery that began this era, makes a node believe: the first
        validators of the era, and its first header."""
        self.expected: tuple[int, BlockId] | None = None
        """Height and id of a header that others vouched for, such as an enrolment token; no other
        block of that height becomes final here. Set before anything is adopted."""
        self._executed: dict[BlockId, Executed] = {}
        self._dropped: tuple[TransactionId, ...] = ()

    def _first_anchor(self, genesis: TrustAnchor) -> TrustAnchor:
        begun = self.state.era()
        if begun is None:
            return genesis
        header = self._store.header(begun.height)
        validators = None if header is None else self.state.validators(header.epoch)
        if header is None or validators is None:
            raise StorageError(f"{self._store.path}: damaged, no first block of era {begun.era}")
        return replace(genesis, era=begun.era, validators=validators, first=header.block_id)

    def recovery(self) -> bytes | None:
        """The recovery file that began this era; None in the first one."""
        begun = self.state.era()
        found = None if begun is None else self.recovery_of(begun.era)
        return None if found is None else found[1]

    def recovery_of(self, era: int) -> tuple[int, bytes] | None:
        """How an era began: height of its first block, and the recovery file; None: not here."""
        return self._store.recovery(era)

    def _lookup(self, block_id: BlockId) -> Executed | None:
        if block_id == self._tip.header.block_id:
            return self._tip.final
        return self._executed.get(block_id)

    # The final head.

    @property
    def rules(self) -> ChainRules:
        """What holds for the next block: chain id, era, epoch, validators, parameters, version."""
        return self._tip.rules

    @property
    def version_fault(self) -> UnsupportedVersionError | None:
        """Why this node follows no further; None: it knows the chain's protocol version."""
        try:
            self.rules.require_version()
        except UnsupportedVersionError as error:
            return error
        return None

    def is_epoch_due(self, now_ms: int) -> bool:
        """Whether a block with this header time would end the epoch, so that one is worth it."""
        record = self.state.epoch()
        is_over = now_ms >= record.start_ms + record.parameters.epoch_ms
        if record.next_members is None and not is_over:
            return False
        return next_set(self.state, self.validators) is not None

    @property
    def validators(self) -> ValidatorSet:
        """Who certifies the next block."""
        return self.rules.validators

    @property
    def tip(self) -> Tip:
        """Head, certificate and state of one moment, whatever another thread commits meanwhile."""
        return self._tip

    @property
    def head(self) -> Header:
        """Header of the last final block."""
        return self._tip.header

    @property
    def certificate(self) -> Certificate | None:
        """Finalize certificate of the head; None at genesis, and where a filler has it."""
        return self._tip.certificate

    @property
    def state(self) -> LedgerState:
        """State after the head."""
        return self._tip.state

    def transaction_status(self, transaction_id: TransactionId) -> TransactionStatus:
        """Where a transaction stands at this node."""
        return TransactionStatus(
            height=self._store.transaction_height(transaction_id),
            is_pending=transaction_id in self.mempool,
        )

    # Records.

    def subject(self, did: DidId) -> SubjectRecord | None:
        """A subject's current record."""
        return self.state.subject(did)

    def subject_by_key(self, key: PublicKey) -> tuple[DidId, SubjectRecord] | None:
        """The subject that holds a key (transport, node, vote or person) now."""
        return self.state.subject_by_key(key)

    def group(self, name: str) -> GroupRecord | None:
        """A group's record."""
        return self.state.group(name)

    def policy(self, name: str) -> Policy | None:
        """The policy in force in a group at the head's time."""
        group = self.state.group(name)
        return None if group is None else self.state.policy(group.policy_at(self.head.time_ms))

    def manifest_record(self, manifest: ManifestId, group: str) -> ManifestRecord | None:
        """A manifest's standing in one group; ask `is_authorised` with the node's time."""
        return self.state.manifest(manifest, group)

    def manifest_records(self) -> Iterator[tuple[ManifestId, str, ManifestRecord]]:
        """All manifests in all groups; visits the whole state, for start-up and listings."""
        for rest, value in self.state.scan(b"m/"):
            manifest, group = split_manifest_key(b"m/" + rest)
            yield manifest, group, ManifestRecord.decode(value)

    def manifest_bytes(self, manifest: ManifestId) -> bytes | None:
        """The original signed bytes of a manifest that was proposed."""
        return self._store.manifests.raw(manifest)

    @property
    def known_manifests(self) -> ManifestStore:
        """Every manifest that was proposed, to be read from any thread."""
        return self._store.manifests

    def latest(self, group: str, product: str) -> LatestRecord | None:
        """The newest authorised release of a product in a group."""
        return self.state.latest(group, product)

    def approvals(self, manifest: ManifestId, group: str, action: Action) -> tuple[bytes, ...]:
        """The owners' signed approvals (AUTHORISE) or revocations (REVOKE), ascending by key id."""
        return self.state.approvals(manifest, group, action)

    def header_at(self, height: int) -> Header | None:
        """The final header of a height, or None."""
        return self._store.header(height)

    def finality(self, height: int) -> tuple[Header, Certificate] | None:
        """The first header at or above a height that has a certificate of its own."""
        return self._store.finality(height)

    def block(self, block_id: BlockId) -> Block | None:
        """A block by id: executed above the head, or final and not pruned."""
        known = self._lookup(block_id)
        return self._store.block(block_id) if known is None else known.block

    def log_proof(self, position: int) -> tuple[Digest, tuple[Digest, ...]]:
        """Leaf hash and inclusion proof of a log entry under the head's log root.

        Raises:
            LocalProtocolError: there is no such entry.
        """
        return self._store.log_proof(position, self.head.log_size)

    def log_root_at(self, size: int) -> tuple[Digest, int] | None:
        """Root of the log's first entries, and the last block all of whose entries are among them.

        None if the log is shorter, or begins later in this copy.
        """
        tip = self.tip
        if not 0 <= size <= tip.header.log_size:
            return None
        try:
            root = self._store.entries.root(size)
        except LocalProtocolError:
            return None
        beyond = self._store.entries.entry_place(size) if size < tip.header.log_size else None
        return root, tip.header.height if beyond is None else beyond[0] - 1

    def prune(self, keep_count: int) -> int:
        """Drops a portion of the bodies of final blocks but the newest `keep_count`.

        The head's always stays, and so do those from the oldest version on that is kept for peers:
        who fetches one follows by blocks from there.

        Returns:
            How many were dropped; call again until it is none.
        """
        oldest = min((item.height for item in self._store.nodes.snapshots()), default=None)
        below = self.head.height + 1 - max(keep_count, 1)
        return self._store.prune_bodies(below if oldest is None else min(below, oldest))

    def blocks(
        self, from_height: int, bytes_max: int
    ) -> tuple[tuple[bytes, ...], Certificate | None]:
        """Encoded final blocks for a follower, and the certificate of the last one.

        Args:
            from_height: first height wanted, at least 1.
            bytes_max: aimed bound of the blocks, bytes; the shortest run that a certificate makes
                final may exceed it, and the count of 256.
        """
        blocks, certificate = self._certified(from_height, bytes_max, BLOCKS_COUNT_MAX)
        if len(blocks) > BLOCKS_COUNT_MAX or sum(map(len, blocks)) > bytes_max:
            return self._certified(from_height, 1, 1)  # fillers may be too many for a long run
        return blocks, certificate

    def _certified(
        self, from_height: int, bytes_max: int, count_max: int
    ) -> tuple[tuple[bytes, ...], Certificate | None]:
        """Final blocks with the fillers and the certificate that make them final."""
        run = self._store.blocks(from_height, bytes_max=bytes_max, count_max=count_max)
        if not run:
            return (), None
        last = self._store.header(from_height + len(run) - 1)
        assert last is not None, "every block has its header"
        closed = self._store.handover(last.epoch) if last.closes_epoch else None
        if closed is not None:
            handover = closed[1]
            fillers = tuple(block.encoded for block in handover.fillers)
            return (*run, *fillers), handover.certificate
        finality = self._store.finality(last.height)
        assert finality is not None, "a run ends with a certified block"
        return tuple(run), finality[1]

    def trust(self) -> EpochTrust:
        """How far this copy may be followed on old keys' word; see `ledger.trust`."""
        kept = self._store.trusted_epoch()
        first = self.anchor.validators.epoch
        trust = EpochTrust(
            chain=self.rules.chain,
            era=self.rules.era,
            root=self.genesis.governance_root,
            base=first if kept is None else max(kept, first),
        )
        if (known := self.checkpoint()) is not None:
            trust.learn(known)
        return trust

    def keep_trusted_epoch(self, epoch: int) -> None:
        """Keeps over restarts that everything up to an epoch was witnessed or vouched for.

        Raises:
            StorageError: it could not be written.
        """
        self._store.keep_trusted_epoch(epoch)

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint on record in this era, as it is shown to others; or None."""
        state = self.state
        record = state.checkpoint()
        header = None if record is None else decode_header(record.header)
        if record is None or header is None or header.era != self.rules.era:
            return None
        following = state.validators(header.epoch + 1)
        assert following is not None, "a checkpoint names a set that took over"
        subject = checkpoint_digest(header.height, header.block_id)
        found = (
            state.approval(subject, Action.CHECKPOINT, key_id, GOVERNANCE_GROUP)
            for key_id in record.signers
        )
        approvals = tuple(raw for raw in found if raw is not None)
        return Checkpoint(header=record.header, validators=following.encode(), approvals=approvals)

    @property
    def current_anchor(self) -> TrustAnchor:
        """Whom this copy believes about headers of the epoch it is in."""
        rules = self.rules
        return TrustAnchor(
            chain=rules.chain, era=rules.era, validators=rules.validators, first=None
        )

    def fetches(self) -> SyncStore:
        """Where a state that is fetched from peers is kept until it is complete."""
        return SyncStore(self._store)

    @property
    def snapshot_interval(self) -> int:
        """Heights between the versions of the state that are kept for peers."""
        return self._store.nodes.interval

    @property
    def first_block(self) -> int:
        """The least height from which on this node can deliver blocks."""
        return self._store.first_body()

    def state_head(self, epoch: int) -> StateHeadAnswer:
        """The newest version of the state that is kept for peers, for one that is in an epoch."""
        return state_head(self._store, self.epoch_steps(epoch, STATE_STEPS_MAX), epoch)

    def state_page(self, height: int, start: Digest) -> StatePage | None:
        """A page of a version kept for peers; None: it is not kept."""
        return state_page(self._store, height, start)

    def manifests(self, wanted: Sequence[ManifestId]) -> tuple[bytes, ...]:
        """Original bytes of manifests, empty where one is not here."""
        return manifests(self._store, wanted)

    def epoch_steps(self, from_epoch: int, count_max: int) -> tuple[EpochStep, ...]:
        """The hand-overs from an epoch on, oldest first, for light clients and newcomers.

        Args:
            from_epoch: the first epoch whose end is wanted.
            count_max: how many at most.
        """
        steps: list[EpochStep] = []
        for epoch in range(from_epoch, min(from_epoch + count_max, self.validators.epoch)):
            fetched = self._store.epoch_step(epoch)
            if fetched is not None:
                steps.append(decode_epoch_step(fetched))
                continue
            closed, following = self._store.handover(epoch), self.state.validators(epoch + 1)
            header = None if closed is None else self._store.header(closed[0])
            if closed is None or header is None or following is None:
                break
            steps.append(
                EpochStep(
                    header=header.encoded,
                    fillers=tuple(block.header.encoded for block in closed[1].fillers),
                    certificate=closed[1].certificate.encode(),
                    validators=following.encode(),
                )
            )
        return tuple(steps)
