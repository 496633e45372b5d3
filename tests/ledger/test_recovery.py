"""A new era: what a recovery file makes of the last final block, and what it can never do."""

from __future__ import annotations

import dataclasses

import pytest

from ledger.errors import ForkAlarmError, LedgerError, LedgerNotYetError
from ledger.light import TrustAnchor
from ledger.recovery import advance_era, begin_era
from ledger.state_keys import validators_key
from ledger.transition.genesis import genesis_block, genesis_outcome
from ledger.vote import Ed25519Verifier
from protocol.approval import Action, sign_approval
from protocol.did import SubjectKind
from protocol.errors import VerificationError
from protocol.governance import Recovery, RecoveryPlan, Seat, governance_approval, seat_message
from tests.support.ledger import Member, make_key, make_lab

VERIFIER = Ed25519Verifier()


class Drill:
    """A lab whose validators are lost but for one, and who replaces them."""

    def __init__(self):
        self.lab = make_lab()
        self.outcome = genesis_outcome(self.lab.genesis)
        self.state = self.outcome.state
        self.block = genesis_block(self.lab.genesis, self.state)
        self.header = self.block.header
        self.survivor = self.lab.validators[0]
        self.newcomers = [
            Member(label=f"new validator {index}", kind=SubjectKind.VALIDATOR, groups=())
            for index in range(3)
        ]

    def seat(self, member, *, label="", header=None, era=1):
        holder = make_key(f"{member.label}/recovered{label}")
        last = (header or self.header).block_id
        proof = holder.sign(seat_message(self.lab.genesis.chain, era, member.did, last))
        return Seat(did=member.did, key=holder.public, proof=proof)

    def plan(self, **changes):
        members = [self.survivor, *self.newcomers]
        values = {
            "era": 1,
            "header": self.header.encoded,
            "certificate": b"",
            "time_ms": self.header.time_ms + 1000,
            "seats": tuple(self.seat(member) for member in members),
            "joins": tuple(
                sorted((one.join for one in self.newcomers), key=lambda join: join.record.did)
            ),
        }
        return RecoveryPlan(**{**values, **changes})

    def recovery(self, plan=None, count=None):
        plan = plan or self.plan()
        content = governance_approval(
            Action.RECOVERY, plan.digest, era=plan.era - 1, valid_until_ms=10**15
        )
        root = self.lab.genesis.governance_root
        keys = self.lab.governance[: count or root.threshold]
        signed = [sign_approval(content, key, self.lab.genesis.chain).signed.raw for key in keys]
        return Recovery(plan=plan, approvals=tuple(signed))

    def begin(self, recovery=None, header=None):
        root = self.lab.genesis.governance_root
        return begin_era(header or self.header, self.state, recovery or self.recovery(), root)


def refusal(drill, **changes):
    with pytest.raises(LedgerError) as caught:
        drill.begin(drill.recovery(drill.plan(**changes)))
    return caught.value.rule


def test_an_era_begins_the_same_at_every_node_and_keeps_the_state():
    drill = Drill()
    start, again = drill.begin(), Drill().begin()
    assert start.block.block_id == again.block.block_id
    header = start.block.header
    assert (header.era, header.epoch, header.height) == (1, 2, 1)
    assert header.parent == drill.header.block_id
    assert header.state_root == start.outcome.state.tree.root
    assert header.validators == start.validators.digest
    state = start.outcome.state
    assert state.get(validators_key(2)) == start.validators.encode()
    assert state.epoch().epoch == 2
    assert state.era() is not None
    assert state.group("fleet") == drill.state.group("fleet")
    for member in drill.newcomers:
        assert state.subject(member.did) is not None
        assert state.validator(member.did).key_for(2) is not None


def test_fewer_governance_keys_than_the_threshold_begin_nothing():
    drill = Drill()
    assert drill.lab.genesis.governance_root.threshold > 1
    with pytest.raises(VerificationError, match="1 valid"):
        drill.begin(drill.recovery(count=1))


def test_a_node_that_holds_a_later_final_block_refuses():
    drill = Drill()
    later = dataclasses.replace(drill.header, height=1, parent=drill.header.block_id)
    with pytest.raises(LedgerError) as caught:
        drill.begin(header=later)
    assert caught.value.rule == "recovery.later"


def test_a_node_behind_catches_up_first():
    drill = Drill()
    ahead = dataclasses.replace(drill.header, height=5)
    with pytest.raises(LedgerNotYetError) as caught:
        drill.begin(drill.recovery(drill.plan(header=ahead.encoded)))
    assert caught.value.rule == "recovery.behind"


def test_another_block_of_the_same_height_is_the_fork_alarm():
    drill = Drill()
    other = dataclasses.replace(drill.header, proposer=1)
    with pytest.raises(ForkAlarmError):
        drill.begin(drill.recovery(drill.plan(header=other.encoded)))


@pytest.mark.parametrize("era", [2, 7])
def test_eras_are_not_skipped(era):
    assert refusal(Drill(), era=era) == "recovery.era"


def test_a_recovery_serves_once():
    drill = Drill()
    recovery = drill.recovery()
    start = drill.begin(recovery)
    with pytest.raises(LedgerError) as caught:
        begin_era(
            start.block.header,
            start.outcome.state,
            recovery,
            drill.lab.genesis.governance_root,
        )
    assert caught.value.rule == "recovery.era"


def test_time_moves_on():
    drill = Drill()
    assert refusal(drill, time_ms=drill.header.time_ms) == "recovery.time"


def test_a_used_key_takes_no_seat():
    drill = Drill()
    used = drill.lab.validators[1].did
    key = drill.state.validator(used).key_for(1)
    plan = drill.plan()
    first = dataclasses.replace(plan.seats[0], key=key)
    holder = next(
        private
        for member in drill.lab.validators
        for private in member.keys_of(0).values()
        if private.public == key
    )
    message = seat_message(drill.lab.genesis.chain, 1, first.did, drill.header.block_id)
    first = dataclasses.replace(first, proof=holder.sign(message))
    assert refusal(drill, seats=(first, *plan.seats[1:])) == "recovery.key"


def test_gateways_and_strangers_take_no_seat():
    drill = Drill()
    seats = list(drill.plan().seats)
    for member in (drill.lab.gateways[0], Member(label="x", kind=SubjectKind.GATEWAY, groups=())):
        seats[0] = drill.seat(member)
        assert refusal(drill, seats=tuple(seats)) == "recovery.seat"


def test_a_record_that_the_ledger_knows_is_not_written_again():
    drill = Drill()
    joins = (*drill.plan().joins, drill.survivor.join)
    ordered = tuple(sorted(joins, key=lambda join: join.record.did))
    assert refusal(drill, joins=ordered) == "recovery.record"


def test_a_light_client_follows_into_the_era_and_believes_the_old_set_no_more():
    drill = Drill()
    anchor = TrustAnchor.of_genesis(drill.lab.genesis, drill.header.block_id)
    root = drill.lab.genesis.governance_root
    moved = advance_era(anchor, drill.recovery(), root, VERIFIER)
    start = drill.begin()
    assert (moved.era, moved.validators) == (1, start.validators)
    with pytest.raises(VerificationError):
        advance_era(anchor, drill.recovery(count=1), root, VERIFIER)
    blind = TrustAnchor.of_genesis(drill.lab.genesis)
    assert advance_era(blind, drill.recovery(), root, VERIFIER) == moved
    later = drill.plan(header=dataclasses.replace(drill.header, view=1).encoded)
    with pytest.raises(VerificationError, match="no certificate"):
        advance_era(blind, drill.recovery(later), root, VERIFIER)


def test_a_plan_whose_header_nobody_certified_moves_no_light_client():
    drill = Drill()
    invented = dataclasses.replace(drill.header, height=9, view=3)
    anchor = TrustAnchor.of_genesis(drill.lab.genesis, drill.header.block_id)
    forged = drill.plan(
        header=invented.encoded,
        seats=tuple(
            drill.seat(member, header=invented) for member in [drill.survivor, *drill.newcomers]
        ),
    )
    with pytest.raises(VerificationError, match="no certificate"):
        advance_era(anchor, drill.recovery(forged), drill.lab.genesis.governance_root, VERIFIER)
