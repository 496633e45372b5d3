"""Builders for epochs: vote keys by epoch, certificates of any set, governance's decisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger.block import Block
from ledger.bodies.validators import (
    CertifyKey,
    SetParameters,
    SetValidators,
    Upgrade,
    certify_message,
    members_digest,
    parameters_digest,
    upgrade_digest,
)
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.chain_blocks import CommitResult
from ledger.transition.validators import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, Vote, VoteKind, vote_message
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import BlockId, DidId, Digest, sha256
from protocol.genesis import Parameters
from protocol.keys import PrivateKey
from protocol.transaction import SignedTransaction
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, Lab, Member, build_next, make_key


def newcomer(number: int) -> Member:
    """A validator that genesis does not know."""
    return Member(label=f"newcomer-{number}", kind=SubjectKind.VALIDATOR, groups=(FLEET,))


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
    """Every vote key a test network ever had, by public key."""

    def __init__(self, members: Sequence[Member], epochs: int = 64) -> None:
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

    def evidence(self, validators: ValidatorSet, index: int, lab: Lab, view: int = 5) -> Evidence:
        """A seat notarizes two blocks of one view."""
        one, other = (
            self.vote(
                validators,
                VoteKind.NOTARIZE,
                index,
                view=view,
                block_id=BlockId(sha256(name)),
                lab=lab,
            )
            for name in (b"one", b"other")
        )
        return Evidence.of(one, other)


def governance_approvals(
    lab: Lab, action: Action, subject: Digest, *, count: int = 2
) -> tuple[bytes, ...]:
    """Approvals by the first governance keys, as the chain's own matters ask for them."""
    return tuple(
        lab.approval(action, subject, key, group=GOVERNANCE_GROUP, policy=GOVERNANCE_POLICY)
        for key in lab.governance[:count]
    )


def set_validators(
    lab: Lab,
    epoch: int,
    members: Sequence[Member],
    *,
    joins: Sequence[Member] = (),
    count: int = 2,
) -> SetValidators:
    """The body by which governance names the successor of an epoch's set."""
    dids = tuple(DidId(member.did) for member in members)
    approved = members_digest(epoch, dids)
    return SetValidators(
        members=dids,
        joins=tuple(member.join for member in joins),
        approvals=governance_approvals(lab, Action.VALIDATORS, approved, count=count),
    )


def set_parameters(
    lab: Lab, epoch: int, parameters: Parameters, *, count: int = 2
) -> SetParameters:
    """The body by which governance changes the chain's numbers."""
    approved = parameters_digest(epoch, parameters)
    approvals = governance_approvals(lab, Action.PARAMETERS, approved, count=count)
    return SetParameters(parameters=parameters, approvals=approvals)


def upgrade(lab: Lab, current: int, *, version: int, epoch: int, count: int = 2) -> Upgrade:
    """The body by which governance plans a protocol version."""
    approved = upgrade_digest(current, version, epoch)
    approvals = governance_approvals(lab, Action.UPGRADE, approved, count=count)
    return Upgrade(version=version, epoch=epoch, approvals=approvals)


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
