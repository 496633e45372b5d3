"""Liars against what the ledger proves: conflicting anchors, and lies to newcomers."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger.block_store import BlockStore, Durability
from ledger.bodies.receipt import AnchorReceipts
from ledger.chain import Chain
from ledger.contradiction import verify_contradiction
from ledger.errors import LedgerError
from ledger.state_range import FIRST_PATH
from ledger.state_sync import verify_page, verify_state_head
from ledger.vote import Ed25519Verifier
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.errors import VerificationError
from swarmd.simulation.byzantine.conflicting_anchors import ConflictingAnchorer
from swarmd.simulation.byzantine.state_sync_liar import StateSyncLiar
from tests.support.ledger import GENESIS_MS, HOUR_MS, advance, make_lab

VERIFIER = Ed25519Verifier()
UNTIL_MS = GENESIS_MS + HOUR_MS


def test_two_anchors_of_one_size_convict_their_signer_and_nobody_else() -> None:
    lab = make_lab()
    culprit, other = lab.gateways[0], lab.gateways[1]
    key = culprit.key(KeyPurpose.NODE)
    liar = ConflictingAnchorer(culprit.did, key, chain=lab.chain_id, era=0)
    evidence = liar.evidence(7, valid_until_ms=UNTIL_MS)
    verify_contradiction(evidence, culprit.did, key.public, chain=lab.chain_id, era=0)
    with pytest.raises(LedgerError, match=r"contradiction\.subject|signed by somebody else"):
        verify_contradiction(
            evidence, other.did, other.key(KeyPurpose.NODE).public, chain=lab.chain_id, era=0
        )


def test_anchors_forged_in_the_name_of_an_honest_gateway_convict_nobody() -> None:
    lab = make_lab()
    thief, victim = lab.gateways[0], lab.gateways[1]
    liar = ConflictingAnchorer(victim.did, thief.key(KeyPurpose.NODE), chain=lab.chain_id, era=0)
    with pytest.raises(LedgerError) as caught:
        verify_contradiction(
            liar.evidence(7, valid_until_ms=UNTIL_MS),
            victim.did,
            victim.key(KeyPurpose.NODE).public,
            chain=lab.chain_id,
            era=0,
        )
    assert caught.value.rule == "contradiction.signature"


@pytest.mark.slow
def test_every_lie_to_a_newcomer_is_refused_and_every_truth_believed() -> None:
    lab = make_lab()
    store = BlockStore(Path(":memory:"), Durability.BATCHED, snapshot_interval=4)
    chain = Chain.open(store, lab.genesis)
    for size in range(1, 7):
        body = AnchorReceipts(size=size, root=sha256(b"%d" % size))
        advance(lab, chain, [lab.transaction(lab.gateways[0], body)])
    answer = chain.state_head(epoch=1)
    target = verify_state_head(answer, chain.anchor, VERIFIER)
    liar = StateSyncLiar()
    lies = list(liar.heads(answer))
    assert len(lies) == 7
    for lie in lies:
        with pytest.raises(VerificationError):
            verify_state_head(lie, chain.anchor, VERIFIER)
    page = chain.state_page(target.header.height, FIRST_PATH)
    assert page is not None
    verify_page(page.encode(), target, FIRST_PATH)
    spoilt = list(liar.pages(page))
    assert len(spoilt) == 6
    for raw in spoilt:
        with pytest.raises(VerificationError):
            verify_page(raw, target, FIRST_PATH)
