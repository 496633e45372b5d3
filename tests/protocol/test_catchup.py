"""Messages of the ledger stream and statements of freshness."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.catchup import (
    BLOCKS_BYTES_MAX,
    BLOCKS_MAX,
    CERTIFICATE_BYTES_MAX,
    FRESHNESS_BATCH_MAX,
    FRESHNESS_BYTES_MAX,
    LEDGER_FRAME_BYTES_MAX,
    BlocksAnswer,
    Freshness,
    FreshnessAnswer,
    HeadRequest,
    decode_ledger_message,
    encode_ledger_message,
    parse_freshness,
    sign_freshness,
)
from protocol.digest import BlockId, sha256
from protocol.encoding import INTEGER_MAX, encode_canonical
from protocol.errors import EncodingError, SignatureError
from protocol.limits import BLOCK_BYTES_MAX, FRAME_BYTES_MAX, TRANSACTION_BYTES_MAX
from tests.support.strategies import CHAIN, OTHER_CHAIN, key

STATED = Freshness(
    era=0,
    validator=3,
    epoch=1,
    height=9,
    block_id=BlockId(sha256(b"header")),
    nonces=sha256(b"nonces"),
    time_ms=1_700_000_000_000,
)
DIGEST = sha256(b"x")


@pytest.mark.parametrize(
    "value",
    [
        [],
        [1],
        [1, {}, 0],
        [0, {}],
        [10, {}],
        [10, {0: -1}],
        [11, {0: [], 1: [], 2: b"", 3: b"l"}],
        [11, {0: [], 1: [b"h"], 2: b"", 3: b"l"}],
        [11, {0: [], 1: [b"h"] * 521, 2: b"c", 3: b"l"}],
        [11, {0: [], 1: [bytes(513)], 2: b"c", 3: b"l"}],
        [11, {0: [b"s"] * 33, 1: [], 2: b"", 3: b""}],
        [11, {0: [bytes(2**14 + 1)], 1: [], 2: b"", 3: b""}],
        [12, {0: 0, 1: DIGEST}],
        [12, {0: 1, 1: bytes(31)}],
        [13, {0: bytes(304 * 1024 + 1)}],
        [14, {0: []}],
        [14, {0: [DIGEST, DIGEST]}],
        [14, {0: [sha256(b"%d" % n) for n in range(17)]}],
        [15, {0: [b""] * 17}],
        [15, {0: [bytes(2**14 + 1)]}],
        [16, {}],
        [2**40, {}],
        ["1", {}],
        [True, {}],
        [1, []],
        [1, {0: 1}],
        [2, {0: b""}],
        [2, {0: bytes(CERTIFICATE_BYTES_MAX + 1), 1: b""}],
        [3, {0: 0}],
        [3, {0: 1, 1: 1}],
        [4, {0: [], 1: b"c"}],
        [4, {0: [b"block"], 1: b""}],
        [4, {0: ["block"], 1: b"c"}],
        [4, {0: [bytes(BLOCK_BYTES_MAX + 1)], 1: b"c"}],
        [4, {0: [b""] * (BLOCKS_MAX + 1), 1: b"c"}],
        [5, {0: bytes(TRANSACTION_BYTES_MAX + 1)}],
        [6, {0: bytes(31)}],
        [7, {0: bytes(31), 1: True}],
        [7, {0: bytes(33), 1: True}],
        [7, {0: bytes(32), 1: 1}],
        [8, {0: [[b"s", 0, [], 1]] * 33}],
        [8, {0: [[b"s", 0, [DIGEST] * 11, 1]]}],
        [8, {0: [[b"s", 0, [bytes(31)], 1]]}],
        [8, {0: [[b"s", FRESHNESS_BATCH_MAX, [], 1]]}],
        [8, {0: [[b"s", 0, [], FRESHNESS_BATCH_MAX + 1]]}],
        [8, {0: [[b"s", 0, b"", 1]]}],
        [8, {0: [[b"s", 0, []]]}],
        [8, {0: [[bytes(FRESHNESS_BYTES_MAX + 1), 0, [], 1]]}],
        [9, {0: "", 1: "m", 2: False}],
        [9, {0: "rule", 1: "m" * 513, 2: False}],
        [9, {0: "rule", 1: "m\x1b[31m", 2: False}],
        [9, {0: "rule", 1: "m", 2: 0}],
    ],
    ids=repr,
)
def test_malformed_messages_are_refused(value: Any) -> None:
    with pytest.raises(EncodingError):
        decode_ledger_message(encode_canonical(value))


def test_a_head_request_is_empty() -> None:
    assert encode_ledger_message(HeadRequest()) == bytes.fromhex("8201a0")
    assert decode_ledger_message(bytes.fromhex("8201a0")) == HeadRequest()


def test_every_kind_takes_extensions() -> None:
    assert decode_ledger_message(encode_canonical([1, {-1: b"later"}])) is not None


def test_the_largest_answers_fit_a_frame() -> None:
    two = BlocksAnswer(
        blocks=(bytes(BLOCK_BYTES_MAX),) * 2, certificate=bytes(CERTIFICATE_BYTES_MAX)
    )
    assert 2 * BLOCK_BYTES_MAX == BLOCKS_BYTES_MAX
    statement = (bytes(FRESHNESS_BYTES_MAX), 1023, (DIGEST,) * 10, FRESHNESS_BATCH_MAX)
    for message in (two, FreshnessAnswer(statements=(statement,) * 32)):
        raw = encode_ledger_message(message)
        assert len(raw) <= LEDGER_FRAME_BYTES_MAX <= FRAME_BYTES_MAX
        assert decode_ledger_message(raw) == message


@pytest.mark.parametrize(
    ("blocks", "certificate"),
    [((), b"c"), ((b"b",), b""), ((b"",) * 257, b"c"), ((bytes(2**18),) * 3, b"c")],
    ids=["lone certificate", "lone block", "too many", "too long"],
)
def test_blocks_and_their_certificate_belong_together(
    blocks: tuple[bytes, ...], certificate: bytes
) -> None:
    with pytest.raises(EncodingError):
        BlocksAnswer(blocks=blocks, certificate=certificate)


def test_a_statement_binds_its_validator_and_chain() -> None:
    made = sign_freshness(STATED, key(1), CHAIN)
    made.verify(key(1).public, CHAIN)
    assert parse_freshness(made.signed.raw).freshness == STATED
    with pytest.raises(SignatureError):
        made.verify(key(2).public, CHAIN)
    with pytest.raises(SignatureError):
        made.verify(key(1).public, OTHER_CHAIN)


@pytest.mark.parametrize("validator", [-1, 32])
def test_there_are_at_most_32_validators(validator: int) -> None:
    wrong = Freshness(
        era=0,
        validator=validator,
        epoch=INTEGER_MAX,
        height=0,
        block_id=BlockId(DIGEST),
        nonces=DIGEST,
        time_ms=0,
    )
    with pytest.raises(EncodingError):
        sign_freshness(wrong, key(1), CHAIN)
