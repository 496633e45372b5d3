"""Checkpoints and recovery files: who may speak for the chain, and for what exactly."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.approval import Action, sign_approval
from protocol.did import SubjectKind
from protocol.digest import BlockId
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, PolicyError, SignatureError, VerificationError
from protocol.governance import (
    Checkpoint,
    Recovery,
    RecoveryPlan,
    Seat,
    checkpoint_digest,
    decode_checkpoint,
    decode_plan,
    decode_recovery,
    governance_approval,
    seat_message,
    verify_governance,
)
from protocol.group import OwnerRoot
from tests.support.strategies import CHAIN, OTHER_CHAIN, key, subject

ERA = 3
LAST = BlockId(bytes(31) + b"\x07")
GOVERNORS = sorted((key(number) for number in (700, 701, 702)), key=lambda one: one.public.raw)
ROOT = OwnerRoot(
    version=1,
    threshold=2,
    owners=tuple((one.public, f"governor {index}") for index, one in enumerate(GOVERNORS)),
)


def joins(count=4):
    made = [subject(SubjectKind.VALIDATOR, 800 + 10 * index) for index in range(count)]
    return tuple(sorted(made, key=lambda join: join.record.did))


def seats(dids, *, chain=CHAIN, era=ERA + 1, last=LAST):
    made = []
    for index, did in enumerate(dids):
        holder = key(900 + index)
        proof = holder.sign(seat_message(chain, era, did, last))
        made.append(Seat(did=did, key=holder.public, proof=proof))
    return tuple(made)


def plan(**changes):
    entering = joins()
    values = {
        "era": ERA + 1,
        "header": b"header",
        "certificate": b"certificate",
        "time_ms": 5_000,
        "seats": seats([join.record.did for join in entering]),
        "joins": entering,
    }
    return RecoveryPlan(**{**values, **changes})


def approvals(subject_digest, action, signers=GOVERNORS[:2], *, era=ERA, chain=CHAIN):
    content = governance_approval(action, subject_digest, era=era, valid_until_ms=10**12)
    return tuple(sign_approval(content, signer, chain).signed.raw for signer in signers)


def recovery(content=None, **options):
    content = content or plan()
    return Recovery(plan=content, approvals=approvals(content.digest, Action.RECOVERY, **options))


def test_a_recovery_by_the_threshold_is_believed_after_a_round_trip():
    made = recovery()
    read = decode_recovery(made.encode())
    assert read == made
    assert read.verify(ROOT, CHAIN, LAST) == ("governor 0", "governor 1")


def test_one_governance_key_recovers_nothing():
    with pytest.raises(VerificationError, match="1 valid"):
        recovery(signers=GOVERNORS[:1]).verify(ROOT, CHAIN, LAST)
    with pytest.raises(VerificationError, match="1 valid"):
        recovery(signers=[GOVERNORS[0], GOVERNORS[0]]).verify(ROOT, CHAIN, LAST)


def test_strangers_recover_nothing():
    with pytest.raises(VerificationError, match="0 valid"):
        recovery(signers=[key(41), key(42)]).verify(ROOT, CHAIN, LAST)


@pytest.mark.parametrize("change", [{"era": ERA + 1}, {"chain": OTHER_CHAIN}])
def test_consent_of_another_era_or_chain_does_not_serve(change):
    with pytest.raises(VerificationError, match="0 valid"):
        recovery(**change).verify(ROOT, CHAIN, LAST)


def test_consent_to_one_plan_does_not_serve_another():
    original = recovery()
    for change in ({"time_ms": 5_001}, {"header": b"another"}, {"seats": plan().seats[::-1]}):
        moved = Recovery(plan=plan(**change), approvals=original.approvals)
        with pytest.raises(VerificationError, match="0 valid"):
            moved.verify(ROOT, CHAIN, LAST)


def test_consent_to_a_checkpoint_is_none_to_a_recovery():
    content = plan()
    wrong = Recovery(plan=content, approvals=approvals(content.digest, Action.CHECKPOINT))
    with pytest.raises(VerificationError, match="0 valid"):
        wrong.verify(ROOT, CHAIN, LAST)


@pytest.mark.parametrize(
    "change", [{"chain": OTHER_CHAIN}, {"era": ERA}, {"last": BlockId(bytes(32))}]
)
def test_a_seat_is_taken_for_one_chain_era_and_block_only(change):
    dids = [join.record.did for join in joins()]
    content = plan(seats=seats(dids, **change))
    with pytest.raises(SignatureError, match="seat 0"):
        recovery(content).verify(ROOT, CHAIN, LAST)


def test_nobody_is_seated_twice():
    first, *rest = plan().seats
    with pytest.raises(EncodingError, match="two seats"):
        plan(seats=(first, first, *rest[1:]))
    with pytest.raises(EncodingError, match="two seats"):
        plan(seats=(first, dataclasses.replace(rest[0], key=first.key), *rest[1:]))


def test_too_few_seats_unsorted_records_and_records_of_others_are_refused():
    few = plan(seats=plan().seats[:3], joins=())
    with pytest.raises(VerificationError, match="3 seats"):
        recovery(few).verify(ROOT, CHAIN, LAST)
    with pytest.raises(PolicyError, match="3 seats"):
        Recovery(plan=few, approvals=()).signed_by(GOVERNORS[0], CHAIN)
    with pytest.raises(EncodingError, match="recovery records"):
        plan(joins=joins()[::-1])
    with pytest.raises(EncodingError, match="without a seat"):
        plan(
            joins=tuple(
                sorted(
                    (*joins(), subject(SubjectKind.VALIDATOR, 870)),
                    key=lambda join: join.record.did,
                )
            )
        )


@pytest.mark.slow
@given(st.data())
def test_an_altered_recovery_file_never_verifies(data):
    raw = recovery().encode()
    position = data.draw(st.integers(0, len(raw) - 1))
    flipped = raw[position] ^ data.draw(st.integers(1, 255))
    altered = raw[:position] + bytes((flipped,)) + raw[position + 1 :]
    try:
        read = decode_recovery(altered)
        names = read.verify(ROOT, CHAIN, LAST)
    except VerificationError:
        return
    assert read.plan == plan(), f"byte {position} changed the plan, believed by {names}"


@pytest.mark.parametrize("cut", [0, 1, 40, -1])
def test_truncated_and_extended_files_are_refused(cut):
    raw = recovery().encode()
    with pytest.raises(EncodingError):
        decode_recovery(raw[:cut])
    with pytest.raises(EncodingError):
        decode_recovery(raw + b"\x00")
    with pytest.raises(EncodingError):
        decode_plan(plan().encode()[:cut])


def test_extensions_are_refused_where_everything_is_signed():
    value = decode_canonical(plan().encode(), bytes_max=65_536)
    with pytest.raises(EncodingError, match="extensions"):
        decode_plan(encode_canonical({**value, -1: 0}))


def test_checkpoints_round_trip_and_bind_height_and_header():
    digest = checkpoint_digest(9, LAST)
    made = Checkpoint(
        header=b"header", validators=b"set", approvals=approvals(digest, Action.CHECKPOINT)
    )
    assert decode_checkpoint(made.encode()) == made
    terms = {"root": ROOT, "chain": CHAIN, "era": ERA, "action": Action.CHECKPOINT}
    names = verify_governance(made.approvals, subject=digest, **terms)
    assert names == ("governor 0", "governor 1")
    for other in (checkpoint_digest(10, LAST), checkpoint_digest(9, BlockId(bytes(32)))):
        with pytest.raises(VerificationError, match="0 valid"):
            verify_governance(made.approvals, subject=other, **terms)


def test_a_checkpoint_without_or_with_too_many_approvals_is_refused():
    for count in (0, 33):
        with pytest.raises(EncodingError, match="approvals"):
            decode_checkpoint(encode_canonical([b"header", b"set", [b"x"] * count]))


def test_a_recovery_is_drafted_seat_by_seat_and_signed_key_by_key():
    entering = {join.record.did: join for join in joins()}
    draft = Recovery(plan=plan(seats=(), joins=()), approvals=())
    for seat in plan().seats:
        draft = draft.with_seat(seat, entering[seat.did])
    assert draft.plan == plan()
    signed = draft.signed_by(GOVERNORS[0], CHAIN)
    with pytest.raises(PolicyError, match="signed"):
        signed.with_seat(plan().seats[0], None)
    with pytest.raises(PolicyError, match="already"):
        signed.signed_by(GOVERNORS[0], CHAIN)
    complete = decode_recovery(signed.signed_by(GOVERNORS[1], CHAIN).encode())
    assert complete.verify(ROOT, CHAIN, LAST) == ("governor 0", "governor 1")
