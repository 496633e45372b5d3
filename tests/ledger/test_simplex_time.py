"""Timers, idle mode, repetition, time rule (C52, C60 to C66)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.consensus_messages import CertificateMessage, Propose, Status, VoteMessage
from ledger.simplex.interface import (
    Build,
    Parameters,
    Persist,
    TimerFired,
    TransactionsPending,
)
from ledger.simplex.pace import Pace
from ledger.simplex.rules import (
    AHEAD_MS_MAX,
    FUTURE_MS_MAX,
    PAST_MS_MAX,
    proposal_time_ms,
    skipped_views,
    verify_time,
)
from ledger.vote import VoteKind
from protocol.errors import VerificationError
from protocol.limits import BLOCK_INTERVAL_MS_MIN, BLOCK_SKIPS_MAX
from tests.support.consensus import TIME_MS, Bench, Network, of_type, sent, sent_votes

NETWORK = Network(4)
N, U, F = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
BLOCK = NETWORK.block(1)


def run(bench: Bench, seconds: float) -> None:
    """Feeds the timer at every deadline; fails if the engine asks for one without end."""
    end = bench.now + seconds
    for _ in range(10_000):
        deadline = bench.engine.deadline
        if deadline is None or deadline > end:
            bench.now = end
            return
        bench.now = max(bench.now, deadline)
        bench.feed(TimerFired())
    raise AssertionError("the engine's deadline does not move on")


def test_no_proposal_is_nullified_after_two_delta() -> None:
    bench = Bench(NETWORK)
    run(bench, 1.9)
    assert sent_votes(bench.log, U) == []
    run(bench, 0.2)
    assert [vote.view for vote in sent_votes(bench.log, U)][:1] == [1]


def test_a_proposal_without_certificate_is_nullified_after_three_delta() -> None:
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    run(bench, 2.9)
    assert sent_votes(bench.log, U) == []
    run(bench, 0.2)
    assert sent_votes(bench.log, U) != []


def test_a_verdict_that_never_comes_delays_and_times_out() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, Propose(BLOCK))
    run(bench, 2.9)
    assert of_type(bench.log, Persist) == []
    run(bench, 0.2)
    assert sent_votes(bench.log, U) != []


def test_a_leader_that_nullifies_is_followed_at_once() -> None:
    bench = Bench(NETWORK)
    assert sent_votes(bench.votes(NETWORK.vote(U, 1, 3)), U) == []
    assert len(sent_votes(bench.votes(NETWORK.vote(U, 1, 1)), U)) == 1


def test_no_view_passes_without_a_certificate() -> None:
    """A week of partition costs neither views nor writes."""
    bench = Bench(NETWORK)
    run(bench, 3600.0)
    assert bench.engine.view == 1
    assert len(bench.records) == 1
    assert len(bench.engine._views) == 1


def test_repetition_slows_down_and_starts_again_after_progress() -> None:
    bench = Bench(NETWORK)
    run(bench, 100.0)
    bench.log.clear()
    run(bench, 100.0)
    assert 9 <= len(sent(bench.log, Status)) <= 11
    bench.receive(1, CertificateMessage(NETWORK.certificate(U, 1)))
    bench.log.clear()
    run(bench, 2.6)
    assert len(sent(bench.log, Status)) == 2


def test_only_votes_entry_certificate_and_status_are_repeated() -> None:
    """Pitfall: unsynchronised state that is rebroadcast grows faster than the link."""
    bench = Bench(NETWORK)
    for view in range(1, 40):
        bench.receive(1, CertificateMessage(NETWORK.certificate(U, view)))
    run(bench, 60.0)
    bench.log.clear()
    bench.now += 20.0
    bench.feed(TimerFired())
    entry = CertificateMessage(NETWORK.certificate(U, 39))
    assert sent(bench.log, CertificateMessage) == [entry]
    assert [(vote.kind, vote.view) for vote in sent_votes(bench.log, U)] == [(U, 40)]
    assert len(sent(bench.log, Status)) == 1


def test_a_leader_repeats_its_proposal_only_to_those_who_did_not_vote() -> None:
    bench = Bench(NETWORK, index=1)
    bench.built(1, BLOCK)
    bench.votes(NETWORK.vote(N, 1, 2, BLOCK.block_id))
    bench.log.clear()
    run(bench, 1.1)
    assert len(sent(bench.log, Propose)) == 2


def test_certificates_are_not_rebroadcast_as_they_arise() -> None:
    """Pitfall: with everybody repeating, n = 32 would cost 4,000 messages for a block."""
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.votes(*(NETWORK.vote(N, 1, signer, BLOCK.block_id) for signer in (1, 2, 3)))
    bench.votes(*(NETWORK.vote(F, 1, signer, BLOCK.block_id) for signer in (1, 2, 3)))
    assert bench.engine.final == BLOCK.header
    assert sent(bench.log, CertificateMessage) == []
    assert len(sent(bench.log, VoteMessage)) == 2


# -- growth of patience --------------------------------------------------------------------------


def test_delta_grows_with_the_distance_to_the_final_block_and_is_bounded() -> None:
    pace = Pace(Parameters(), 4, 0.0)
    assert [pace.delta_s(lead) for lead in (1, 2, 3, 4)] == [1.0, 1.0, 1.5, 2.25]
    assert pace.delta_s(50) == pace.delta_s(10**9) == 20.0


def test_patience_is_reset_by_a_final_block_only() -> None:
    bench = Bench(NETWORK)
    for view in range(1, 7):
        bench.receive(1, CertificateMessage(NETWORK.certificate(U, view)))
    assert bench.engine._patience_s() == pytest.approx(2 * 1.5**5)
    skips = [NETWORK.certificate(U, view) for view in range(1, 7)]
    block = NETWORK.block(7, skips=skips)
    bench.accept(bench.receive(3, Propose(block)))
    bench.receive(3, CertificateMessage(NETWORK.certificate(N, 7, block.block_id)))
    assert bench.engine._patience_s() == pytest.approx(2 * 1.5**6), "notarized is not final"
    bench.receive(3, CertificateMessage(NETWORK.certificate(F, 7, block.block_id)))
    assert bench.engine._patience_s() == 2.0


def test_a_silent_leader_is_skipped_while_a_quorum_is_heard() -> None:
    pace = Pace(Parameters(silence_s=10.0), 4, 0.0)
    for peer in (2, 3):
        pace.note_heard(peer, 9.0)
    assert not pace.is_silent(1, 3, 0, 9.5), "not long enough"
    assert pace.is_silent(1, 3, 0, 11.0)
    assert not pace.is_silent(1, 3, 0, 30.0), "nobody is heard: it is us who are cut off"
    pace.note_heard(1, 11.5)
    assert not pace.is_silent(1, 3, 0, 12.0)


def test_an_engine_skips_a_silent_leader() -> None:
    bench = Bench(NETWORK, pending=False)
    bench.now += 20.0
    bench.receive(1, Status(1, 1, None))
    effects = bench.votes(*(NETWORK.vote(N, 2, signer, BLOCK.block_id) for signer in (2, 3)))
    assert len(sent_votes(effects, U)) == 1, "its status does not count: halted, it cannot lead"


# -- idle ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [0, 1])
def test_an_idle_engine_does_nothing_until_the_heartbeat(index: int) -> None:
    bench = Bench(NETWORK, index=index, pending=False)
    run(bench, 2.0)
    bench.log.clear()
    run(bench, 590.0)
    assert bench.log == []
    assert bench.engine.deadline == 100.0 + 600.0
    run(bench, 9.0)
    assert (of_type(bench.log, Build) != []) is (index == 1)


def test_pending_transactions_wake_and_their_end_lulls() -> None:
    bench = Bench(NETWORK, index=1, pending=False)
    assert of_type(bench.feed(TransactionsPending(True)), Build) != []
    other = Bench(NETWORK, index=0, pending=False)
    other.feed(TransactionsPending(True))
    other.feed(TransactionsPending(False))
    run(other, 500.0)
    assert other.records == []


def test_one_liar_does_not_keep_the_chain_awake() -> None:
    bench = Bench(NETWORK, index=1, pending=False)
    for view in (1, 2, 3):
        bench.votes(NETWORK.vote(U, view, 3))
    assert of_type(bench.log, Build) == []
    bench.votes(NETWORK.vote(U, 1, 2))
    assert of_type(bench.log, Build) != [], "f + 1 include an honest one with a reason"


def test_a_proposal_wakes_a_voter() -> None:
    bench = Bench(NETWORK, pending=False)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    assert len(sent_votes(bench.log, N)) == 1
    run(bench, 4.0)
    assert sent_votes(bench.log, U) != []


def test_a_notarized_block_keeps_awake_until_it_is_final() -> None:
    bench = Bench(NETWORK, pending=False)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.receive(1, CertificateMessage(NETWORK.certificate(N, 1, BLOCK.block_id)))
    run(bench, 1.5)
    assert len(sent_votes(bench.log, F)) == 2, "the finalize vote is repeated"
    bench.receive(1, CertificateMessage(NETWORK.certificate(F, 1, BLOCK.block_id)))
    bench.log.clear()
    run(bench, 500.0)
    assert bench.log == []


# -- header time ---------------------------------------------------------------------------------

PARENT = NETWORK.genesis


@pytest.mark.parametrize(
    ("time_ms", "now_ms", "valid"),
    [
        (TIME_MS + BLOCK_INTERVAL_MS_MIN, TIME_MS, True),
        (TIME_MS + BLOCK_INTERVAL_MS_MIN - 1, TIME_MS, False),
        (TIME_MS, TIME_MS, False),
        (TIME_MS - 1, TIME_MS, False),
        (TIME_MS + FUTURE_MS_MAX, TIME_MS, True),
        (TIME_MS + FUTURE_MS_MAX + 1, TIME_MS, False),
        (TIME_MS + 1000, TIME_MS + 1000 + PAST_MS_MAX, True),
        (TIME_MS + 1000, TIME_MS + 1001 + PAST_MS_MAX, False),
        (TIME_MS + 3_600_000, TIME_MS, False),
    ],
)
def test_time_rule(time_ms: int, now_ms: int, valid: bool) -> None:
    header = replace(BLOCK.header, time_ms=time_ms)
    if valid:
        verify_time(header, PARENT, now_ms=now_ms)
    else:
        with pytest.raises(VerificationError):
            verify_time(header, PARENT, now_ms=now_ms)


@pytest.mark.parametrize("lag_ms", [-5_000, 0, 200, 3_000, 3_750, 3_751, 10_000])
def test_what_a_leader_proposes_passes_with_clocks_a_second_apart(lag_ms: int) -> None:
    now_ms = TIME_MS - lag_ms
    time_ms = proposal_time_ms(PARENT, now_ms)
    if time_ms is None:
        assert lag_ms + BLOCK_INTERVAL_MS_MIN > AHEAD_MS_MAX
        return
    header = replace(BLOCK.header, time_ms=time_ms)
    for skew_ms in (-1000, 1000):
        verify_time(header, PARENT, now_ms=now_ms + skew_ms)


def test_skip_proofs_are_bounded_and_a_longer_gap_does_not_end_the_chain() -> None:
    assert list(skipped_views(3, 4)) == []
    assert list(skipped_views(3, 6)) == [4, 5]
    newest = skipped_views(3, 5000)
    assert (newest[0], newest[-1], len(newest)) == (5000 - BLOCK_SKIPS_MAX, 4999, BLOCK_SKIPS_MAX)
