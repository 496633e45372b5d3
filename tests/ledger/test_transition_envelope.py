"""Envelope rules: era, chain, signer, signature, lifetime, nonce, shares."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.log import Log
from ledger.state_keys import account_key
from ledger.transition import envelope, shares
from ledger.transition.block import apply_evidence, apply_transaction, begin, finish
from ledger.transition.envelope import check_envelope, read_transaction
from ledger.vote import Ed25519Verifier, Evidence, VoteKind
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import BlockId, ChainId, sha256
from protocol.limits import NONCE_WINDOW, TRANSACTION_LIFETIME_MS_MAX
from protocol.merkle import leaf_hash
from protocol.transaction import sign_transaction
from tests.support.ledger import FLEET, GENESIS_MS, Member, make_bench

ANCHOR = AnchorReceipts(size=1, root=sha256(b"receipts"))


def altered(bench, **changes):
    """A valid transaction of gateway-0, changed and signed again."""
    gateway = bench.lab.gateways[0]
    transaction = replace(bench.lab.transaction(gateway, ANCHOR).transaction, **changes)
    return sign_transaction(transaction, gateway.key(KeyPurpose.NODE), bench.lab.chain_id)


def test_the_unaltered_transaction_is_valid():
    bench = make_bench()
    state = bench.apply(altered(bench))
    assert state.anchor(bench.lab.gateways[0].did).size == 1
    assert state.account(bench.lab.gateways[0].did).nonce == 1


@pytest.mark.parametrize(
    ("changes", "rule", "is_final"),
    [
        ({"era": 1}, "tx.era", True),
        ({"signer": sha256(b"nobody")}, "tx.signer", False),
        ({"valid_until_ms": GENESIS_MS + 999}, "tx.expired", True),
        (
            {"valid_until_ms": GENESIS_MS + 1001 + TRANSACTION_LIFETIME_MS_MAX},
            "tx.lifetime",
            False,
        ),
        ({"nonce": NONCE_WINDOW}, "tx.nonce_ahead", False),
        ({"kind": "coin.mint"}, "tx.body", True),
        ({"body": {}}, "tx.body", True),
        ({"body": {**ANCHOR.to_value(), 7: 1}}, "tx.body", True),
    ],
)
def test_one_thing_wrong(changes, rule, is_final):
    bench = make_bench()
    error = bench.refusal(altered(bench, **changes))
    assert error.rule == rule
    assert isinstance(error, LedgerNotYetError) != is_final


def test_lifetime_and_window_are_inclusive():
    bench = make_bench()
    bench.apply(altered(bench, valid_until_ms=GENESIS_MS + 1000, nonce=NONCE_WINDOW - 1))
    bench.apply(altered(bench, valid_until_ms=GENESIS_MS + 2000 + TRANSACTION_LIFETIME_MS_MAX))


def test_transaction_of_another_chain_is_refused():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    original = bench.lab.transaction(gateway, ANCHOR).transaction
    foreign = sign_transaction(
        original, gateway.key(KeyPurpose.NODE), ChainId(sha256(b"another chain"))
    )
    assert bench.refusal(foreign).rule == "tx.signature"


@pytest.mark.parametrize("purpose", [KeyPurpose.TRANSPORT, KeyPurpose.PERSON])
def test_only_the_node_key_signs(purpose):
    bench = make_bench()
    publisher = bench.lab.publisher
    original = bench.lab.transaction(publisher, ANCHOR).transaction
    wrong = sign_transaction(original, publisher.key(purpose), bench.lab.chain_id)
    assert bench.refusal(wrong).rule == "tx.signature"


def test_a_member_cannot_sign_for_another():
    bench = make_bench()
    first, second = bench.lab.gateways
    original = bench.lab.transaction(first, ANCHOR).transaction
    forged = sign_transaction(original, second.key(KeyPurpose.NODE), bench.lab.chain_id)
    assert bench.refusal(forged).rule == "tx.signature"


def test_malformed_bytes_are_refused_with_a_code():
    bench = make_bench()
    for raw in (
        b"",
        b"\xff",
        b"\x80",
        bench.lab.transaction(bench.lab.gateways[0], ANCHOR).signed.raw[:-1],
    ):
        with pytest.raises(LedgerError) as caught:
            read_transaction(raw)
        assert caught.value.rule == "tx.malformed"


def test_replay_is_refused_in_the_same_block_and_later():
    bench = make_bench()
    signed = altered(bench)
    block = begin(bench.state, bench.lab.context())
    apply_transaction(block, signed)
    with pytest.raises(LedgerError, match=r"tx\.nonce"):
        apply_transaction(block, signed)
    assert finish(block).state.log.size == 1, "a refused transaction leaves no trace"
    bench.apply(signed)
    assert bench.refusal(signed).rule == "tx.nonce"


def test_a_suspended_signer_is_refused():
    bench = make_bench()
    first, second = bench.lab.gateways
    approvals = bench.lab.approvals(Action.SUSPEND, first.did)
    body = SuspendSubject(did=first.did, group=FLEET, approvals=approvals)
    bench.apply(bench.lab.transaction(second, body))
    assert bench.refusal(altered(bench)).rule == "tx.signer_status"


def test_persons_sign_no_transactions():
    bench = make_bench()
    person = Member(label="person", kind=SubjectKind.PERSON, groups=(FLEET,))
    approvals = bench.lab.approvals(Action.ENROL, person.did)
    body = CreateSubject(join=person.join, approvals=(approvals,))
    bench.apply(bench.lab.transaction(bench.lab.gateways[0], body))
    transaction = bench.lab.transaction(bench.lab.gateways[0], ANCHOR).transaction
    signed = sign_transaction(
        replace(transaction, signer=person.did), person.key(KeyPurpose.PERSON), bench.lab.chain_id
    )
    assert bench.refusal(signed).rule == "tx.signer_key"


@given(st.lists(st.integers(0, 40), max_size=40))
@settings(max_examples=25, deadline=None)
@pytest.mark.slow
def test_nonces_are_accepted_exactly_as_a_set_of_used_ones_says(nonces):
    bench = make_bench()
    used: list[int] = []
    for nonce in nonces:
        lowest = next(n for n in range(100) if n not in used)
        is_valid = nonce not in used and nonce < lowest + NONCE_WINDOW
        signed = altered(bench, nonce=nonce)
        if is_valid:
            bench.apply(signed)
            used.append(nonce)
        else:
            assert bench.refusal(signed).rule in ("tx.nonce", "tx.nonce_ahead")


def test_rate_of_one_signer_is_bounded_by_the_hour(monkeypatch):
    monkeypatch.setattr(shares, "TRANSACTIONS_PER_HOUR_MAX", 3)
    bench = make_bench()
    for _ in range(3):
        bench.apply(altered(bench))
    error = bench.refusal(altered(bench))
    assert error.rule == "tx.rate"
    assert isinstance(error, LedgerNotYetError)
    bench.apply(altered(bench, nonce=3), after_ms=3_600_000)


def test_ledger_share_of_one_signer_is_bounded_for_good_but_not_for_revocations(monkeypatch):
    bench = make_bench()
    manifest = bench.lab.manifest()
    bench.apply(bench.lab.propose(manifest))
    before = bench.state.account(bench.lab.publisher.did).ledger_bytes
    assert before > len(manifest.signed.raw)
    monkeypatch.setattr(shares, "LEDGER_BYTES_MAX", 100)
    monkeypatch.setattr(shares, "TRANSACTIONS_PER_HOUR_MAX", 0)
    bench.apply(bench.lab.revoke(manifest.manifest_id))
    monkeypatch.setattr(shares, "TRANSACTIONS_PER_HOUR_MAX", 9)
    error = bench.refusal(altered(bench))
    assert error.rule == "tx.share"
    assert not isinstance(error, LedgerNotYetError)


def test_each_transaction_and_evidence_is_one_log_entry():
    bench = make_bench()
    first, second = altered(bench), altered(bench)
    evidence = conviction(bench.lab)
    block = begin(bench.state, bench.lab.context())
    apply_transaction(block, first)
    apply_transaction(block, second)
    apply_evidence(block, evidence, Ed25519Verifier())
    outcome = finish(block)
    leaves = [leaf_hash(item) for item in (first.signed.raw, second.signed.raw, evidence.encoded)]
    assert list(outcome.leaves) == leaves
    assert outcome.state.log == Log().extend(leaves)
    assert account_key(bench.lab.gateways[0].did) in outcome.writes


def conviction(lab, index=2, view=5):
    return Evidence.of(
        lab.vote(VoteKind.NOTARIZE, index, view=view, block_id=BlockId(sha256(b"one"))),
        lab.vote(VoteKind.NOTARIZE, index, view=view, block_id=BlockId(sha256(b"two"))),
    )


def test_evidence_counts_once_and_only_with_both_signatures():
    bench = make_bench()
    lab, verifier = bench.lab, Ed25519Verifier()
    block = begin(bench.state, lab.context(height=7))
    apply_evidence(block, conviction(lab), verifier)
    assert block.state.conviction(1, 2).height == 7
    with pytest.raises(LedgerError, match=r"evidence\.known"):
        apply_evidence(block, conviction(lab, view=6), verifier)
    forged = Evidence.of(
        lab.vote(VoteKind.NOTARIZE, 3, view=5, block_id=BlockId(sha256(b"one"))),
        replace(lab.vote(VoteKind.NOTARIZE, 1, view=5, block_id=BlockId(sha256(b"two"))), signer=3),
    )
    with pytest.raises(LedgerError, match=r"evidence\.signature"):
        apply_evidence(block, forged, verifier)
    original = conviction(lab, index=1)
    later = Evidence.of(replace(original.first, epoch=2), replace(original.second, epoch=2))
    with pytest.raises(LedgerError, match=r"evidence\.epoch"):
        apply_evidence(block, later, verifier)
    assert len(finish(block).leaves) == 1


def test_a_signature_found_good_counts_for_its_key_and_chain_only():
    """What is remembered changes no verdict: under other keys and chains it is checked anew."""
    bench = make_bench()
    member = bench.lab.gateways[0]
    waiting = altered(bench, nonce=1)
    context = bench.lab.context(height=1, time_ms=bench.time_ms + 1)
    check_envelope(bench.state, waiting, context)
    elsewhere = replace(context, chain=ChainId(sha256(b"elsewhere")))
    with pytest.raises(LedgerError, match=r"tx\.signature"):
        check_envelope(bench.state, waiting, elsewhere)
    bench.apply(bench.lab.transaction(member, bench.lab.rotation(member), nonce=0))
    assert bench.refusal(waiting).rule == "tx.signature"


def test_only_so_many_signatures_are_remembered(monkeypatch):
    monkeypatch.setattr(envelope, "VERIFIED_MAX", 2)
    bench = make_bench()
    verified = envelope._Verified()
    key = bench.lab.gateways[0].key(KeyPurpose.NODE).public
    for _ in range(4):
        verified.verify(altered(bench), key, bench.lab.chain_id)
    assert len(verified._known) == 2
