"""Transactions about epochs, each with one thing wrong, and what the end of an epoch does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bodies.validators import Accuse, Upgrade, members_digest, upgrade_digest
from ledger.errors import LedgerError
from ledger.records.validators import EpochRecord, ValidatorRecord, seats_replaced
from ledger.state import Draft
from ledger.transition.envelope import judge_transaction
from ledger.transition.validators import GOVERNANCE_GROUP, GOVERNANCE_POLICY, close_epoch
from ledger.validators import quorum_of
from ledger.vote import Evidence
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import DidId, sha256
from protocol.errors import EncodingError
from protocol.genesis import EPOCH_MS, Parameters
from tests.support.epochs import (
    VoteKeys,
    certify,
    governance_approvals,
    newcomer,
    set_parameters,
    set_validators,
    upgrade,
    vote_key,
)
from tests.support.ledger import GENESIS_MS, HOUR_MS, Bench, make_bench, make_key, owner_keys


@pytest.fixture
def bench() -> Bench:
    return make_bench()


def code(bench: Bench, member, body) -> str:
    """The rule that refuses a body."""
    return bench.refusal(bench.lab.transaction(member, body)).rule


# Keys.


def test_a_validator_certifies_one_key_for_each_coming_epoch(bench):
    lab, member = bench.lab, bench.lab.validators[0]
    for epoch in (2, 5):
        bench.apply(lab.transaction(member, certify(lab, member, epoch)))
        assert bench.state.validator(member.did).key_for(epoch) == vote_key(member, epoch).public
    assert bench.state.holder(vote_key(member, 2).public) == member.did
    other = certify(lab, member, 2, key=make_key("another"))
    assert code(bench, member, other) == "validator.certified"


def test_keys_that_must_not_be_certified(bench):
    lab = bench.lab
    member, other, gateway = lab.validators[0], lab.validators[1], lab.gateways[0]
    good = certify(lab, member, 2)
    cases = [
        (gateway, certify(lab, gateway, 2), "validator.kind"),
        (member, certify(lab, member, 1), "validator.epoch"),
        (member, certify(lab, member, 6), "validator.ahead"),
        (member, replace(good, proof=bytes(64)), "validator.proof"),
        (member, replace(good, epoch=3), "validator.proof"),
        (other, good, "validator.proof"),
        (member, certify(lab, member, 2, key=member.key(KeyPurpose.NODE)), "validator.key"),
        (member, certify(lab, member, 2, key=other.key(KeyPurpose.VALIDATOR)), "validator.key"),
    ]
    for signer, body, rule in cases:
        assert code(bench, signer, body) == rule


def test_a_retired_key_never_returns(bench):
    lab, member, other = bench.lab, bench.lab.validators[0], bench.lab.validators[1]
    key = make_key("once")
    bench.apply(lab.transaction(member, certify(lab, member, 2, key=key)))
    assert code(bench, member, certify(lab, member, 3, key=key)) == "validator.key"
    assert code(bench, other, certify(lab, other, 3, key=key)) == "validator.key"


# Evidence.


def test_anybody_may_accuse_and_nobody_twice(bench):
    lab = bench.lab
    evidence = VoteKeys(lab.validators).evidence(lab.validator_set, 2, lab)
    bench.apply(lab.transaction(lab.gateways[0], Accuse(evidence=evidence)))
    culprit = lab.validators[2]
    assert bench.state.conviction(1, 2) is not None
    assert bench.state.validator(culprit.did).convicted == 1
    assert bench.state.validator(culprit.did).key_for(1) is None
    assert code(bench, lab.gateways[1], Accuse(evidence=evidence)) == "evidence.known"
    assert code(bench, culprit, certify(lab, culprit, 2)) == "validator.convicted"


def test_evidence_that_is_none(bench):
    lab = bench.lab
    good = VoteKeys(lab.validators).evidence(lab.validator_set, 2, lab)
    forged = Evidence(good.first, replace(good.second, signature=bytes(64)))
    elsewhere = Evidence(replace(good.first, signer=1), replace(good.second, signer=1))
    later = Evidence(replace(good.first, epoch=2), replace(good.second, epoch=2))
    before = Evidence(replace(good.first, epoch=0), replace(good.second, epoch=0))
    cases = [
        (forged, "evidence.signature"),
        (elsewhere, "evidence.signature"),
        (later, "evidence.epoch"),
        (before, "evidence.epoch"),
    ]
    for evidence, rule in cases:
        assert code(bench, lab.gateways[0], Accuse(evidence=evidence)) == rule
    assert bench.state.conviction(1, 2) is None


# Governance.


def test_governance_replaces_one_of_four_seats(bench):
    lab, new = bench.lab, newcomer(1)
    members = [*lab.validators[1:], new]
    bench.apply(lab.transaction(lab.gateways[0], set_validators(lab, 1, members, joins=[new])))
    record = bench.state.epoch()
    assert record.next_members == tuple(member.did for member in members)
    assert bench.state.subject(new.did) is not None
    # The vote key of its record, whose possession the join statement proves, is its first one.
    assert bench.state.validator(new.did).key_for(2) == new.key(KeyPurpose.VALIDATOR).public


def test_set_changes_that_are_refused(bench):
    lab = bench.lab
    one, two = newcomer(1), newcomer(2)
    keep = lab.validators
    good = set_validators(lab, 1, [*keep[1:], one], joins=[one])
    thief = newcomer(1)
    thief.label = "gateway-0"
    cases = [
        (set_validators(lab, 1, [*keep[2:], one, two], joins=[one, two]), "validators.replaced"),
        (set_validators(lab, 1, [*keep[1:], one]), "validators.unknown"),
        (set_validators(lab, 1, keep, joins=[one]), "validators.kind"),
        (set_validators(lab, 1, [*keep[1:], lab.gateways[0]]), "validators.kind"),
        (set_validators(lab, 1, keep, joins=[lab.validators[0]]), "did.known"),
        (set_validators(lab, 1, keep, count=1), "approval.threshold"),
        (set_validators(lab, 2, keep), "approval.subject"),
        (replace(good, members=(*good.members[1:], good.members[0])), "approval.subject"),
        (replace(good, approvals=good.approvals[:1] * 2), "approval.duplicate"),
    ]
    for body, rule in cases:
        assert code(bench, lab.gateways[0], body) == rule
    owners = tuple(
        lab.approval(Action.VALIDATORS, members_digest(1, good.members), key)
        for key in owner_keys("fleet")[:2]
    )
    assert code(bench, lab.gateways[0], replace(good, approvals=owners)) == "approval.group"


def test_a_known_validator_without_a_key_cannot_take_a_seat(bench):
    lab, one = bench.lab, newcomer(1)
    bench.apply(
        lab.transaction(
            lab.gateways[0], set_validators(lab, 1, [*lab.validators[1:], one], joins=[one])
        )
    )
    context = replace(lab.context(), validators=lab.validator_set)
    draft = Draft(bench.state)
    assert close_epoch(draft, context) is None, "the others have no keys for epoch 2"
    # Taken back, and named again by the same approvals: each serves once.
    bench.apply(lab.transaction(lab.gateways[0], set_validators(lab, 1, lab.validators)))
    again = set_validators(lab, 1, [*lab.validators[1:], one])
    assert code(bench, lab.gateways[0], again) == "approval.used"


def test_a_plan_that_was_taken_back_twice_does_not_return_by_its_first_approvals(bench):
    """Newer approvals of the same take the place of the first; the first are used all the same."""
    lab, gateway = bench.lab, bench.lab.gateways[0]

    def plan(version: int, epoch: int, later: int) -> Upgrade:
        subject = upgrade_digest(1, version, epoch)
        approvals = tuple(
            lab.approval(
                Action.UPGRADE,
                subject,
                key,
                group=GOVERNANCE_GROUP,
                policy=GOVERNANCE_POLICY,
                valid_until_ms=GENESIS_MS + (100 + later) * HOUR_MS,
            )
            for key in lab.governance[:2]
        )
        return Upgrade(version=version, epoch=epoch, approvals=approvals)

    for later in (0, 1):
        bench.apply(lab.transaction(gateway, plan(2, 9, later)))
        bench.apply(lab.transaction(gateway, plan(0, 0, later)))
    for later in (0, 1):
        assert code(bench, gateway, plan(2, 9, later)) == "approval.used"
    bench.apply(lab.transaction(gateway, plan(2, 9, 2)))


def test_a_convicted_validator_gets_no_seat_again(bench):
    lab, one = bench.lab, newcomer(1)
    evidence = VoteKeys(lab.validators).evidence(lab.validator_set, 0, lab)
    bench.apply(lab.transaction(lab.gateways[0], Accuse(evidence=evidence)))
    bench.apply(
        lab.transaction(
            lab.gateways[0], set_validators(lab, 1, [*lab.validators[1:], one], joins=[one])
        )
    )
    members = replace(
        lab.validator_set,
        members=(
            *lab.validator_set.members[1:],
            replace(lab.validator_set.members[0], did=one.did),
        ),
    )
    context = replace(lab.context(), height=9, validators=members)
    body = set_validators(lab, 1, [*lab.validators[1:], lab.validators[0]])
    signed = lab.transaction(lab.gateways[0], body)
    with pytest.raises(LedgerError) as caught:
        judge_transaction(bench.state, signed, context)
    assert caught.value.rule == "validators.convicted"


def test_parameters_and_upgrades_wait_for_the_edge(bench):
    lab, gateway = bench.lab, bench.lab.gateways[0]
    numbers = Parameters(heartbeat_ms=5000, epoch_ms=60_000)
    bench.apply(lab.transaction(gateway, set_parameters(lab, 1, numbers)))
    bench.apply(lab.transaction(gateway, upgrade(lab, 1, version=2, epoch=3)))
    record = bench.state.epoch()
    assert record.parameters == Parameters()
    assert (record.next_parameters, record.version, record.upgrade) == (numbers, 1, (2, 3))
    bench.apply(lab.transaction(gateway, upgrade(lab, 1, version=0, epoch=0)))
    assert bench.state.epoch().upgrade is None


def test_parameters_and_upgrades_that_are_refused(bench):
    lab, gateway = bench.lab, bench.lab.gateways[0]
    numbers = Parameters(heartbeat_ms=5000)
    cases = [
        (set_parameters(lab, 1, numbers, count=1), "approval.threshold"),
        (set_parameters(lab, 2, numbers), "approval.subject"),
        (replace(set_parameters(lab, 1, numbers), parameters=Parameters()), "approval.subject"),
        (upgrade(lab, 1, version=1, epoch=2), "upgrade.version"),
        (upgrade(lab, 1, version=2, epoch=1), "upgrade.epoch"),
        (upgrade(lab, 1, version=0, epoch=0), "upgrade.none"),
        (upgrade(lab, 1, version=2, epoch=2, count=1), "approval.threshold"),
        (upgrade(lab, 2, version=2, epoch=2), "approval.subject"),
    ]
    for body, rule in cases:
        assert code(bench, gateway, body) == rule
    wrong = governance_approvals(lab, Action.VALIDATORS, sha256(b"x"))
    body = replace(set_parameters(lab, 1, numbers), approvals=wrong)
    assert code(bench, gateway, body) == "approval.action"
    assert lab.genesis.group(GOVERNANCE_GROUP) is None


# The end of an epoch.


def close(bench: Bench, *, after_ms: int = EPOCH_MS):
    """What the end of an empty block at this time would do."""
    draft = Draft(bench.state)
    context = bench.lab.context(height=7, time_ms=GENESIS_MS + after_ms)
    return close_epoch(draft, context), draft


@pytest.mark.parametrize("certified", range(5))
def test_an_epoch_ends_by_time_with_a_quorum_of_keys_and_no_fewer(bench, certified):
    lab = bench.lab
    for member in lab.validators[:certified]:
        bench.apply(lab.transaction(member, certify(lab, member, 2)))
    following, draft = close(bench)
    if certified < quorum_of(4):
        assert following is None
        assert not draft.writes
        return
    assert following is not None
    assert following.epoch == 2
    held = [member.key is not None for member in following.members]
    assert held == [True] * certified + [False] * (4 - certified)
    assert draft.validators(2) == following
    record = draft.epoch()
    assert (record.epoch, record.start_ms, record.start_height) == (2, GENESIS_MS + EPOCH_MS, 7)
    assert close(bench, after_ms=EPOCH_MS - 1)[0] is None


def test_a_convicted_seat_is_empty_from_the_next_epoch_on(bench):
    lab = bench.lab
    for member in lab.validators:
        bench.apply(lab.transaction(member, certify(lab, member, 2)))
    evidence = VoteKeys(lab.validators).evidence(lab.validator_set, 3, lab)
    bench.apply(lab.transaction(lab.gateways[0], Accuse(evidence=evidence)))
    following, _ = close(bench)
    assert following is not None
    assert following.key_of(3) is None
    assert following.fault_limit == 1


def test_more_than_f_convicted_end_no_epoch(bench):
    lab, keys = bench.lab, VoteKeys(bench.lab.validators)
    for member in lab.validators:
        bench.apply(lab.transaction(member, certify(lab, member, 2)))
    for seat in (1, 2):
        evidence = keys.evidence(lab.validator_set, seat, lab)
        bench.apply(lab.transaction(lab.gateways[0], Accuse(evidence=evidence)))
    assert close(bench)[0] is None


# Records.


@pytest.mark.slow
@given(
    st.lists(st.integers(1, 8), unique=True, max_size=5),
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_validator_records_survive_their_encoding(epochs, convicted):
    keys = tuple((epoch, make_key(f"key {epoch}").public) for epoch in sorted(epochs))
    record = ValidatorRecord(keys=keys, convicted=convicted)
    assert ValidatorRecord.decode(record.encode()) == record


def test_unordered_or_too_many_keys_are_no_record():
    keys = [(epoch, make_key(f"key {epoch}").public) for epoch in range(6)]
    for wrong in (keys[::-1][:3], [keys[0], keys[0]], keys):
        with pytest.raises(EncodingError):
            ValidatorRecord(keys=tuple(wrong))


@given(st.booleans(), st.booleans(), st.booleans())
def test_epoch_records_survive_their_encoding(members, parameters, planned):
    record = EpochRecord(
        epoch=3,
        start_ms=5,
        start_height=6,
        version=1,
        parameters=Parameters(),
        next_members=tuple(DidId(sha256(b"%d" % i)) for i in range(4)) if members else None,
        next_parameters=Parameters(epoch_ms=2000) if parameters else None,
        upgrade=(2, 9) if planned else None,
    )
    assert EpochRecord.decode(record.encode()) == record


@pytest.mark.slow
@given(st.permutations(range(8)), st.permutations(range(8)))
def test_replaced_seats_are_symmetric_and_ignore_order(one, other):
    first, second = one[:5], other[:5]
    dids = [DidId(sha256(b"%d" % i)) for i in range(8)]
    old, new = [dids[i] for i in first], [dids[i] for i in second]
    assert seats_replaced(old, new) == len(set(first) - set(second))
    assert seats_replaced(old, new) == seats_replaced(new, old)
