"""Rules of `did.recover` and `did.claim`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject
from ledger.bodies.subject_decisions import (
    Decider,
    RecoverKeys,
)
from ledger.errors import LedgerNotYetError
from ledger.transition.subject_recovery import RECOVERY_DELAY_MS
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.digest import sha256
from protocol.encoding import Fields
from tests.support.ledger import (
    FLEET,
    HOUR_MS,
    Member,
    make_bench,
    make_group,
    make_key,
    make_policy,
)
from tests.support.subjects import (
    PUMPS,
    claim,
    keys_for,
    make_shared_bench,
    recovery,
    revocation,
    submit,
    suspension,
    wait,
)


def test_lost_keys_are_replaced_after_a_day():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    bench.apply(recovery(bench, gateway))
    before = bench.state.subject(gateway.did)
    assert before.keys == gateway.record.keys, "nothing changes before the claim"
    assert before.pending is not None
    wait(bench, RECOVERY_DELAY_MS - 2000)
    early = bench.refusal(claim(bench, gateway))
    assert (early.rule, isinstance(early, LedgerNotYetError)) == ("did.waiting", True)
    wait(bench, 2000)
    state = bench.apply(claim(bench, gateway))
    record = state.subject(gateway.did)
    assert [key for _, key in record.keys] == [k.public for k in keys_for(gateway).values()]
    assert (record.sequence, record.pending, record.next_keys) == (1, None, None)
    old = gateway.key(KeyPurpose.TRANSPORT).public
    assert state.holder(old) == gateway.did
    assert state.subject_by_key(old) is None
    assert bench.refusal(claim(bench, gateway)).rule == "did.pending"
    anchor = AnchorReceipts(size=1, root=sha256(b"r"))
    until = bench.time_ms + HOUR_MS
    stale = bench.lab.transaction(gateway, anchor, nonce=0, valid_until_ms=until)
    assert bench.refusal(stale).rule == "tx.signature"


def test_whoever_holds_the_committed_keys_may_object():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    bench.apply(recovery(bench, gateway))
    wait(bench, RECOVERY_DELAY_MS)
    bench.apply(submit(bench, bench.lab.rotation(gateway)))
    assert bench.state.subject(gateway.did).pending is None
    assert bench.refusal(claim(bench, gateway)).rule == "did.pending"


def test_an_objection_voids_the_owners_statements_too():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    first = recovery(bench, gateway)
    bench.apply(first)
    bench.apply(submit(bench, bench.lab.rotation(gateway)))
    replayed = submit(bench, RecoverKeys.read(Fields(first.transaction.body, "replayed")))
    # The digest names the rotation count: neither signatures nor approvals fit any more.
    assert bench.refusal(replayed).rule == "did.signature"


def test_the_same_decision_does_not_start_the_delay_again():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    first = recovery(bench, gateway)
    bench.apply(first)
    replayed = submit(bench, RecoverKeys.read(Fields(first.transaction.body, "replayed")))
    assert bench.refusal(replayed).rule == "did.signature"


def test_a_later_decision_replaces_an_earlier_one():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    bench.apply(recovery(bench, gateway))
    other = keys_for(gateway, "other")
    bench.apply(recovery(bench, gateway, keys=other))
    wait(bench, RECOVERY_DELAY_MS)
    assert bench.refusal(claim(bench, gateway)).rule == "did.pending"
    bench.apply(claim(bench, gateway, other))


def test_every_group_must_agree():
    bench, member = make_shared_bench()
    good = recovery(bench, member)
    lists = RecoverKeys.read(Fields(good.transaction.body, "body")).approvals
    for approvals, rule in (
        (lists[:1], "did.groups"),
        (lists[::-1], "approval.group"),
        ((lists[0], lists[1][:1]), "approval.threshold"),
    ):
        assert bench.refusal(recovery(bench, member, approvals=approvals)).rule == rule
    bench.apply(recovery(bench, member))


@pytest.mark.parametrize("who", ["publisher", "validator"])
def test_governance_alone_recovers_who_reaches_beyond_a_group(who):
    bench = make_bench()
    lab = bench.lab
    member = lab.publisher if who == "publisher" else lab.validators[0]
    assert bench.refusal(recovery(bench, member)).rule == "did.decider"
    short = recovery(bench, member, decider=Decider.GOVERNANCE, count=1)
    assert bench.refusal(short).rule == "approval.threshold"
    bench.apply(recovery(bench, member, decider=Decider.GOVERNANCE))
    wait(bench, RECOVERY_DELAY_MS)
    state = bench.apply(claim(bench, member))
    assert state.subject(member.did).sequence == 1


def test_one_thing_wrong_with_a_recovery():
    bench = make_bench(policy=make_policy(amend_threshold=3))
    lab, gateway, validator = bench.lab, bench.lab.gateways[0], bench.lab.validators[0]
    good = keys_for(gateway)
    transport, node = KeyPurpose.TRANSPORT, KeyPurpose.NODE
    taken = {**good, node: lab.gateways[1].key(node)}
    swapped = {transport: gateway.key(node), node: gateway.key(transport)}
    with_vote = {**keys_for(validator), KeyPurpose.VALIDATOR: make_key("another vote key")}
    nobody = Member(label="nobody", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    signed = RecoverKeys.read(Fields(recovery(bench, gateway).transaction.body, "body"))
    twice = (signed.approvals[0], signed.approvals[0])
    cases = [
        (recovery(bench, gateway), "approval.threshold"),
        (recovery(bench, gateway, count=3, signatures=signed.signatures[:1]), "did.signature"),
        (recovery(bench, gateway, count=3, signatures=signed.signatures[::-1]), "did.signature"),
        (recovery(bench, gateway, count=3, next_keys=sha256(b"other")), "did.signature"),
        (recovery(bench, gateway, count=3, did=lab.gateways[1].did), "did.signature"),
        (recovery(bench, gateway, count=3, did=nobody.did), "did.unknown"),
        (recovery(bench, gateway, count=3, keys=taken), "did.key"),
        (recovery(bench, gateway, count=3, keys=swapped), "did.key"),
        (recovery(bench, gateway, count=3, keys={transport: make_key("x")}), "did.purposes"),
        (recovery(bench, gateway, count=3, approvals=twice), "did.groups"),
        (recovery(bench, gateway, count=3, chain=sha256(b"another")), "did.signature"),
        (recovery(bench, gateway, decider=Decider.GOVERNANCE, approvals=twice), "did.groups"),
        (
            recovery(bench, validator, keys=with_vote, decider=Decider.GOVERNANCE),
            "did.purposes",
        ),
    ]
    for transaction, rule in cases:
        assert bench.refusal(transaction).rule == rule
    bench.apply(recovery(bench, gateway, count=3))


def test_suspended_subjects_can_be_recovered_and_stay_suspended():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    bench.apply(suspension(bench, gateway.did))
    bench.apply(recovery(bench, gateway))
    wait(bench, RECOVERY_DELAY_MS)
    record = bench.apply(claim(bench, gateway)).subject(gateway.did)
    assert (record.suspended_by, record.sequence) == ((FLEET,), 1)


def test_revoked_subjects_cannot_be_recovered():

    bench = make_bench()
    gateway = bench.lab.gateways[0]
    bench.apply(recovery(bench, gateway))
    bench.apply(revocation(bench, gateway.did))
    wait(bench, RECOVERY_DELAY_MS)
    assert bench.refusal(claim(bench, gateway)).rule == "did.pending"
    assert bench.refusal(recovery(bench, gateway)).rule == "did.status"


def test_keys_that_somebody_took_meanwhile_are_not_installed():
    bench = make_bench(groups=[make_group(PUMPS)])
    gateway = bench.lab.gateways[0]
    keys = keys_for(gateway)
    bench.apply(recovery(bench, gateway, keys=keys))
    rival = Member(label="rival", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    from protocol.did import sign_join

    record = replace(
        rival.record, keys=tuple((purpose, key.public) for purpose, key in keys.items())
    )
    join = sign_join(record, list(keys.values()))
    approvals = (bench.lab.approvals(Action.ENROL, record.did),)
    bench.apply(submit(bench, CreateSubject(join=join, approvals=approvals)))
    wait(bench, RECOVERY_DELAY_MS)
    assert bench.refusal(claim(bench, gateway)).rule == "did.key"
