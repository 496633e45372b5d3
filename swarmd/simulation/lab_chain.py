"""Chains of a laboratory: blocks built, certified and committed by whoever holds all its keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ledger.block import Block, SkipProof
from ledger.chain import Chain
from ledger.chain_blocks import CommitResult
from ledger.errors import LedgerError
from ledger.header import Header
from ledger.state import LedgerState
from ledger.transition.block import apply_block
from ledger.transition.genesis import genesis_outcome
from ledger.vote import Ed25519Verifier
from protocol.catchup import Freshness, FreshnessAnswer, sign_freshness
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.manifest import SignedManifest
from protocol.merkle import inclusion_proof, leaf_hash, merkle_root
from protocol.transaction import SignedTransaction
from swarmd.simulation.lab import FLEET, GENESIS_MS, Lab, make_lab


def build_next(
    chain: Chain,
    transactions: Sequence[SignedTransaction] = (),
    *,
    parent: Block | None = None,
    after_ms: int = 1000,
    skip_views: int = 0,
) -> Block:
    """Submits transactions and lets the next leader build on a block or the head."""
    header = chain.head if parent is None else parent.header
    now_ms = header.time_ms + after_ms
    for signed in transactions:
        chain.submit(signed.signed.raw, now_ms=now_ms)
    before = header.view_in(chain.validators.epoch)
    view = before + 1 + skip_views
    skips = [SkipProof(v, sha256(b"skip %d" % v)) for v in range(before + 1, view)]
    return chain.build(
        header.block_id,
        view=view,
        proposer=chain.validators.leader(view),
        now_ms=now_ms,
        skips=skips,
    )


def advance(
    lab: Lab, chain: Chain, transactions: Sequence[SignedTransaction] = (), *, after_ms: int = 1000
) -> CommitResult:
    """Builds, certifies and commits one block; checks that it took every transaction."""
    block = build_next(chain, transactions, after_ms=after_ms)
    assert len(block.transactions) >= len(transactions), "a transaction was left out"
    (result,) = chain.commit(block.block_id, lab.certificate(block))
    return result


def authorise(lab: Lab, chain: Chain, manifest: SignedManifest, *, group: str = FLEET) -> None:
    """Proposes and approves a manifest in two blocks."""
    advance(lab, chain, [lab.propose(manifest)])
    advance(lab, chain, [lab.approve(manifest.manifest_id, group=group)])


def attempt(
    lab: Lab, chain: Chain, signed: SignedTransaction, *, after_ms: int = 1000
) -> str | None:
    """Tries to have a transaction made final by honest validators, in the next block or never.

    A refused one uses up no nonce of the lab's count.

    Returns:
        The rule by which it was refused; None: it is final.
    """
    content = signed.transaction
    rule: str | None = None
    try:
        chain.submit(signed.signed.raw, now_ms=chain.head.time_ms + after_ms)
        block = build_next(chain, after_ms=after_ms)
        chain.commit(block.block_id, lab.certificate(block))
        if signed.signed.raw not in block.transactions:  # it waits for something
            chain.mempool.remove(signed.transaction_id)
            rule = "block.left_out"
    except LedgerError as error:
        rule = error.rule
    if rule is not None and lab.nonces.get(content.signer) == content.nonce + 1:
        lab.nonces[content.signer] = content.nonce
    return rule


def vouch(
    lab: Lab, head: Header, nonce: bytes, seats: Sequence[int], *, time_ms: int | None = None
) -> FreshnessAnswer:
    """What validators sign about a nonce: that a header is their newest final one.

    Args:
        lab: whose validators.
        head: the header.
        nonce: of whoever asked.
        seats: who answers.
        time_ms: their clocks; None: the header's time.
    """
    leaf = leaf_hash(nonce)
    statements = []
    for seat in seats:
        content = Freshness(
            era=head.era,
            validator=seat,
            epoch=lab.validator_set.epoch,
            height=head.height,
            block_id=head.block_id,
            nonces=merkle_root([leaf]),
            time_ms=head.time_ms if time_ms is None else time_ms,
        )
        key = lab.validators[seat].key(KeyPurpose.VALIDATOR)
        signed = sign_freshness(content, key, lab.chain_id)
        statements.append((signed.signed.raw, 0, inclusion_proof([leaf], 0), 1))
    return FreshnessAnswer(statements=tuple(statements))


@dataclass(kw_only=True)
class Bench:
    """Applies single transactions to a genesis state, each in a block of its own."""

    lab: Lab
    """Whose genesis it is."""
    state: LedgerState
    """The newest."""
    height: int = 0
    """Of the newest block."""
    time_ms: int = GENESIS_MS
    """Of the newest block, milliseconds."""

    def apply(self, signed: SignedTransaction, *, after_ms: int = 1000) -> LedgerState:
        """Applies a transaction in a next block; on refusal nothing changes."""
        context = self.lab.context(height=self.height + 1, time_ms=self.time_ms + after_ms)
        outcome = apply_block(self.state, context, [signed], [], Ed25519Verifier())
        self.state, self.height, self.time_ms = outcome.state, context.height, context.time_ms
        return self.state

    def refusal(self, signed: SignedTransaction, *, after_ms: int = 1000) -> LedgerError:
        """The error that a transaction meets; checks that it left no trace."""
        before = (self.state, self.state.tree.root)
        try:
            self.apply(signed, after_ms=after_ms)
        except LedgerError as error:
            assert (self.state, self.state.tree.root) == before
            return error
        raise AssertionError(f"{signed.transaction.kind} was accepted")


def make_bench(**arguments: Any) -> Bench:
    """A bench over a lab made with these arguments."""
    lab = make_lab(**arguments)
    return Bench(lab=lab, state=genesis_outcome(lab.genesis).state)
