"""The vector of self-defence and access: every transaction of both, and refusals of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.bodies.defence import (
    Complaint,
    ReleaseQuarantine,
    ReportContradiction,
    ReportTamper,
    SetQuarantine,
    quarantine_digest,
    release_digest,
)
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.subject import CreateSubject
from protocol.approval import Action
from protocol.capability import Capability, Verb
from protocol.contradiction import ConflictingAnchors
from protocol.defence import DefenceRules, QuarantineLevel
from protocol.did import SubjectKind
from protocol.digest import sha256
from protocol.group import Policy
from protocol.transaction import SignedTransaction
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    PRODUCT,
    Lab,
    Member,
    make_policy,
    owner_keys,
)


def defence_policy() -> Policy:
    """Each owner admits alone; the whole group may be met in a day."""
    return make_policy(enrol_threshold=1, defence=DefenceRules(daily_share=10_000))


def record_defence(lab: Lab, apply: Callable[[SignedTransaction], None]) -> None:
    """Applies the transactions in order."""
    for signed in (*_opinions(lab), *_owners(lab), *_convictions(lab), *_capabilities(lab)):
        apply(signed)


def _enrol(lab: Lab, index: int) -> tuple[Member, SignedTransaction]:
    member = Member(label=f"of-owner-{index}", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    approval = lab.approval(Action.ENROL, member.did, owner_keys(FLEET)[index])
    body = CreateSubject(join=member.join, approvals=((approval,),))
    return member, lab.transaction(lab.gateways[1], body)


def _report(
    lab: Lab, reporter: Member, subject: Member, nonce: int | None = None
) -> SignedTransaction:
    body = ReportTamper(subject=subject.did, group=FLEET, complaint=Complaint.BAD_CHUNK)
    return lab.transaction(reporter, body, nonce=nonce)


def _opinions(lab: Lab) -> Sequence[SignedTransaction]:
    members, enrolments = zip(*(_enrol(lab, index) for index in range(3)), strict=True)
    victim = lab.gateways[0]
    twin = Member(label="of-owner-0-again", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    approval = lab.approval(Action.ENROL, twin.did, owner_keys(FLEET)[0])
    again = CreateSubject(join=twin.join, approvals=((approval,),))
    return (
        *enrolments,
        lab.transaction(lab.gateways[1], again),
        _report(lab, members[0], victim),
        _report(lab, twin, victim),  # refused: one owner, one voice
        _report(lab, members[1], members[1], nonce=0),  # refused: itself
        _report(lab, members[1], lab.validators[0], nonce=0),  # refused: a validator
        _report(lab, members[1], victim, nonce=0),
        _report(lab, members[2], victim),  # the third voice: quarantine
        _report(lab, victim, members[0]),  # refused: its word counts for nothing now
    )


def _owners(lab: Lab) -> Sequence[SignedTransaction]:
    signer, subject = lab.gateways[1], lab.gateways[0]
    release = ReleaseQuarantine(
        subject=subject.did,
        group=FLEET,
        approvals=lab.approvals(Action.RELEASE, release_digest(subject.did, FLEET, 2)),
    )
    level, until_ms = QuarantineLevel.NO_EXCHANGE, GENESIS_MS + HOUR_MS
    digest = quarantine_digest(subject.did, FLEET, level=int(level), until_ms=until_ms, sequence=3)
    held = SetQuarantine(
        subject=subject.did,
        group=FLEET,
        level=level,
        until_ms=until_ms,
        approvals=lab.approvals(Action.QUARANTINE, digest),
    )
    nonce = lab.nonces[signer.did]
    lab.nonces[signer.did] = nonce + 2
    return (
        lab.transaction(signer, release, nonce=nonce),
        lab.transaction(signer, release, nonce=nonce + 1),  # refused: not in quarantine
        lab.transaction(signer, held, nonce=nonce + 1),
    )


def _convictions(lab: Lab) -> Sequence[SignedTransaction]:
    culprit, signer = lab.gateways[0], lab.gateways[1]
    pair = [
        lab.transaction(culprit, AnchorReceipts(size=3, root=sha256(root)), nonce=9).signed.raw
        for root in (b"1", b"2")
    ]
    same = [
        lab.transaction(culprit, AnchorReceipts(size=size, root=sha256(b"1")), nonce=9).signed.raw
        for size in (3, 4)
    ]
    nonce = lab.nonces[signer.did]
    lab.nonces[signer.did] = nonce + 1
    consistent, proof = (
        ReportContradiction(subject=culprit.did, evidence=ConflictingAnchors(*sorted(transactions)))
        for transactions in (same, pair)
    )
    return (
        lab.transaction(signer, consistent, nonce=nonce),  # refused: both may be true
        lab.transaction(signer, proof, nonce=nonce),
        lab.transaction(signer, proof, nonce=nonce + 1),  # refused: convicted already
    )


def _capabilities(lab: Lab) -> Sequence[SignedTransaction]:
    signer = lab.gateways[1]
    capability = Capability(
        subject=lab.gateways[0].did,
        group=FLEET,
        verbs=(Verb.FETCH, Verb.APPROVE_STAGING),
        product=PRODUCT,
        expires_ms=GENESIS_MS + HOUR_MS,
    )
    identifier = capability.capability_id
    grants = [
        GrantCapability(
            capability=capability.encode(),
            approvals=lab.approvals(Action.GRANT, identifier, count=count),
        )
        for count in (1, 2)
    ]
    revoke = RevokeCapability(
        capability=identifier, approvals=lab.approvals(Action.WITHDRAW, identifier)
    )
    nonce = lab.nonces[signer.did]
    return (
        lab.transaction(signer, grants[0], nonce=nonce),  # refused: one owner is too few
        lab.transaction(signer, grants[1], nonce=nonce),
        lab.transaction(signer, revoke, nonce=nonce + 1),
        lab.transaction(signer, grants[1], nonce=nonce + 2),  # refused: withdrawn for good
    )
