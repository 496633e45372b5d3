"""The age of knowledge: rounds of statements, and a clock that restarts cannot turn back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.catchup import Freshness, FreshnessAnswer, sign_freshness
from protocol.digest import BlockId, ChainId, sha256
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.keys import PrivateKey
from protocol.merkle import inclusion_proof, leaf_hash, merkle_root
from swarmd.freshness import (
    ASK_INTERVAL_MAX_S,
    SAVE_INTERVAL_S,
    FreshnessClock,
    FreshnessRound,
    Head,
    ValidatorKeys,
    ask_interval_s,
)

CHAIN = ChainId(sha256(b"chain"))
KEYS = [PrivateKey(sha256(b"vote key %d" % index)) for index in range(4)]
VALIDATORS = ValidatorKeys(epoch=1, keys=tuple(key.public for key in KEYS), fault_limit=1)
NONCE = b"n" * 32
BLOCK = BlockId(sha256(b"block 5"))
HEAD = Head(era=0, epoch=1, height=5, block_id=BLOCK, time_ms=1_000_000)
LAG_MS = 60_000
CONTENT = Freshness(
    era=0, validator=0, epoch=1, height=5, block_id=BLOCK, nonces=sha256(b""), time_ms=0
)


def statement(
    index: int,
    *,
    nonces: tuple[bytes, ...] = (NONCE,),
    key: PrivateKey | None = None,
    chain: ChainId = CHAIN,
    **changes: object,
) -> FreshnessAnswer:
    """What validator `index` says about a batch, of which NONCE is asked for."""
    leaves = [leaf_hash(nonce) for nonce in nonces]
    position = nonces.index(NONCE) if NONCE in nonces else 0
    content = replace(CONTENT, validator=index, nonces=merkle_root(leaves), **changes)
    signed = sign_freshness(content, key or KEYS[index % 4], chain)
    proof = inclusion_proof(leaves, position)
    return FreshnessAnswer(statements=((signed.signed.raw, position, proof, len(leaves)),))


def asked(*answers: FreshnessAnswer) -> FreshnessRound:
    question = FreshnessRound(NONCE, 10.0, VALIDATORS)
    for answer in answers:
        question.add(answer, CHAIN)
    return question


def knows(height: int) -> BlockId | None:
    return {5: BLOCK}.get(height)


def test_f_plus_one_validators_confirm() -> None:
    question = asked(statement(0), statement(1, nonces=(b"a" * 32, NONCE, b"b" * 32)))
    assert question.is_confirmed(HEAD, knows, LAG_MS)
    assert (question.answer_count, question.highest) == (2, 5)


def test_f_validators_and_one_of_them_twice_do_not() -> None:
    assert not asked().is_confirmed(HEAD, knows, LAG_MS)
    assert not asked(statement(0)).is_confirmed(HEAD, knows, LAG_MS)
    assert not asked(statement(0), statement(0, height=4), statement(0)).is_confirmed(
        HEAD, knows, LAG_MS
    )


@pytest.mark.parametrize(
    "changes",
    [{"height": 6}, {"era": 1}, {"epoch": 2}, {"block_id": BlockId(sha256(b"fork"))}],
    ids=["beyond my head", "another era", "beyond an epoch's edge", "another block at my height"],
)
def test_statements_that_contradict_my_copy_do_not_count(changes: dict[str, object]) -> None:
    answers = [statement(0)]
    second = statement(1, **changes)
    answers.append(second)
    assert not asked(*answers).is_confirmed(HEAD, knows, LAG_MS)


def test_a_height_i_no_longer_keep_counts_by_its_number() -> None:
    assert asked(statement(0, height=2), statement(1)).is_confirmed(HEAD, knows, LAG_MS)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (statement(0, key=KEYS[1]), SignatureError),
        (statement(0, chain=ChainId(sha256(b"other"))), SignatureError),
        (statement(7, key=KEYS[0]), VerificationError),
        (statement(0, nonces=(b"o" * 32,)), VerificationError),
        (FreshnessAnswer(statements=((b"junk", 0, (), 1),)), EncodingError),
    ],
    ids=["forged", "other chain", "no such validator", "replayed", "junk"],
)
def test_forgeries_are_refused_and_do_not_count(
    answer: FreshnessAnswer, error: type[VerificationError]
) -> None:
    question = asked(statement(1))
    with pytest.raises(error):
        question.add(answer, CHAIN)
    assert question.answer_count == 1
    assert not question.is_confirmed(HEAD, knows, LAG_MS)


def test_what_stands_before_a_forgery_is_taken() -> None:
    good, bad = statement(0), statement(1, key=KEYS[2])
    question = asked(statement(2))
    with pytest.raises(VerificationError):
        question.add(FreshnessAnswer(statements=good.statements + bad.statements), CHAIN)
    assert question.is_confirmed(HEAD, knows, LAG_MS)


# -- the clock ---------------------------------------------------------------------------------


def test_nothing_is_known_at_first() -> None:
    clock = FreshnessClock(None, now=0.0, wall_ms=0)
    assert clock.age_ms(100.0) is None
    assert not clock.is_within(10**15, 100.0)
    assert clock.save(now=100.0, wall_ms=0) is None


def test_age_counts_from_the_question_and_never_back() -> None:
    clock = FreshnessClock(None, now=0.0, wall_ms=0)
    clock.confirm(10.0)
    clock.confirm(5.0)  # an answer to an older question comes late
    assert clock.age_ms(12.5) == 2500
    assert clock.is_within(2500, 12.5)
    assert not clock.is_within(2499, 12.5)


@pytest.mark.parametrize("damage", [b"", b"junk", b"\xa0", b"\xa3\x00\x02\x01\x00\x02\x00"])
def test_a_damaged_record_means_nothing_is_known(damage: bytes) -> None:
    assert FreshnessClock(damage, now=0.0, wall_ms=0).age_ms(1.0) is None


@given(
    runs=st.lists(
        st.tuples(
            st.floats(0, 2 * SAVE_INTERVAL_S),  # how long the node runs before power fails
            st.integers(0, 2_000_000_000_000),  # where its wall clock stands then
        ),
        max_size=8,
    )
)
def test_power_cycles_only_make_it_older(runs: list[tuple[float, int]]) -> None:
    clock = FreshnessClock(None, now=0.0, wall_ms=0)
    clock.confirm(0.0)
    saved = clock.save(now=0.0, wall_ms=0)
    true_age_s = 0.0
    for run_s, wall_ms in runs:
        # Monotonic time begins anew; the service saves at start and every interval.
        clock = FreshnessClock(saved, now=0.0, wall_ms=wall_ms)
        at = 0.0
        while at <= run_s:
            saved = clock.save(now=at, wall_ms=wall_ms)
            at += SAVE_INTERVAL_S
        true_age_s += run_s
        age = clock.age_ms(run_s)
        assert age is None or age >= true_age_s * 1000  # None: its wall clock fell back


def test_crashes_right_before_each_save_do_not_stop_time() -> None:
    saved: bytes | None = FreshnessClock(None, now=0.0, wall_ms=0).save(now=0.0, wall_ms=0)
    clock = FreshnessClock(saved, now=0.0, wall_ms=0)
    clock.confirm(0.0)
    saved = clock.save(now=0.0, wall_ms=0)
    for count in range(1, 10):
        clock = FreshnessClock(saved, now=1000.0, wall_ms=0)  # 1970 at every start
        saved = clock.save(now=1000.0, wall_ms=0)
        assert clock.age_ms(1000.0 + SAVE_INTERVAL_S - 1) >= count * SAVE_INTERVAL_S * 1000


def test_time_away_counts_when_the_wall_clock_tells_and_only_once() -> None:
    clock = FreshnessClock(None, now=0.0, wall_ms=0)
    clock.confirm(0.0)
    saved = clock.save(now=0.0, wall_ms=1_000_000)
    clock = FreshnessClock(saved, now=0.0, wall_ms=1_060_000)
    assert clock.age_ms(0.0) == 60_000 + SAVE_INTERVAL_S * 1000
    # After a boot at 1970 nobody knows how long it was: nothing is known, nothing saved over.
    fallen = FreshnessClock(saved, now=0.0, wall_ms=0)
    assert fallen.age_ms(0.0) is None
    assert fallen.save(now=0.0, wall_ms=0) is None
    # A small step back is a clock being set, not a time away.
    stepped = FreshnessClock(saved, now=0.0, wall_ms=1_000_000 - 1000)
    assert stepped.age_ms(0.0) == SAVE_INTERVAL_S * 1000


def test_a_chain_that_stands_still_vouches_for_nothing() -> None:
    dated = [statement(index, time_ms=HEAD.time_ms + LAG_MS) for index in (0, 1)]
    assert asked(*dated).is_confirmed(HEAD, knows, LAG_MS)
    late = [statement(index, time_ms=HEAD.time_ms + LAG_MS + 1) for index in (0, 1)]
    assert not asked(*late).is_confirmed(HEAD, knows, LAG_MS)
    assert not asked(dated[0], late[1]).is_confirmed(HEAD, knows, LAG_MS)


def test_ask_interval() -> None:
    assert ask_interval_s(()) == ASK_INTERVAL_MAX_S
    assert ask_interval_s((72 * 3600 * 1000,)) == ASK_INTERVAL_MAX_S
    assert ask_interval_s((6000, 60_000)) == 1.0
