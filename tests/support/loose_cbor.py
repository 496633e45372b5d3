"""Writes CBOR that is valid by RFC 8949 and wrong by ours: one deviation at one place.

Used to attack decoders: whatever this module writes must be refused, since two encodings of one
object would be two digests for it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

from protocol.encoding import Value, encode_canonical

DEVIATIONS: Final = ("long", "tag", "float", "indefinite", "reversed", "duplicate", "undefined")
"""What can be wrong at a node; where a kind does not apply, the head is written too long."""
_INFORMATION: Final = {1: 24, 2: 25, 4: 26, 8: 27}


def node_count(value: Value) -> int:
    """Nodes of a value: itself and, for containers, all items; map keys are not nodes."""
    if isinstance(value, Mapping):
        return 1 + sum(node_count(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return 1 + sum(node_count(item) for item in value)
    return 1


def encode_loose(value: Value, *, node: int, deviation: str) -> bytes:
    """Encodes `value` canonically but for `deviation` at node number `node` (in preorder)."""
    return _Writer(node, deviation).write(value)


class _Writer:
    def __init__(self, node: int, deviation: str) -> None:
        self._left = node
        self._deviation = deviation

    def write(self, value: Value) -> bytes:
        here = self._left == 0
        self._left -= 1
        if isinstance(value, Mapping):
            pairs = sorted((encode_canonical(key), value[key]) for key in value)
            parts = [raw_key + self.write(item) for raw_key, item in _by_key(pairs)]
            return _map(parts, self._deviation) if here else _head(5, len(parts)) + b"".join(parts)
        if isinstance(value, (list, tuple)):
            items = [self.write(item) for item in value]
            return _list(items, self._deviation) if here else _head(4, len(items)) + b"".join(items)
        return _scalar(value, self._deviation) if here else encode_canonical(value)


def _by_key(pairs: list[tuple[bytes, Value]]) -> list[tuple[bytes, Value]]:
    return sorted(pairs, key=lambda pair: pair[0])


def _head(major: int, argument: int, *, longer: bool = False) -> bytes:
    if argument < 24 and not longer:
        return bytes((major << 5 | argument,))
    need = 0 if argument < 24 else next(size for size in (1, 2, 4, 8) if argument < 256**size)
    size = (need * 2 or 1) if longer else need
    assert size <= 8, "an argument of 8 bytes cannot be written longer"
    return bytes((major << 5 | _INFORMATION[size],)) + argument.to_bytes(size, "big")


def _map(parts: list[bytes], deviation: str) -> bytes:
    body = b"".join(parts)
    if deviation == "reversed" and len(parts) > 1:
        return _head(5, len(parts)) + b"".join(reversed(parts))
    if deviation == "duplicate" and parts:
        return _head(5, len(parts) + 1) + parts[0] + body
    if deviation == "indefinite":
        return b"\xbf" + body + b"\xff"
    return _other(deviation) or _head(5, len(parts), longer=True) + body


def _list(items: list[bytes], deviation: str) -> bytes:
    body = b"".join(items)
    if deviation == "indefinite":
        return b"\x9f" + body + b"\xff"
    if deviation == "tag":
        return b"\xd9\x01\x02" + _head(4, len(items)) + body  # 258: a set
    return _other(deviation) or _head(4, len(items), longer=True) + body


def _scalar(value: Value, deviation: str) -> bytes:
    if deviation == "tag":
        return b"\xc1" + encode_canonical(value)
    if isinstance(value, (bytes, str)):
        raw = value if isinstance(value, bytes) else value.encode()
        major = 2 if isinstance(value, bytes) else 3
        if deviation == "indefinite":
            return bytes((major << 5 | 31,)) + _head(major, len(raw)) + raw + b"\xff"
        return _other(deviation) or _head(major, len(raw), longer=True) + raw
    if isinstance(value, int) and not isinstance(value, bool):
        argument = value if value >= 0 else -1 - value
        if deviation == "float" or argument >= 2**32:
            return b"\xfb" + struct.pack(">d", float(value))
        return _other(deviation) or _head(0 if value >= 0 else 1, argument, longer=True)
    return _other(deviation) or b"\xf8" + encode_canonical(value)


def _other(deviation: str) -> bytes | None:
    return {"undefined": b"\xf7", "float": b"\xf9\x3c\x00", "tag": b"\xd8\x18\x40"}.get(deviation)
