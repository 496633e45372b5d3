"""Messages by which transactions are handed over, one or several at a time.

They travel on the ledger stream beside those of `protocol.catchup`. A batch saves a frame, a
wake-up and an answer for each transaction; every transaction in it still has an answer of its own,
and none speaks for another. Rules: docs/spec/protocol.md, P100 to P108.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from protocol.digest import TransactionId
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    check_text,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.limits import KIB, NAME_BYTES_MAX, TEXT_BYTES_MAX, TRANSACTION_BYTES_MAX

BATCH_TRANSACTIONS_MAX: Final = 64
"""Transactions in one batch: the windows of four signers."""
BATCH_BYTES_MAX: Final = 64 * KIB
"""Their bytes: three of the largest transactions, a quarter of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitRequest:
    """Hands over a transaction for a coming block."""

    transaction: bytes
    """Signed transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitAnswer:
    """The transaction is in the peer's mempool (or already in a block)."""

    transaction_id: TransactionId
    """Which one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The request was understood and is not granted."""

    rule: str
    """Stable name of the rule."""
    message: str
    """For people."""
    may_retry: bool
    """Whether waiting may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitBatchRequest:
    """Hands over several transactions for coming blocks."""

    transactions: tuple[bytes, ...]
    """Signed transactions, 1 to 64, at most 64 KiB in all."""

    def __post_init__(self) -> None:
        """Refuses a batch that is empty or over a bound; raises EncodingError."""
        if not 1 <= len(self.transactions) <= BATCH_TRANSACTIONS_MAX:
            raise EncodingError(f"batch of {len(self.transactions)} transactions")
        if (size := sum(map(len, self.transactions))) > BATCH_BYTES_MAX:
            raise EncodingError(f"batch of {size} bytes, at most {BATCH_BYTES_MAX} allowed")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitBatchAnswer:
    """Tells for each transaction of a batch, in its order, what became of it."""

    refusals: tuple[Refusal | None, ...]
    """Why it was not taken; None: it is in the peer's mempool (or already in a block)."""


SubmitMessage = SubmitRequest | SubmitAnswer | Refusal | SubmitBatchRequest | SubmitBatchAnswer
"""What this module adds to the ledger stream."""


def batches(raws: Sequence[bytes]) -> tuple[tuple[bytes, ...], ...]:
    """Parts transactions into batches that keep both bounds, in their order."""
    parted: list[tuple[bytes, ...]] = []
    batch: list[bytes] = []
    size = 0
    for raw in raws:
        if len(batch) == BATCH_TRANSACTIONS_MAX or (batch and size + len(raw) > BATCH_BYTES_MAX):
            parted.append(tuple(batch))
            batch, size = [], 0
        batch.append(raw)
        size += len(raw)
    if batch:
        parted.append(tuple(batch))
    return tuple(parted)


def encode_submit_message(message: SubmitMessage) -> bytes:
    """Encodes a message as [kind, fields]."""
    match message:
        case SubmitRequest():
            return encode_canonical([5, {0: message.transaction}])
        case SubmitAnswer():
            return encode_canonical([6, {0: message.transaction_id}])
        case Refusal():
            return encode_canonical(
                [9, {0: message.rule, 1: message.message, 2: message.may_retry}]
            )
        case SubmitBatchRequest():
            return encode_canonical([18, {0: list(message.transactions)}])
        case SubmitBatchAnswer():
            outcomes: Value = [
                None if item is None else [item.rule, item.message, item.may_retry]
                for item in message.refusals
            ]
            return encode_canonical([19, {0: outcomes}])


def read_submit_message(kind: int, fields: Fields) -> SubmitMessage:
    """Reads the fields of a message of kinds 5, 6, 9, 18 and 19.

    Raises:
        EncodingError: malformed, over a bound, or of another kind.
    """
    match kind:
        case 5:
            return SubmitRequest(transaction=fields.bytes(0, maximum=TRANSACTION_BYTES_MAX))
        case 6:
            return SubmitAnswer(transaction_id=TransactionId(fields.digest(0)))
        case 9:
            return Refusal(rule=fields.name(0), message=fields.text(1), may_retry=fields.boolean(2))
        case 18:
            return SubmitBatchRequest(
                transactions=fields.items(
                    0, _read_transaction, minimum=1, maximum=BATCH_TRANSACTIONS_MAX
                )
            )
        case 19:
            return SubmitBatchAnswer(
                refusals=fields.items(0, _read_outcome, minimum=1, maximum=BATCH_TRANSACTIONS_MAX)
            )
        case _:
            raise EncodingError(f"ledger message of unknown kind {kind}")


def _read_transaction(value: Value) -> bytes:
    return as_bytes(value, "transaction of a batch", maximum=TRANSACTION_BYTES_MAX)


def _read_outcome(value: Value) -> Refusal | None:
    if value is None:
        return None
    rule, message, may_retry = as_array(value, "outcome of a transaction", size=3)
    if not isinstance(rule, str) or not isinstance(message, str):
        raise EncodingError("outcome of a transaction: rule and message are texts")
    if not isinstance(may_retry, bool):
        raise EncodingError("outcome of a transaction: may retry is a boolean")
    return Refusal(
        rule=check_text(rule, "rule", maximum=NAME_BYTES_MAX, empty=False),
        message=check_text(message, "message", maximum=TEXT_BYTES_MAX),
        may_retry=may_retry,
    )
