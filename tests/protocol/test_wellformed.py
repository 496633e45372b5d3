"""The first look at untrusted CBOR: item bound, truncation, foreign types."""

from __future__ import annotations

import pytest
from hypothesis import given

from protocol.encoding import Value, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import (
    BLOCK_EVIDENCE_MAX,
    BLOCK_SKIPS_MAX,
    BLOCK_TRANSACTIONS_MAX,
    ENCODING_ITEMS_MAX,
    MIB,
)
from protocol.wellformed import check_well_formed
from tests.support.strategies import many, values


@pytest.mark.slow
@many
@given(values)
def test_every_canonical_value_passes_and_every_prefix_fails(value: Value) -> None:
    raw = encode_canonical(value)
    check_well_formed(raw, items_max=100)
    for end in range(len(raw)):
        with pytest.raises(EncodingError):
            check_well_formed(raw[:end], items_max=100)
    with pytest.raises(EncodingError, match="behind"):
        check_well_formed(raw + b"\x00", items_max=100)


@pytest.mark.parametrize("items", [b"\x80", b"\xa0", b"\xf6", b"\x00"])
def test_many_small_items_are_refused_at_the_head_of_their_list(items: bytes) -> None:
    count = MIB - 8
    raw = b"\x9a" + count.to_bytes(4, "big") + items * count
    with pytest.raises(EncodingError, match="4096 data items"):
        decode_canonical(raw, bytes_max=MIB)


@pytest.mark.parametrize("head", [0x9B, 0xBB, 0x5B, 0x7B])
@pytest.mark.parametrize("length", [2**16, 2**32, 2**63, 2**64 - 1])
def test_lengths_beyond_the_input_are_refused(head: int, length: int) -> None:
    with pytest.raises(EncodingError):
        check_well_formed(bytes((head,)) + length.to_bytes(8, "big"), items_max=ENCODING_ITEMS_MAX)


def test_the_bound_counts_keys_and_containers() -> None:
    raw = encode_canonical({1: [True, None], 2: {3: b""}})
    check_well_formed(raw, items_max=9)
    with pytest.raises(EncodingError, match="8 data items"):
        check_well_formed(raw, items_max=8)


def test_the_largest_block_is_within_the_bound() -> None:
    skips: list[Value] = [[view, bytes(32)] for view in range(BLOCK_SKIPS_MAX)]
    block: Value = {
        0: b"header",
        1: [b"transaction"] * BLOCK_TRANSACTIONS_MAX,
        2: [b"evidence"] * BLOCK_EVIDENCE_MAX,
        3: skips,
    }
    assert decode_canonical(encode_canonical(block), bytes_max=MIB) == block


@pytest.mark.parametrize(
    "raw",
    [
        bytes.fromhex(text)
        for text in (
            *("c001", "d81801", "da0001000000", "f7", "e0", "f8ff", "f81f", "f93c00", "fa00000000"),
            *(
                "fb0000000000000000",
                "9fff",
                "bfff",
                "5fff",
                "7fff",
                "ff",
                "1c",
                "5d",
                "7e",
                "9c",
                "18",
            ),
        )
    ],
    ids=bytes.hex,
)
def test_foreign_types_are_refused(raw: bytes) -> None:
    with pytest.raises(EncodingError):
        check_well_formed(raw, items_max=100)
