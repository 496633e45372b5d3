"""Rules of `did.suspend` by several groups, `did.resume`, `did.revoke` and `did.certify`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.bodies.subject_decisions import (
    CertifySubject,
    ResumeSubject,
    RevokeSubject,
)
from ledger.records.subject import ATTRIBUTES_MAX, SubjectStatus
from protocol.approval import Action
from protocol.did import SubjectKind
from protocol.digest import sha256
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    Member,
    make_bench,
    make_group,
    make_policy,
)
from tests.support.subjects import (
    ATTRIBUTES,
    PUMPS,
    body_fields,
    certification,
    make_shared_bench,
    resumption,
    revocation,
    submit,
    suspension,
)


def test_a_suspended_subject_is_resumed_by_those_who_suspended_it():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    bench.apply(suspension(bench, gateway.did))
    anchor = AnchorReceipts(size=1, root=sha256(b"r"))
    assert bench.refusal(bench.lab.transaction(gateway, anchor, nonce=0)).rule == "tx.signer_status"
    state = bench.apply(resumption(bench, gateway.did))
    record = state.subject(gateway.did)
    assert (record.status, record.suspended_by, record.changes) == (SubjectStatus.ACTIVE, (), 2)
    bench.apply(bench.lab.transaction(gateway, anchor, nonce=0))


def test_one_group_cannot_lift_what_another_imposed():
    bench, member = make_shared_bench()
    bench.apply(suspension(bench, member.did, group=PUMPS))
    assert bench.refusal(resumption(bench, member.did, group=FLEET)).rule == "did.status"
    state = bench.apply(suspension(bench, member.did, group=FLEET))
    assert state.subject(member.did).suspended_by == (FLEET, PUMPS)
    state = bench.apply(resumption(bench, member.did, group=PUMPS))
    record = state.subject(member.did)
    assert (record.status, record.suspended_by) == (SubjectStatus.SUSPENDED, (FLEET,))
    state = bench.apply(resumption(bench, member.did, group=FLEET))
    assert state.subject(member.did).status is SubjectStatus.ACTIVE


def test_one_thing_wrong_with_a_resumption():
    bench = make_bench(groups=[make_group(PUMPS)])
    did = bench.lab.gateways[0].did
    assert bench.refusal(resumption(bench, did)).rule == "did.status"
    bench.apply(suspension(bench, did))
    cases = [
        (resumption(bench, did, count=1), "approval.threshold"),
        (resumption(bench, did, changes=0), "approval.subject"),
        (resumption(bench, did, group=PUMPS), "did.status"),
        (resumption(bench, did, era=1), "approval.era"),
        (resumption(bench, did, chain=sha256(b"another")), "approval.signature"),
        (resumption(bench, did, valid_until_ms=GENESIS_MS), "approval.expired"),
        (resumption(bench, sha256(b"nobody"), changes=1), "did.unknown"),
    ]
    for signed, rule in cases:
        assert bench.refusal(signed).rule == rule


def test_no_statement_about_a_status_serves_twice():
    bench = make_bench()
    did = bench.lab.gateways[0].did
    first, early = suspension(bench, did, until_ms=GENESIS_MS + HOUR_MS), None
    bench.apply(first)
    early = resumption(bench, did)
    bench.apply(early)
    replayed = submit(bench, SuspendSubject.read(body_fields(first)))
    assert bench.refusal(replayed).rule == "approval.used"
    bench.apply(suspension(bench, did, until_ms=GENESIS_MS + 2 * HOUR_MS))
    replayed = submit(bench, ResumeSubject.read(body_fields(early)))
    assert bench.refusal(replayed).rule == "approval.subject"
    bench.apply(resumption(bench, did))
    # Older than the last, though it never served before it.
    assert bench.refusal(suspension(bench, did, until_ms=GENESIS_MS + HOUR_MS)).rule == (
        "approval.used"
    )


def test_revocation_is_final_and_the_keys_never_return():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    bench.apply(suspension(bench, gateway.did))
    state = bench.apply(revocation(bench, gateway.did))
    assert state.subject(gateway.did).status is SubjectStatus.REVOKED
    anchor = AnchorReceipts(size=1, root=sha256(b"r"))
    for signed, rule in (
        (resumption(bench, gateway.did), "did.status"),
        (revocation(bench, gateway.did), "did.status"),
        (suspension(bench, gateway.did), "did.status"),
        (certification(bench, gateway.did), "did.status"),
        (submit(bench, bench.lab.rotation(gateway)), "did.status"),
        (bench.lab.transaction(gateway, anchor, nonce=0), "tx.signer_status"),
    ):
        assert bench.refusal(signed).rule == rule
    again = Member(label=gateway.label, kind=SubjectKind.GATEWAY, groups=())
    again.groups = (FLEET,)
    record = replace(again.record, name="another name")
    from protocol.did import sign_join

    join = sign_join(record, list(again.keys_of(0).values()))
    approvals = (bench.lab.approvals(Action.ENROL, record.did),)
    assert bench.refusal(submit(bench, CreateSubject(join=join, approvals=approvals))).rule == (
        "did.key"
    )


def test_one_thing_wrong_with_a_revocation():
    bench = make_bench(groups=[make_group(PUMPS)], policy=make_policy(revoke_threshold=3))
    did = bench.lab.gateways[0].did
    validator = bench.lab.validators[0].did
    cases = [
        (revocation(bench, sha256(b"nobody")), "did.unknown"),
        (revocation(bench, did), "approval.threshold"),
        (revocation(bench, did, group=PUMPS), "did.group"),
        (revocation(bench, did, governed=True, count=1), "approval.threshold"),
        (revocation(bench, validator), "did.validator"),
        (revocation(bench, validator, governed=True), "did.validator"),
    ]
    for signed, rule in cases:
        assert bench.refusal(signed).rule == rule
    owners = bench.lab.approvals(Action.RETIRE, did, count=3)
    wrong_root = submit(bench, RevokeSubject(did=did, group=None, approvals=owners))
    assert bench.refusal(wrong_root).rule == "approval.group"


def test_governance_may_revoke_whom_owners_may():
    bench = make_bench()
    did = bench.lab.publisher.did
    state = bench.apply(revocation(bench, did, governed=True))
    assert state.subject(did).status is SubjectStatus.REVOKED


def test_attributes_are_what_owners_certified_last():
    bench, member = make_shared_bench()
    assert bench.state.attributes(member.did, FLEET) == {}
    bench.apply(certification(bench, member.did))
    state = bench.apply(certification(bench, member.did, (("tag", "spare"),), group=PUMPS))
    assert state.attributes(member.did, FLEET) == dict(ATTRIBUTES)
    assert state.attributes(member.did, PUMPS) == {"tag": "spare"}
    state = bench.apply(certification(bench, member.did, ()))
    assert state.attributes(member.did, FLEET) == {}
    assert state.certification(member.did, FLEET).version == 2


def test_no_certificate_serves_twice_or_elsewhere():
    bench, member = make_shared_bench()
    first = certification(bench, member.did)
    bench.apply(first)
    bench.apply(certification(bench, member.did, (("class", "valve"),)))
    replayed = submit(bench, CertifySubject.read(body_fields(first)))
    assert bench.refusal(replayed).rule == "approval.subject"
    for signed, rule in (
        (certification(bench, member.did, version=2), "approval.subject"),
        (certification(bench, member.did, agreed=()), "approval.subject"),
        (certification(bench, member.did, count=1), "approval.threshold"),
        (certification(bench, bench.lab.gateways[0].did, group=PUMPS), "did.group"),
        (certification(bench, member.did, group="nowhere", count=0), "tx.body"),
        (certification(bench, sha256(b"nobody")), "did.unknown"),
    ):
        assert bench.refusal(signed).rule == rule


@pytest.mark.parametrize(
    "attributes",
    [
        (("b", "1"), ("a", "1")),
        (("a", "1"), ("a", "2")),
        (("a", ""),),
        (("a", "x" * 65),),
        (("", "x"),),
        (("a b", "x"),),
        (("a", "\u202e"),),
        tuple((f"n{index:02}", "x") for index in range(ATTRIBUTES_MAX + 1)),
    ],
)
def test_attributes_that_are_none_are_refused(attributes):
    bench = make_bench()
    assert bench.refusal(certification(bench, bench.lab.gateways[0].did, attributes)).rule == (
        "tx.body"
    )


def test_as_many_attributes_as_allowed_fit_a_record():
    bench = make_bench()
    did = bench.lab.gateways[0].did
    most = tuple((f"{index:02}" + "n" * 62, "v" * 64) for index in range(ATTRIBUTES_MAX))
    state = bench.apply(certification(bench, did, most))
    assert state.attributes(did, FLEET) == dict(most)
