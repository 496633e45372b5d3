"""Followers against certified lies: the fork alarm, and runs that do not hang together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.block import Block, body_root, decode_block
from ledger.bodies.manifest import ApproveManifest
from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import (
    BlockNotReadyError,
    ForkAlarmError,
)
from ledger.records.manifest import ManifestStatus
from ledger.transition.block import apply_block
from ledger.vote import Ed25519Verifier
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.errors import VerificationError
from tests.support.ledger import (
    FLEET,
    advance,
    build_next,
    make_lab,
)


def anchor(lab, size=1, index=0):
    body = AnchorReceipts(size=size, root=sha256(b"%d" % size))
    return lab.transaction(lab.gateways[index], body)


def rebuild(block, **changes):
    """The block with a changed header."""
    header = replace(block.header, **changes)
    return Block(header, block.transactions, block.evidence, block.skips)


def snapshot(chain):
    return (
        chain.head,
        chain.certificate,
        chain.state,
        chain.mempool.pending,
        chain._store.head(),
        chain._store.state_items(),
    )


def forged_authorisation(lab, chain, manifest):
    """A block, perfectly certified, in which validators mark a manifest as authorised."""
    approvals = tuple(
        lab.approval(Action.AUTHORISE, manifest.manifest_id, member.key(KeyPurpose.VALIDATOR))
        for member in lab.validators
    )
    body = ApproveManifest(manifest=manifest.manifest_id, group=FLEET, approvals=approvals)
    signed = lab.transaction(lab.validators[0], body)
    # The state the conspirators claim: as if real owners had approved.
    genuine = lab.approve(manifest.manifest_id)
    context = chain.rules.context(height=chain.head.height + 1, time_ms=chain.head.time_ms + 1000)
    claimed = apply_block(chain.state, context, [genuine], [], Ed25519Verifier())
    view = chain.head.view + 1
    raws = (signed.signed.raw,)
    header = replace(
        chain.head,
        view=view,
        height=chain.head.height + 1,
        parent=chain.head.block_id,
        parent_view=chain.head.view,
        time_ms=context.time_ms,
        proposer=chain.validators.leader(view),
        body_root=body_root(raws, (), ()),
        log_size=claimed.state.log.size,
        log_root=claimed.state.log.root,
        state_root=claimed.state.tree.root,
    )
    return Block(header, raws)


def test_all_validators_certify_a_forged_authorisation_and_everybody_alarms():
    """Promise G2: a certified block that breaks a rule is refused whole."""
    lab = make_lab()
    chain, follower = lab.open_chain(), lab.open_chain()
    manifest = lab.manifest()
    advance(lab, chain, [lab.propose(manifest)])
    raws, certificate = chain.blocks(1, 10**6)
    follower.follow([decode_block(raw) for raw in raws], certificate)
    block = forged_authorisation(lab, chain, manifest)
    before = snapshot(follower)
    with pytest.raises(ForkAlarmError) as caught:
        follower.follow([block], lab.certificate(block))
    assert caught.value.rule == "approval.owner"
    assert caught.value.certificate == lab.certificate(block).encode()
    assert snapshot(follower) == before
    before = snapshot(chain)
    with pytest.raises(ForkAlarmError):
        chain.commit(block.block_id, lab.certificate(block), ancestors=[block])
    assert snapshot(chain) == before
    record = follower.manifest_record(manifest.manifest_id, FLEET)
    assert record.status is ManifestStatus.PROPOSED


def test_a_certified_false_state_root_raises_the_alarm_and_adopts_nothing_of_the_run():
    lab = make_lab()
    chain, follower = lab.open_chain(), lab.open_chain()
    first = build_next(chain, [anchor(lab)])
    second = rebuild(build_next(chain, parent=first), state_root=sha256(b"claimed"))
    before = snapshot(follower)
    with pytest.raises(ForkAlarmError) as caught:
        follower.follow([first, second], lab.certificate(second))
    assert caught.value.rule == "block.state_root"
    assert snapshot(follower) == before
    # The honest chain is still followed.
    follower.follow([first], lab.certificate(first))


def test_two_certified_blocks_at_one_height_raise_the_alarm():
    lab = make_lab()
    chain, follower = lab.open_chain(), lab.open_chain()
    one, other = build_next(chain), build_next(chain, after_ms=2000)
    child = build_next(chain, parent=other)
    follower.follow([one], lab.certificate(one))
    for run in ([other], [other, child], [child]):
        before = snapshot(follower)
        with pytest.raises(ForkAlarmError):
            follower.follow(run, lab.certificate(run[-1]))
        assert snapshot(follower) == before
    with pytest.raises(ForkAlarmError):
        follower.commit(other.block_id, lab.certificate(other), ancestors=[other])
    assert follower.head == one.header


def test_runs_that_do_not_hang_together_are_the_peers_fault():
    lab = make_lab()
    chain, follower = lab.open_chain(), lab.open_chain()
    blocks = []
    for _ in range(4):
        advance(lab, chain)
        blocks.append(chain.block(chain.head.block_id))
    certificate = chain.certificate
    for run in ([], [blocks[0], blocks[2]], blocks[::-1], blocks[:3]):
        with pytest.raises(VerificationError) as caught:
            follower.follow(run, certificate)
        assert not isinstance(caught.value, ForkAlarmError)
    with pytest.raises(BlockNotReadyError) as gap:
        follower.follow(blocks[1:], certificate)
    assert gap.value.missing == blocks[0].block_id
    assert follower.head.height == 0
    follower.follow(blocks[:2], lab.certificate(blocks[1]))
    results = follower.follow(blocks, certificate)
    assert [item.header.height for item in results] == [3, 4]


def test_blocks_of_another_chain_are_not_followed():
    lab, foreign = make_lab(), make_lab(gateways=3)
    block = build_next(foreign.open_chain())
    with pytest.raises(VerificationError):
        lab.open_chain().follow([block], foreign.certificate(block))
