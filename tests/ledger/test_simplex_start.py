"""Starting: the question, what the journal restores, and when a key is halted (C80 to C85)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.consensus_messages import (
    CertificateMessage,
    NewestVoteAnswer,
    NewestVoteQuery,
    Propose,
    Status,
    VoteMessage,
)
from ledger.simplex.interface import (
    ALL,
    Durable,
    Halt,
    PeerConnected,
    Persist,
    Record,
    RecordKind,
    Send,
    Start,
    TimerFired,
)
from ledger.vote import Vote, VoteKind
from protocol.errors import LocalProtocolError, RemoteProtocolError
from tests.support.consensus import NONCE, Bench, Network, of_type, sent, sent_votes

NETWORK = Network(4)
N, U, F = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
BLOCK = NETWORK.block(1)


def vote_record(vote: Vote) -> Record:
    return Record(RecordKind.VOTE, vote.epoch, vote.view, vote.encode())


def block_record() -> Record:
    return Record(RecordKind.BLOCK, 1, 1, BLOCK.encode())


def test_a_start_asks_all_others_and_tells_where_it_stands() -> None:
    bench = Bench(NETWORK, answered=False, pending=False)
    sends = of_type(bench.log, Send)
    assert [send.to for send in sends] == [ALL, ALL]
    assert sends[0].message == NewestVoteQuery(NONCE)
    assert sends[1].message == Status(1, 1, None)


@pytest.mark.parametrize("count", [4, 5, 7])
def test_no_vote_before_q_minus_one_answers(count: int) -> None:
    network = Network(count)
    bench = Bench(network, answered=False)
    block = network.block(1)
    assert bench.accept(bench.receive(1, Propose(block))) == []
    for peer in range(1, network.validators.quorum):
        assert not bench.engine.may_vote
        effects = bench.receive(peer, network.answer(0, peer))
    assert bench.engine.may_vote
    assert len(sent_votes(bench.accept(effects), N)) == 1


def test_nothing_is_nullified_while_the_question_is_open() -> None:
    bench = Bench(NETWORK, answered=False)
    for _ in range(20):
        assert bench.engine.deadline is not None
        bench.now = max(bench.now, bench.engine.deadline)
        bench.feed(TimerFired())
    assert of_type(bench.log, Persist) == []


def test_one_validator_cannot_answer_twice() -> None:
    bench = Bench(NETWORK, answered=False)
    for _ in range(3):
        bench.receive(1, NETWORK.answer(0, 1))
    assert not bench.engine.may_vote


def test_an_answer_to_an_earlier_start_does_not_count() -> None:
    bench = Bench(NETWORK, answered=False)
    for peer in (1, 2, 3):
        bench.receive(peer, NETWORK.answer(0, peer, nonce=b"o" * 32))
    assert not bench.engine.may_vote


@pytest.mark.parametrize(
    "answer",
    [
        NETWORK.answer(0, 2),
        NETWORK.answer(3, 1),
        replace(NETWORK.answer(0, 1), signature=bytes(64)),
        NETWORK.answer(0, 1, NETWORK.vote(U, 3, 2)),
        NETWORK.answer(0, 1, replace(NETWORK.vote(U, 3, 0), view=4)),
    ],
    ids=["another's answer", "another's question", "forged", "another's vote", "forged vote"],
)
def test_invalid_answers_are_refused(answer: NewestVoteAnswer) -> None:
    bench = Bench(NETWORK, answered=False)
    with pytest.raises(RemoteProtocolError):
        bench.receive(1, answer)
    assert bench.engine.halted is None


def test_the_question_is_repeated_to_those_who_did_not_answer() -> None:
    bench = Bench(NETWORK, answered=False, pending=False)
    bench.receive(2, NETWORK.answer(0, 2))
    bench.log.clear()
    bench.now += 2.0
    bench.feed(TimerFired())
    asked = [s.to for s in of_type(bench.log, Send) if isinstance(s.message, NewestVoteQuery)]
    assert asked == [1, 3]
    bench.log.clear()
    bench.feed(PeerConnected(3))
    bench.feed(PeerConnected(2))
    asked = [s.to for s in of_type(bench.log, Send) if isinstance(s.message, NewestVoteQuery)]
    assert asked == [3]


def test_a_waiting_validator_answers_others() -> None:
    """So a network whose validators all start at once gets going."""
    bench = Bench(NETWORK, answered=False)
    answers = sent(bench.receive(2, NewestVoteQuery(b"q" * 32)), NewestVoteAnswer)
    assert len(answers) == 1
    assert (answers[0].asker, answers[0].answerer, answers[0].vote) == (2, 0, None)


def test_the_answer_names_the_newest_vote() -> None:
    bench = Bench(NETWORK)
    votes = [NETWORK.vote(U, 1, 2), NETWORK.vote(N, 3, 2, BLOCK.block_id), NETWORK.vote(U, 2, 2)]
    bench.votes(*votes)
    answers = sent(bench.receive(2, NewestVoteQuery(NONCE)), NewestVoteAnswer)
    assert answers[0].vote == votes[1]


def test_the_answer_remembers_votes_of_the_final_certificate_after_a_restart() -> None:
    final = NETWORK.certificate(F, 1, BLOCK.block_id, (1, 2, 3))
    bench = Bench(NETWORK, final=BLOCK.header, certificate=final)
    answers = sent(bench.receive(2, NewestVoteQuery(NONCE)), NewestVoteAnswer)
    assert answers[0].vote == NETWORK.vote(F, 1, 2, BLOCK.block_id)


# -- halting -------------------------------------------------------------------------------------


def assert_halted(bench: Bench) -> None:
    """The key is silent for ever, and the journal says so."""
    assert bench.records[-1].kind is RecordKind.HALT
    assert_silent(bench)
    again = Bench(NETWORK, records=tuple(bench.records))
    assert again.engine.halted == bench.engine.halted
    assert not again.engine.may_vote


def assert_silent(bench: Bench) -> None:
    """Nothing makes the engine vote."""
    assert bench.engine.halted is not None
    assert len(of_type(bench.log, Halt)) == 1
    bench.log.clear()
    bench.answer_question()
    bench.receive(1, Propose(BLOCK))
    bench.votes(*(NETWORK.vote(U, 1, signer) for signer in (1, 2, 3)))
    for _ in range(10):
        bench.now += 30.0
        bench.feed(TimerFired())
    assert sent(bench.log, VoteMessage) == []


def test_an_unknown_newer_vote_in_an_answer_halts() -> None:
    bench = Bench(NETWORK, answered=False)
    bench.receive(1, NETWORK.answer(0, 1, NETWORK.vote(U, 1, 0)))
    assert_halted(bench)


@pytest.mark.parametrize("missing", [U, F])
def test_a_later_vote_of_the_same_view_halts(missing: VoteKind) -> None:
    """The copy holds the first vote of the view and lacks the second."""
    first = NETWORK.vote(N, 1, 0, BLOCK.block_id)
    second = NETWORK.vote(missing, 1, 0, None if missing is U else BLOCK.block_id)
    bench = Bench(NETWORK, records=(block_record(), vote_record(first)), answered=False)
    bench.receive(1, NETWORK.answer(0, 1, second))
    assert_halted(bench)


def test_a_vote_that_the_journal_holds_does_not_halt() -> None:
    vote = NETWORK.vote(N, 1, 0, BLOCK.block_id)
    bench = Bench(NETWORK, records=(block_record(), vote_record(vote)), answered=False)
    bench.receive(1, NETWORK.answer(0, 1, vote))
    bench.receive(2, NETWORK.answer(0, 2))
    assert bench.engine.may_vote


def test_a_vote_below_what_is_final_does_not_halt_a_pruned_journal() -> None:
    final = NETWORK.certificate(F, 1, BLOCK.block_id)
    newest = vote_record(NETWORK.vote(U, 2, 0))
    bench = Bench(NETWORK, records=(newest,), final=BLOCK.header, certificate=final, answered=False)
    bench.receive(1, NETWORK.answer(0, 1, NETWORK.vote(N, 1, 0, BLOCK.block_id)))
    assert bench.engine.halted is None


def test_a_lost_journal_beside_an_intact_ledger_halts() -> None:
    final = NETWORK.certificate(F, 1, BLOCK.block_id)
    bench = Bench(NETWORK, final=BLOCK.header, certificate=final, answered=False)
    bench.receive(1, NETWORK.answer(0, 1, NETWORK.vote(N, 1, 0, BLOCK.block_id)))
    assert_halted(bench)


def test_a_foreign_vote_in_a_message_halts() -> None:
    """Two daemons with one key are the usual cause of equivocation."""
    bench = Bench(NETWORK)
    bench.receive(2, VoteMessage(NETWORK.vote(U, 1, 0)))
    assert_halted(bench)


def test_a_foreign_vote_in_a_certificate_halts() -> None:
    bench = Bench(NETWORK)
    bench.receive(2, CertificateMessage(NETWORK.certificate(U, 1, None, (0, 1, 2))))
    assert bench.engine.view == 2, "a halted validator still follows"
    assert_halted(bench)


def test_a_forged_vote_under_our_key_does_not_halt() -> None:
    bench = Bench(NETWORK)
    with pytest.raises(RemoteProtocolError):
        bench.receive(2, VoteMessage(replace(NETWORK.vote(U, 1, 0), signature=bytes(64))))
    assert bench.engine.halted is None


def test_votes_that_wait_for_the_disk_are_dropped_by_a_halt() -> None:
    bench = Bench(NETWORK, durable=False)
    effects = bench.accept(bench.receive(1, Propose(BLOCK)))
    (write,) = of_type(effects, Persist)
    bench.receive(2, VoteMessage(NETWORK.vote(U, 5, 0)))
    assert sent(bench.feed(Durable(write.sequence)), VoteMessage) == []


def test_a_damaged_journal_halts_from_the_start() -> None:
    bench = Bench(NETWORK, halted="journal is damaged", answered=False)
    assert_silent(bench)
    assert of_type(bench.log, Persist) == [], "there is no journal to write to"


@pytest.mark.parametrize(
    "record",
    [
        Record(RecordKind.VOTE, 1, 1, b"garbage"),
        vote_record(replace(NETWORK.vote(U, 1, 0), view=2)),
        vote_record(NETWORK.vote(U, 1, 1)),
        Record(RecordKind.BLOCK, 1, 1, BLOCK.encode()[:-1]),
        Record(RecordKind.CERTIFICATE, 1, 1, b""),
        Record(RecordKind.CERTIFICATE, 1, 1, replace(NETWORK.certificate(U, 1), view=2).encode()),
    ],
)
def test_a_journal_with_a_rotten_record_halts(record: Record) -> None:
    """SQLite does not check content; a vote that cannot be read may be the one that matters."""
    good = vote_record(NETWORK.vote(U, 1, 0))
    bench = Bench(NETWORK, records=(record, good), answered=False)
    assert_halted(bench)


# -- what the journal restores -------------------------------------------------------------------


def test_a_restart_goes_on_in_the_newest_view_voted_in() -> None:
    bench = Bench(NETWORK, records=(vote_record(NETWORK.vote(U, 4, 0)),))
    assert bench.engine.view == 4


def test_restored_votes_are_sent_again_and_not_contradicted() -> None:
    vote = NETWORK.vote(N, 1, 0, BLOCK.block_id)
    bench = Bench(NETWORK, records=(block_record(), vote_record(vote)))
    other = NETWORK.block(1, transactions=(b"other",))
    bench.accept(bench.receive(1, Propose(other)))
    bench.now += 1.5
    bench.feed(TimerFired())
    assert set(sent_votes(bench.log, N)) == {vote}
    bench.now += 9.0
    bench.feed(TimerFired())
    assert len(sent_votes(bench.log, U)) == 1, "nullify after notarize is allowed"


def test_restored_certificates_and_blocks_make_the_chain_available() -> None:
    """A power loss of all validators must not lose a block that one may have finalized."""
    first = Bench(NETWORK)
    first.accept(first.receive(1, Propose(BLOCK)))
    first.votes(*(NETWORK.vote(N, 1, signer, BLOCK.block_id) for signer in (1, 2)))
    assert sent_votes(first.log, F) != []
    again = Bench(NETWORK, records=tuple(first.records))
    assert again.engine.view == 2
    again.votes(*(NETWORK.vote(F, 1, signer, BLOCK.block_id) for signer in (1, 2)))
    assert again.engine.final == BLOCK.header


def test_records_of_another_epoch_are_not_ours() -> None:
    bench = Bench(NETWORK, records=(vote_record(NETWORK.vote(U, 9, 0, None, epoch=2)),))
    assert bench.engine.view == 1


def test_an_engine_is_started_once_and_first() -> None:
    bench = Bench(NETWORK)
    with pytest.raises(LocalProtocolError):
        bench.feed(Start(records=(), final=NETWORK.genesis, certificate=None, nonce=NONCE))
    fresh = Bench.__new__(Bench)
    fresh.engine = type(bench.engine)(
        chain=bench.engine._chain_id,
        era=1,
        validators=NETWORK.validators,
        index=0,
        signer=NETWORK.signers[0],
        verifier=NETWORK.verifier,
    )
    assert fresh.engine.deadline is None
    with pytest.raises(LocalProtocolError):
        fresh.engine.handle(TimerFired(), 0.0)


def test_a_start_in_another_epoch_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="epoch"):
        Bench(NETWORK, final=replace(NETWORK.genesis, epoch=2))
