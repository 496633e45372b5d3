"""What a node witnessed: only an epoch that this very process saw begin."""

from __future__ import annotations

from ledger.header import Header
from ledger.trust import EpochTrust
from protocol.digest import BlockId, Digest, sha256
from protocol.genesis import EPOCH_MS
from tests.support.ledger import make_lab

LAB = make_lab()


def closing(epoch: int) -> Header:
    first = LAB.open_chain().head
    return Header(
        chain=first.chain,
        era=first.era,
        epoch=epoch,
        view=1,
        height=epoch,
        parent=BlockId(sha256(b"parent")),
        parent_view=0,
        time_ms=first.time_ms + epoch,
        proposer=1,
        body_root=first.body_root,
        log_size=0,
        log_root=first.log_root,
        state_root=first.state_root,
        validators=Digest(sha256(b"%d" % epoch)),
        next_validators=Digest(sha256(b"%d" % (epoch + 1))),
    )


def test_an_epoch_that_was_only_seen_to_end_after_a_leap_is_not_witnessed() -> None:
    """A state that was fetched leaps over epochs; how long ago another one began says nothing."""
    root = LAB.genesis.governance_root
    trust = EpochTrust(chain=LAB.chain_id, era=LAB.genesis.era, root=root, base=1)
    assert not trust.closed(closing(4), 0.0, EPOCH_MS)
    long_after = EPOCH_MS / 1000
    assert not trust.closed(closing(20), long_after, EPOCH_MS), "it saw epoch 5 begin, not 20"
    assert trust.base == 1
    assert trust.closed(closing(21), 2 * long_after, EPOCH_MS), "this one it saw begin"
    assert trust.base == 22
