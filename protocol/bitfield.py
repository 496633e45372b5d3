"""Possession as bits: which chunks of one component a node holds.

Wire form: ceil(size / 8) bytes in BitTorrent's bit order (BEP 3): chunk 0 is the most significant
bit of byte 0; spare bits are zero. In memory one integer, bit `i` for chunk `i`, because Python's
big-integer operations work on a whole bitmap of 2^18 chunks in microseconds, which is what the
picker is built on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from protocol.errors import EncodingError, LocalProtocolError

_REVERSED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
"""Each byte with its bits in reverse: turns the wire's order into the integer's."""
_WINDOW_BITS: Final = 2048
"""Bits taken from a large integer at once while iterating: small integers are cheap to peel."""


def iterate_bits(bits: int, *, start: int = 0) -> Iterator[int]:
    """Yields the positions of set bits, ascending, from `start`.

    Takes time proportional to the answer plus the integer's length, not their product.
    """
    bits >>= start
    base = start
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        base += skip
        window = bits & ((1 << _WINDOW_BITS) - 1)
        while window:
            low = window & -window
            yield base + low.bit_length() - 1
            window ^= low
        bits >>= _WINDOW_BITS
        base += _WINDOW_BITS


def bits_of(positions: Iterable[int]) -> int:
    """Makes an integer with exactly these bits set."""
    ordered = list(positions)
    if not ordered:
        return 0
    # Relative to the least position, so that runs far up cost as little as runs at zero.
    base = min(ordered)
    bits = 0
    for position in ordered:
        bits |= 1 << position - base
    return bits << base


class Bitfield:
    """A set of chunk indices below a fixed size."""

    __slots__ = ("_bits", "_size")

    def __init__(self, size: int, bits: int = 0) -> None:
        """Starts with `bits` set out of `size` positions.

        Raises:
            LocalProtocolError: a bit at or above `size` is set.
        """
        if size < 0 or bits < 0 or bits >> size:
            raise LocalProtocolError(f"bits outside a bitfield of {size}")
        self._size = size
        self._bits = bits

    @classmethod
    def full(cls, size: int) -> Bitfield:
        """Makes a bitfield with every position set."""
        return cls(size, (1 << size) - 1)

    @classmethod
    def decode(cls, data: bytes, size: int) -> Bitfield:
        """Reads the wire form of a bitfield of `size` positions.

        Raises:
            EncodingError: not exactly ceil(size / 8) bytes, or a spare bit is set.
        """
        expected = (size + 7) // 8
        if len(data) != expected:
            raise EncodingError(f"bitfield of {len(data)} bytes, expected {expected}")
        bits = int.from_bytes(data.translate(_REVERSED), "little")
        if bits >> size:
            raise EncodingError(f"bitfield sets a bit at or above {size}")
        return cls(size, bits)

    def encode(self) -> bytes:
        """The wire form, ceil(size / 8) bytes."""
        return self._bits.to_bytes((self._size + 7) // 8, "little").translate(_REVERSED)

    @property
    def bits(self) -> int:
        """The set as an integer: bit `i` stands for index `i`."""
        return self._bits

    @property
    def size(self) -> int:
        """Number of positions."""
        return self._size

    @property
    def count(self) -> int:
        """How many positions are set."""
        return self._bits.bit_count()

    @property
    def is_full(self) -> bool:
        """Whether every position is set."""
        return self._bits.bit_count() == self._size

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self._size and bool(self._bits >> index & 1)

    def __iter__(self) -> Iterator[int]:
        return iterate_bits(self._bits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitfield):
            return NotImplemented
        return self._size == other._size and self._bits == other._bits

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"Bitfield({self.count} of {self._size})"

    def add(self, index: int) -> None:
        """Sets one position.

        Raises:
            LocalProtocolError: there is no such position.
        """
        self._check(index)
        self._bits |= 1 << index

    def update(self, indices: Iterable[int]) -> None:
        """Sets several positions at the cost of one.

        Raises:
            LocalProtocolError: there is no such position; nothing is set.
        """
        self.include(bits_of(indices))

    def include(self, bits: int) -> None:
        """Sets the positions of the set bits of an integer.

        Raises:
            LocalProtocolError: there is no such position; nothing is set.
        """
        if bits >> self._size:
            raise LocalProtocolError(f"positions outside a bitfield of {self._size}")
        self._bits |= bits

    def exclude(self, bits: int) -> None:
        """Clears the positions of the set bits of an integer."""
        self._bits &= ~bits

    def discard(self, index: int) -> None:
        """Clears one position.

        Raises:
            LocalProtocolError: there is no such position.
        """
        self._check(index)
        self._bits &= ~(1 << index)

    def copy(self) -> Bitfield:
        """An independent copy."""
        return Bitfield(self._size, self._bits)

    def _check(self, index: int) -> None:
        if not 0 <= index < self._size:
            raise LocalProtocolError(f"no position {index} in a bitfield of {self._size}")
