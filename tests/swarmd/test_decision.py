"""Decision files: what is signed is what is shown, and nothing can be swapped under a signature."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.bodies.governance import SetCheckpoint
from ledger.bodies.group import CreateGroup, RotateRoot, SetPolicy, UpdateGroup, VetoPolicy
from ledger.bodies.manifest import OverrideManifest, SettleManifest
from ledger.bodies.validators import SetParameters, SetValidators, Upgrade
from ledger.errors import LedgerError
from ledger.transition.genesis import genesis_block, genesis_outcome
from ledger.transition.kind import Body
from protocol.approval import parse_approval
from protocol.digest import ManifestId
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, PolicyError, VerificationError
from protocol.genesis import Parameters
from protocol.group import DAY_MS, Placement
from swarmd.decision import TERMS, Decision, decode_decision, draft_decision
from swarmd.decision_text import describe_decision
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    Bench,
    make_bench,
    make_group,
    make_lab,
    make_policy,
)

LAB = make_lab()
HEADER = genesis_block(LAB.genesis, genesis_outcome(LAB.genesis).state).header
BODIES: tuple[Body, ...] = (
    SetValidators(members=LAB.genesis.validators, joins=(), approvals=()),
    SetParameters(parameters=Parameters(heartbeat_ms=5000), approvals=()),
    Upgrade(version=2, epoch=9, approvals=()),
    SetCheckpoint(header=HEADER.encoded, approvals=()),
    CreateGroup(group=make_group("annex").encode(), approvals=()),
)


ANNEX = make_group("annex")
OWNED: tuple[Body, ...] = (
    SetPolicy(group=FLEET, policy=make_policy(revoke_threshold=1).encode(), approvals=()),
    VetoPolicy(group=FLEET, policy=ANNEX.policy.policy_id, approvals=()),
    UpdateGroup(group=FLEET, placement=Placement().encode(), approvals=(), adoption=()),
    RotateRoot(group=FLEET, root=encode_canonical(ANNEX.owner_root.to_value()), approvals=()),
    OverrideManifest(manifest=ManifestId(bytes(32)), group=FLEET, approvals=()),
)


def draft(body: Body, *, epoch: int = 1) -> Decision:
    return draft_decision(
        body,
        chain=LAB.chain_id,
        era=0,
        epoch=epoch,
        valid_until_ms=GENESIS_MS + DAY_MS,
        policy=LAB.policy_id() if body in OWNED else None,
    )


def test_every_kind_of_decision_is_tried_here() -> None:
    assert sorted(draft(body).kind for body in (*BODIES, *OWNED)) == sorted(TERMS)


@pytest.mark.parametrize("body", [*BODIES, *OWNED], ids=lambda body: type(body).__name__)
def test_a_decision_survives_the_way_from_holder_to_holder(body: Body) -> None:
    decision = decode_decision(draft(body).encode())
    for key in LAB.governance[:2]:
        decision = decode_decision(decision.signed_by(key).encode())
    assert len(decision.approvals) == 2
    assert describe_decision(decision)["signatures"] == 2
    for raw in decision.approvals:
        assert parse_approval(raw).approval == decision.approval()


def test_nobody_signs_twice() -> None:
    decision = draft(BODIES[1]).signed_by(LAB.governance[0])
    with pytest.raises(PolicyError, match="already"):
        decision.signed_by(LAB.governance[0])


def submit(bench: Bench, decision: Decision) -> None:
    bench.apply(bench.lab.transaction(bench.lab.publisher, decision.body()))


@pytest.mark.parametrize("body", [BODIES[1], BODIES[2], BODIES[4]], ids=lambda b: type(b).__name__)
def test_a_signed_decision_is_what_the_ledger_takes(body: Body) -> None:
    bench = make_bench()
    decision = draft(body)
    with pytest.raises(LedgerError) as caught:
        submit(bench, decision.signed_by(LAB.governance[0]))
    assert caught.value.rule == "approval.threshold"
    for key in LAB.governance[:2]:
        decision = decision.signed_by(key)
    submit(bench, decision)


def test_content_swapped_after_signing_is_refused_by_the_ledger() -> None:
    decision = draft(BODIES[1])
    for key in LAB.governance[:2]:
        decision = decision.signed_by(key)
    other = draft(SetParameters(parameters=Parameters(heartbeat_ms=9000), approvals=()))
    swapped = dataclasses.replace(decision, content=other.content)
    with pytest.raises(LedgerError) as caught:
        submit(make_bench(), swapped)
    assert caught.value.rule == "approval.subject"


def test_a_decision_of_another_epoch_is_refused_by_the_ledger() -> None:
    decision = draft(BODIES[1], epoch=2)
    for key in LAB.governance[:2]:
        decision = decision.signed_by(key)
    with pytest.raises(LedgerError) as caught:
        submit(make_bench(), decision)
    assert caught.value.rule == "approval.subject"


def test_kinds_that_others_decide_are_not_carried() -> None:
    body = SettleManifest(manifest=ManifestId(bytes(32)), group=FLEET)
    with pytest.raises(EncodingError, match="not decided by a file"):
        draft(body)


@pytest.mark.parametrize("body", [BODIES[1], OWNED[0]], ids=lambda body: type(body).__name__)
def test_a_policy_is_named_exactly_where_owners_of_a_group_decide(body: Body) -> None:
    known = draft(body)
    wrong = None if known.policy is not None else LAB.policy_id()
    with pytest.raises(EncodingError, match="exactly if owners"):
        dataclasses.replace(known, policy=wrong)


def test_malformed_files_are_refused() -> None:
    raw = draft(BODIES[2]).encode()
    value = decode_canonical(raw, bytes_max=len(raw))
    assert isinstance(value, dict)
    wrong = [
        raw[:-1],
        raw + b"\x00",
        b"",
        encode_canonical({**value, 9: 1}),
        encode_canonical({**value, -1: 1}),
        encode_canonical({**value, 5: "manifest.revoke"}),
        encode_canonical({**value, 6: {0: 1}}),
        encode_canonical({**value, 6: {0: 1, 1: 2, 2: []}}),
        encode_canonical({**value, 6: []}),
        encode_canonical({**value, 7: [b"\x00"]}),
        encode_canonical({**value, 7: [b"\x00"] * 33}),
    ]
    for data in wrong:
        with pytest.raises(EncodingError):
            decode_decision(data)


@pytest.mark.slow
@given(st.data())
def test_an_altered_file_says_something_else_or_nothing(data: st.DataObject) -> None:
    original = draft(BODIES[0]).signed_by(LAB.governance[0])
    raw = original.encode()
    position = data.draw(st.integers(0, len(raw) - 1))
    altered = bytearray(raw)
    altered[position] ^= data.draw(st.integers(1, 255))
    try:
        read = decode_decision(bytes(altered))
    except VerificationError:
        return
    assert read != original
