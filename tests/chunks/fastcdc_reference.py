"""The cut algorithm of docs/spec/chunks.md, section 3, written from the text; slow and plain."""

from __future__ import annotations

import hashlib

GEAR = [
    int.from_bytes(hashlib.md5(bytes([value]) * 64, usedforsecurity=False).digest()[:8], "big")
    for value in range(256)
]
MASKS = {
    7: 0x0000000018035100,
    8: 0x0000001800035300,
    9: 0x0000019000353000,
    10: 0x0000590003530000,
    11: 0x0000D90003530000,
    12: 0x0000D90103530000,
    13: 0x0000D90303530000,
    14: 0x0000D90313530000,
    15: 0x0000D90F03530000,
    16: 0x0000D90303537000,
    17: 0x0000D90703537000,
    18: 0x0000D90707537000,
    19: 0x0000D91707537000,
}


def cut_length(data: bytes, minimum: int, average: int, maximum: int) -> int:
    """Length of the first chunk of `data`, which runs to the end of the image."""
    if len(data) <= minimum:
        return len(data)
    end = min(len(data), maximum)
    bits = average.bit_length() - 1
    value = 0
    for position in range(minimum, end - end % 2):
        early = position < min(average, end) // 2 * 2
        value = (2 * value + GEAR[data[position]]) % 2**64
        if value & MASKS[bits + 1 if early else bits - 1] == 0:
            return position
    return end


def cut_lengths(data: bytes, minimum: int, average: int, maximum: int) -> list[int]:
    lengths = []
    offset = 0
    while offset < len(data):
        # No cut depends on more than the next `maximum` bytes and whether the image ends there.
        window = data[offset : offset + maximum + 2]
        lengths.append(cut_length(window, minimum, average, maximum))
        offset += lengths[-1]
    return lengths
