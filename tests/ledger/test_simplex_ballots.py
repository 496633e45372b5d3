"""The voting rules hold for every order of attempts (C70 to C74)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.simplex.ballots import Ballots
from ledger.vote import Vote, VoteKind, is_conflict
from protocol.digest import BlockId, sha256
from tests.support.consensus import CHAIN, ERA, Network

NETWORK = Network(4)
BLOCKS = [BlockId(sha256(bytes((number,)))) for number in range(2)]
N, U, F = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE


def make() -> Ballots:
    return Ballots(chain=CHAIN, era=ERA, epoch=1, index=0, signer=NETWORK.signers[0])


attempts = st.lists(
    st.tuples(st.sampled_from(list(VoteKind)), st.integers(1, 4), st.sampled_from(BLOCKS)),
    max_size=30,
)


@pytest.mark.slow
@given(attempts, st.integers(0, 30))
def test_no_order_of_attempts_contradicts_itself_even_across_a_restart(
    tries: list[tuple[VoteKind, int, BlockId]], restart_at: int
) -> None:
    ballots = make()
    cast: list[Vote] = []
    for position, (kind, view, block_id) in enumerate(tries):
        if position == restart_at:
            ballots = make()
            for vote in cast:
                ballots.restore(vote)
        if ballots.may(kind, view):
            cast.append(ballots.cast(kind, view, None if kind is U else block_id))
    assert not any(is_conflict(one, other) for one in cast for other in cast)
    keys = [(vote.view, vote.kind) for vote in cast]
    assert len(dict.fromkeys(keys)) == len(keys)
    assert all(ballots.holds(vote) for vote in cast)


@pytest.mark.parametrize(
    ("before", "kind", "allowed"),
    [
        ([], N, True),
        ([], U, True),
        ([], F, True),
        ([N], U, True),
        ([N], F, True),
        ([N], N, False),
        ([U], N, False),
        ([U], F, False),
        ([U], U, False),
        ([F], U, False),
        ([F], N, False),
        ([F], F, False),
        ([N, U], F, False),
        ([N, F], U, False),
    ],
)
def test_rules_of_one_view(before: list[VoteKind], kind: VoteKind, allowed: bool) -> None:
    ballots = make()
    for earlier in before:
        ballots.cast(earlier, 5, None if earlier is U else BLOCKS[0])
    assert ballots.may(kind, 5) is allowed
    if not allowed:
        with pytest.raises(AssertionError, match="rules forbid"):
            ballots.cast(kind, 5, None if kind is U else BLOCKS[1])


@pytest.mark.parametrize(("kind", "allowed"), [(N, False), (U, False), (F, True)])
def test_below_the_newest_view_only_finalize_is_possible(kind: VoteKind, allowed: bool) -> None:
    ballots = make()
    ballots.cast(N, 6, BLOCKS[0])
    assert ballots.may(kind, 5) is allowed


def test_pruning_keeps_the_newest_view() -> None:
    ballots = make()
    ballots.cast(N, 6, BLOCKS[0])
    ballots.prune(7)
    assert ballots.newest_view == 6
    assert ballots.of_view(6) == []
    assert not ballots.may(N, 5)
