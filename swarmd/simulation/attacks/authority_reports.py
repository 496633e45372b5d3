"""False reports: about a release that works, and about gateways that keep the rules."""

from __future__ import annotations

from functools import partial
from typing import Final

from ledger.bodies.health import ReportHealth
from ledger.bodies.subject import CreateSubject
from ledger.bodies.subject_decisions import CertifySubject, attributes_digest
from ledger.chain import Chain
from ledger.records.rollout import RolloutStatus
from ledger.standing import conviction_of, quarantine_level
from ledger.transition.kind import Body
from protocol.approval import Action
from protocol.defence import DefenceRules, QuarantineLevel
from protocol.did import SubjectKind
from protocol.digest import ManifestId
from protocol.rollout import SHARE_WHOLE, Promotion, RolloutPlan, RolloutStage
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most, never
from swarmd.simulation.byzantine.failure_faker import FailureFaker
from swarmd.simulation.byzantine.slanderer import Slanderer
from swarmd.simulation.lab import FLEET, HOUR_MS, Lab, Member, make_lab, make_policy, owner_keys
from swarmd.simulation.lab_chain import advance, attempt

_STEP_MS: Final = 6 * 60 * 1000
"""Between two rounds of reports: a gateway reports a release every five minutes (R41)."""
_LIARS: Final = 6
_HONEST: Final = 6
_SHARES: Final = (1000, 5000, SHARE_WHOLE)


def _submit(lab: Lab, origin: Chain, signer: Member, body: Body) -> bool:
    """Whether a member's transaction is final at once."""
    until_ms = origin.head.time_ms + 20 * HOUR_MS
    signed = lab.transaction(signer, body, valid_until_ms=until_ms)
    return attempt(lab, origin, signed) is None


def _certify_site(lab: Lab, origin: Chain, member: Member, site: str) -> None:
    attributes = (("site", site),)
    digest = attributes_digest(member.did, FLEET, 1, attributes)
    body = CertifySubject(
        did=member.did,
        group=FLEET,
        attributes=attributes,
        approvals=lab.approvals(Action.CERTIFY, digest),
    )
    assert _submit(lab, origin, lab.publisher, body), "owners certify their sites"


# Fake failures ------------------------------------------------------------------------------------


def _plan() -> RolloutPlan:
    stages = tuple(
        RolloutStage(
            share=share,
            soak_ms=_STEP_MS,
            success_sites_min=2,
            failure_sites_max=1,
            failure_share_max=2000,
            sample_min=10,
        )
        for share in _SHARES
    )
    return RolloutPlan(stages=stages, priority=0, promotion=Promotion.AUTOMATIC)


def _rollout_lab(lying_sites: int) -> tuple[Lab, Chain, ManifestId]:
    """A release whose rollout has begun, with certified sites.

    Args:
        lying_sites: how many sites the liars are spread over; honest gateways have one each.
    """
    lab = make_lab(gateways=_LIARS + _HONEST, policy=make_policy(rollout=_plan()))
    origin = lab.open_chain()
    for number, member in enumerate(lab.gateways):
        is_liar = number < _LIARS
        site = f"lying {number % lying_sites}" if is_liar else f"honest {number}"
        _certify_site(lab, origin, member, site)
    release = lab.manifest()
    advance(lab, origin, [lab.propose(release)])
    advance(lab, origin, [lab.approve(release.manifest_id)])
    return lab, origin, release.manifest_id


def _run_failures(_seed: int, *, lying_sites: int) -> AttackResult:
    lab, origin, manifest = _rollout_lab(lying_sites)
    faker, tries, halts = FailureFaker(lab.gateways[:_LIARS]), 0, 0
    for gateway, body in faker.reports(manifest):
        if tries % _LIARS == 0:
            advance(lab, origin, after_ms=_STEP_MS)
        _submit(lab, origin, gateway, body)
        tries += 1
        rollout = origin.state.rollout(manifest, FLEET)
        assert rollout is not None, "it has begun"
        halts += rollout.status is RolloutStatus.HALTED
    stages = _report_honestly(lab, origin, manifest)
    verdicts = (
        never("rollout halted", halts),
        at_least("last stage reached by honest reports", len(_SHARES) - 1, stages),
    )
    return AttackResult(verdicts=verdicts, attempts=tries)


def _report_honestly(lab: Lab, origin: Chain, manifest: ManifestId) -> int:
    """Honest sites report successes until nothing more happens; the stage reached, from 0."""
    for count in range(1, 3 * len(_SHARES)):
        advance(lab, origin, after_ms=_STEP_MS)
        for gateway in lab.gateways[_LIARS:]:
            body = ReportHealth(
                manifest=manifest, group=FLEET, successes=10 * count, failures=0, devices=1
            )
            _submit(lab, origin, gateway, body)
    rollout = origin.state.rollout(manifest, FLEET)
    assert rollout is not None, "it has begun"
    return rollout.stage


FAKE_FAILURES: Final = Attack(
    name="fake-failures",
    family=Family.AUTHORITY,
    known_as="Sybil reports against an automatic rollback",
    attacker="six gateways of one certified site report up to a million failures each, to halt the"
    " rollout for everybody; in the control they stand in two sites",
    counter="one site alone never halts, whatever it reports (R33, R42), and counts 100 outcomes a"
    " period (R44); two failing sites halt by design",
    run=partial(_run_failures, lying_sites=1),
    control=partial(_run_failures, lying_sites=2),
)
"""See its fields."""


# Slander ------------------------------------------------------------------------------------------

_SLANDERERS: Final = 9
_ROUNDS: Final = 12
"""Of complaints, more than an hour apart."""
_VICTIMS: Final = 2


def _enrol(lab: Lab, origin: Chain, label: str, owner: int) -> Member:
    """A gateway that one owner admits alone."""
    member = Member(label=label, kind=SubjectKind.GATEWAY, groups=(FLEET,))
    approval = lab.approval(Action.ENROL, member.did, owner_keys(FLEET)[owner])
    body = CreateSubject(join=member.join, approvals=((approval,),))
    assert _submit(lab, origin, lab.publisher, body), "one owner may admit gateways here"
    return member


def _run_slander(_seed: int, *, owners: int) -> AttackResult:
    rules = DefenceRules()
    policy = make_policy(enrol_threshold=1, defence=rules)
    lab = make_lab(gateways=20, policy=policy)
    origin = lab.open_chain()
    liars = [
        _enrol(lab, origin, f"liar {number}", number % owners) for number in range(_SLANDERERS)
    ]
    victims = [member.did for member in lab.gateways[:_VICTIMS]]
    slanderer, tries, most = Slanderer(liars), 0, 0
    for _ in range(_ROUNDS):
        advance(lab, origin, after_ms=HOUR_MS + 1)
        for signer, body in slanderer.reports(victims):
            _submit(lab, origin, signer, body)
            tries += 1
        levels = [
            quarantine_level(origin.state, victim, FLEET, origin.head.time_ms) for victim in victims
        ]
        most = max(most, sum(level is not QuarantineLevel.NONE for level in levels))
    convicted = sum(conviction_of(origin.state, victim) is not None for victim in victims)
    members = len(lab.gateways) + len(liars) + 1
    verdicts = (
        never("honest gateways in quarantine", most),
        never("honest gateways convicted", convicted),
        at_most("of the group in quarantine", rules.daily_share / SHARE_WHOLE, most / members),
    )
    return AttackResult(verdicts=verdicts, attempts=tries)


SLANDER: Final = Attack(
    name="slander",
    family=Family.AUTHORITY,
    known_as="badmouthing with Sybils: Hoffman et al., ACM Computing Surveys 42(1), 2009",
    attacker="one owner's nine gateways complain about two honest ones every hour for 12 hours;"
    " in the control the gateways belong to three owners",
    counter="reports count by owner, not by name (D10 to D13), fade (D21), and touch at most 5 % of"
    " a group a day (D1, D30); nobody is convicted by opinion (D44)",
    run=partial(_run_slander, owners=1),
    control=partial(_run_slander, owners=3),
)
"""See its fields."""
