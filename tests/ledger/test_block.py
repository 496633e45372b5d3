"""Blocks: the body belongs to the header, every bound holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.block import Block, SkipProof, body_root, decode_block, decode_block_of
from ledger.vote import Evidence, VoteKind
from protocol.digest import BlockId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import DigestMismatchError, EncodingError, VerificationError
from protocol.limits import (
    BLOCK_BYTES_MAX,
    BLOCK_EVIDENCE_MAX,
    BLOCK_SKIPS_MAX,
    BLOCK_TRANSACTIONS_MAX,
    TRANSACTION_BYTES_MAX,
)
from protocol.merkle import EMPTY_ROOT
from tests.support.consensus import Network

NETWORK = Network(8)
A, B = BlockId(sha256(b"a")), BlockId(sha256(b"b"))
D, E = sha256(b"d"), sha256(b"e")


def convict(signer: int) -> Evidence:
    return Evidence.of(
        NETWORK.vote(VoteKind.NOTARIZE, 2, signer, A), NETWORK.vote(VoteKind.NOTARIZE, 2, signer, B)
    )


def full() -> Block:
    skips = [NETWORK.certificate(VoteKind.NULLIFY, view) for view in (1, 2)]
    return NETWORK.block(3, transactions=(b"one", b"two"), evidence=(convict(0),), skips=skips)


@pytest.mark.parametrize("block", [full(), NETWORK.block(1)], ids=["full", "empty"])
def test_round_trip(block: Block) -> None:
    assert decode_block(block.encode()) == block
    assert decode_block_of(block.encode(), block.block_id) == block


def test_another_block_than_asked_for_is_refused() -> None:
    with pytest.raises(DigestMismatchError):
        decode_block_of(full().encode(), A)


def test_body_root_separates_kinds_and_order() -> None:
    raw = convict(0).encode()
    assert body_root((), (), ()) == EMPTY_ROOT
    roots = [
        body_root((raw,), (), ()),
        body_root((), (convict(0),), ()),
        body_root((b"a", b"b"), (), ()),
        body_root((b"b", b"a"), (), ()),
        body_root((), (), (SkipProof(1, D),)),
    ]
    assert len(dict.fromkeys(roots)) == len(roots)


@pytest.mark.parametrize(
    "change",
    [
        {"transactions": (b"one",)},
        {"transactions": (b"two", b"one")},
        {"evidence": ()},
        {"evidence": (convict(1),)},
        {"skips": ()},
        {"skips": (SkipProof(1, D), SkipProof(2, E))},
    ],
)
def test_a_body_the_header_does_not_commit_to_is_refused(change: dict[str, object]) -> None:
    block = full()
    parts = {
        "transactions": block.transactions,
        "evidence": block.evidence,
        "skips": block.skips,
        **change,
    }
    with pytest.raises(DigestMismatchError):
        Block(block.header, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"transactions": (b"x",) * (BLOCK_TRANSACTIONS_MAX + 1)}, "transactions"),
        ({"transactions": (bytes(TRANSACTION_BYTES_MAX + 1),)}, "transaction"),
        ({"transactions": (b"",)}, "transaction"),
        ({"transactions": (bytes(TRANSACTION_BYTES_MAX),) * 14}, "block of"),
        ({"evidence": tuple(convict(i) for i in range(BLOCK_EVIDENCE_MAX + 1))}, "evidence"),
        ({"evidence": (convict(0), convict(0))}, "twice"),
        ({"skips": (SkipProof(2, D), SkipProof(1, D))}, "ascending"),
        ({"skips": (SkipProof(1, D), SkipProof(1, D))}, "ascending"),
        ({"skips": (SkipProof(0, D),)}, "ascending"),
        ({"skips": (SkipProof(2000, D),)}, "ascending"),
        ({"skips": tuple(SkipProof(i + 1, D) for i in range(BLOCK_SKIPS_MAX + 1))}, "skip"),
    ],
)
def test_bounds(parts: dict[str, tuple[object, ...]], message: str) -> None:
    base: dict[str, tuple[object, ...]] = {"transactions": (), "evidence": (), "skips": ()}
    parts = {**base, **parts}
    root = body_root(*parts.values())  # type: ignore[arg-type]
    header = replace(NETWORK.block(2000).header, body_root=root)
    with pytest.raises(EncodingError, match=message):
        Block(header, **parts)  # type: ignore[arg-type]


def test_largest_skip_list_fits() -> None:
    skips = tuple(SkipProof(i + 1, D) for i in range(BLOCK_SKIPS_MAX))
    header = replace(NETWORK.block(2000).header, body_root=body_root((), (), skips))
    assert decode_block(Block(header, (), (), skips).encode()).skips == skips


@pytest.mark.parametrize(
    "change",
    [{0: b""}, {1: [3]}, {1: None}, {2: [b"x"]}, {3: [[1]]}, {3: [[1, b"x"]]}, {4: 0}, {-1: 0}],
)
def test_decoding_is_strict(change: dict[int, object]) -> None:
    value = decode_canonical(full().encode(), bytes_max=BLOCK_BYTES_MAX)
    assert isinstance(value, dict)
    with pytest.raises(VerificationError):
        decode_block(encode_canonical({**value, **change}))  # type: ignore[dict-item]


def test_truncated_or_long_input_is_refused() -> None:
    raw = full().encode()
    for size in range(0, len(raw), 7):
        with pytest.raises(EncodingError):
            decode_block(raw[:size])
    with pytest.raises(EncodingError, match="at most"):
        decode_block(bytes(BLOCK_BYTES_MAX + 1))
