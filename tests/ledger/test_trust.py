"""Retired keys and a node that was away: how far it follows, and what brings it on."""

from __future__ import annotations

import dataclasses

import pytest

from ledger.header import Header
from ledger.light import CHECKPOINT_EPOCHS_MAX, EpochForkError
from ledger.transition.genesis import genesis_block, genesis_outcome
from ledger.trust import EpochTrust
from protocol.approval import Action, sign_approval
from protocol.digest import Digest
from protocol.errors import NotYetError, VerificationError
from protocol.governance import Checkpoint, checkpoint_digest, governance_approval
from tests.support.ledger import make_lab

LAB = make_lab()
FIRST = genesis_block(LAB.genesis, genesis_outcome(LAB.genesis).state).header
WEEK_MS = 7 * 24 * 3_600_000


def closing(epoch: int, *, fork: int = 0) -> Header:
    """The header that closes an epoch of a history."""
    return dataclasses.replace(
        FIRST,
        epoch=epoch,
        height=100 * epoch,
        view=7,
        proposer=fork,
        next_validators=Digest(bytes([epoch % 256, fork]) * 16),
    )


def checkpoint(header: Header, *, keys: int = 2, action: Action = Action.CHECKPOINT) -> Checkpoint:
    digest = checkpoint_digest(header.height, header.block_id)
    content = governance_approval(action, digest, era=header.era, valid_until_ms=2**52)
    signed = tuple(
        sign_approval(content, key, LAB.chain_id).signed.raw for key in LAB.governance[:keys]
    )
    return Checkpoint(header=header.encoded, validators=b"set", approvals=signed)


def make_trust(base: int = 1) -> EpochTrust:
    return EpochTrust(chain=LAB.chain_id, era=0, root=LAB.genesis.governance_root, base=base)


def follow(trust: EpochTrust, until: int, *, fork: int = 0, seconds: float = 1.0) -> int:
    """Follows a history at a pace; returns the epoch in which it stopped."""
    epoch, now = 1, 0.0
    while epoch < until:
        try:
            trust.require(epoch + 1)
        except NotYetError:
            return epoch
        now += seconds
        trust.closed(closing(epoch, fork=fork), now, WEEK_MS)
        epoch += 1
    return epoch


def test_a_year_of_old_keys_is_not_believed() -> None:
    assert follow(make_trust(), 53) == 1 + CHECKPOINT_EPOCHS_MAX


def test_a_node_that_is_there_needs_no_checkpoint() -> None:
    assert follow(make_trust(), 200, seconds=WEEK_MS / 1000) == 200


def test_two_checkpoints_bring_a_node_through_a_year() -> None:
    trust = make_trust()
    assert trust.learn(checkpoint(closing(26)))
    assert follow(trust, 53) == 53


def test_one_checkpoint_near_the_end_is_enough_and_is_compared_on_the_way() -> None:
    trust = make_trust()
    trust.learn(checkpoint(closing(50)))
    assert follow(trust, 60) == 60
    forged = make_trust()
    forged.learn(checkpoint(closing(50)))
    with pytest.raises(EpochForkError):
        follow(forged, 60, fork=1)


def test_what_was_kept_outlives_a_restart() -> None:
    trust = make_trust()
    trust.learn(checkpoint(closing(10)))
    follow(trust, 12)
    assert trust.base == 11
    assert make_trust(trust.base).limit == 11 + CHECKPOINT_EPOCHS_MAX


def test_a_restart_in_the_middle_does_not_renew_trust() -> None:
    trust = make_trust()
    follow(trust, 20)
    assert trust.base == 1
    again = make_trust(trust.base)
    with pytest.raises(NotYetError):
        again.require(28)


@pytest.mark.parametrize(
    "made",
    [
        checkpoint(closing(9), keys=1),
        checkpoint(closing(9), action=Action.RECOVERY),
        checkpoint(FIRST),
        checkpoint(dataclasses.replace(closing(9), era=1)),
        checkpoint(dataclasses.replace(closing(9), chain=type(FIRST.chain)(bytes(32)))),
    ],
    ids=["one key", "other action", "closes nothing", "other era", "other chain"],
)
def test_what_governance_did_not_say_is_refused(made: Checkpoint) -> None:
    trust = make_trust()
    with pytest.raises(VerificationError):
        trust.learn(made)
    assert trust.limit == 1 + CHECKPOINT_EPOCHS_MAX


def test_two_checkpoints_of_one_epoch_alarm() -> None:
    trust = make_trust()
    trust.learn(checkpoint(closing(9)))
    assert not trust.learn(checkpoint(closing(9)))
    assert not trust.learn(checkpoint(closing(8)))
    with pytest.raises(EpochForkError):
        trust.learn(checkpoint(closing(9, fork=1)))
