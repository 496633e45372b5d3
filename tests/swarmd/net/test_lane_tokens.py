"""Tokens, and to whom a lane is worth trying: the pure parts."""

from __future__ import annotations

from protocol.lane_offer import LANE_LIFETIME_S
from swarmd.net.address import PeerKey
from swarmd.net.lane_backoff import PAUSE_S_MAX, PAUSE_S_START, PEERS_MAX, LaneBackoff
from swarmd.net.lane_tokens import TOKENS_MAX, TOKENS_PER_PEER_MAX, TokenBook

ALICE = PeerKey(b"a" * 32)
BOB = PeerKey(b"b" * 32)


def token(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_a_token_is_good_once_and_for_one_peer() -> None:
    book = TokenBook()
    assert book.give(ALICE, token(1), 0.0)
    assert book.give(BOB, token(2), 0.0)
    assert book.take(token(3), 1.0) is None, "never given"
    assert book.take(token(1), 1.0) == ALICE
    assert book.take(token(1), 1.0) is None, "used"
    assert book.take(token(2), 1.0) == BOB


def test_a_token_expires() -> None:
    book = TokenBook()
    book.give(ALICE, token(1), 0.0)
    book.give(ALICE, token(2), 1.0)
    assert book.take(token(1), float(LANE_LIFETIME_S)) is None
    assert book.take(token(2), LANE_LIFETIME_S + 0.9) == ALICE
    assert len(book) == 0


def test_a_peer_that_asks_often_displaces_only_itself() -> None:
    book = TokenBook()
    book.give(BOB, token(0), 0.0)
    for number in range(1, 100):
        assert book.give(ALICE, token(number), 0.0)
    assert len(book) == 1 + TOKENS_PER_PEER_MAX
    assert book.take(token(97), 0.0) is None
    assert book.take(token(98), 0.0) == ALICE
    assert book.take(token(0), 0.0) == BOB


def test_tokens_are_bounded_and_the_place_of_an_expired_one_is_free() -> None:
    book = TokenBook()
    for number in range(TOKENS_MAX):
        assert book.give(PeerKey(token(number)), token(number), 0.0)
    assert not book.give(ALICE, token(9999), 0.0)
    assert book.give(ALICE, token(9999), float(LANE_LIFETIME_S))


def test_a_revoked_peer_has_no_tokens() -> None:
    book = TokenBook()
    book.give(ALICE, token(1), 0.0)
    book.give(BOB, token(2), 0.0)
    book.revoke(ALICE)
    assert book.take(token(1), 0.0) is None
    assert book.take(token(2), 0.0) == BOB


def test_pauses_double_up_to_a_bound_and_end_with_a_success() -> None:
    backoff = LaneBackoff()
    assert backoff.is_worth_trying(ALICE, 0.0)
    now, pauses = 0.0, []
    for _ in range(10):
        pauses.append(backoff.failed(ALICE, now))
        assert not backoff.is_worth_trying(ALICE, now + pauses[-1] - 0.1)
        now += pauses[-1]
        assert backoff.is_worth_trying(ALICE, now)
    assert pauses[:3] == [PAUSE_S_START, 2 * PAUSE_S_START, 4 * PAUSE_S_START]
    assert pauses[-1] == PAUSE_S_MAX
    assert backoff.is_worth_trying(BOB, 0.0)
    backoff.succeeded(ALICE)
    assert backoff.failed(ALICE, now) == PAUSE_S_START


def test_failures_that_are_remembered_are_bounded() -> None:
    backoff = LaneBackoff()
    for number in range(PEERS_MAX + 1):
        backoff.failed(PeerKey(token(number)), 0.0)
    assert backoff.is_worth_trying(PeerKey(token(0)), 0.0)
    assert not backoff.is_worth_trying(PeerKey(token(1)), 0.0)
