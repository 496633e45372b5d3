"""Rules of `did.create`, `did.rotate`, `did.suspend` and `receipt.anchor`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.errors import LedgerNotYetError
from ledger.records.subject import SubjectStatus
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind, sign_join
from protocol.digest import sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.transaction import sign_transaction
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    Member,
    make_bench,
    make_group,
    make_key,
    make_policy,
    owner_keys,
)

NEW = Member(label="gateway-new", kind=SubjectKind.GATEWAY, groups=(FLEET,))


def enrolment(bench, member=NEW, *, count=2, **changes):
    approvals = bench.lab.approvals(Action.ENROL, member.did, count=count)
    body = CreateSubject(join=member.join, approvals=(approvals,))
    return bench.lab.transaction(bench.lab.gateways[0], replace(body, **changes))


def test_enrolment_by_the_owners_of_every_group():
    bench = make_bench(groups=[make_group("pumps")])
    member = replace(NEW, groups=(FLEET, "pumps"))
    approvals = tuple(
        bench.lab.approvals(Action.ENROL, member.did, group=group) for group in member.groups
    )
    body = CreateSubject(join=member.join, approvals=approvals)
    state = bench.apply(bench.lab.transaction(bench.lab.validators[0], body))
    record = state.subject(member.did)
    assert (record.status, record.groups) == (SubjectStatus.ACTIVE, member.groups)
    key = member.key(KeyPurpose.TRANSPORT).public
    assert state.subject_by_key(key) == (member.did, record)
    owner = owner_keys("pumps")[0].public.key_id
    assert state.approval(member.did, Action.ENROL, owner, "pumps") in approvals[1]


def test_a_group_without_consent_refuses():
    bench = make_bench(groups=[make_group("pumps")])
    member = replace(NEW, groups=(FLEET, "pumps"))
    fleet = bench.lab.approvals(Action.ENROL, member.did)
    pumps = bench.lab.approvals(Action.ENROL, member.did, group="pumps")
    for lists, rule in (
        ((fleet,), "did.groups"),
        ((fleet, fleet), "approval.group"),
        ((fleet, pumps[:1]), "approval.threshold"),
    ):
        body = CreateSubject(join=member.join, approvals=lists)
        error = bench.refusal(bench.lab.transaction(bench.lab.gateways[0], body))
        assert error.rule == rule


def test_one_thing_wrong_with_an_enrolment():
    bench = make_bench()
    lab, gateway = bench.lab, bench.lab.gateways[0]
    thief = Member(label="thief", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    stolen = replace(
        NEW.record,
        keys=((KeyPurpose.TRANSPORT, gateway.key(KeyPurpose.TRANSPORT).public), NEW.record.keys[1]),
    )
    stolen_join = sign_join(stolen, [gateway.key(KeyPurpose.TRANSPORT), NEW.key(KeyPurpose.NODE)])
    validator = Member(label="validator-new", kind=SubjectKind.VALIDATOR, groups=(FLEET,))
    homeless = Member(label="homeless", kind=SubjectKind.GATEWAY, groups=())
    lost = Member(label="lost", kind=SubjectKind.GATEWAY, groups=("nowhere",))
    cases = [
        (enrolment(bench, count=1), "approval.threshold"),
        (enrolment(bench, gateway), "did.known"),
        (enrolment(bench, validator), "did.kind"),
        (enrolment(bench, homeless, approvals=()), "did.groups"),
        (enrolment(bench, lost), "group.unknown"),
        (enrolment(bench, join=thief.join), "approval.subject"),
        (enrolment(bench, join=replace(NEW.join, signatures=thief.join.signatures)), "did.join"),
        (enrolment(bench, join=replace(NEW.join, signatures=NEW.join.signatures[:1])), "did.join"),
        (
            enrolment(
                bench,
                join=stolen_join,
                approvals=(lab.approvals(Action.ENROL, stolen.did),),
            ),
            "did.key",
        ),
    ]
    for signed, rule in cases:
        assert bench.refusal(signed).rule == rule
    assert isinstance(bench.refusal(enrolment(bench, lost)), LedgerNotYetError)


@pytest.mark.parametrize("name", ["new\x00line", "new\u202eenil", "x" * 65, ""])
def test_deceptive_names_are_refused(name):
    bench = make_bench()
    signed = enrolment(bench)
    join = signed.transaction.body[0]
    value = decode_canonical(join[0], bytes_max=2048)
    forged = [encode_canonical({**value, 2: name}), join[1]]
    transaction = replace(signed.transaction, body={**signed.transaction.body, 0: forged})
    key = bench.lab.gateways[0].key(KeyPurpose.NODE)
    error = bench.refusal(sign_transaction(transaction, key, bench.lab.chain_id))
    assert error.rule == "tx.body"


def test_approval_errors_are_told_apart():
    bench = make_bench()
    lab, owners = bench.lab, owner_keys(FLEET)
    good = lab.approval(Action.ENROL, NEW.did, owners[0])
    stranger = make_key("stranger")
    tampered = lab.approval(Action.ENROL, NEW.did, owners[1])
    tampered = tampered[:-1] + bytes((tampered[-1] ^ 1,))
    second = owners[1]
    cases = {
        "approval.malformed": b"\x80",
        "approval.era": lab.approval(Action.ENROL, NEW.did, second, era=1),
        "approval.action": lab.approval(Action.SUSPEND, NEW.did, second),
        "approval.subject": lab.approval(Action.ENROL, lab.publisher.did, second),
        "approval.policy": lab.approval(Action.ENROL, NEW.did, second, policy=sha256(b"p")),
        "approval.expired": lab.approval(
            Action.ENROL, NEW.did, second, valid_until_ms=GENESIS_MS + 999
        ),
        "approval.owner": lab.approval(Action.ENROL, NEW.did, stranger),
        "approval.signature": tampered,
        "approval.duplicate": lab.approval(
            Action.ENROL, NEW.did, owners[0], valid_until_ms=GENESIS_MS + 5000
        ),
    }
    for rule, raw in cases.items():
        body = CreateSubject(join=NEW.join, approvals=((good, raw),))
        assert bench.refusal(lab.transaction(lab.gateways[0], body)).rule == rule
    foreign = lab.approval(Action.ENROL, NEW.did, second, chain=sha256(b"another"))
    body = CreateSubject(join=NEW.join, approvals=((good, foreign),))
    assert bench.refusal(lab.transaction(lab.gateways[0], body)).rule == "approval.signature"


def test_rotation_replaces_keys_and_releases_nothing():
    bench = make_bench()
    lab, gateway, other = bench.lab, bench.lab.gateways[0], bench.lab.gateways[1]
    old = gateway.key(KeyPurpose.TRANSPORT).public
    state = bench.apply(lab.transaction(other, lab.rotation(gateway)))
    gateway.rotation = 1
    record = state.subject(gateway.did)
    assert record.sequence == 1
    assert state.subject_by_key(gateway.key(KeyPurpose.NODE).public) == (gateway.did, record)
    assert state.subject_by_key(old) is None
    assert state.holder(old) == gateway.did, "a retired key stays taken"
    # The next generation was committed to in turn, and the new node key signs now.
    bench.apply(lab.transaction(gateway, lab.rotation(gateway)))


def test_one_thing_wrong_with_a_rotation():
    bench = make_bench()
    lab, gateway, other = bench.lab, bench.lab.gateways[0], bench.lab.gateways[1]
    good = lab.rotation(gateway)
    uncommitted = replace(good, keys=other.public_keys(5))
    signatures = good.signatures
    cases = [
        (replace(good, did=sha256(b"nobody")), "did.unknown"),
        (uncommitted, "did.commitment"),
        (replace(good, did=other.did), "did.commitment"),
        (replace(good, signatures=signatures[:1]), "did.signature"),
        (replace(good, signatures=signatures[::-1]), "did.signature"),
        (replace(good, next_keys=None), "did.signature"),
    ]
    for body, rule in cases:
        assert bench.refusal(lab.transaction(other, body)).rule == rule
    bench.apply(lab.transaction(other, good))
    assert bench.refusal(lab.transaction(other, good)).rule == "did.commitment"


def rotation_to(bench, member, keys, next_keys=None):
    """A rotation to any keys, by a member whose record commits to them."""
    from ledger.bodies.subject import RotateKeys, rotation_message
    from ledger.state import Draft, LedgerState
    from ledger.state_keys import subject_key
    from protocol.did import next_keys_digest

    public = tuple((purpose, key.public) for purpose, key in keys)
    record = bench.state.subject(member.did)
    draft = Draft(bench.state)
    draft.put(subject_key(member.did), replace(record, next_keys=next_keys_digest(public)).encode())
    bench.state = LedgerState(bench.state.tree.update(draft.writes), bench.state.log)
    message = rotation_message(
        bench.lab.chain_id,
        0,
        member.did,
        sequence=record.sequence + 1,
        keys=public,
        next_keys=next_keys,
    )
    body = RotateKeys(
        did=member.did,
        keys=public,
        next_keys=next_keys,
        signatures=tuple(key.sign(message) for _, key in keys),
    )
    return bench.lab.transaction(bench.lab.gateways[1], body)


def test_keys_neither_change_their_purpose_nor_come_from_others():
    bench = make_bench()
    gateway, other = bench.lab.gateways
    transport, node = (gateway.key(p) for p in (KeyPurpose.TRANSPORT, KeyPurpose.NODE))
    swapped = [(KeyPurpose.TRANSPORT, node), (KeyPurpose.NODE, transport)]
    foreign = [(KeyPurpose.TRANSPORT, other.key(KeyPurpose.TRANSPORT)), (KeyPurpose.NODE, node)]
    fewer = [(KeyPurpose.TRANSPORT, make_key("fresh"))]
    for keys, rule in ((swapped, "did.key"), (foreign, "did.key"), (fewer, "did.purposes")):
        assert bench.refusal(rotation_to(bench, gateway, keys)).rule == rule
    kept = [(KeyPurpose.TRANSPORT, make_key("fresh")), (KeyPurpose.NODE, node)]
    state = bench.apply(rotation_to(bench, gateway, kept))
    assert state.subject(gateway.did).next_keys is None
    assert bench.refusal(rotation_to(bench, gateway, swapped)).rule == "did.key"


def test_vote_keys_are_no_part_of_a_rotation():
    """So a validator need not keep a vote key longer than its epoch to rotate the others."""
    bench = make_bench()
    validator = bench.lab.validators[0]
    vote = KeyPurpose.VALIDATOR
    first = validator.record.key(vote)
    bench.apply(bench.lab.transaction(bench.lab.gateways[1], bench.lab.rotation(validator)))
    validator.rotation = 1
    record = bench.state.subject(validator.did)
    assert record.keys == validator.public_keys(1)
    assert record.key(vote) == first
    others = [
        (purpose, make_key(f"other/{purpose}")) for purpose, _ in record.keys if purpose is not vote
    ]
    for key in (make_key("another vote key"), validator.key(vote)):
        keys = [*others, (vote, key)]
        assert bench.refusal(rotation_to(bench, validator, keys)).rule == "did.purposes"
    state = bench.apply(rotation_to(bench, validator, others))
    assert state.subject(validator.did).key(vote) == first


def suspension(bench, did, *, group=FLEET, count=2):
    approvals = bench.lab.approvals(Action.SUSPEND, did, count=count)
    body = SuspendSubject(did=did, group=group, approvals=approvals)
    return bench.lab.transaction(bench.lab.gateways[1], body)


def test_suspension_stops_everything_but_reading():
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    state = bench.apply(suspension(bench, gateway.did))
    assert state.subject(gateway.did).status is SubjectStatus.SUSPENDED
    assert bench.refusal(suspension(bench, gateway.did)).rule == "did.status"
    rotation = bench.lab.transaction(bench.lab.gateways[1], bench.lab.rotation(gateway))
    assert bench.refusal(rotation).rule == "did.status"


def test_one_thing_wrong_with_a_suspension():
    bench = make_bench(groups=[make_group("pumps")])
    gateway = bench.lab.gateways[0]
    cases = [
        (suspension(bench, sha256(b"nobody")), "did.unknown"),
        (suspension(bench, bench.lab.validators[0].did), "did.validator"),
        (suspension(bench, gateway.did, group="pumps"), "did.group"),
        (suspension(bench, gateway.did, group="nowhere"), "did.group"),
        (suspension(bench, gateway.did, count=1), "approval.threshold"),
    ]
    for signed, rule in cases:
        assert bench.refusal(signed).rule == rule


def test_suspension_needs_the_revocation_threshold():
    bench = make_bench(policy=make_policy(revoke_threshold=3))
    gateway = bench.lab.gateways[0]
    assert bench.refusal(suspension(bench, gateway.did)).rule == "approval.threshold"
    bench.apply(suspension(bench, gateway.did, count=3))


def anchor(bench, size, root=b"r"):
    body = AnchorReceipts(size=size, root=sha256(root))
    return bench.lab.transaction(bench.lab.gateways[0], body)


def test_receipt_logs_only_grow():
    bench = make_bench()
    bench.apply(anchor(bench, 5))
    assert bench.refusal(anchor(bench, 4)).rule == "anchor.shrunk"
    assert bench.refusal(anchor(bench, 5, b"another")).rule == "anchor.conflict"
    bench.lab.nonces.clear()
    bench.lab.nonces[bench.lab.gateways[0].did] = 1
    bench.apply(anchor(bench, 5))
    state = bench.apply(anchor(bench, 6, b"another"))
    record = state.anchor(bench.lab.gateways[0].did)
    assert (record.size, record.root, record.height) == (6, sha256(b"another"), bench.height)
