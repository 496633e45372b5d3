"""A node that was away for a year: it follows 26 epochs on old keys' word, then needs governance.

Real chains, real certificates; thieves hold every vote key that was ever retired.
"""

from __future__ import annotations

import pytest
import trio

from ledger.block import decode_block
from ledger.bodies.governance import SetCheckpoint
from ledger.chain import Chain
from ledger.light import CHECKPOINT_EPOCHS_MAX, EpochForkError
from protocol.approval import Action
from protocol.errors import NotYetError
from protocol.genesis import EPOCH_MS
from protocol.governance import checkpoint_digest
from protocol.transaction import SignedTransaction
from swarmd.ledger_host import LedgerHost
from tests.support.epochs import (
    VoteKeys,
    advance_epochs,
    certify_all,
)
from tests.support.ledger import HOUR_MS, Lab, make_lab

LAST = 1 + CHECKPOINT_EPOCHS_MAX


class History:
    """A chain that passes epochs quickly; two of them from one genesis are a fork."""

    def __init__(self, lab: Lab, *, after_ms: int = 1000) -> None:
        self.lab = lab
        self.keys = VoteKeys(lab.validators)
        self.chain = lab.open_chain()
        self.after_ms = after_ms
        lab.nonces.clear()

    def advance(self, *transactions: SignedTransaction, after_ms: int | None = None) -> None:
        advance_epochs(
            self.lab, self.chain, self.keys, transactions, after_ms=after_ms or self.after_ms
        )

    def pass_epochs(self, count: int) -> None:
        for _ in range(count):
            now_ms = self.chain.head.time_ms
            epoch = self.chain.validators.epoch + 1
            self.advance(*certify_all(self.lab, epoch, self.lab.validators, now_ms=now_ms))
            self.advance(after_ms=EPOCH_MS)

    def record_checkpoint(self) -> None:
        """Governance vouches for the newest closed epoch."""
        (step,) = self.chain.epoch_steps(self.chain.validators.epoch - 1, 1)
        header = self.chain.header_at(self.closing_height())
        assert header is not None
        assert header.encoded == step.header
        subject = checkpoint_digest(header.height, header.block_id)
        until = self.chain.head.time_ms + 20 * HOUR_MS
        approvals = tuple(
            self.lab.approval(
                Action.CHECKPOINT,
                subject,
                key,
                group="governance",
                policy=bytes(32),
                valid_until_ms=until,
            )
            for key in self.lab.governance[:2]
        )
        body = SetCheckpoint(header=header.encoded, approvals=approvals)
        self.advance(self.lab.transaction(self.lab.gateways[0], body, valid_until_ms=until))

    def closing_height(self) -> int:
        height = self.chain.head.height
        while (header := self.chain.header_at(height)) is None or not header.closes_epoch:
            height -= 1
        return height


async def follow(host: LedgerHost, source: Chain) -> None:
    """What the follower does with a peer that has everything."""
    while host.alarm is None and host.chain.head.height < source.head.height:
        host.trust.require(host.chain.validators.epoch)
        raws, certificate = source.blocks(host.chain.head.height + 1, 1 << 20)
        blocks = [decode_block(raw) for raw in raws]
        assert certificate is not None
        await host.run_commit(lambda b=blocks, c=certificate: host.chain.follow(b, c))


def make_host(lab: Lab, chain: Chain | None = None) -> LedgerHost:
    follower = chain or lab.open_chain()
    return LedgerHost(follower, lambda: follower.head.time_ms)


@pytest.mark.slow
async def test_thieves_of_retired_keys_lead_a_sleeper_no_further_than_26_epochs() -> None:
    lab = make_lab()
    thieves = History(lab)
    thieves.pass_epochs(40)
    host = make_host(lab)
    with pytest.raises(NotYetError, match="checkpoint of the governance root"):
        await follow(host, thieves.chain)
    assert host.chain.validators.epoch == LAST + 1
    assert host.trust.base == 1


@pytest.mark.slow
async def test_a_checkpoint_from_a_peer_brings_a_sleeper_through_the_year() -> None:
    lab = make_lab()
    honest = History(lab)
    honest.pass_epochs(30)
    honest.record_checkpoint()
    honest.pass_epochs(22)
    host = make_host(lab)
    host.learn_checkpoint(honest.chain.checkpoint())
    await follow(host, honest.chain)
    assert host.chain.head == honest.chain.head
    assert host.trust.base == 31
    assert host.alarm is None


@pytest.mark.slow
async def test_a_sleeper_on_the_wrong_history_alarms_when_governance_speaks() -> None:
    lab = make_lab()
    honest = History(lab)
    honest.pass_epochs(5)
    honest.record_checkpoint()
    thieves = History(lab, after_ms=2000)
    thieves.pass_epochs(10)
    before = make_host(lab)
    before.learn_checkpoint(honest.chain.checkpoint())
    await follow(before, thieves.chain)
    assert before.alarm is not None
    assert "closed twice" in before.alarm
    assert before.chain.validators.epoch == 6
    # And so does one that had followed them past that epoch when it learns of it.
    after = make_host(lab)
    await follow(after, thieves.chain)
    assert after.alarm is None
    with pytest.raises(EpochForkError, match="closed twice"):
        after.learn_checkpoint(honest.chain.checkpoint())
    right = make_host(lab)
    await follow(right, honest.chain)
    right.learn_checkpoint(honest.chain.checkpoint())


@pytest.mark.slow
async def test_what_was_vouched_for_is_kept_over_a_restart() -> None:
    lab = make_lab()
    honest = History(lab)
    honest.pass_epochs(4)
    honest.record_checkpoint()
    host = make_host(lab)
    host.learn_checkpoint(honest.chain.checkpoint())
    await follow(host, honest.chain)
    again = make_host(lab, host.chain)
    assert again.trust.base == 5
    assert again.trust.checkpoint == host.trust.checkpoint


@pytest.mark.slow
async def test_a_node_that_is_there_witnesses_epochs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lab = make_lab()
    honest = History(lab)
    host = make_host(lab)
    for _ in range(3):
        honest.pass_epochs(1)
        await follow(host, honest.chain)
        await trio.sleep(EPOCH_MS / 1000)
    assert host.trust.base == 4


@pytest.mark.slow
async def test_a_checkpoint_of_another_history_is_a_fork_for_whoever_has_one() -> None:
    lab = make_lab()
    honest, thieves = History(lab), History(lab, after_ms=2000)
    for history in (honest, thieves):
        lab.nonces.clear()
        history.pass_epochs(1)
        history.record_checkpoint()
    host = make_host(lab)
    host.learn_checkpoint(honest.chain.checkpoint())
    with pytest.raises(EpochForkError):
        host.learn_checkpoint(thieves.chain.checkpoint())
