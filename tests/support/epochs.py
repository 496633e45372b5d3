"""Builders for epochs: vote keys by epoch, certificates of any set, governance's decisions."""

from __future__ import annotations

from collections.abc import Sequence

from ledger.bodies.validators import (
    SetParameters,
    SetValidators,
    Upgrade,
    members_digest,
    parameters_digest,
    upgrade_digest,
)
from ledger.transition.validators import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from ledger.validators import ValidatorSet
from ledger.vote import Evidence, VoteKind
from protocol.approval import Action
from protocol.did import SubjectKind
from protocol.digest import BlockId, DidId, Digest, sha256
from protocol.genesis import Parameters
from swarmd.simulation.lab_epochs import VoteKeys as LabVoteKeys
from swarmd.simulation.lab_epochs import advance_epochs, certify, certify_all, vote_key
from tests.support.ledger import FLEET, Lab, Member

__all__ = [
    "VoteKeys",
    "advance_epochs",
    "certify",
    "certify_all",
    "governance_approvals",
    "newcomer",
    "set_parameters",
    "set_validators",
    "upgrade",
    "vote_key",
]


def newcomer(number: int) -> Member:
    """A validator that genesis does not know."""
    return Member(label=f"newcomer-{number}", kind=SubjectKind.VALIDATOR, groups=(FLEET,))


class VoteKeys(LabVoteKeys):
    """Every vote key a test network ever had, and what contradicts itself with them."""

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
