"""Recovery files: what owners sign is what the ledger asks for, and nothing else passes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.transition.subject_recovery import RECOVERY_DELAY_MS
from protocol.digest import sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, PolicyError
from swarmd.recovery_decision import (
    RECOVERY_DECISION_BYTES_MAX,
    RecoveryDecision,
    decide_by_governance,
    decode_recovery_decision,
    sign_recovery,
)
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, Bench, Member, make_bench, owner_keys
from tests.support.subjects import PUMPS, keys_for, make_shared_bench, submit, wait


def recovery_of(bench: Bench, member: Member, *, governed: bool = False) -> RecoveryDecision:
    """A file with no owner's signature so far."""
    private = keys_for(member)
    groups = tuple((name, bench.lab.policy_id(name)) for name in member.groups)
    deciders = decide_by_governance() if governed else groups
    record = bench.state.subject(member.did)
    assert record is not None
    draft = RecoveryDecision(
        chain=bench.lab.chain_id,
        era=0,
        valid_until_ms=GENESIS_MS + 100 * HOUR_MS,
        did=member.did,
        keys=tuple((purpose, key.public) for purpose, key in private.items()),
        next_keys=sha256(b"next"),
        signatures=(),
        sequence=record.sequence + 1,
        number=record.changes,
        deciders=deciders,
        approvals=((),) * len(deciders),
    )
    return sign_recovery(draft, list(private.values()))


def test_a_file_goes_from_hand_to_hand_to_the_ledger() -> None:
    bench, member = make_shared_bench()
    decision = recovery_of(bench, member)
    for group in (FLEET, PUMPS):
        for owner in owner_keys(group)[:2]:
            assert not decision.is_signed or group == PUMPS
            decision = decode_recovery_decision(decision.encode()).signed_by(owner, [group])
    assert decision.is_signed
    bench.apply(submit(bench, decision.body()))
    assert bench.refusal(submit(bench, decision.claim())).rule == "did.waiting"
    wait(bench, RECOVERY_DELAY_MS)
    state = bench.apply(submit(bench, decision.claim()))
    record = state.subject(member.did)
    assert record is not None
    assert (record.keys, record.next_keys) == (decision.keys, decision.next_keys)


def test_governance_decides_about_a_publisher() -> None:
    bench = make_bench()
    decision = recovery_of(bench, bench.lab.publisher, governed=True)
    for key in bench.lab.governance[:2]:
        decision = decision.signed_by(key)
    bench.apply(submit(bench, decision.body()))


def test_who_owns_several_groups_says_for_which() -> None:
    bench, member = make_shared_bench()
    decision = recovery_of(bench, member)
    owner = owner_keys(FLEET)[0]
    for groups in ([], ["nowhere"], [FLEET, "nowhere"]):
        with pytest.raises(PolicyError, match="name groups you own"):
            decision.signed_by(owner, groups)
    with pytest.raises(PolicyError, match="signed for 'fleet' before"):
        decision.signed_by(owner, [FLEET]).signed_by(owner, [FLEET])


def test_keys_exchanged_on_the_way_are_noticed() -> None:
    bench = make_bench()
    gateway = bench.lab.gateways[0]
    decision = recovery_of(bench, gateway).signed_by(owner_keys(FLEET)[0])
    raw = decision.encode()
    value = decode_canonical(raw, bytes_max=RECOVERY_DECISION_BYTES_MAX)
    assert isinstance(value, dict)
    other = recovery_of(bench, bench.lab.gateways[1])
    swapped: Any = decode_canonical(other.encode(), bytes_max=RECOVERY_DECISION_BYTES_MAX)
    changes: list[dict[int, Any]] = [
        {0: 2}, {2: 1}, {3: 1}, {4: "did.rotate"}, {5: swapped[5]}, {6: swapped[6]},
        {7: bytes(32)}, {9: 9}, {10: 9}, {11: []}, {11: [["pumps", bytes(32)]]}, {12: []},
        {12: [[], []]}, {12: [[b"\x80"]]}, {13: 0}, {-1: 0},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(EncodingError):
            decode_recovery_decision(encode_canonical({**value, **change}))
    assert decode_recovery_decision(raw) == decision
    # Signatures of other keys are the ledger's to refuse.
    forged = replace(decision, signatures=other.signatures)
    forged = forged.signed_by(owner_keys(FLEET)[1])
    assert bench.refusal(submit(bench, forged.body())).rule == "did.signature"
