"""Consensus messages: round trips, bounds, malformed input, signed answers."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.consensus_messages import (
    BLOCKS_COUNT_MAX,
    MESSAGE_BYTES_MAX,
    WANT_BLOCKS_MAX,
    WANT_VIEWS_MAX,
    Blocks,
    CertificateMessage,
    Message,
    NewestVoteAnswer,
    NewestVoteQuery,
    Propose,
    Status,
    VoteMessage,
    Want,
    decode_message,
    encode_message,
)
from ledger.vote import VoteKind
from protocol.digest import BlockId, sha256
from protocol.encoding import Value, encode_canonical
from protocol.errors import EncodingError, VerificationError
from tests.support.consensus import CHAIN, ERA, NONCE, Network

NETWORK = Network(4)
A = BlockId(sha256(b"a"))
BLOCK = NETWORK.block(1, transactions=(b"one",))
FINAL = NETWORK.certificate(VoteKind.FINALIZE, 1, BLOCK.block_id)
VOTE = NETWORK.vote(VoteKind.NULLIFY, 3, 1)
MESSAGES: list[Message] = [
    Propose(BLOCK),
    VoteMessage(VOTE),
    CertificateMessage(FINAL),
    Want((1, 5), (A,), 7),
    Want(),
    Blocks((BLOCK,), FINAL),
    Blocks((BLOCK,)),
    Status(1, 9, FINAL),
    Status(1, 1, None),
    NewestVoteQuery(NONCE),
    NETWORK.answer(1, 2, VOTE),
    NETWORK.answer(1, 2),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda item: type(item).__name__)
def test_round_trip(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda item: type(item).__name__)
def test_truncated_input_is_refused(message: Message) -> None:
    raw = encode_message(message)
    for size in range(0, len(raw), 3):
        with pytest.raises(EncodingError):
            decode_message(raw[:size])


@given(st.sampled_from(MESSAGES), st.integers(0), st.integers(0, 255))
def test_changed_bytes_raise_only_verification_errors(
    message: Message, position: int, byte: int
) -> None:
    raw = bytearray(encode_message(message))
    raw[position % len(raw)] = byte
    with contextlib.suppress(VerificationError):
        assert encode_message(decode_message(bytes(raw))) == bytes(raw)


FINAL_VALUE = FINAL.to_value()
NOTARIZED_VALUE = NETWORK.certificate(VoteKind.NOTARIZE, 1, A).to_value()


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        [0],
        [9, b""],
        ["1", b""],
        [True, b""],
        [1],
        [1, b"", b""],
        [1, b"block"],
        [2, None],
        [3, b""],
        [4, [], [], -1],
        [4, list(range(WANT_VIEWS_MAX + 1)), [], None],
        [4, [2, 1], [], None],
        [4, [1, 1], [], None],
        [4, [], [A] * (WANT_BLOCKS_MAX + 1), None],
        [4, [], [b"short"], None],
        [5, [BLOCK.encode()] * (BLOCKS_COUNT_MAX + 1), None],
        [5, [BLOCK.encode()], NOTARIZED_VALUE],
        [5, None, None],
        [6, 1, -1, None],
        [6, 1, 1, NOTARIZED_VALUE],
        [7, b"short"],
        [8, NONCE, 1, 32, None, bytes(64)],
        [8, NONCE, 1, 1, None, bytes(63)],
        [8, NONCE, 1, 1, [], bytes(64)],
    ],
)
def test_malformed_input_is_refused(value: Value) -> None:
    with pytest.raises(EncodingError):
        decode_message(encode_canonical(value))


def test_oversized_input_is_refused_before_it_is_read() -> None:
    with pytest.raises(EncodingError, match="at most"):
        decode_message(b"\xff" * (MESSAGE_BYTES_MAX + 1))


def is_valid(answer: NewestVoteAnswer) -> bool:
    return answer.is_valid(NETWORK.validators, CHAIN, ERA, NETWORK.verifier)


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b"m" * 32},
        {"asker": 2},
        {"asker": 4},
        {"answerer": 3},
        {"answerer": 4},
        {"vote": None},
        {"vote": NETWORK.vote(VoteKind.NULLIFY, 4, 1)},
        {"vote": NETWORK.vote(VoteKind.NULLIFY, 3, 2)},
        {"signature": bytes(64)},
    ],
)
def test_answers_are_signed(change: dict[str, object]) -> None:
    answer = NETWORK.answer(1, 2, VOTE)
    assert is_valid(answer)
    assert not is_valid(replace(answer, **change))  # type: ignore[arg-type]


def test_an_answer_with_a_forged_vote_is_not_valid() -> None:
    assert not is_valid(NETWORK.answer(1, 2, replace(VOTE, view=4)))
    assert not is_valid(NETWORK.answer(1, 2, NETWORK.vote(VoteKind.NULLIFY, 3, 2)))
