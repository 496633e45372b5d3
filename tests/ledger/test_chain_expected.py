"""A header that somebody vouched for: no other block of its height becomes final."""

from __future__ import annotations

import pytest

from ledger.block import decode_block
from ledger.errors import ForkAlarmError
from protocol.digest import BlockId, sha256
from tests.support.ledger import advance, build_next, make_lab

OTHER = BlockId(sha256(b"another history"))


def made(blocks: int):
    """A chain of some blocks, a follower at genesis, and what it is sent."""
    lab = make_lab()
    chain, follower = lab.open_chain(), lab.open_chain()
    for _ in range(blocks):
        advance(lab, chain)
    raws, certificate = chain.blocks(1, 10**6)
    return lab, chain, follower, [decode_block(raw) for raw in raws], certificate


@pytest.mark.parametrize("height", [1, 2, 3])
def test_a_certified_run_that_contradicts_it_is_refused_whole(height):
    _, chain, follower, blocks, certificate = made(3)
    follower.expected = (height, OTHER)
    with pytest.raises(ForkAlarmError) as caught:
        follower.follow(blocks, certificate)
    assert caught.value.rule == "chain.checkpoint"
    assert caught.value.block_id == chain.header_at(height).block_id
    assert follower.head.height == 0
    assert follower._store.head()[0].height == 0


@pytest.mark.parametrize("height", [1, 3, 4])
def test_one_that_agrees_or_does_not_reach_it_is_followed(height):
    _, chain, follower, blocks, certificate = made(3)
    known = chain.header_at(height)
    follower.expected = (height, OTHER if known is None else known.block_id)
    follower.follow(blocks, certificate)
    assert follower.head == chain.head


def test_a_validator_commits_no_block_that_contradicts_it():
    lab, chain, _, _, _ = made(1)
    block = build_next(chain)
    chain.expected = (2, OTHER)
    with pytest.raises(ForkAlarmError, match="vouched for"):
        chain.commit(block.block_id, lab.certificate(block))
    assert chain.head.height == 1
