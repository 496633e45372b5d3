"""The chain: final head, executed blocks above it, mempool and store behind one interface.

Validators build, check and commit; followers follow. Both execute every block, so that a certified
block which breaks a rule is noticed: `ForkAlarmError`, and nothing of it is adopted. Calls may
block in the store; a host makes them one at a time. Time is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ledger.block import Block, SkipProof, body_root
from ledger.block_store import BlockStore
from ledger.certificate import Certificate
from ledger.chain_blocks import (
    Budget,
    ChainRules,
    CommitResult,
    Executed,
    check_clock,
    check_linked,
    convict,
    describe,
    describe_arrival,
    execute_block,
    fill_block,
    final_block,
    idle_outcome,
    require_expected,
    split_run,
)
from ledger.chain_load import load_final
from ledger.chain_queries import ChainQueries, Tip
from ledger.errors import (
    BlockNotReadyError,
    ForkAlarmError,
    InvalidBlockError,
    LedgerError,
    LedgerNotYetError,
)
from ledger.header import HEADER_BYTES_MAX, Header
from ledger.recovery import begin_era
from ledger.simplex.rules import is_closed, proposal_time_ms
from ledger.state import LedgerState
from ledger.transition.block import begin, finish
from ledger.transition.context import BlockContext
from ledger.transition.envelope import read_transaction
from ledger.transition.genesis import genesis_block, genesis_outcome
from ledger.transition.shares import RESERVED_DIVISOR
from ledger.vote import EVIDENCE_BYTES_MAX, Ed25519Verifier, Evidence, Verifier, VoteKind
from protocol.digest import BlockId, TransactionId, sha256
from protocol.encoding import encode_canonical
from protocol.errors import StorageError, VerificationError
from protocol.genesis import Genesis
from protocol.governance import Recovery
from protocol.limits import (
    BLOCK_BYTES_MAX,
    BLOCK_EVIDENCE_MAX,
    KIB,
)
from protocol.transaction import SignedTransaction

SPECULATIVE_BLOCKS_MAX: Final = 256
"""Executed blocks kept above the final one; what is not an ancestor of the newest goes first."""
UNFINAL_BYTES_MAX: Final = 448 * KIB
"""A leader adds no transactions beyond this many bytes above the final block, and voters wait with
a block that does: so the run that becomes final at once, empty blocks included, fits an answer of
512 KiB to a follower. Ordinary ones end a quarter below it (Q31)."""


class Chain(ChainQueries):
    """One node's copy of the ledger."""

    @classmethod
    def open(
        cls, store: BlockStore, genesis: Genesis, *, verifier: Verifier | None = None
    ) -> Chain:
        """Opens the ledger of a store, or starts one in an empty store.

        Args:
            store: its database.
            genesis: the document that `decode_genesis` or `check_genesis` accepted.
            verifier: checks votes; Ed25519 unless a simulation injects another.

        Raises:
            StorageError: another chain, or state and last header contradict each other.
        """
        verifier = verifier or Ed25519Verifier()
        identity = store.identity()
        if identity is None:
            outcome = genesis_outcome(genesis)
            block = genesis_block(genesis, outcome.state)
            first = Executed(block=block, outcome=outcome, transactions=())
            store.create(genesis.chain, genesis.era, final_block(first, None))
            return cls(store, genesis, _rules(outcome.state, genesis, verifier), first)
        if identity[0] != genesis.chain:
            raise StorageError(
                f"{store.path}: database of chain {identity[0].hex()[:8]}, "
                f"expected {genesis.chain.hex()[:8]}"
            )
        return cls._reopen(store, genesis, verifier)

    @classmethod
    def _reopen(cls, store: BlockStore, genesis: Genesis, verifier: Verifier) -> Chain:
        final, certificate = load_final(store, genesis)
        header = final.header
        rules = _rules(final.state, genesis, verifier)
        if store.identity() != (rules.chain, rules.era) or header.era != rules.era:
            raise StorageError(f"{store.path}: damaged, not the ledger of era {header.era}")
        chain = cls(store, genesis, rules, final)
        chain._tip = Tip(final, certificate, rules)
        chain._restore_pending()
        return chain

    def adopt_fetched(self, certificate: Certificate) -> tuple[CommitResult, ...]:
        """Goes on from a state that was fetched and put in the place of the old one.

        Args:
            certificate: what made the fetched state's header final.

        Returns:
            One result that tells of everything the new state holds.

        Raises:
            StorageError: the store's head and state contradict each other.
        """
        final, own = load_final(self._store, self.genesis)
        self._tip = Tip(final, own, _rules(final.state, self.genesis, self.rules.verifier))
        self._executed = {}
        self._revalidate([])
        return (describe_arrival(final, certificate),)

    def _restore_pending(self) -> None:
        """Puts own transactions of the last run back; those that can never enter are forgotten."""
        context = self._next_context(self.head.time_ms)
        dropped: list[TransactionId] = []
        for raw in self._store.pending():
            try:
                self.mempool.add(raw, self.state, context)
            except LedgerNotYetError:
                continue
            except LedgerError:
                dropped.append(TransactionId(sha256(raw)))
        if dropped:
            self._store.drop_pending(dropped)

    def _next_context(self, now_ms: int) -> BlockContext:
        time_ms = max(self.head.time_ms + 1, now_ms)
        return self.rules.context(height=self.head.height + 1, time_ms=time_ms)

    # Mempool.

    def submit(self, raw: bytes, *, now_ms: int, is_own: bool = False) -> TransactionId:
        """Takes a transaction into the mempool.

        Args:
            raw: signed transaction, untrusted.
            now_ms: estimate of header time (newest header plus time since), milliseconds.
            is_own: submitted at this node, which keeps it durably until it is final.

        Raises:
            LedgerNotYetError: refused now; waiting may help.
            LedgerError: refused for good; `mempool.known` and `tx.final` mean that it is here.
            StorageError: an own transaction could not be kept.
            UnsupportedVersionError: this program knows too little to go on; so for every call below
                that adds to the chain.
        """
        return self.submit_read(read_transaction(raw), now_ms=now_ms, is_own=is_own)

    def submit_read(
        self, signed: SignedTransaction, *, now_ms: int, is_own: bool = False
    ) -> TransactionId:
        """Does what `submit` does, for a transaction that was parsed already."""
        self.rules.require_version()
        transaction_id = signed.transaction_id
        try:
            self.mempool.take(signed, self.state, self._next_context(now_ms))
        except LedgerError:
            # Only now, since it costs a read: a final one never enters, its nonce is used.
            if self._store.transaction_height(transaction_id) is not None:
                raise LedgerError("tx.final", "this transaction is final already") from None
            raise
        if is_own:
            try:
                self._store.add_pending(transaction_id, signed.signed.raw)
            except StorageError:
                self.mempool.remove(transaction_id)
                raise
        return transaction_id

    def own_pending(self) -> tuple[bytes, ...]:
        """Own transactions that are not final yet, as they were submitted."""
        return self._store.pending()

    # Validators: build, check, commit.

    def build(
        self,
        parent: BlockId,
        *,
        view: int,
        proposer: int,
        now_ms: int,
        skips: Sequence[SkipProof] = (),
        evidence: Sequence[Evidence] = (),
        ancestors: Sequence[Block] = (),
    ) -> Block:
        """Makes a valid block from the mempool.

        Args:
            parent: id of the final head or of a checked block above it.
            view: view to propose in, above the parent's.
            proposer: index of this validator, the leader of the view.
            now_ms: wall clock, milliseconds since 1970; gives the block's time (C52).
            skips: skip proofs the block must carry.
            evidence: evidence to include as far as it is new and valid.
            ancestors: blocks above the final one up to the parent, oldest first, as far as known.

        Raises:
            BlockNotReadyError: the parent is not known here, or is ahead of this clock (C52).
            InvalidBlockError: an ancestor is not valid.
        """
        rules = self.rules
        rules.require_version()
        self._prepare(ancestors)
        base = self._lookup(parent)
        if base is None:
            raise BlockNotReadyError(parent, parent, "parent of the block to build is unknown")
        time_ms = proposal_time_ms(base.header, now_ms)
        if time_ms is None:
            raise BlockNotReadyError(parent, parent, "this clock is behind the parent's time")
        context = rules.context(height=base.header.height + 1, time_ms=time_ms)
        transactions: tuple[SignedTransaction, ...] = ()
        accepted: tuple[Evidence, ...] = ()
        if is_closed(base.header, rules.validators.epoch):
            outcome, next_validators = idle_outcome(base), base.header.next_validators
        else:
            draft = begin(base.state, context)
            budget = self._transaction_budget(base, skips)
            transactions = fill_block(draft, self.mempool.select(), budget)
            accepted = convict(draft, evidence, rules.verifier)
            outcome = finish(draft)
            next_validators = (outcome.following or rules.validators).digest
        raws = tuple(signed.signed.raw for signed in transactions)
        header = Header(
            chain=rules.chain,
            era=rules.era,
            epoch=rules.validators.epoch,
            view=view,
            height=context.height,
            parent=parent,
            parent_view=base.header.view_in(rules.validators.epoch),
            time_ms=time_ms,
            proposer=proposer,
            body_root=body_root(raws, accepted, skips),
            log_size=outcome.state.log.size,
            log_root=outcome.state.log.root,
            state_root=outcome.state.tree.root,
            validators=rules.validators.digest,
            next_validators=next_validators,
        )
        block = Block(header, raws, accepted, tuple(skips))
        self._keep(Executed(block=block, outcome=outcome, transactions=transactions))
        return block

    def _transaction_budget(self, parent: Executed, skips: Sequence[SkipProof]) -> Budget:
        """Bytes that transactions of a block on `parent` may take."""
        fixed = HEADER_BYTES_MAX + BLOCK_EVIDENCE_MAX * EVIDENCE_BYTES_MAX + 64
        fixed += len(encode_canonical([skip.to_value() for skip in skips]))
        unfinal = sum(len(item.block.encoded) for item in self._path(parent))
        room = min(BLOCK_BYTES_MAX, UNFINAL_BYTES_MAX - unfinal) - fixed
        ordinary = UNFINAL_BYTES_MAX - UNFINAL_BYTES_MAX // RESERVED_DIVISOR - unfinal - fixed
        return Budget(all_bytes=room, ordinary_bytes=min(room, ordinary))

    def check(
        self, block: Block, now_ms: int | None = None, *, ancestors: Sequence[Block] = ()
    ) -> None:
        """Judges a proposal; remembers its execution if it is valid.

        Args:
            block: the proposal.
            now_ms: wall clock, milliseconds since 1970; None when catching up: no clock rule.
            ancestors: blocks above the final one up to its parent, oldest first.

        Raises:
            InvalidBlockError: never valid.
            BlockNotReadyError: an ancestor must be fetched first, or become final (Q31).
        """
        if self._store.height_of(block.block_id) is not None:
            return
        self.rules.require_version()
        self._prepare(ancestors)
        parent = self._lookup(block.header.parent)
        if now_ms is not None and parent is not None:
            check_clock(block.header, parent.header, now_ms)
        executed = self._execute(block)
        if now_ms is not None and block.transactions:
            unfinal = sum(len(item.block.encoded) for item in self._path(executed))
            if unfinal > UNFINAL_BYTES_MAX:
                raise BlockNotReadyError(
                    block.block_id, block.header.parent, f"{unfinal} bytes wait for finality"
                )

    def _prepare(self, ancestors: Sequence[Block]) -> None:
        for ancestor in ancestors:
            if ancestor.header.height > self.head.height:
                self._execute(ancestor)

    def _execute(self, block: Block) -> Executed:
        """Finds or makes the execution of a block on the final block or one above it."""
        known = self._lookup(block.block_id)
        if known is not None:
            return known
        header = block.header
        parent = self._lookup(header.parent)
        if parent is None and header.height > self.head.height + 1:
            raise BlockNotReadyError(block.block_id, header.parent, "its parent is unknown")
        if parent is None:
            raise InvalidBlockError(
                block.block_id, "block.fork", f"height {header.height} is not on the final block"
            )
        executed = execute_block(block, parent, self.rules, self.mempool.read)
        self._keep(executed)
        return executed

    def _path(self, last: Executed) -> list[Executed]:
        """Executed blocks above the final one up to `last`, oldest first."""
        path: list[Executed] = []
        while last.header.block_id != self.head.block_id:
            path.append(last)
            parent = self._lookup(last.header.parent)
            assert parent is not None, "ancestors of an executed block are kept"
            last = parent
        path.reverse()
        return path

    def _keep(self, executed: Executed) -> None:
        """Remembers an execution; makes room among those that are not its ancestors."""
        block_id = executed.header.block_id
        if len(self._executed) >= SPECULATIVE_BLOCKS_MAX:
            ancestors = {item.header.block_id: None for item in self._path(executed)}
            victim = next(
                (
                    name
                    for name, item in self._executed.items()
                    if name not in ancestors and not self._has_child(item)
                ),
                None,
            )
            if victim is None:
                raise BlockNotReadyError(
                    block_id, block_id, f"{SPECULATIVE_BLOCKS_MAX} blocks wait for finality"
                )
            del self._executed[victim]
        self._executed[block_id] = executed

    def _has_child(self, executed: Executed) -> bool:
        block_id = executed.header.block_id
        return any(item.header.parent == block_id for item in self._executed.values())

    def commit(
        self,
        block_id: BlockId,
        certificate: Certificate,
        *,
        ancestors: Sequence[Block] = (),
        skips: Sequence[Certificate] = (),
        notarized: Sequence[Certificate] = (),
    ) -> tuple[CommitResult, ...]:
        """Makes a block and its ancestors final, durably.

        Args:
            block_id: the certified block.
            certificate: its finalize certificate.
            ancestors: the blocks of the run, itself included, oldest first, as far as known.
            skips: nullify certificates that its skip proofs name.
            notarized: notarize certificates of the run. Both are kept: with them a fork convicts.

        Returns:
            One result for each block that became final, oldest first; none if it was final before.

        Raises:
            VerificationError: the certificate does not certify this block.
            BlockNotReadyError: a block of the run is unknown.
            ForkAlarmError: the validators certified what the rules forbid; nothing was adopted.
            StorageError: it could not be stored; nothing was adopted.
        """
        self._verify_certificate(block_id, certificate)
        if self._store.height_of(block_id) is not None:
            return ()
        for block in self._without_final(ancestors, certificate):
            self._execute_certified(block, certificate)
        if certificate.epoch < self.validators.epoch:
            return ()
        last = self._lookup(block_id)
        if last is None:
            raise BlockNotReadyError(block_id, block_id, "the certified block is unknown")
        return self._adopt(self._path(last), certificate, (*skips, *notarized))

    # Governance.

    def recover(self, recovery: Recovery) -> Header:
        """Begins another era by an operator's command (G22), durably.

        Whoever holds this object must open the ledger anew before going on: consensus, peers and
        certificates are those of the era that ended.

        Returns:
            The header of the block that begins the era.

        Raises:
            LedgerNotYetError, LedgerError: `recovery.*`, see `begin_era`.
            ForkAlarmError: governance goes on from another block of this height.
            VerificationError: the governance root does not agree, or a seat is not taken.
            StorageError: it could not be stored; nothing was adopted.
        """
        start = begin_era(self.head, self.state, recovery, self.genesis.governance_root)
        first = Executed(block=start.block, outcome=start.outcome, transactions=())
        era = start.block.header.era
        self._store.begin_era(era, final_block(first, None), recovery.encode())
        self._executed.clear()
        self._tip = Tip(first, None, _rules(start.outcome.state, self.genesis, self.rules.verifier))
        return start.block.header

    def keep_certificates(self, certificates: Sequence[Certificate]) -> None:
        """Keeps what an engine held for views it did not see the end of (C25).

        Raises:
            StorageError: they could not be stored.
        """
        self._store.commit((), certificates=certificates)

    # Followers.

    def follow(self, blocks: Sequence[Block], certificate: Certificate) -> tuple[CommitResult, ...]:
        """Adopts a run of final blocks that a peer delivered.

        Args:
            blocks: consecutive, oldest first; those that are final here already are skipped.
            certificate: finalize certificate of the last one.

        Returns:
            One result for each block that became final, oldest first.

        Raises:
            VerificationError: the run does not hang together or is not certified: the peer's fault.
            BlockNotReadyError: the first block's parent is above the head: fetch from below.
            ForkAlarmError: the validators certified what the rules forbid; nothing was adopted.
            StorageError: it could not be stored; nothing was adopted.
        """
        check_linked(blocks)
        self.rules.require_version()
        self._verify_certificate(blocks[-1].block_id, certificate)
        fresh = self._without_final(blocks, certificate)
        for block in fresh:
            self._execute_certified(block, certificate)
        if not fresh:
            return ()
        last = self._lookup(fresh[-1].block_id)
        assert last is not None, "every block of the run was executed"
        return self._adopt(self._path(last), certificate, ())

    def _verify_certificate(self, block_id: BlockId, certificate: Certificate) -> None:
        if certificate.kind is not VoteKind.FINALIZE or certificate.block_id != block_id:
            raise VerificationError(f"no finalize certificate of block {block_id.hex()[:8]}")
        rules = self.rules
        validators = rules.validators
        if certificate.epoch < validators.epoch:
            validators = self.state.validators(certificate.epoch) or validators
        certificate.verify(validators, rules.chain, rules.era, rules.verifier)

    def _without_final(self, blocks: Sequence[Block], certificate: Certificate) -> Sequence[Block]:
        """Drops the blocks that are final here; another block at a final height is a fork.

        What an epoch that is over certified above its closing block were fillers: nothing to adopt.
        """
        for index, block in enumerate(blocks):
            height = block.header.height
            if height > self.head.height:
                return () if certificate.epoch < self.validators.epoch else blocks[index:]
            known = self._store.header(height)
            if known is None and height < self._store.start_height():
                continue  # from before this copy's history: nothing to compare with
            if known is None or known.block_id != block.block_id:
                raise ForkAlarmError(
                    block.block_id,
                    "block.fork",
                    f"another block is final at height {height}",
                    certificate.encode(),
                )
        return ()

    def _execute_certified(self, block: Block, certificate: Certificate) -> None:
        try:
            self._execute(block)
        except InvalidBlockError as error:
            raise ForkAlarmError(
                block.block_id, error.rule, str(error), certificate.encode()
            ) from error

    def _adopt(
        self, run: Sequence[Executed], certificate: Certificate, kept: Sequence[Certificate]
    ) -> tuple[CommitResult, ...]:
        """Stores a certified run up to the end of its epoch, then moves head and mempool on."""
        run, own, handover = split_run(run, certificate)
        require_expected(run, self.expected, certificate)
        last = run[-1]
        final = [final_block(item, None) for item in run[:-1]]
        final.append(final_block(last, own, handover))
        self._store.commit(final, certificates=kept, dropped=self._dropped)
        results: list[CommitResult] = []
        before = self.state
        for item in run:
            results.append(describe(item, before, certificate))
            before = item.state
        rules = self.rules
        if handover is not None:
            rules = _rules(last.state, self.genesis, rules.verifier)
        self._tip = Tip(last, own, rules)
        self._executed = {} if handover is not None else self._descendants(last.header.block_id)
        self._revalidate([name for result in results for name, _ in result.transactions])
        return tuple(results)

    def _descendants(self, block_id: BlockId) -> dict[BlockId, Executed]:
        """Executed blocks above a block; insertion order puts parents first."""
        kept: dict[BlockId, Executed] = {}
        for name, item in self._executed.items():
            if item.header.parent == block_id or item.header.parent in kept:
                kept[name] = item
        return kept

    def _revalidate(self, included: Sequence[TransactionId]) -> None:
        """Looks at the mempool again; own transactions that fall out leave the store with the next
        block, so that nothing can fail once the head has moved.
        """
        context = self._next_context(self.head.time_ms)
        self._dropped = self.mempool.revalidate(included, self.state, context)


def _rules(state: LedgerState, genesis: Genesis, verifier: Verifier) -> ChainRules:
    begun = state.era()
    era = genesis.era if begun is None else begun.era
    return ChainRules.of_state(state, chain=genesis.chain, era=era, verifier=verifier)
