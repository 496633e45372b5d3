"""The chain as validators and followers use it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger import chain as chain_module
from ledger.block import Block, SkipProof, body_root, decode_block
from ledger.bodies.receipt import AnchorReceipts
from ledger.chain_blocks import Budget, fill_block
from ledger.errors import (
    BlockNotReadyError,
    InvalidBlockError,
    LedgerNotYetError,
)
from ledger.header import Header
from ledger.mempool import Mempool
from ledger.records.manifest import ManifestStatus
from ledger.transition.block import begin
from ledger.vote import Evidence, VoteKind
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import BlockId, ChainId, Digest, TransactionId, sha256
from protocol.errors import VerificationError
from protocol.limits import BLOCK_INTERVAL_MS_MIN
from protocol.merkle import verify_inclusion
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    PRODUCT,
    advance,
    build_next,
    make_group,
    make_lab,
    make_policy,
    owner_keys,
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


def test_main_job_at_a_validator_and_a_follower():
    lab = make_lab()
    chain, follower = lab.open_chain(), lab.open_chain()
    manifest = lab.manifest()
    advance(lab, chain, [lab.propose(manifest)])
    result = advance(lab, chain, [lab.approve(manifest.manifest_id)])
    (change,) = result.manifests
    assert (change.before, change.record.status) == (
        ManifestStatus.PROPOSED,
        ManifestStatus.AUTHORISED,
    )
    assert chain.latest(FLEET, PRODUCT).manifest == manifest.manifest_id
    assert len(chain.approvals(manifest.manifest_id, FLEET, Action.AUTHORISE)) == 2
    advance(lab, chain, [lab.revoke(manifest.manifest_id)])
    assert len(chain.approvals(manifest.manifest_id, FLEET, Action.REVOKE)) == 2
    raws, certificate = chain.blocks(1, 10**6)
    results = follower.follow([decode_block(raw) for raw in raws], certificate)
    assert [item.header.height for item in results] == [1, 2, 3]
    assert (follower.head, follower.certificate) == (chain.head, chain.certificate)
    assert follower.state.tree.root == chain.state.tree.root
    record = follower.manifest_record(manifest.manifest_id, FLEET)
    assert record.status is ManifestStatus.REVOKED
    assert follower.manifest_bytes(manifest.manifest_id) == manifest.signed.raw
    assert list(follower.manifest_records()) == [(manifest.manifest_id, FLEET, record)]
    assert follower.follow([decode_block(raw) for raw in raws], certificate) == ()


def test_queries_answer_none_for_what_does_not_exist():
    lab = make_lab()
    chain = lab.open_chain()
    nothing = Digest(bytes(32))
    assert chain.subject(nothing) is None
    assert chain.subject_by_key(owner_keys(FLEET)[0].public) is None
    assert chain.group("nowhere") is None
    assert chain.policy("nowhere") is None
    assert chain.manifest_record(nothing, FLEET) is None
    assert chain.manifest_bytes(nothing) is None
    assert chain.latest(FLEET, PRODUCT) is None
    assert chain.approvals(nothing, FLEET, Action.REVOKE) == ()
    assert chain.header_at(1) is None
    assert chain.finality(0) is None
    assert chain.block(BlockId(nothing)) is None
    assert chain.blocks(1, 1000) == ((), None)
    status = chain.transaction_status(TransactionId(nothing))
    assert (status.height, status.is_pending) == (None, False)


def test_queries_find_subjects_groups_and_history():
    lab = make_lab()
    chain = lab.open_chain()
    gateway = lab.gateways[0]
    key = gateway.key(KeyPurpose.TRANSPORT).public
    assert chain.subject_by_key(key) == (gateway.did, chain.subject(gateway.did))
    assert chain.group(FLEET).policy == lab.policy_id()
    assert chain.policy(FLEET) == make_policy()
    signed = anchor(lab)
    result = advance(lab, chain, [signed])
    assert result.transactions == ((signed.transaction_id, "receipt.anchor"),)
    assert chain.transaction_status(signed.transaction_id).height == 1
    assert chain.header_at(1) == chain.head
    assert chain.finality(1) == (chain.head, chain.certificate)
    assert chain.block(chain.head.block_id).transactions == (signed.signed.raw,)
    leaf, proof = chain.log_proof(0)
    verify_inclusion(leaf, index=0, size=1, proof=proof, root=chain.head.log_root)


def test_events_name_subjects_groups_and_convictions():
    lab = make_lab()
    chain = lab.open_chain()
    result = advance(lab, chain, [lab.transaction(lab.gateways[1], lab.rotation(lab.gateways[0]))])
    assert result.subjects == (lab.gateways[0].did,)
    evidence = Evidence.of(
        lab.vote(VoteKind.FINALIZE, 3, view=1, block_id=BlockId(sha256(b"a"))),
        lab.vote(VoteKind.NULLIFY, 3, view=1, block_id=None),
    )
    other = lab.open_chain()
    other.follow([chain.block(chain.head.block_id)], chain.certificate)
    for expected in (((1, 3),), ()):  # once for a signer and epoch
        block = chain.build(
            chain.head.block_id,
            view=chain.head.view + 1,
            proposer=chain.validators.leader(chain.head.view + 1),
            now_ms=chain.head.time_ms + 1000,
            evidence=[evidence],
        )
        (result,) = chain.commit(block.block_id, lab.certificate(block))
        assert result.convictions == expected
        (followed,) = other.follow([block], lab.certificate(block))
        assert followed == result
    policy = make_policy(enrol_threshold=1)
    from ledger.bodies.group import SetPolicy

    body = SetPolicy(
        group=FLEET,
        policy=policy.encode(),
        approvals=lab.approvals(Action.AMEND, policy.policy_id),
    )
    assert advance(lab, chain, [lab.transaction(lab.gateways[1], body)]).groups == (FLEET,)


def test_time_of_a_built_block_is_the_clock_or_a_little_after_the_parent():
    lab = make_lab()
    chain = lab.open_chain()
    assert build_next(chain, after_ms=7000).header.time_ms == GENESIS_MS + 7000
    assert build_next(chain, after_ms=-3000).header.time_ms == GENESIS_MS + BLOCK_INTERVAL_MS_MIN
    with pytest.raises(BlockNotReadyError, match="behind the parent"):
        build_next(chain, after_ms=-5000)


def test_a_proposal_keeps_its_distance_from_its_parent():
    lab = make_lab()
    chain, other = lab.open_chain(), lab.open_chain()
    hasty = rebuild(build_next(chain), time_ms=GENESIS_MS + BLOCK_INTERVAL_MS_MIN - 1)
    with pytest.raises(InvalidBlockError, match=r"block\.time"):
        other.check(hasty, GENESIS_MS)
    other.check(hasty)  # a final block is not judged by it


@pytest.mark.parametrize(
    ("offset_ms", "is_valid"), [(5000, True), (5001, False), (-60_000, True), (-60_001, False)]
)
def test_clock_rule(offset_ms, is_valid):
    lab = make_lab()
    chain, other = lab.open_chain(), lab.open_chain()
    block = build_next(chain, after_ms=100_000)
    now_ms = block.header.time_ms - offset_ms
    if is_valid:
        other.check(block, now_ms)
    else:
        with pytest.raises(InvalidBlockError, match=r"block\.time"):
            other.check(block, now_ms)
        other.check(block)  # catching up: no clock rule


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"chain": ChainId(sha256(b"x"))}, "block.chain"),
        ({"era": 1}, "block.era"),
        ({"epoch": 2}, "block.epoch"),
        ({"validators": sha256(b"x")}, "block.validators"),
        ({"next_validators": sha256(b"x")}, "block.next_validators"),
        ({"parent": BlockId(sha256(b"x"))}, "block.fork"),
        ({"height": 2}, "block.height"),
        ({"height": 0}, "block.height"),
        ({"view": 4, "parent_view": 3}, "block.parent_view"),
        ({"view": 0}, "block.view"),
        ({"proposer": 3}, "block.proposer"),
        ({"view": 5}, "block.skips"),
        ({"time_ms": GENESIS_MS}, "block.time"),
        ({"log_size": 2}, "block.log_size"),
        ({"log_root": sha256(b"x")}, "block.log_root"),
        ({"state_root": sha256(b"x")}, "block.state_root"),
    ],
)
def test_one_thing_wrong_with_a_header(changes, rule):
    lab = make_lab()
    chain, other = lab.open_chain(), lab.open_chain()
    block = rebuild(build_next(chain, [anchor(lab)]), **changes)
    before = snapshot(other)
    for _ in range(2):  # a stable verdict
        with pytest.raises(InvalidBlockError) as caught:
            other.check(block)
        assert caught.value.rule == rule
    assert snapshot(other) == before
    assert not other._executed


def test_a_block_with_one_invalid_transaction_is_invalid():
    lab = make_lab()
    chain, other = lab.open_chain(), lab.open_chain()
    good = build_next(chain, [anchor(lab)])
    replay = (*good.transactions, *good.transactions)
    for raws, rule in ((replay, "tx.nonce"), ((b"\x80",), "tx.malformed")):
        header = replace(good.header, body_root=body_root(raws, (), ()))
        with pytest.raises(InvalidBlockError) as caught:
            other.check(Block(header, raws))
        assert caught.value.rule == rule


def test_blocks_are_built_on_unfinal_parents_and_committed_together():
    lab = make_lab()
    chain, other = lab.open_chain(), lab.open_chain()
    first = build_next(chain, [anchor(lab, 1)])
    second = build_next(chain, [anchor(lab, 2)], parent=first, skip_views=2)
    assert len(second.transactions) == 1, "what an ancestor holds is not taken again"
    third = build_next(chain, parent=second)
    with pytest.raises(BlockNotReadyError) as caught:
        other.check(third)
    assert caught.value.missing == second.block_id
    other.check(third, ancestors=[first, second])
    results = other.commit(second.block_id, lab.certificate(second))
    assert [item.header for item in results] == [first.header, second.header]
    assert results[0].certificate == lab.certificate(second)
    assert list(other._executed) == [third.block_id], "its descendant stays"
    assert other.commit(second.block_id, lab.certificate(second)) == ()
    assert other.commit(first.block_id, lab.certificate(first)) == ()
    other.check(first)  # final already: nothing to say
    fourth = build_next(chain, parent=third)
    other.check(fourth, ancestors=[first, second, third])
    (result,) = other.commit(third.block_id, lab.certificate(third))
    assert result.header == third.header


def test_commit_may_bring_the_blocks_along():
    lab = make_lab()
    chain, other = lab.open_chain(), lab.open_chain()
    first = build_next(chain)
    second = build_next(chain, parent=first)
    with pytest.raises(BlockNotReadyError):
        other.commit(second.block_id, lab.certificate(second))
    results = other.commit(second.block_id, lab.certificate(second), ancestors=[first, second])
    assert len(results) == 2


def test_skip_certificates_are_kept_with_the_blocks():
    lab = make_lab()
    chain = lab.open_chain()
    votes = [lab.vote(VoteKind.NULLIFY, i, view=1, block_id=None) for i in range(3)]
    from ledger.certificate import Certificate

    skip = Certificate.of(votes, lab.validator_set)
    block = chain.build(
        chain.head.block_id,
        view=2,
        proposer=2,
        now_ms=GENESIS_MS + 1000,
        skips=[SkipProof(1, skip.digest)],
    )
    notarized = lab.certificate(block, VoteKind.NOTARIZE)
    chain.commit(block.block_id, lab.certificate(block), skips=[skip], notarized=[notarized])
    assert chain._store.certificate(skip.digest) == skip
    assert chain._store.certificate(sha256(b"x")) is None
    assert chain._store.certificates(2) == (notarized,)


def test_a_fork_below_the_final_block_is_refused():
    lab = make_lab()
    chain = lab.open_chain()
    one = build_next(chain)
    other = build_next(chain, after_ms=2000)
    child = build_next(chain, parent=other)
    chain.commit(one.block_id, lab.certificate(one))
    for block in (other, child):
        assert chain._lookup(block.block_id) is None, "branches beside the final block are dropped"
    for block in (other, child):
        with pytest.raises(InvalidBlockError, match=r"block\.fork"):
            chain.check(block)
    with pytest.raises(InvalidBlockError, match=r"block\.fork"):
        chain.check(child, ancestors=[rebuild(other, height=2, view=5, parent_view=4)])


def test_only_a_finalize_certificate_of_the_very_block_commits():
    lab = make_lab()
    chain = lab.open_chain()
    block, other = build_next(chain), build_next(chain, after_ms=2000)
    for certificate in (
        lab.certificate(block, VoteKind.NOTARIZE),
        lab.certificate(other),
        replace(lab.certificate(block), epoch=2),
        replace(lab.certificate(block), signatures=lab.certificate(other).signatures),
    ):
        for call in (
            lambda c=certificate: chain.commit(block.block_id, c),
            lambda c=certificate: chain.follow([block], c),
        ):
            with pytest.raises(VerificationError):
                call()
    assert chain.head.height == 0


def test_blocks_answers_end_with_a_certified_block():
    lab = make_lab()
    chain = lab.open_chain()
    first = build_next(chain, [anchor(lab)])
    second = build_next(chain, parent=first)
    chain.commit(second.block_id, lab.certificate(second))
    advance(lab, chain)
    run, certificate = chain.blocks(1, 1)
    assert [decode_block(raw).block_id for raw in run] == [first.block_id, second.block_id]
    assert certificate == lab.certificate(second)
    run, certificate = chain.blocks(3, 10**6)
    assert (len(run), certificate) == (1, chain.certificate)
    assert chain.blocks(4, 10**6) == ((), None)
    assert chain.finality(1) == (second.header, lab.certificate(second))


def test_pruned_bodies_leave_headers_and_the_head():
    lab = make_lab()
    chain = lab.open_chain()
    for _ in range(3):
        advance(lab, chain)
    chain.prune(0)
    assert chain.block(chain.header_at(2).block_id) is None
    assert chain.block(chain.head.block_id) is not None
    assert chain.blocks(1, 10**6) == ((), None)
    assert len(chain.blocks(3, 10**6)[0]) == 1


def test_speculative_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(chain_module, "SPECULATIVE_BLOCKS_MAX", 3)
    lab = make_lab()
    chain = lab.open_chain()
    first = build_next(chain)
    second = build_next(chain, parent=first)
    side = build_next(chain, after_ms=2000)
    third = build_next(chain, parent=second)
    assert list(chain._executed) == [first.block_id, second.block_id, third.block_id]
    assert chain.block(side.block_id) is None
    with pytest.raises(BlockNotReadyError, match="wait for finality"):
        build_next(chain, parent=third)
    chain.commit(first.block_id, lab.certificate(first))
    build_next(chain, parent=third)


def test_leaders_add_nothing_once_too_much_waits_for_finality(monkeypatch):
    monkeypatch.setattr(chain_module, "UNFINAL_BYTES_MAX", 5000)
    lab = make_lab()
    chain = lab.open_chain()
    first = build_next(chain, [anchor(lab, n) for n in range(1, 6)])
    assert len(first.transactions) == 5
    second = build_next(chain, [anchor(lab, n) for n in range(6, 16)], parent=first)
    assert len(second.transactions) < 10
    third = build_next(chain, parent=second)
    assert third.transactions == ()
    chain.commit(third.block_id, lab.certificate(third))
    assert build_next(chain).transactions


def test_a_block_takes_no_more_than_it_may():
    lab = make_lab()
    chain = lab.open_chain()
    mempool = Mempool()
    context = chain.rules.context(height=1, time_ms=GENESIS_MS + 1)
    transactions = [anchor(lab, n) for n in range(1, 5)]
    for signed in transactions:
        mempool.add(signed.signed.raw, chain.state, context)
    size = len(transactions[0].signed.raw)
    draft = begin(chain.state, context)
    budget = Budget(all_bytes=3 * size, ordinary_bytes=3 * size)
    assert len(fill_block(draft, mempool.select(), budget)) == 2
    assert draft.log.size == 2


def test_build_on_an_unknown_parent_is_not_ready():
    chain = make_lab().open_chain()
    with pytest.raises(BlockNotReadyError):
        chain.build(BlockId(sha256(b"x")), view=1, proposer=1, now_ms=GENESIS_MS)


def test_invalid_transactions_are_left_out_of_blocks():
    lab = make_lab()
    chain = lab.open_chain()
    manifest = lab.manifest()
    approval = lab.approve(manifest.manifest_id)
    block = build_next(chain, [approval])  # waits for the proposal
    assert block.transactions == ()
    proposal = lab.propose(manifest)
    block = build_next(chain, [proposal])
    assert block.transactions == (proposal.signed.raw,)
    chain.commit(block.block_id, lab.certificate(block))
    block = build_next(chain)
    assert block.transactions == (approval.signed.raw,)
    with pytest.raises(LedgerNotYetError):
        chain.submit(
            lab.transaction(
                lab.gateways[0], AnchorReceipts(size=1, root=sha256(b"")), nonce=17
            ).signed.raw,
            now_ms=GENESIS_MS,
        )


def test_anchor_of_a_chain_knows_the_genesis_header():
    lab = make_lab(groups=[make_group("pumps")])
    chain = lab.open_chain()
    first = chain.head
    advance(lab, chain)
    assert chain.anchor.first == first.block_id
    assert isinstance(first, Header)
