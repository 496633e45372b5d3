"""Stolen keys of people: a publisher's, and fewer owners' than must agree."""

from __future__ import annotations

from functools import partial
from typing import Final

from ledger.bodies.subject import RotateKeys
from ledger.chain import Chain
from ledger.records.manifest import ManifestStatus
from ledger.records.subject import SubjectStatus
from ledger.rules.membership import effective_attributes
from ledger.standing import quarantine_level
from protocol.defence import QuarantineLevel
from protocol.digest import ManifestId
from swarmd.simulation.attacks.attack import Attack, AttackResult, Family, at_least, at_most, never
from swarmd.simulation.attacks.trials import Trials
from swarmd.simulation.byzantine.owner_thief import ACCOMPLICE, THEIR_POLICY, OwnerThief
from swarmd.simulation.byzantine.publisher_thief import PublisherThief
from swarmd.simulation.lab import FLEET, HOUR_MS, Lab, make_lab, owner_keys
from swarmd.simulation.lab_chain import advance, attempt, authorise
from swarmd.simulation.lab_gateway import LabGateway

_APPROVED: Final = 10
"""Of its releases the thief of a publisher's keys tries to approve so many."""
_LATER_MS: Final = 48 * HOUR_MS
"""When an amended policy would be in force, milliseconds of header time."""


def _decided(lab: Lab, chain: Chain, good: ManifestId, evil: ManifestId) -> dict[str, bool]:
    """What owners alone can decide, and whether it was decided."""
    victim, state, now_ms = lab.gateways[0].did, chain.state, chain.head.time_ms
    group, subject = state.group(FLEET), chain.subject(victim)
    known = lab.genesis.group(FLEET)
    assert group is not None, "every lab has the fleet"
    assert known is not None, "every lab has the fleet"
    assert subject is not None, "the victim is enrolled"
    status = {name: chain.manifest_record(name, FLEET) for name in (good, evil)}
    standing = {name: None if one is None else one.status for name, one in status.items()}
    return {
        "authorised": standing[evil] is ManifestStatus.AUTHORISED,
        "revoked": standing[good] is ManifestStatus.REVOKED,
        "policies amended": group.policy_at(now_ms + _LATER_MS) == THEIR_POLICY.policy_id,
        "owners replaced": group.owner_root != known.owner_root,
        "members suspended": subject.status is not SubjectStatus.ACTIVE,
        "members enrolled": chain.subject(ACCOMPLICE.did) is not None,
        "members certified": bool(effective_attributes(state, victim, FLEET)),
        "members in quarantine": quarantine_level(state, victim, FLEET, now_ms)
        is not QuarantineLevel.NONE,
    }


def _run_owners(_seed: int, *, stolen: int) -> AttackResult:
    lab = make_lab()
    origin = lab.open_chain()
    good = lab.manifest(sequence=1, image=b"good").manifest_id
    authorise(lab, origin, lab.manifest(sequence=1, image=b"good"))
    evil = lab.manifest(sequence=2, image=b"evil")
    advance(lab, origin, [lab.propose(evil)])
    thief, tries = OwnerThief(lab, owner_keys(FLEET)[:stolen]), 0
    for signed in thief.tries(good, evil.manifest_id):
        attempt(lab, origin, signed)
        tries += 1
    decided = _decided(lab, origin, good, evil.manifest_id)
    gateway = LabGateway(lab)
    gateway.follow(origin)
    verdicts = (
        *(never(f"{what} by the thief", is_done) for what, is_done in decided.items()),
        at_least("honest release on offer", 1, gateway.may_offer(good)),
    )
    return AttackResult(verdicts=verdicts, attempts=tries)


STOLEN_APPROVERS: Final = Attack(
    name="stolen-approver-keys",
    family=Family.AUTHORITY,
    known_as="key compromise below the threshold: TUF 1.5.2 and 6.1",
    attacker="a thief of one of three owner keys, two of which must agree, tries every decision of"
    " owners, with approvals repeated, of strangers, of the publisher, and for something else",
    counter="a key counts once, for one act on one subject in one group (P70 to P74, L42); every"
    " decision has its threshold (L50 to L57, D34)",
    run=partial(_run_owners, stolen=1),
    control=partial(_run_owners, stolen=2),
)
"""See its fields."""


# A publisher's keys -------------------------------------------------------------------------------


def _run_publisher(_seed: int) -> AttackResult:
    lab = make_lab()
    origin = lab.open_chain()
    good = lab.manifest(sequence=1, image=b"good")
    authorise(lab, origin, good)
    thief, trials = PublisherThief(lab), Trials()
    for signed in thief.proposals():
        attempt(lab, origin, signed)
        trials.note("proposals", is_taken=False)
    for evil in thief.manifests[:_APPROVED]:
        for signed in thief.consents(evil):
            attempt(lab, origin, signed)
            record = origin.manifest_record(evil, FLEET)
            is_taken = record is not None and record.status is ManifestStatus.AUTHORISED
            trials.note("images authorised", is_taken=is_taken)
    trials.note("keys replaced", is_taken=attempt(lab, origin, thief.rotation()) is None)
    decisions, is_out = _recover(lab, origin, thief, trials)
    gateway = LabGateway(lab)
    gateway.follow(origin)
    fetchable = sum(gateway.may_fetch(evil) for evil in thief.manifests)
    del trials.taken["proposals"]
    verdicts = (
        *(never(f"{what} by the thief", count) for what, count in trials.taken.items()),
        never("its images fetched", fetchable),
        at_most("owners' decisions until the publisher publishes again", 1, decisions),
        at_least("honest release out again", 1, is_out),
    )
    return AttackResult(verdicts=verdicts, attempts=trials.attempts)


def _recover(lab: Lab, origin: Chain, thief: PublisherThief, trials: Trials) -> tuple[int, bool]:
    """The publisher rotates its keys, owners make room; returns their decisions, and success."""
    body: RotateKeys = lab.rotation(lab.publisher)
    rotation = lab.transaction(lab.gateways[0], body)
    assert attempt(lab, origin, rotation) is None, "the publisher holds the next keys"
    for signed in thief.proposals():
        is_taken = attempt(lab, origin, signed) is None
        trials.note("proposals after the rotation", is_taken=is_taken)
    lab.publisher.rotation += 1
    lab.nonces[lab.publisher.did] = origin.state.account(lab.publisher.did).nonce
    decisions, release = 0, lab.manifest(sequence=2, image=b"good again")
    while attempt(lab, origin, lab.propose(release)) is not None:  # no room for one more
        if decisions == len(thief.manifests):
            return decisions, False
        attempt(lab, origin, lab.revoke(thief.manifests[decisions]))
        decisions += 1
    return decisions, attempt(lab, origin, lab.approve(release.manifest_id)) is None


STOLEN_PUBLISHER: Final = Attack(
    name="stolen-publisher-key",
    family=Family.AUTHORITY,
    known_as="compromise of one role's key: TUF 6.1",
    attacker="a thief of all keys of a publisher proposes 70 releases under names like the real"
    " ones, approves them with the publisher's keys, and tries to lock the publisher out",
    counter="a publisher proposes and never approves (K41, L56), 64 at a time (Q20); keys follow"
    " only a commitment made before, which the thief cannot open (L51)",
    run=_run_publisher,
)
"""See its fields."""
