"""Headers: one encoding, a pinned id, strict decoding."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.header import HEADER_BYTES_MAX, Header, decode_header, genesis_header
from protocol.digest import ZERO_DIGEST, BlockId, ChainId, Digest, sha256
from protocol.encoding import INTEGER_MAX, decode_canonical, encode_canonical
from protocol.errors import EncodingError, VerificationError
from protocol.merkle import EMPTY_ROOT


def make() -> Header:
    return Header(
        chain=ChainId(sha256(b"chain")),
        era=1,
        epoch=2,
        view=9,
        height=7,
        parent=BlockId(sha256(b"parent")),
        parent_view=8,
        time_ms=1_700_000_000_000,
        proposer=1,
        body_root=sha256(b"body"),
        log_size=5,
        log_root=sha256(b"log"),
        state_root=sha256(b"state"),
        validators=sha256(b"now"),
        next_validators=sha256(b"next"),
    )


digests = st.binary(min_size=32, max_size=32)
uints = st.integers(0, INTEGER_MAX)


@given(digests, digests, uints, uints, st.integers(1, INTEGER_MAX), st.integers(0, 31))
def test_round_trip(one: bytes, two: bytes, era: int, size: int, view: int, proposer: int) -> None:
    header = replace(
        make(),
        chain=ChainId(one),
        state_root=Digest(two),
        era=era,
        log_size=size,
        view=view,
        parent_view=view - 1,
        proposer=proposer,
    )
    again = decode_header(header.encode())
    assert again == header
    assert again.block_id == BlockId(sha256(header.encode()))
    assert len(header.encode()) <= HEADER_BYTES_MAX


def test_id_is_pinned() -> None:
    """The format of headers; a change here is a new schema."""
    expected = "3f5dba27abca32c81b28462c86b73e8c1813f032588d94e2d6b1a6ba2c1f81c3"
    assert make().block_id.hex() == expected


def test_genesis() -> None:
    header = genesis_header(
        chain=ChainId(sha256(b"c")),
        era=1,
        time_ms=5,
        log_size=0,
        log_root=EMPTY_ROOT,
        state_root=EMPTY_ROOT,
        validators=sha256(b"v"),
    )
    assert (header.height, header.view, header.proposer) == (0, 0, 0)
    assert header.parent == BlockId(ZERO_DIGEST)
    assert header.body_root == EMPTY_ROOT
    assert header.next_validators == header.validators
    assert decode_header(header.encode()) == header


@pytest.mark.parametrize(
    "change",
    [
        {0: 2},
        {1: b"short"},
        {2: -1},
        {4: 8},
        {5: "7"},
        {6: b""},
        {7: 9},
        {8: -1},
        {8: 253_402_300_800_000},
        {9: 32},
        {10: None},
        {16: 0},
        {-1: 0},
        {15: sha256(b"x") + b"x"},
        {3: True},
    ],
)
def test_decoding_is_strict(change: dict[int, object]) -> None:
    value = decode_canonical(make().encode(), bytes_max=HEADER_BYTES_MAX)
    assert isinstance(value, dict)
    with pytest.raises(EncodingError):
        decode_header(encode_canonical({**value, **change}))  # type: ignore[dict-item]


@pytest.mark.parametrize("key", range(16))
def test_every_field_is_required_and_covered_by_the_id(key: int) -> None:
    value = decode_canonical(make().encode(), bytes_max=HEADER_BYTES_MAX)
    assert isinstance(value, dict)
    del value[key]
    with pytest.raises(EncodingError, match="missing"):
        decode_header(encode_canonical(value))


@given(st.integers(0, 263), st.integers(0, 255))
def test_any_changed_byte_is_refused_or_another_block(position: int, byte: int) -> None:
    raw = bytearray(make().encode())
    position %= len(raw)
    if raw[position] == byte:
        return
    raw[position] = byte
    try:
        header = decode_header(bytes(raw))
    except VerificationError:
        return
    assert header.block_id != make().block_id


def test_truncated_or_extended_input_is_refused() -> None:
    raw = make().encode()
    for size in range(len(raw)):
        with pytest.raises(EncodingError):
            decode_header(raw[:size])
    with pytest.raises(EncodingError):
        decode_header(raw + b"\x00")
