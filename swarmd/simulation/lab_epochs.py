"""Epochs of a laboratory: vote keys by epoch, certificates of any set, blocks across hand-overs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger.block import Block
from ledger.bodies.validators import CertifyKey, certify_message
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.chain_blocks import CommitResult
from ledger.validators import ValidatorSet
from ledger.vote import Vote, VoteKind, vote_message
from protocol.did import KeyPurpose
from protocol.digest import BlockId
from protocol.keys import PrivateKey
from protocol.transaction import SignedTransaction
from swarmd.simulation.lab import GENESIS_MS, HOUR_MS, Lab, Member, make_key
from swarmd.simulation.lab_chain import build_next


def vote_key(member: Member, epoch: int) -> PrivateKey:
    """A validator's vote key: that of its record until it certified one for the epoch."""
    return make_key(f"{member.label}/vote/{epoch}")


def certify(lab: Lab, member: Member, epoch: int, *, key: PrivateKey | None = None) -> CertifyKey:
    """The body by which a member names its vote key."""
    key = key or vote_key(member, epoch)
    message = certify_message(lab.chain_id, 0, member.did, epoch)
    return CertifyKey(epoch=epoch, key=key.public, proof=key.sign(message))


def certify_all(
    lab: Lab, epoch: int, members: Iterable[Member], *, now_ms: int = GENESIS_MS
) -> list[SignedTransaction]:
    """Transactions by which members name their vote keys of an epoch."""
    until = now_ms + 20 * HOUR_MS
    return [
        lab.transaction(member, certify(lab, member, epoch), valid_until_ms=until)
        for member in members
    ]


class VoteKeys:
    """Every vote key a laboratory ever had, by public key."""

    def __init__(self, members: Sequence[Member], epochs: int = 64) -> None:
        """Makes the keys of these members for so many epochs."""
        self._keys = {
            key.public: key
            for member in members
            for key in (
                member.key(KeyPurpose.VALIDATOR),
                *(vote_key(member, epoch) for epoch in range(1, epochs)),
            )
        }

    def vote(
        self,
        validators: ValidatorSet,
        kind: VoteKind,
        index: int,
        *,
        view: int,
        block_id: BlockId | None,
        lab: Lab,
    ) -> Vote:
        """One vote by a seat of a set."""
        message = vote_message(
            lab.chain_id, 0, kind, epoch=validators.epoch, view=view, block_id=block_id
        )
        key = validators.key_of(index)
        assert key is not None, "an empty seat cannot vote"
        signature = self._keys[key].sign(message)
        return Vote(kind, validators.epoch, view, block_id, index, signature)

    def certificate(
        self, validators: ValidatorSet, block: Block, lab: Lab, kind: VoteKind = VoteKind.FINALIZE
    ) -> Certificate:
        """The first quorum of filled seats certifies a block."""
        filled = [i for i, member in enumerate(validators.members) if member.key is not None]
        header = block.header
        votes = [
            self.vote(validators, kind, index, view=header.view, block_id=header.block_id, lab=lab)
            for index in filled[: validators.quorum]
        ]
        return Certificate.of(votes, validators)


def advance_epochs(
    lab: Lab,
    chain: Chain,
    keys: VoteKeys,
    transactions: Sequence[SignedTransaction] = (),
    *,
    after_ms: int = 1000,
) -> CommitResult:
    """Builds, certifies and commits one block, whatever epoch the chain is in."""
    validators = chain.validators
    block = build_next(chain, transactions, after_ms=after_ms)
    assert len(block.transactions) >= len(transactions), "a transaction was left out"
    (result,) = chain.commit(block.block_id, keys.certificate(validators, block, lab))
    return result
