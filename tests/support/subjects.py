"""Builders of what owners decide about subjects: status, attributes, recovery."""

from __future__ import annotations

from dataclasses import replace

from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.bodies.subject_decisions import (
    CertifySubject,
    ClaimKeys,
    Decider,
    RecoverKeys,
    ResumeSubject,
    RevokeSubject,
    attributes_digest,
    recovery_digest,
    recovery_message,
    resume_digest,
)
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind
from protocol.encoding import Fields
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    Member,
    make_bench,
    make_group,
    make_key,
    owner_keys,
)

PUMPS = "pumps"
ATTRIBUTES = (("class", "pump"), ("region", "Zürich"))


def make_shared_bench():
    """A bench with a gateway that belongs to two groups."""
    bench = make_bench(groups=[make_group(PUMPS)])
    member = Member(label="shared", kind=SubjectKind.GATEWAY, groups=(FLEET, PUMPS))
    approvals = tuple(
        bench.lab.approvals(Action.ENROL, member.did, group=group) for group in member.groups
    )
    create = CreateSubject(join=member.join, approvals=approvals)
    bench.apply(bench.lab.transaction(bench.lab.gateways[1], create))
    return bench, member


def submit(bench, body):
    """Signs a body as a member would, valid at the bench's time."""
    until_ms = bench.time_ms + HOUR_MS
    return bench.lab.transaction(bench.lab.gateways[1], body, valid_until_ms=until_ms)


def suspension(bench, did, *, group=FLEET, until_ms=GENESIS_MS + 1000 * HOUR_MS, owners=2):
    approvals = tuple(
        bench.lab.approval(Action.SUSPEND, did, key, group=group, valid_until_ms=until_ms)
        for key in owner_keys(group)[:owners]
    )
    return submit(bench, SuspendSubject(did=did, group=group, approvals=approvals))


def resumption(bench, did, *, group=FLEET, count=2, changes=None, **options):
    changes = bench.state.subject(did).changes if changes is None else changes
    subject = resume_digest(did, changes)
    approvals = tuple(
        bench.lab.approval(Action.RESUME, subject, key, group=group, **options)
        for key in owner_keys(group)[:count]
    )
    return submit(bench, ResumeSubject(did=did, group=group, approvals=approvals))


def revocation(bench, did, *, group=FLEET, count=2, governed=False):
    if governed:
        approvals = tuple(
            bench.lab.approval(
                Action.RETIRE, did, key, group=GOVERNANCE_GROUP, policy=GOVERNANCE_POLICY
            )
            for key in bench.lab.governance[:count]
        )
        return submit(bench, RevokeSubject(did=did, group=None, approvals=approvals))
    approvals = bench.lab.approvals(Action.RETIRE, did, count=count, group=group)
    return submit(bench, RevokeSubject(did=did, group=group, approvals=approvals))


def certification(
    bench, did, attributes=ATTRIBUTES, *, group=FLEET, count=2, version=None, agreed=None
):
    if version is None:
        before = bench.state.certification(did, group)
        version = 1 if before is None else before.version + 1
    subject = attributes_digest(did, group, version, attributes if agreed is None else agreed)
    approvals = bench.lab.approvals(Action.CERTIFY, subject, count=count, group=group)
    body = CertifySubject(did=did, group=group, attributes=attributes, approvals=approvals)
    return submit(bench, body)


def keys_for(member, label="recovered"):
    """New keys of every purpose a member has, but for a vote key."""
    return {
        purpose: make_key(f"{label}/{member.label}/{purpose.name}")
        for purpose in member.keys_of(0)
        if purpose is not KeyPurpose.VALIDATOR
    }


def recovery(bench, member, *, keys=None, decider=Decider.GROUPS, count=2, chain=None, **changes):
    """A recovery of a member that is right in everything but what the arguments say."""
    lab = bench.lab
    private = keys_for(member) if keys is None else keys
    public = tuple((purpose, key.public) for purpose, key in private.items())
    record = bench.state.subject(member.did)
    digest = recovery_digest(
        member.did,
        sequence=record.sequence + 1,
        number=record.changes,
        keys=public,
        next_keys=None,
    )
    message = recovery_message(chain or lab.chain_id, 0, digest)
    if decider is Decider.GOVERNANCE:
        lists = (
            tuple(
                lab.approval(
                    Action.RECOVER, digest, key, group=GOVERNANCE_GROUP, policy=GOVERNANCE_POLICY
                )
                for key in lab.governance[:count]
            ),
        )
    else:
        lists = tuple(
            tuple(
                lab.approval(Action.RECOVER, digest, key, group=group, chain=chain)
                for key in owner_keys(group)[:count]
            )
            for group in member.groups
        )
    body = RecoverKeys(
        did=member.did,
        keys=public,
        next_keys=None,
        signatures=tuple(key.sign(message) for key in private.values()),
        decider=decider,
        approvals=lists,
    )
    return submit(bench, replace(body, **changes))


def claim(bench, member, keys=None, next_keys=None):
    private = keys_for(member) if keys is None else keys
    public = tuple((purpose, key.public) for purpose, key in private.items())
    return submit(bench, ClaimKeys(did=member.did, keys=public, next_keys=next_keys))


def wait(bench, milliseconds):
    bench.time_ms += milliseconds


def body_fields(signed):
    return Fields(signed.transaction.body, "replayed")
