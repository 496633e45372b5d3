"""What `report.*` and `quarantine.*` do: opinion, conviction, and what owners decide about both."""

from __future__ import annotations

from typing import Final

from ledger.bodies.defence import (
    ReleaseQuarantine,
    ReportContradiction,
    ReportTamper,
    SetQuarantine,
    quarantine_digest,
    release_digest,
)
from ledger.contradiction import verify_contradiction
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.records.defence import (
    Cause,
    OpinionRecord,
    QuarantineRecord,
    SelfConvictionRecord,
)
from ledger.records.group import GroupRecord
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.rules.membership import belongs_to
from ledger.standing import (
    conviction_of,
    member_count,
    opinion_of,
    quarantine_level,
    quarantine_of,
    reputation,
    tally_of,
)
from ledger.state import Draft
from ledger.state_keys import opinion_key, quarantine_key, self_conviction_key, tally_key
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.census import EXCHANGING
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from ledger.transition.opinion import marks_of
from protocol.approval import Action
from protocol.contradiction import contradiction_digest
from protocol.defence import DEFENCE_HOUR_MS, DefenceRules, QuarantineLevel
from protocol.did import KeyPurpose
from protocol.digest import DidId, Digest
from protocol.encoding import INTEGER_MAX


def report_tamper(draft: Draft, signer: DidId, body: ReportTamper, context: BlockContext) -> None:
    """Counts a member's opinion on a peer; enough of them put the peer into quarantine (D20, D30).

    Raises:
        LedgerError: `report.self`, `report.unknown`, `report.subject`, `report.group`,
            `report.off`, `report.reputation`, `report.repeat`.
    """
    if body.subject == signer:
        raise LedgerError("report.self", "nobody reports itself")
    group = draft.group(body.group)
    reporter = draft.subject(signer)
    if group is None or reporter is None or not belongs_to(draft, signer, body.group):
        raise LedgerError("report.group", f"the reporter is no member of {body.group!r}")
    _check_reported(draft, body, context)
    rules = draft.policy(group.policy_at(context.time_ms)).defence
    if rules is None:
        raise LedgerError("report.off", f"group {body.group!r} takes no reports")
    weight = reputation(draft, signer, body.group, rules, context.time_ms)
    if weight == 0:
        raise LedgerError("report.reputation", "the reporter's word counts for nothing now")
    opinion = opinion_of(draft, body.subject, body.group)
    marks = marks_of(draft, signer, body.group, group, context.time_ms)
    spoken = opinion.voice(marks)
    if spoken is not None and context.time_ms < spoken.heard_ms + DEFENCE_HOUR_MS:
        raise LedgerNotYetError("report.repeat", "this owner was heard within the hour")
    opinion = opinion.heard(marks, weight, context.time_ms, rules)
    draft.put(opinion_key(body.subject, body.group), opinion.encode())
    _judge_opinion(draft, body, opinion, rules, context)


def _check_reported(draft: Draft, body: ReportTamper, context: BlockContext) -> None:
    subject = draft.subject(body.subject)
    if subject is None:
        raise LedgerNotYetError("report.unknown", "the subject does not exist")
    is_validator = any(member.did == body.subject for member in context.validators.members)
    if subject.kind not in EXCHANGING or is_validator:
        raise LedgerError("report.subject", f"a {subject.kind.name.lower()} is not reported")
    is_peer = belongs_to(draft, body.subject, body.group)
    if subject.status is not SubjectStatus.ACTIVE or not is_peer:
        raise LedgerError("report.subject", f"the subject is no active peer of {body.group!r}")


def _judge_opinion(
    draft: Draft,
    body: ReportTamper,
    opinion: OpinionRecord,
    rules: DefenceRules,
    context: BlockContext,
) -> None:
    """Puts a peer into quarantine of level 1 if opinion and the group's share allow it (D30)."""
    now_ms = context.time_ms
    count, total = opinion.live(now_ms, rules)
    if count < rules.voices_min or total < rules.threshold:
        return
    if quarantine_level(draft, body.subject, body.group, now_ms) is not QuarantineLevel.NONE:
        return
    before = quarantine_of(draft, body.subject, body.group)
    if before is not None and now_ms < before.trusted_until_ms:
        return
    tally = tally_of(draft, body.group, now_ms)
    if tally.recent >= rules.cap(member_count(draft, body.group)):
        return
    record = QuarantineRecord(
        level=QuarantineLevel.NO_SERVING,
        cause=Cause.OPINION,
        since_ms=now_ms,
        until_ms=min(now_ms + rules.quarantine_ms, INTEGER_MAX),
        trusted_until_ms=0,
        sequence=_next_sequence(before),
        height=context.height,
    )
    draft.put(quarantine_key(body.subject, body.group), record.encode())
    draft.put(tally_key(body.group), tally.one_more().encode())


def _next_sequence(record: QuarantineRecord | None) -> int:
    return 1 if record is None else record.sequence + 1


def report_contradiction(
    draft: Draft, _signer: DidId, body: ReportContradiction, context: BlockContext
) -> None:
    """Convicts a subject of contradicting itself, once for each list of its keys (D40 to D44).

    Raises:
        LedgerError: `contradiction.*`.
    """
    subject = draft.subject(body.subject)
    if subject is None:
        raise LedgerNotYetError("contradiction.unknown", "the subject does not exist")
    key = subject.key(KeyPurpose.NODE)
    if key is None:
        raise LedgerError("contradiction.subject", "the subject has no node key")
    known = conviction_of(draft, body.subject)
    if known is not None and known.rotations == subject.sequence:
        raise LedgerError("contradiction.known", "the subject is convicted under these keys")
    verify_contradiction(body.evidence, body.subject, key, chain=context.chain, era=context.era)
    conviction = SelfConvictionRecord(
        offence=body.evidence.offence,
        evidence=contradiction_digest(body.evidence),
        rotations=subject.sequence,
        height=context.height,
    )
    draft.put(self_conviction_key(body.subject), conviction.encode())
    for group in subject.groups:
        record = QuarantineRecord(
            level=QuarantineLevel.NO_EXCHANGE,
            cause=Cause.CONVICTION,
            since_ms=context.time_ms,
            until_ms=None,
            trusted_until_ms=0,
            sequence=_next_sequence(quarantine_of(draft, body.subject, group)),
            height=context.height,
        )
        draft.put(quarantine_key(body.subject, group), record.encode())


def set_quarantine(
    draft: Draft, _signer: DidId, body: SetQuarantine, context: BlockContext
) -> None:
    """Puts a member into quarantine by `revoke_threshold` owners of the group (D34).

    Raises:
        LedgerError: `quarantine.unknown`, `quarantine.group`, `quarantine.until`, `approval.*`.
    """
    group = _find_member(draft, body.subject, body.group)
    if body.until_ms is not None and body.until_ms <= context.time_ms:
        raise LedgerError("quarantine.until", f"would have ended at {body.until_ms}")
    sequence = _next_sequence(quarantine_of(draft, body.subject, body.group))
    digest = quarantine_digest(
        body.subject,
        body.group,
        level=int(body.level),
        until_ms=body.until_ms,
        sequence=sequence,
    )
    policy = draft.policy(group.policy_at(context.time_ms))
    consent = _consent(group, body.group, Action.QUARANTINE, digest, context)
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), policy.revoke_threshold, "a quarantine")
    record_approvals(draft, checked)
    record = QuarantineRecord(
        level=body.level,
        cause=Cause.OWNERS,
        since_ms=context.time_ms,
        until_ms=body.until_ms,
        trusted_until_ms=0,
        sequence=sequence,
        height=context.height,
    )
    draft.put(quarantine_key(body.subject, body.group), record.encode())


def release_quarantine(
    draft: Draft, _signer: DidId, body: ReleaseQuarantine, context: BlockContext
) -> None:
    """Ends a quarantine, whatever its cause, by `approve_threshold` owners (D35).

    Opinions so far are forgotten, and for the rules' `trust_ms` new ones have no effect. A
    conviction stays on record.

    Raises:
        LedgerError: `quarantine.unknown`, `quarantine.group`, `quarantine.none`, `approval.*`.
    """
    group = _find_member(draft, body.subject, body.group)
    level = quarantine_level(draft, body.subject, body.group, context.time_ms)
    if level is QuarantineLevel.NONE:
        raise LedgerError("quarantine.none", "the subject is not in quarantine")
    sequence = _next_sequence(quarantine_of(draft, body.subject, body.group))
    digest = release_digest(body.subject, body.group, sequence)
    policy = draft.policy(group.policy_at(context.time_ms))
    consent = _consent(group, body.group, Action.RELEASE, digest, context)
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), policy.approve_threshold, "a release")
    record_approvals(draft, checked)
    trust_ms = 0 if policy.defence is None else policy.defence.trust_ms
    record = QuarantineRecord(
        level=QuarantineLevel.NONE,
        cause=Cause.RELEASE,
        since_ms=context.time_ms,
        until_ms=None,
        trusted_until_ms=min(context.time_ms + trust_ms, INTEGER_MAX),
        sequence=sequence,
        height=context.height,
    )
    draft.put(quarantine_key(body.subject, body.group), record.encode())
    if opinion_of(draft, body.subject, body.group).voices:
        draft.put(opinion_key(body.subject, body.group), OpinionRecord().encode())


def _find_member(draft: Draft, did: DidId, name: str) -> GroupRecord:
    subject: SubjectRecord | None = draft.subject(did)
    if subject is None:
        raise LedgerNotYetError("quarantine.unknown", "the subject does not exist")
    group = draft.group(name)
    if group is None or not belongs_to(draft, did, name):
        raise LedgerError("quarantine.group", f"the subject does not belong to group {name!r}")
    return group


def _consent(
    group: GroupRecord, name: str, action: Action, subject: Digest, context: BlockContext
) -> Consent:
    return Consent(
        root=group.owner_root,
        action=action,
        subject=subject,
        group=name,
        policy=group.policy_at(context.time_ms),
    )


KINDS: Final = (
    Kind(
        name="report.tamper",
        body=ReportTamper,
        read=ReportTamper.read,
        apply=report_tamper,
    ),
    Kind(
        name="report.contradiction",
        body=ReportContradiction,
        read=ReportContradiction.read,
        apply=report_contradiction,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="quarantine.set",
        body=SetQuarantine,
        read=SetQuarantine.read,
        apply=set_quarantine,
        lane=Lane.PROTECTING,
    ),
    Kind(
        name="quarantine.release",
        body=ReleaseQuarantine,
        read=ReleaseQuarantine.read,
        apply=release_quarantine,
    ),
)
"""Kinds of this area."""
