"""Runs of blocks that become final at once: what followers get must fit an answer."""

from __future__ import annotations

import pytest

import ledger.chain as chain_module
from ledger.block import Block, decode_block
from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import BlockNotReadyError
from protocol.catchup import BLOCKS_BYTES_MAX, BLOCKS_MAX, BlocksAnswer
from protocol.digest import sha256
from protocol.genesis import EPOCH_MS
from tests.support.epochs import VoteKeys, advance_epochs, certify_all
from tests.support.ledger import advance, build_next, make_lab


@pytest.mark.slow
def test_an_epoch_that_ends_at_the_end_of_a_long_answer_is_passed_all_the_same() -> None:
    """255 blocks and a closing one with two fillers: more than one answer holds."""
    lab = make_lab()
    chain, keys = lab.open_chain(), VoteKeys(lab.validators)
    for _ in range(BLOCKS_MAX - 2):
        advance(lab, chain)
    now_ms = chain.head.time_ms
    advance_epochs(lab, chain, keys, certify_all(lab, 2, lab.validators, now_ms=now_ms))
    validators = chain.validators
    last: Block = build_next(chain, after_ms=EPOCH_MS)
    for _ in range(2):
        last = build_next(chain, parent=last)
    chain.commit(last.block_id, keys.certificate(validators, last, lab))
    assert (chain.head.height, chain.head.closes_epoch) == (BLOCKS_MAX, True)
    behind = lab.open_chain()
    while behind.head != chain.head:
        raws, certificate = chain.blocks(behind.head.height + 1, BLOCKS_BYTES_MAX)
        assert certificate is not None
        BlocksAnswer(blocks=raws, certificate=certificate.encode())
        behind.follow([decode_block(raw) for raw in raws], certificate)
    assert behind.validators.epoch == 2


def test_voters_wait_with_what_would_make_a_run_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that lies about its room gets no votes until something is final."""
    lab = make_lab()
    liar, voter = lab.open_chain(), lab.open_chain()
    first = build_next(
        liar, [lab.transaction(lab.gateways[0], AnchorReceipts(size=1, root=sha256(b"1")))]
    )
    second = build_next(
        liar,
        [lab.transaction(lab.gateways[1], AnchorReceipts(size=1, root=sha256(b"2")))],
        parent=first,
    )
    assert first.transactions
    assert second.transactions
    monkeypatch.setattr(chain_module, "UNFINAL_BYTES_MAX", len(first.encoded) + 10)
    voter.check(first, first.header.time_ms)
    with pytest.raises(BlockNotReadyError, match="wait for finality"):
        voter.check(second, second.header.time_ms, ancestors=[first])
    voter.commit(first.block_id, lab.certificate(first), ancestors=[first])
    voter.check(second, second.header.time_ms)
