"""Batches of transactions: their bounds, their parting, and answers in order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.catchup import decode_ledger_message, encode_ledger_message
from protocol.encoding import Value, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import TRANSACTION_BYTES_MAX
from protocol.submit_messages import (
    BATCH_BYTES_MAX,
    BATCH_TRANSACTIONS_MAX,
    Refusal,
    SubmitBatchAnswer,
    SubmitBatchRequest,
    batches,
)

REFUSED = Refusal(rule="tx.nonce", message="nonce 7 is used", may_retry=False)


def test_the_largest_batch_and_its_longest_answer_survive_their_encoding() -> None:
    fullest = (b"x" * (BATCH_BYTES_MAX // BATCH_TRANSACTIONS_MAX),) * BATCH_TRANSACTIONS_MAX
    longest = Refusal(rule="r" * 64, message="m" * 512, may_retry=True)
    for message in (
        SubmitBatchRequest(transactions=fullest),
        SubmitBatchRequest(transactions=(b"y" * TRANSACTION_BYTES_MAX,) * 3),
        SubmitBatchAnswer(refusals=(longest,) * BATCH_TRANSACTIONS_MAX),
        SubmitBatchAnswer(refusals=(None, REFUSED)),
    ):
        assert decode_ledger_message(encode_ledger_message(message)) == message


@pytest.mark.parametrize(
    "transactions",
    [
        (),
        (b"",) * (BATCH_TRANSACTIONS_MAX + 1),
        (b"x" * TRANSACTION_BYTES_MAX,) * 4,
        (b"x" * (TRANSACTION_BYTES_MAX + 1),),
        ("text",),
        (None,),
    ],
)
def test_a_batch_over_a_bound_is_refused(transactions: tuple[Value, ...]) -> None:
    with pytest.raises(EncodingError):
        decode_ledger_message(encode_canonical([18, {0: list(transactions)}]))


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        [None] * (BATCH_TRANSACTIONS_MAX + 1),
        [True],
        [["tx.nonce", "used"]],
        [["", "used", False]],
        [["r" * 65, "used", False]],
        [["tx.nonce", "m" * 513, False]],
        [["tx.nonce", "used", 0]],
        [[b"tx.nonce", "used", False]],
        [["tx.nonce", None, False]],
    ],
)
def test_a_malformed_answer_is_refused(outcomes: list[Value]) -> None:
    with pytest.raises(EncodingError):
        decode_ledger_message(encode_canonical([19, {0: outcomes}]))


@given(st.lists(st.integers(0, TRANSACTION_BYTES_MAX), max_size=200))
def test_parting_keeps_order_and_bounds_and_wastes_no_batch(sizes: list[int]) -> None:
    raws = [bytes(size) for size in sizes]
    parted = batches(raws)
    assert [raw for batch in parted for raw in batch] == raws
    for batch in parted:
        SubmitBatchRequest(transactions=batch)
    for batch, following in itertools.pairwise(parted):
        is_full = len(batch) == BATCH_TRANSACTIONS_MAX
        assert is_full or sum(map(len, batch)) + len(following[0]) > BATCH_BYTES_MAX
