"""Views, votes, proposals, commits: one engine fed by hand (C50 to C74)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.consensus_messages import Blocks, CertificateMessage, Propose, VoteMessage, Want
from ledger.simplex.core import VIEW_WINDOW
from ledger.simplex.interface import (
    Blame,
    Build,
    Built,
    Commit,
    Durable,
    Halt,
    PeerConnected,
    Persist,
    RecordKind,
    Send,
    TimerFired,
    Verdict,
    Verify,
)
from ledger.vote import Evidence, VoteKind
from protocol.digest import BlockId, ChainId, sha256
from protocol.errors import LocalProtocolError, RemoteProtocolError
from tests.support.consensus import Bench, Network, of_type, sent, sent_votes

NETWORK = Network(4)
N, U, F = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
BLOCK = NETWORK.block(1)
OTHER = BlockId(sha256(b"other"))


def skip(view: int, signers: tuple[int, ...] = (1, 2, 3)) -> CertificateMessage:
    return CertificateMessage(NETWORK.certificate(U, view, None, signers))


def notarized(view: int, block_id: BlockId) -> CertificateMessage:
    return CertificateMessage(NETWORK.certificate(N, view, block_id))


# -- the ordinary course -------------------------------------------------------------------------


def test_from_proposal_to_final_block() -> None:
    bench = Bench(NETWORK)
    effects = bench.receive(1, Propose(BLOCK))
    assert of_type(effects, Verify) == [Verify(BLOCK, ())]
    assert len(sent_votes(bench.accept(effects), N)) == 1
    effects = bench.votes(*(NETWORK.vote(N, 1, signer, BLOCK.block_id) for signer in (1, 2)))
    assert len(sent_votes(effects, F)) == 1
    assert bench.engine.view == 2
    effects = bench.votes(*(NETWORK.vote(F, 1, signer, BLOCK.block_id) for signer in (1, 2)))
    (commit,) = of_type(effects, Commit)
    assert commit.blocks == (BLOCK,)
    assert commit.certificate.kind is F
    assert bench.engine.final == BLOCK.header


def test_a_final_block_makes_its_ancestors_final() -> None:
    child = NETWORK.block(2, BLOCK.header)
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.receive(1, notarized(1, BLOCK.block_id))
    bench.accept(bench.receive(2, Propose(child)))
    effects = bench.receive(3, CertificateMessage(NETWORK.certificate(F, 2, child.block_id)))
    (commit,) = of_type(effects, Commit)
    assert commit.blocks == (BLOCK, child)


def test_only_a_finalize_certificate_makes_final() -> None:
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    effects = bench.receive(1, notarized(1, BLOCK.block_id))
    assert of_type(effects, Commit) == []
    assert bench.engine.final == NETWORK.genesis


def test_finalize_counts_late() -> None:
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.receive(1, notarized(1, BLOCK.block_id))
    for view in (2, 3):
        bench.receive(1, skip(view))
    effects = bench.votes(*(NETWORK.vote(F, 1, signer, BLOCK.block_id) for signer in (1, 2)))
    assert of_type(effects, Commit) != []


def test_a_notarized_block_is_finalized_in_a_later_view_unless_nullified() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, skip(1))
    effects = bench.receive(1, notarized(1, BLOCK.block_id))
    assert len(sent_votes(effects, F)) == 1
    nullified = Bench(NETWORK)
    nullified.now += 2.0
    assert len(sent_votes(nullified.feed(TimerFired()), U)) == 1
    assert sent_votes(nullified.receive(1, notarized(1, BLOCK.block_id)), F) == []


def test_a_leader_extends_the_newest_notarized_block() -> None:
    bench = Bench(NETWORK, index=2)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    effects = bench.receive(1, notarized(1, BLOCK.block_id))
    assert of_type(effects, Build) == [], "not before the block interval has passed"
    bench.now += 0.25
    (build,) = of_type(bench.feed(TimerFired()), Build)
    assert (build.view, build.parent, build.ancestors) == (2, BLOCK.header, (BLOCK,))
    assert (build.parent_id, build.parent_view) == (BLOCK.block_id, 1)
    child = NETWORK.block(2, BLOCK.header)
    effects = bench.built(2, child)
    assert sent(effects, Propose) == [Propose(child)]
    assert len(sent_votes(effects, N)) == 1


def test_a_leader_proves_what_it_skips_and_sends_the_certificates_ahead() -> None:
    bench = Bench(NETWORK, index=2)
    (build,) = of_type(bench.receive(3, skip(1, (0, 1, 3))), Build)
    certificate = NETWORK.certificate(U, 1, None, (0, 1, 3))
    assert [(item.view, item.certificate) for item in build.skips] == [(1, certificate.digest)]
    effects = bench.built(2, NETWORK.block(2, skips=[certificate]))
    messages = [effect.message for effect in of_type(effects, Send)]
    assert messages.index(CertificateMessage(certificate)) < messages.index(
        Propose(NETWORK.block(2, skips=[certificate]))
    )


def test_a_leader_without_a_block_gives_up_its_view_at_once() -> None:
    bench = Bench(NETWORK, index=1)
    assert of_type(bench.log, Build) != []
    assert len(sent_votes(bench.built(1, None), U)) == 1


# -- durability ----------------------------------------------------------------------------------


def test_no_vote_leaves_before_it_is_durable() -> None:
    bench = Bench(NETWORK, durable=False)
    effects = bench.accept(bench.receive(1, Propose(BLOCK)))
    (write,) = of_type(effects, Persist)
    assert sent(effects, VoteMessage) == []
    effects = bench.feed(Durable(write.sequence))
    (send,) = [item for item in of_type(effects, Send) if isinstance(item.message, VoteMessage)]
    assert send.after == write.sequence


def test_an_own_vote_does_not_count_before_it_is_durable() -> None:
    bench = Bench(NETWORK, durable=False)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.votes(*(NETWORK.vote(N, 1, signer, BLOCK.block_id) for signer in (1, 2)))
    assert bench.engine.view == 1
    bench.feed(Durable(1))
    assert bench.engine.view == 2


def test_votes_that_are_not_durable_are_neither_repeated_nor_shown() -> None:
    bench = Bench(NETWORK, durable=False)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    for _ in range(5):
        bench.now += 0.9
        bench.feed(TimerFired())
    bench.receive(2, Want((1,)))
    assert sent(bench.log, VoteMessage) == []


def test_a_notarized_block_is_durable_with_the_vote() -> None:
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    assert [item.kind for item in bench.records] == [RecordKind.BLOCK, RecordKind.VOTE]
    assert bench.records[0].payload == BLOCK.encode()


def test_certificates_are_durable_with_the_next_vote() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, skip(1))
    assert bench.records == [], "no write without a vote"
    bench.now += 2.0
    bench.feed(TimerFired())
    assert [item.kind for item in bench.records] == [RecordKind.CERTIFICATE, RecordKind.VOTE]
    assert bench.records[0].certificate() == NETWORK.certificate(U, 1, None, (1, 2, 3))


def test_a_write_that_was_never_asked_for_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        Bench(NETWORK).feed(Durable(1))


# -- judging -------------------------------------------------------------------------------------


def test_an_invalid_block_is_nullified_at_once() -> None:
    bench = Bench(NETWORK)
    effects = bench.accept(bench.receive(1, Propose(BLOCK)), ok=False)
    assert len(sent_votes(effects, U)) == 1
    assert sent_votes(bench.log, N) == []


def test_a_verdict_on_another_block_is_ignored() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, Propose(BLOCK))
    assert bench.feed(Verdict(OTHER, True)) == []


def test_a_verdict_after_the_view_is_ignored() -> None:
    bench = Bench(NETWORK)
    effects = bench.receive(1, Propose(BLOCK))
    bench.receive(2, skip(1))
    assert sent_votes(bench.accept(effects), N) == []


def test_the_very_certificate_that_a_skip_proof_names_must_be_held() -> None:
    """C54: another one of the same view lets the view be skipped, but would not be shown later."""
    network = Network(7)
    bench = Bench(network, index=0)
    held, named = (network.certificate(U, 1, None, who) for who in (range(1, 6), range(2, 7)))
    bench.receive(3, CertificateMessage(held))
    block = network.block(2, skips=[named])
    effects = bench.receive(2, Propose(block))
    assert (of_type(effects, Verify), sent(effects, Want)) == ([], [Want((1,))])
    assert sent_votes(bench.log, U) == [], "missing is not invalid"
    effects = bench.receive(2, CertificateMessage(named))
    assert of_type(effects, Verify) == [Verify(block, ())]


def test_a_skipped_view_without_certificate_is_asked_from_the_leader() -> None:
    """C54: without this rule a proposer could leave out a notarized block."""
    bench = Bench(NETWORK, index=0)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.receive(1, notarized(1, BLOCK.block_id))
    fork = NETWORK.block(2, skips=[NETWORK.certificate(U, 1, None, (1, 2, 3))])
    effects = bench.receive(2, Propose(fork))
    assert of_type(effects, Verify) == []
    (send,) = [item for item in of_type(effects, Send) if isinstance(item.message, Want)]
    assert (send.to, send.message) == (2, Want((1,)))
    bench.now += 60.0
    assert len(sent_votes(bench.feed(TimerFired()), U)) == 1
    assert all(vote.view != 2 for vote in sent_votes(bench.log, N))


def test_a_parent_without_certificate_is_asked_for() -> None:
    bench = Bench(NETWORK, index=0)
    bench.receive(1, skip(1))
    child = NETWORK.block(2, BLOCK.header)
    effects = bench.receive(2, Propose(child))
    assert sent(effects, Want) == [Want((1,))]
    effects = bench.receive(2, notarized(1, BLOCK.block_id))
    assert [want.block_ids for want in sent(effects, Want)] == [(BLOCK.block_id,)]


@pytest.mark.parametrize(
    "case", ["other parent", "old parent", "height", "log", "evidence", "conviction"]
)
def test_proposals_that_do_not_continue_the_chain_are_nullified(case: str) -> None:
    base = NETWORK.block(1, transactions=(b"one",))
    evidence = Evidence.of(NETWORK.vote(N, 1, 3, OTHER), NETWORK.vote(N, 1, 3, base.block_id))
    bench = Bench(NETWORK, index=0)
    bench.accept(bench.receive(1, Propose(base)))
    bench.receive(1, notarized(1, base.block_id))
    header = base.header
    match case:
        case "other parent":
            block = NETWORK.block(2, replace(header, era=9))
        case "old parent":
            bench.receive(3, CertificateMessage(NETWORK.certificate(F, 1, base.block_id)))
            block = NETWORK.block(2, skips=[NETWORK.certificate(U, 1)])
        case "height":
            block = NETWORK.block(2, header, height=5)
        case "log":
            block = NETWORK.block(2, header, log_size=0)
        case "evidence":
            forged = replace(evidence.second, signature=bytes(64))
            block = NETWORK.block(2, header, evidence=(Evidence.of(evidence.first, forged),))
        case _:
            bench.receive(3, CertificateMessage(NETWORK.certificate(F, 1, base.block_id)))
            first = NETWORK.block(2, header, evidence=(evidence,))
            bench.accept(bench.receive(2, Propose(first)))
            bench.receive(3, CertificateMessage(NETWORK.certificate(F, 2, first.block_id)))
            block = NETWORK.block(3, first.header, evidence=(evidence,))
    effects = bench.receive(NETWORK.validators.leader(block.header.view), Propose(block))
    assert of_type(effects, Verify) == []
    assert len(sent_votes(effects, U)) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"chain": ChainId(sha256(b"x"))},
        {"era": 2},
        {"epoch": 2},
        {"proposer": 2},
        {"validators": sha256(b"x")},
        {"parent_view": -1},
    ],
)
def test_misplaced_proposals_are_refused(change: dict[str, object]) -> None:
    bench = Bench(NETWORK)
    with pytest.raises(RemoteProtocolError):
        bench.receive(1, Propose(NETWORK.block(1, **change)))  # type: ignore[arg-type]
    assert of_type(bench.receive(1, Propose(BLOCK)), Verify) != [], "the state did not change"


def test_skip_proofs_must_name_exactly_the_skipped_views() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, skip(1))
    with pytest.raises(RemoteProtocolError, match="skip proofs"):
        bench.receive(2, Propose(NETWORK.block(2)))


def test_only_the_leader_proposes() -> None:
    with pytest.raises(RemoteProtocolError, match="does not lead"):
        Bench(NETWORK).receive(2, Propose(BLOCK))


def test_the_first_proposal_of_a_leader_counts() -> None:
    bench = Bench(NETWORK)
    effects = bench.receive(1, Propose(BLOCK))
    other = NETWORK.block(1, transactions=(b"other",))
    assert of_type(bench.receive(1, Propose(other)), Verify) == []
    bench.accept(effects)
    assert [vote.block_id for vote in sent_votes(bench.log, N)] == [BLOCK.block_id]


def test_own_blocks_that_were_not_asked_for_are_our_mistake() -> None:
    bench = Bench(NETWORK, index=1)
    with pytest.raises(LocalProtocolError, match="not valid"):
        bench.feed(Built(1, NETWORK.block(1, era=2)))
    with pytest.raises(LocalProtocolError, match="not the one"):
        bench.feed(Built(1, NETWORK.block(1, replace(NETWORK.genesis, time_ms=9))))
    with pytest.raises(LocalProtocolError, match="no block"):
        bench.feed(Built(5, BLOCK))
    with pytest.raises(LocalProtocolError, match="no validator"):
        bench.receive(4, Want())
    with pytest.raises(LocalProtocolError, match="no validator"):
        bench.feed(PeerConnected(-1))


def test_a_block_that_comes_too_late_for_its_view_is_dropped() -> None:
    bench = Bench(NETWORK, index=1)
    bench.receive(2, skip(1, (0, 2, 3)))
    assert bench.built(1, BLOCK) == []
    assert sent(bench.log, Propose) == []


def test_a_proposal_that_lost_while_it_was_judged_is_not_notarized() -> None:
    """Only a broken fault bound makes its height final meanwhile; the engine goes on."""
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.receive(1, skip(1))
    fork = NETWORK.block(2, skips=[NETWORK.certificate(U, 1, None, (1, 2, 3))])
    effects = bench.receive(2, Propose(fork))
    bench.receive(1, CertificateMessage(NETWORK.certificate(F, 1, BLOCK.block_id)))
    assert bench.engine.final == BLOCK.header
    assert sent_votes(bench.accept(effects), N) == []
    assert [vote.view for vote in sent_votes(bench.log, U)] == [2]


# -- blame ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two"),
    [((N, BLOCK.block_id), (N, OTHER)), ((F, BLOCK.block_id), (F, OTHER)), ((U, None), (F, OTHER))],
)
def test_a_contradiction_is_blamed_once_and_put_in_a_block(
    one: tuple[VoteKind, BlockId | None], two: tuple[VoteKind, BlockId | None]
) -> None:
    bench = Bench(NETWORK, index=2)
    first, second = NETWORK.vote(one[0], 1, 3, one[1]), NETWORK.vote(two[0], 1, 3, two[1])
    effects = bench.votes(first, second, second, NETWORK.vote(N, 2, 3, OTHER))
    assert of_type(effects, Blame) == [Blame(Evidence.of(first, second))]
    (build,) = of_type(bench.receive(1, skip(1, (0, 1, 3))), Build)
    assert build.evidence == (Evidence.of(first, second),)


def test_evidence_in_a_final_block_is_not_proposed_again() -> None:
    bench = Bench(NETWORK, index=3)
    votes = [NETWORK.vote(N, 1, 0, BLOCK.block_id), NETWORK.vote(N, 1, 0, OTHER)]
    bench.votes(*votes)
    block = NETWORK.block(1, evidence=(Evidence.of(*votes),))
    bench.accept(bench.receive(1, Propose(block)))
    bench.receive(1, CertificateMessage(NETWORK.certificate(F, 1, block.block_id, (0, 1, 2))))
    bench.now += 1.0
    effects = bench.receive(1, skip(2, (0, 1, 2)))
    (build,) = of_type(effects, Build)
    assert build.evidence == ()
    again = bench.votes(NETWORK.vote(N, 3, 0, BLOCK.block_id), NETWORK.vote(N, 3, 0, OTHER))
    assert of_type(again, Blame) == [], "once in an epoch"


def test_votes_inside_a_certificate_convict_too() -> None:
    bench = Bench(NETWORK)
    bench.votes(NETWORK.vote(N, 1, 3, OTHER))
    effects = bench.receive(2, notarized(1, BLOCK.block_id))
    assert [item.evidence.signer for item in of_type(effects, Blame)] == [3]


def test_forged_contradictions_convict_nobody() -> None:
    bench = Bench(NETWORK)
    bench.votes(NETWORK.vote(N, 1, 3, OTHER))
    forged = replace(NETWORK.vote(N, 1, 3, BLOCK.block_id), signature=bytes(64))
    with pytest.raises(RemoteProtocolError):
        bench.receive(2, VoteMessage(forged))
    assert of_type(bench.log, Blame) == []


# -- bounds --------------------------------------------------------------------------------------


def test_votes_and_proposals_far_ahead_are_not_kept() -> None:
    bench = Bench(NETWORK)
    limit = 1 + VIEW_WINDOW
    for view in range(2, 1000):
        bench.votes(NETWORK.vote(U, view, 1))
        if NETWORK.validators.leader(view) == 1:
            skips = [NETWORK.certificate(U, item) for item in range(1, min(view, 12))]
            if view < 12:
                bench.receive(1, Propose(NETWORK.block(view, skips=skips)))
    assert max(bench.engine._views) == limit
    assert len(bench.engine._views) <= VIEW_WINDOW + 1


def test_one_slot_for_each_signer_kind_and_view() -> None:
    bench = Bench(NETWORK)
    for number in range(50):
        bench.votes(NETWORK.vote(N, 1, 3, BlockId(sha256(bytes((number,))))))
    assert len(bench.engine._views[1].votes) == 1


def test_votes_of_final_views_are_forgotten() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, Propose(BLOCK))
    bench.receive(1, CertificateMessage(NETWORK.certificate(F, 1, BLOCK.block_id)))
    bench.receive(1, skip(2))
    child = NETWORK.block(3, BLOCK.header, skips=[NETWORK.certificate(U, 2, None, (1, 2, 3))])
    bench.accept(bench.receive(3, Propose(child)))
    bench.receive(1, CertificateMessage(NETWORK.certificate(F, 3, child.block_id)))
    assert bench.engine.final == child.header
    assert sorted(bench.engine._views) == [3]
    assert bench.engine._chain.blocks == {}


def test_commits_carry_the_skip_certificates_of_their_blocks() -> None:
    bench = Bench(NETWORK)
    bench.receive(1, skip(1))
    certificate = NETWORK.certificate(U, 1, None, (1, 2, 3))
    block = NETWORK.block(2, skips=[certificate])
    bench.accept(bench.receive(2, Propose(block)))
    effects = bench.receive(1, CertificateMessage(NETWORK.certificate(F, 2, block.block_id)))
    assert of_type(effects, Commit)[0].skips == (certificate,)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_final_block_beside_the_final_chain_halts(depth: int) -> None:
    """More than f validators lie: nobody may vote on, whoever is right."""
    bench = Bench(NETWORK)
    bench.accept(bench.receive(1, Propose(BLOCK)))
    bench.receive(1, CertificateMessage(NETWORK.certificate(F, 1, BLOCK.block_id)))
    assert bench.engine.final == BLOCK.header
    fork = [NETWORK.block(2, skips=[NETWORK.certificate(U, 1)])]
    if depth:
        fork.append(NETWORK.block(3, fork[0].header))
    final = NETWORK.certificate(F, fork[-1].header.view, fork[-1].block_id)
    effects = bench.receive(1, Blocks(tuple(fork), final))
    assert of_type(effects, Commit) == []
    assert len(of_type(effects, Halt)) == 1
    assert bench.engine.final == BLOCK.header
    assert not bench.engine.may_vote
