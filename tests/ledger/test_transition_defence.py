"""Opinion and quarantine: what slander can do, what owners can, and how both end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.bodies.defence import (
    Complaint,
    ReleaseQuarantine,
    ReportTamper,
    SetQuarantine,
    quarantine_digest,
    release_digest,
)
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.bodies.subject_decisions import CertifySubject, attributes_digest
from ledger.records.defence import Cause
from ledger.standing import (
    member_count,
    opinion_of,
    quarantine_level,
    quarantine_of,
    reputation,
    tally_of,
)
from protocol.approval import Action
from protocol.defence import DEFENCE_DAY_MS, DEFENCE_HOUR_MS, DefenceRules, QuarantineLevel
from protocol.did import SubjectKind
from tests.support.ledger import FLEET, Member, make_bench, make_group, make_policy, owner_keys

RULES = DefenceRules(daily_share=10_000)
NONE, NO_SERVING, NO_EXCHANGE = QuarantineLevel


class Fleet:
    """A group of three owners, each of whom admits gateways alone."""

    def __init__(self, rules=RULES, enrol_threshold=1, **arguments):
        policy = make_policy(enrol_threshold=enrol_threshold, defence=rules)
        self.rules = rules
        self.bench = make_bench(policy=policy, **arguments)
        self.lab = self.bench.lab
        self.victim = self.lab.gateways[0]

    def sign(self, signer, body, after_ms=0):
        until_ms = self.bench.time_ms + after_ms + DEFENCE_HOUR_MS
        return self.lab.transaction(signer, body, valid_until_ms=until_ms)

    def enrol(self, label, *owners, groups=(FLEET,)):
        """A gateway that these owners admit."""
        member = Member(label=label, kind=SubjectKind.GATEWAY, groups=groups)
        keys = owner_keys(FLEET)
        approvals = tuple(
            self.lab.approval(Action.ENROL, member.did, keys[index]) for index in owners
        )
        body = CreateSubject(join=member.join, approvals=(approvals,))
        self.bench.apply(self.sign(self.lab.gateways[1], body))
        return member

    def certify(self, member, *owners, **attributes):
        pairs = tuple(sorted(attributes.items()))
        known = self.bench.state.certification(member.did, FLEET)
        version = 1 if known is None else known.version + 1
        digest = attributes_digest(member.did, FLEET, version, pairs)
        keys = owner_keys(FLEET)
        approvals = tuple(self.lab.approval(Action.CERTIFY, digest, keys[i]) for i in owners)
        body = CertifySubject(did=member.did, group=FLEET, attributes=pairs, approvals=approvals)
        self.bench.apply(self.sign(self.lab.gateways[1], body))

    def report(self, reporter, subject=None, group=FLEET, after_ms=0):
        did = (subject or self.victim).did
        body = ReportTamper(subject=did, group=group, complaint=Complaint.BAD_CHUNK)
        return self.sign(reporter, body, after_ms)

    def hear(self, reporter, subject=None, after_ms=1000):
        signed = self.report(reporter, subject, after_ms=after_ms)
        self.bench.apply(signed, after_ms=after_ms)

    def refused(self, reporter, subject=None, group=FLEET, **arguments):
        signed = self.report(reporter, subject, group)
        error = self.bench.refusal(signed, **arguments)
        self.lab.nonces[reporter.did] -= 1
        return error.rule

    def level(self, subject=None, after_ms=0):
        did = (subject or self.victim).did
        return quarantine_level(self.bench.state, did, FLEET, self.bench.time_ms + after_ms)

    def owners_set(self, level, *, until_ms=None, owners=(0, 1), sequence=None, subject=None):
        did = (subject or self.victim).did
        known = quarantine_of(self.bench.state, did, FLEET)
        if sequence is None:
            sequence = 1 if known is None else known.sequence + 1
        digest = quarantine_digest(did, FLEET, level=level, until_ms=until_ms, sequence=sequence)
        keys = owner_keys(FLEET)
        approvals = tuple(self.lab.approval(Action.QUARANTINE, digest, keys[i]) for i in owners)
        body = SetQuarantine(
            subject=did, group=FLEET, level=level, until_ms=until_ms, approvals=approvals
        )
        return self.sign(self.lab.gateways[1], body)

    def owners_release(self, *, owners=(0, 1), sequence=None):
        did = self.victim.did
        known = quarantine_of(self.bench.state, did, FLEET)
        if sequence is None:
            sequence = known.sequence + 1
        digest = release_digest(did, FLEET, sequence)
        keys = owner_keys(FLEET)
        approvals = tuple(self.lab.approval(Action.RELEASE, digest, keys[i]) for i in owners)
        body = ReleaseQuarantine(subject=did, group=FLEET, approvals=approvals)
        return self.sign(self.lab.gateways[1], body)


def three_voices(fleet):
    return [fleet.enrol(f"of-owner-{index}", index) for index in range(3)]


# -- what opinion does ------------------------------------------------------------------------


def test_three_owners_put_a_peer_into_quarantine_of_level_one_and_it_ends_by_itself():
    fleet = Fleet()
    for reporter in three_voices(fleet):
        assert fleet.level() is NONE
        fleet.hear(reporter)
    assert fleet.level() is NO_SERVING
    record = quarantine_of(fleet.bench.state, fleet.victim.did, FLEET)
    assert (record.cause, record.sequence) == (Cause.OPINION, 1)
    assert fleet.level(after_ms=RULES.quarantine_ms - 1) is NO_SERVING
    assert fleet.level(after_ms=RULES.quarantine_ms) is NONE


def test_a_thousand_names_of_one_owner_are_one_voice():
    fleet = Fleet()
    slanderers = [fleet.enrol(f"slanderer-{index}", 0) for index in range(12)]
    fleet.hear(slanderers[0])
    assert {fleet.refused(slanderer) for slanderer in slanderers[1:]} == {"report.repeat"}
    for slanderer in slanderers[1:]:
        fleet.hear(slanderer, after_ms=DEFENCE_HOUR_MS)
        opinion = opinion_of(fleet.bench.state, fleet.victim.did, FLEET)
        assert len(opinion.voices) == 1
        assert fleet.level() is NONE
        # Not even the victim's own word has lost weight.
        now_ms = fleet.bench.time_ms
        assert reputation(fleet.bench.state, fleet.victim.did, FLEET, RULES, now_ms) == 1000


def test_founders_without_sponsors_on_record_are_one_voice_too():
    fleet = Fleet(gateways=6)
    first, *others = fleet.lab.gateways[1:]
    fleet.hear(first)
    assert {fleet.refused(other) for other in others} == {"report.repeat"}


def test_owners_who_admit_together_share_a_voice_and_join_those_heard_before():
    fleet = Fleet()
    fleet.hear(fleet.enrol("of-a", 0))
    fleet.hear(fleet.enrol("of-b", 1))
    assert len(opinion_of(fleet.bench.state, fleet.victim.did, FLEET).voices) == 2
    fleet.hear(fleet.enrol("of-both", 0, 1), after_ms=DEFENCE_HOUR_MS + 1000)
    voices = opinion_of(fleet.bench.state, fleet.victim.did, FLEET).voices
    assert [len(voice.marks) for voice in voices] == [2]


def test_one_owner_cannot_certify_itself_many_voices():
    fleet = Fleet(enrol_threshold=1)
    liars = [fleet.enrol(f"liar-{index}", 0) for index in range(3)]
    for index, liar in enumerate(liars):
        fleet.certify(liar, 0, owner=f"company {index}")
    fleet.hear(liars[0])
    assert {fleet.refused(liar) for liar in liars[1:]} == {"report.repeat"}


def test_sites_that_enough_owners_certified_are_voices_of_their_own():
    fleet = Fleet(enrol_threshold=2)
    reporters = [fleet.enrol(f"site-{index}", 0, 1) for index in range(4)]
    for index, reporter in enumerate(reporters):
        fleet.certify(reporter, 0, 1, site=f"plant {index // 2}")
    fleet.hear(reporters[0])
    assert fleet.refused(reporters[1]) == "report.repeat", "one plant, one voice"
    fleet.hear(reporters[2])
    assert len(opinion_of(fleet.bench.state, fleet.victim.did, FLEET).voices) == 2


def test_opinions_fade_with_header_time():
    fleet = Fleet()
    first, second, third = three_voices(fleet)
    fleet.hear(first)
    fleet.hear(second, after_ms=10 * DEFENCE_HOUR_MS)
    fleet.hear(third, after_ms=10 * DEFENCE_HOUR_MS)
    # 200 + 600 + 1,000 are less than 2,500.
    opinion = opinion_of(fleet.bench.state, fleet.victim.did, FLEET)
    assert opinion.live(fleet.bench.time_ms, RULES) == (3, 1800)
    assert fleet.level() is NONE
    assert opinion.live(fleet.bench.time_ms + DEFENCE_DAY_MS, RULES) == (0, 0)


def test_the_word_of_a_distrusted_reporter_counts_for_nothing():
    fleet = Fleet()
    voices = three_voices(fleet)
    for reporter in voices[:2]:
        fleet.hear(reporter)
    fleet.bench.apply(fleet.owners_set(NO_SERVING, subject=voices[2]))
    assert fleet.refused(voices[2]) == "report.reputation"
    assert fleet.level() is NONE


# -- what bounds it ---------------------------------------------------------------------------


def test_no_more_than_the_daily_share_and_midnight_is_no_way_around():
    rules = replace(RULES, daily_share=2000, decay_per_hour=0)
    fleet = Fleet(rules, gateways=10)
    voices = three_voices(fleet)
    cap = rules.cap(member_count(fleet.bench.state, FLEET))
    assert cap == 2
    victims = fleet.lab.gateways[2:8]
    for victim in victims[:4]:
        for voice in voices:
            fleet.hear(voice, victim)
    assert [fleet.level(victim) for victim in victims[:4]] == [NO_SERVING] * 2 + [NONE] * 2
    to_midnight = DEFENCE_DAY_MS - fleet.bench.time_ms % DEFENCE_DAY_MS
    fleet.hear(voices[0], victims[2], after_ms=max(to_midnight, DEFENCE_HOUR_MS + 60_000))
    assert tally_of(fleet.bench.state, FLEET, fleet.bench.time_ms).recent == 2
    assert fleet.level(victims[2]) is NONE
    fleet.hear(voices[0], victims[2], after_ms=DEFENCE_DAY_MS)
    for voice in voices[1:]:
        fleet.hear(voice, victims[2])
    assert fleet.level(victims[2]) is NO_SERVING


def test_in_a_small_group_opinion_has_no_effect_by_default():
    fleet = Fleet(DefenceRules())
    for voice in three_voices(fleet):
        fleet.hear(voice)
    assert fleet.level() is NONE


def test_the_count_of_a_group_follows_admissions_and_suspensions():
    fleet = Fleet()
    assert member_count(fleet.bench.state, FLEET) == 3, "two gateways and the publisher"
    member = fleet.enrol("third", 0)
    assert member_count(fleet.bench.state, FLEET) == 4
    body = SuspendSubject(
        did=member.did, group=FLEET, approvals=fleet.lab.approvals(Action.SUSPEND, member.did)
    )
    fleet.bench.apply(fleet.sign(fleet.lab.gateways[1], body))
    assert member_count(fleet.bench.state, FLEET) == 3


def test_reports_that_are_none():
    fleet = Fleet(groups=(make_group("other"),))
    lab, victim = fleet.lab, fleet.victim
    reporter = fleet.enrol("reporter", 0)
    stranger = Member(label="stranger", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    assert fleet.refused(victim, victim) == "report.self"
    assert fleet.refused(reporter, stranger) == "report.unknown"
    assert fleet.refused(reporter, lab.validators[0]) == "report.subject"
    assert fleet.refused(reporter, group="other") == "report.group"
    assert fleet.refused(reporter, group="nowhere") == "report.group"
    body = SuspendSubject(
        did=victim.did, group=FLEET, approvals=lab.approvals(Action.SUSPEND, victim.did)
    )
    fleet.bench.apply(fleet.sign(reporter, body))
    assert fleet.refused(reporter) == "report.subject"


def test_a_group_without_rules_takes_no_reports():
    fleet = Fleet(None)
    assert fleet.refused(fleet.lab.gateways[1]) == "report.off"


# -- what owners do ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", [NO_SERVING, NO_EXCHANGE])
def test_owners_set_a_quarantine_until_a_time(level):
    fleet = Fleet()
    until_ms = fleet.bench.time_ms + DEFENCE_DAY_MS
    fleet.bench.apply(fleet.owners_set(level, until_ms=until_ms))
    assert fleet.level() is level
    assert fleet.level(after_ms=DEFENCE_DAY_MS) is NONE


def test_owners_refusals_are_stable():
    fleet = Fleet()
    bench = fleet.bench
    assert bench.refusal(fleet.owners_set(NO_SERVING, until_ms=1)).rule == "quarantine.until"
    assert bench.refusal(fleet.owners_set(NO_SERVING, owners=(0,))).rule == "approval.threshold"
    assert bench.refusal(fleet.owners_set(NO_SERVING, sequence=2)).rule == "approval.subject"
    stranger = Member(label="stranger", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    signed = fleet.owners_set(NO_SERVING, subject=stranger)
    assert bench.refusal(signed).rule == "quarantine.unknown"
    assert bench.refusal(fleet.owners_release(sequence=1)).rule == "quarantine.none"


def test_no_quarantine_and_no_release_serves_twice():
    fleet = Fleet()
    fleet.bench.apply(fleet.owners_set(NO_SERVING))
    fleet.bench.apply(fleet.owners_release())
    assert fleet.level() is NONE
    again = fleet.owners_set(NO_SERVING, sequence=1)
    assert fleet.bench.refusal(again).rule == "approval.subject"
    fleet.bench.apply(fleet.owners_set(NO_EXCHANGE, sequence=3))
    old_release = fleet.owners_release(sequence=2)
    assert fleet.bench.refusal(old_release).rule == "approval.subject"
    assert fleet.level() is NO_EXCHANGE


def test_a_release_forgets_opinions_and_protects_for_a_while():
    fleet = Fleet()
    voices = three_voices(fleet)
    for voice in voices:
        fleet.hear(voice)
    fleet.bench.apply(fleet.owners_release())
    assert opinion_of(fleet.bench.state, fleet.victim.did, FLEET).voices == ()
    for voice in voices:
        fleet.hear(voice)
    assert fleet.level() is NONE
    fleet.hear(voices[0], after_ms=RULES.trust_ms)
    for voice in voices[1:]:
        fleet.hear(voice)
    assert fleet.level() is NO_SERVING


def test_owners_of_another_group_have_no_say():
    fleet = Fleet(groups=(make_group("other"),))
    body = SetQuarantine(
        subject=fleet.victim.did, group="other", level=NO_SERVING, until_ms=None, approvals=(b"x",)
    )
    signed = fleet.sign(fleet.lab.gateways[1], body)
    assert fleet.bench.refusal(signed).rule == "quarantine.group"
