"""Helping those behind: status, wants, answers, budgets (C90 to C96)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.consensus_messages import (
    Blocks,
    CertificateMessage,
    Message,
    NewestVoteAnswer,
    NewestVoteQuery,
    Propose,
    Status,
    VoteMessage,
    Want,
)
from ledger.simplex.budget import BUDGET_BYTES_MAX, BUDGET_BYTES_PER_S, Budget
from ledger.simplex.interface import Commit, PeerConnected, Send, Serve, TimerFired
from ledger.vote import VoteKind
from protocol.digest import BlockId, sha256
from protocol.errors import RemoteProtocolError
from tests.support.consensus import Bench, Network, of_type, sent, sent_votes

NETWORK = Network(4)
N, U, F = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
CHAIN_OF_THREE = [NETWORK.block(1)]
for number in (2, 3):
    CHAIN_OF_THREE.append(NETWORK.block(number, CHAIN_OF_THREE[-1].header))
FIRST, SECOND, THIRD = CHAIN_OF_THREE
FINAL_1, FINAL_3 = (NETWORK.certificate(F, b.header.view, b.block_id) for b in (FIRST, THIRD))


def ahead(index: int = 0) -> Bench:
    """An engine whose first block is final, in view 4 with two skipped views."""
    bench = Bench(NETWORK, index=index)
    bench.accept(bench.receive(1, Propose(FIRST)))
    bench.receive(1, CertificateMessage(FINAL_1))
    for view in (2, 3):
        bench.receive(1, CertificateMessage(NETWORK.certificate(U, view)))
    return bench


def test_status_from_one_behind_is_answered_with_what_lifts_it() -> None:
    effects = ahead().receive(3, Status(1, 1, None))
    certificates = [item.certificate for item in sent(effects, CertificateMessage)]
    assert certificates == [FINAL_1, NETWORK.certificate(U, 3)]


def test_status_from_an_equal_is_not_answered() -> None:
    assert ahead().receive(3, Status(1, 4, FINAL_1)) == []


def test_status_from_one_ahead_is_answered_with_ours_not_too_often() -> None:
    bench = Bench(NETWORK)
    assert sent(bench.receive(3, Status(1, 9, None)), Status) == [Status(1, 1, None)]
    for _ in range(100):
        assert bench.receive(3, Status(1, 9, None)) == []
    bench.now += 0.3
    assert sent(bench.receive(3, Status(1, 9, None)), Status) != []


def test_two_engines_do_not_answer_each_other_for_ever() -> None:
    one, two = Bench(NETWORK), ahead(2)
    queue: list[tuple[Bench, int, Message]] = [(two, 0, Status(1, 1, None))]
    count = 0
    while queue:
        target, source, message = queue.pop(0)
        count += 1
        assert count < 20
        effects = target.receive(source, message)
        queue += [
            (one if send.to == 0 else two, target.index, send.message)
            for send in of_type(effects, Send)
            if send.to in (0, 2)
        ]
    assert one.engine.view == two.engine.view == 4


def test_status_of_another_epoch_says_nothing() -> None:
    assert ahead().receive(3, Status(2, 1, None)) == []


def test_a_new_stream_is_told_where_we_stand() -> None:
    (send,) = of_type(ahead().feed(PeerConnected(2)), Send)
    assert (send.to, send.message) == (2, Status(1, 4, FINAL_1))


def test_a_vote_far_ahead_makes_us_tell_where_we_are() -> None:
    effects = Bench(NETWORK).votes(NETWORK.vote(U, 50, 2))
    assert sent(effects, Status) == [Status(1, 1, None)]


# -- wants ---------------------------------------------------------------------------------------


def test_wanted_certificates_are_sent() -> None:
    effects = ahead().receive(3, Want((1, 2, 9)))
    certificates = [item.certificate for item in sent(effects, CertificateMessage)]
    assert certificates == [FINAL_1, NETWORK.certificate(U, 2)]


def test_own_votes_stand_in_for_a_certificate_nobody_holds() -> None:
    bench = Bench(NETWORK)
    bench.now += 2.0
    bench.feed(TimerFired())
    votes = [item.vote for item in sent(bench.receive(3, Want((1,))), VoteMessage)]
    assert [(vote.kind, vote.signer) for vote in votes] == [(U, 0)]


def test_wanted_blocks_come_from_memory_or_from_the_store() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, Propose(FIRST))
    unknown = BlockId(sha256(b"unknown"))
    effects = bench.receive(3, Want((), (FIRST.block_id, unknown)))
    assert sent(effects, Blocks) == [Blocks((FIRST,))]
    (serve,) = of_type(effects, Serve)
    assert (serve.to, serve.after, serve.block_ids) == (3, None, (unknown,))


def test_wanted_final_blocks_come_from_the_store() -> None:
    (serve,) = of_type(ahead().receive(3, Want((), (), 0)), Serve)
    assert (serve.to, serve.after) == (3, 0)
    assert ahead().receive(3, Want((), (), 1)) == [], "we have nothing above height 1"


def test_a_peer_has_a_byte_budget() -> None:
    """Pitfall: rebroadcasting that grows faster than the link."""
    bench = ahead()
    served = sum(
        effect.bytes_max
        for _ in range(1000)
        for effect in of_type(bench.receive(3, Want((), (), 0)), Serve)
    )
    assert served <= BUDGET_BYTES_MAX
    assert of_type(bench.receive(2, Want((), (), 0)), Serve) != [], "others have their own"
    bench.now += 10.0
    assert of_type(bench.receive(3, Want((), (), 0)), Serve) != []


@pytest.mark.slow
def test_questions_and_certificates_are_charged_too() -> None:
    bench = ahead()
    answers = sum(
        len(sent(bench.receive(3, NewestVoteQuery(bytes(32))), NewestVoteAnswer))
        for _ in range(20_000)
    )
    assert answers <= BUDGET_BYTES_MAX // 160
    assert sent(bench.receive(3, Want((1, 2, 3))), CertificateMessage) == []


def test_budget_refills_to_its_bound() -> None:
    budget = Budget(2)
    assert budget.take(0, BUDGET_BYTES_MAX, 0.0)
    assert not budget.take(0, 1, 0.0)
    assert budget.take(1, BUDGET_BYTES_MAX, 0.0)
    assert budget.take(0, BUDGET_BYTES_PER_S // 2, 0.5)
    assert not budget.take(0, BUDGET_BYTES_MAX + 1, 1e9)
    assert budget.take(0, BUDGET_BYTES_MAX, 1e9)


# -- catching up ---------------------------------------------------------------------------------


def test_a_final_certificate_without_its_block_asks_its_sender() -> None:
    bench = Bench(NETWORK)
    effects = bench.receive(3, CertificateMessage(FINAL_3))
    (send,) = of_type(effects, Send)
    assert (send.to, send.message) == (3, Want((), (THIRD.block_id,), 0))
    assert bench.engine.view == 4
    effects = bench.receive(3, Blocks(tuple(CHAIN_OF_THREE), FINAL_3))
    assert of_type(effects, Commit)[0].blocks == tuple(CHAIN_OF_THREE)


def test_an_earlier_certified_part_is_committed_and_the_rest_asked_for_at_once() -> None:
    bench = Bench(NETWORK)
    bench.receive(3, CertificateMessage(FINAL_3))
    effects = bench.receive(3, Blocks((FIRST,), FINAL_1))
    assert of_type(effects, Commit)[0].blocks == (FIRST,)
    assert sent(effects, Want) == [Want((), (THIRD.block_id,), 1)]


def test_a_gap_below_a_certified_block_is_asked_for_by_id() -> None:
    bench = Bench(NETWORK)
    bench.receive(3, CertificateMessage(FINAL_3))
    effects = bench.receive(3, Blocks((SECOND, THIRD), FINAL_3))
    assert sent(effects, Want) == [Want((), (FIRST.block_id,))]
    effects = bench.receive(3, Blocks((FIRST,)))
    assert of_type(effects, Commit)[0].blocks == tuple(CHAIN_OF_THREE)


def test_wants_go_to_the_next_validator_after_a_pause() -> None:
    bench = Bench(NETWORK)
    bench.receive(3, CertificateMessage(FINAL_3))
    asked = []
    for _ in range(3):
        bench.now += 1.0
        sends = of_type(bench.feed(TimerFired()), Send)
        asked += [item.to for item in sends if isinstance(item.message, Want)]
    assert asked == [1, 2, 3]


def test_blocks_that_were_not_asked_for_are_not_kept() -> None:
    bench = Bench(NETWORK)
    bench.receive(3, Blocks((SECOND,)))
    assert bench.engine._chain.blocks == {}


@pytest.mark.parametrize(
    "answer",
    [
        Blocks((), FINAL_3),
        Blocks((FIRST, SECOND), FINAL_3),
        Blocks((FIRST, THIRD), FINAL_3),
        Blocks((FIRST, SECOND, THIRD), replace(FINAL_3, signatures=FINAL_3.signatures[::-1])),
        Blocks((THIRD,), NETWORK.certificate(N, 3, THIRD.block_id)),
    ],
    ids=["empty", "wrong end", "gap", "forged", "notarize"],
)
def test_bad_answers_are_refused_without_a_trace(answer: Blocks) -> None:
    bench = Bench(NETWORK)
    with pytest.raises(RemoteProtocolError):
        bench.receive(3, answer)
    assert bench.engine._chain.blocks == {}
    assert bench.engine.final == NETWORK.genesis


def test_an_old_answer_changes_nothing() -> None:
    bench = ahead()
    assert of_type(bench.receive(3, Blocks((FIRST,), FINAL_1)), Commit) == []


@pytest.mark.parametrize(
    "message",
    [
        VoteMessage(replace(NETWORK.vote(U, 1, 2), signature=bytes(64))),
        VoteMessage(replace(NETWORK.vote(U, 1, 2), signer=9)),
        VoteMessage(replace(NETWORK.vote(U, 1, 2), view=2)),
        CertificateMessage(replace(NETWORK.certificate(U, 1), view=2)),
        CertificateMessage(replace(NETWORK.certificate(U, 1), bitmap=b"\x0f")),
        CertificateMessage(replace(FINAL_1, kind=N)),
        Status(1, 4, replace(FINAL_1, signatures=FINAL_1.signatures[::-1])),
        Propose(SECOND),
        Propose(NETWORK.block(1, era=2)),
    ],
    ids=lambda item: type(item).__name__,
)
def test_invalid_messages_are_refused_without_a_trace(message: Message) -> None:
    """Each state of the engine refuses them and stays as it was."""
    for bench in (Bench(NETWORK), Bench(NETWORK, answered=False), ahead()):
        engine = bench.engine
        before = (engine.view, engine.final, engine.may_vote, sorted(engine._views))
        counts = [len(state.votes) for state in engine._views.values()]
        try:
            effects = bench.receive(3, message)
        except RemoteProtocolError:
            effects = []
        else:
            assert engine.view > 1, "only what is final already may be ignored"
        assert sent_votes(effects, N) == []
        assert before == (engine.view, engine.final, engine.may_vote, sorted(engine._views))
        assert counts == [len(state.votes) for state in engine._views.values()]


@pytest.mark.parametrize("epoch", [0, 2])
def test_votes_and_certificates_of_another_epoch_are_ignored(epoch: int) -> None:
    bench = Bench(NETWORK)
    assert bench.votes(NETWORK.vote(U, 1, 2, None, epoch)) == []
    certificate = replace(NETWORK.certificate(U, 1), epoch=epoch)
    assert bench.receive(2, CertificateMessage(certificate)) == []
    assert bench.engine.view == 1
