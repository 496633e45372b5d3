"""Where a fetched state meets epoch edges, membership proofs and those who follow from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.block import Block, decode_block
from ledger.block_store import BlockStore, Durability
from ledger.certificate import decode_certificate
from ledger.chain import Chain
from ledger.errors import LedgerNotYetError
from ledger.membership import make_membership_proof, verify_membership_proof
from ledger.state_sync import SyncTarget, decode_sync_target, verify_page, verify_state_head
from ledger.sync_store import SyncStore
from ledger.vote import Ed25519Verifier
from protocol.did import KeyPurpose
from protocol.digest import DidId
from protocol.errors import VerificationError
from protocol.genesis import EPOCH_MS
from protocol.state_messages import STATE_STEPS_MAX, STEP_BYTES_MAX, StateHeadAnswer
from tests.support.epochs import VoteKeys, advance_epochs, certify_all
from tests.support.ledger import Lab, build_next, make_lab

VERIFIER = Ed25519Verifier()
INTERVAL = 4


def open_chain(lab: Lab) -> Chain:
    store = BlockStore(Path(":memory:"), Durability.BATCHED, snapshot_interval=INTERVAL)
    return Chain.open(store, lab.genesis)


def fetch(chain: Chain, newcomer: Chain, target: SyncTarget) -> None:
    """Everything a newcomer takes from one honest peer."""
    sync = SyncStore(newcomer._store)
    sync.begin(target)
    while (start := sync.plan.take()) is not None:
        page = chain.state_page(target.header.height, start)
        assert page is not None
        sync.add_page(start, verify_page(page.encode(), target, start))
    (raw, *_), _ = chain.blocks(target.header.height, 1)
    sync.finish(decode_block(raw))
    newcomer.adopt_fetched(decode_certificate(target.certificate))


def run_of(lab: Lab, chain: Chain, count: int) -> None:
    """Blocks that become final at once."""
    parent: Block | None = None
    for _ in range(count):
        parent = build_next(chain, parent=parent)
    assert parent is not None
    chain.commit(parent.block_id, lab.certificate(parent))


def test_a_fetched_head_without_a_certificate_of_its_own_proves_no_membership_yet() -> None:
    """Its holder would be taken for a forger by everybody it greets."""
    lab = make_lab()
    chain = open_chain(lab)
    run_of(lab, chain, 6)
    target = verify_state_head(chain.state_head(1), chain.anchor, VERIFIER)
    newcomer = open_chain(lab)
    fetch(chain, newcomer, target)
    assert newcomer.certificate is None
    gateway = lab.gateways[0]
    with pytest.raises(LedgerNotYetError, match=r"membership\.uncertified"):
        make_membership_proof(newcomer, DidId(gateway.did))
    blocks, certificate = chain.blocks(5, 10**6)
    assert certificate is not None
    newcomer.follow([decode_block(raw) for raw in blocks], certificate)
    proof = make_membership_proof(newcomer, DidId(gateway.did))
    transport = gateway.key(KeyPurpose.TRANSPORT).public
    verify_membership_proof(proof, chain.anchor, transport, height_min=1)


class Edge:
    """A chain whose version at height 4 is that of the block that closed epoch 1."""

    def __init__(self, fillers: int = 0) -> None:
        self.lab = make_lab()
        self.keys = VoteKeys(self.lab.validators)
        self.chain = open_chain(self.lab)
        self.advance()
        self.advance()
        now_ms = self.chain.head.time_ms
        self.advance(*certify_all(self.lab, 2, self.lab.validators, now_ms=now_ms))
        validators = self.chain.validators
        last = closing = build_next(self.chain, after_ms=EPOCH_MS)
        for _ in range(fillers):
            last = build_next(self.chain, parent=last)
        self.chain.commit(last.block_id, self.keys.certificate(validators, last, self.lab))
        assert self.chain.head == closing.header
        assert (closing.header.closes_epoch, closing.header.height) == (True, 4)

    def advance(self, *transactions, after_ms: int = 1000) -> None:
        advance_epochs(self.lab, self.chain, self.keys, transactions, after_ms=after_ms)


@pytest.mark.parametrize("fillers", [0, 2])
def test_who_fetched_at_an_epochs_edge_hands_over_and_serves_like_any_other(fillers: int) -> None:
    """E17: each node keeps every hand-over; nobody serves a run across an edge."""
    edge = Edge(fillers)
    edge.advance()
    answer = edge.chain.state_head(1)
    newcomer = open_chain(edge.lab)
    if answer.headers:
        target = verify_state_head(answer, edge.chain.anchor, VERIFIER)
        fetch(edge.chain, newcomer, target)
    while newcomer.head != edge.chain.head:
        blocks, certificate = edge.chain.blocks(newcomer.head.height + 1, 10**6)
        assert certificate is not None
        newcomer.follow([decode_block(raw) for raw in blocks], certificate)
    assert newcomer.epoch_steps(1, 64) == edge.chain.epoch_steps(1, 64)
    behind = open_chain(edge.lab)
    blocks, certificate = edge.chain.blocks(1, 1)
    while behind.head.height < newcomer.first_block - 1:
        behind.follow([decode_block(raw) for raw in blocks][:3], edge.chain.finality(3)[1])
    while behind.head != newcomer.head:
        blocks, certificate = newcomer.blocks(behind.head.height + 1, 10**6)
        assert certificate is not None, "an honest node has something to serve"
        behind.follow([decode_block(raw) for raw in blocks], certificate)


def test_a_version_that_closes_an_epoch_is_not_taken_from_anybody() -> None:
    """Its hand-over would be missing here for ever."""
    edge = Edge()
    chain = edge.chain
    (snapshot,) = [item for item in chain._store.nodes.snapshots() if item.height == 4]
    certificate = chain.certificate
    assert certificate is not None
    answer = StateHeadAnswer(
        steps=(),
        headers=(chain.head.encoded,),
        certificate=certificate.encode(),
        log=snapshot.log.encode(),
    )
    with pytest.raises(VerificationError, match="closes"):
        verify_state_head(answer, chain.anchor, VERIFIER)


def test_what_a_peer_may_bridge_can_be_read_again_after_a_restart() -> None:
    """Else a store with many hand-overs could never be opened again."""
    edge = Edge()
    edge.advance()
    header = edge.chain.header_at(3)
    assert header is not None
    target = SyncTarget(
        header=header,
        log=edge.chain.state.log,
        certificate=b"c" * 2000,
        steps=tuple(bytes(5000) for _ in range(8 * STATE_STEPS_MAX)),
    )
    assert STEP_BYTES_MAX > 5000
    assert decode_sync_target(target.encode()) == target
