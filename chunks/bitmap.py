"""Which chunks of an image are held: one bit a chunk, BitTorrent's bit order (BEP 3, bitfield).

Bit 7 of byte 0 is chunk 0. Spare bits at the end are zero; a bitmap that sets one is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from protocol.errors import EncodingError, LocalProtocolError
from protocol.runs import Pair, iterate_runs

_BITS_OF_BYTE = tuple(tuple(bit for bit in range(8) if value & 0x80 >> bit) for value in range(256))
"""Positions of the set bits of each byte value, first chunk first."""


class Bitmap:
    """A fixed number of bits with the count of set ones; not thread-safe by itself."""

    __slots__ = ("_bits", "_count", "_length")

    def __init__(self, length: int) -> None:
        """Starts with `length` cleared bits."""
        self._length = length
        self._bits = bytearray((length + 7) // 8)
        self._count = 0

    @classmethod
    def full(cls, length: int) -> Self:
        """Makes a bitmap with every bit set."""
        bitmap = cls(length)
        bitmap._bits[:] = b"\xff" * len(bitmap._bits)
        if length % 8:
            bitmap._bits[-1] = 0xFF << (8 - length % 8) & 0xFF
        bitmap._count = length
        return bitmap

    @classmethod
    def decode(cls, data: bytes, length: int) -> Self:
        """Reads the packed form of `length` bits.

        Raises:
            EncodingError: another number of bytes, or a spare bit is set.
        """
        bitmap = cls(length)
        if len(data) != len(bitmap._bits):
            raise EncodingError(f"bitmap of {len(data)} bytes, expected {len(bitmap._bits)}")
        if length % 8 and data[-1] & (0xFF >> length % 8):
            raise EncodingError("bitmap has a spare bit set")
        bitmap._bits[:] = data
        bitmap._count = int.from_bytes(data, "big").bit_count()
        return bitmap

    def encode(self) -> bytes:
        """Gives the packed form, ceil(length / 8) bytes."""
        return bytes(self._bits)

    def copy(self) -> Bitmap:
        """Copies the bitmap."""
        return Bitmap.decode(bytes(self._bits), self._length)

    def __len__(self) -> int:
        """Bits, set or not."""
        return self._length

    @property
    def count(self) -> int:
        """Set bits."""
        return self._count

    @property
    def is_full(self) -> bool:
        """Whether every bit is set."""
        return self._count == self._length

    def __contains__(self, index: int) -> bool:
        """Tells whether bit `index` is set."""
        self._check(index)
        return bool(self._bits[index >> 3] & 0x80 >> (index & 7))

    def add(self, index: int) -> bool:
        """Sets a bit; returns whether it was clear before."""
        if index in self:
            return False
        self._bits[index >> 3] |= 0x80 >> (index & 7)
        self._count += 1
        return True

    def discard(self, index: int) -> bool:
        """Clears a bit; returns whether it was set before."""
        if index not in self:
            return False
        self._bits[index >> 3] &= ~(0x80 >> (index & 7)) & 0xFF
        self._count -= 1
        return True

    def covers(self, first: int, count: int) -> bool:
        """Tells whether every bit of a run is set."""
        value, mask, _ = self._window(first, count)
        return value & mask == mask

    def held_runs(self, first: int, count: int) -> list[Pair]:
        """The runs of set bits within a run."""
        return self._runs_within(first, count, held=True)

    def missing_runs(self, first: int, count: int) -> list[Pair]:
        """The runs of clear bits within a run."""
        return self._runs_within(first, count, held=False)

    def add_run(self, first: int, count: int) -> list[Pair]:
        """Sets the bits of a run; returns the runs of it that were clear before."""
        fresh = self.missing_runs(first, count)
        if fresh:
            value, mask, start = self._window(first, count)
            width = (first + count + 7 >> 3) - start
            self._bits[start : start + width] = (value | mask).to_bytes(width, "big")
            self._count += sum(length for _, length in fresh)
        return fresh

    def run_length(self, first: int, maximum: int) -> int:
        """How many bits are set from `first` on without a gap, up to `maximum`."""
        maximum = min(maximum, self._length - first)
        if maximum <= 0:
            return 0
        runs = self.held_runs(first, maximum)
        return runs[0][1] if runs and runs[0][0] == first else 0

    def _runs_within(self, first: int, count: int, *, held: bool) -> list[Pair]:
        value, mask, _ = self._window(first, count)
        wanted = value & mask if held else ~value & mask
        if not wanted:
            return []
        if wanted == mask:
            return [(first, count)]
        # The least significant bit stands for the last chunk: runs come out from the end.
        end = (first + count + 7 >> 3) * 8
        return [(end - low - size, size) for low, size in iterate_runs(wanted)][::-1]

    def _window(self, first: int, count: int) -> tuple[int, int, int]:
        """(bytes that hold a run as an integer, the run's bits in it, position of the first)."""
        if count < 1 or first < 0 or first + count > self._length:
            raise LocalProtocolError(f"no run of {count} from {first} in {self._length} bits")
        start, stop = first >> 3, first + count + 7 >> 3
        mask = ((1 << count) - 1) << stop * 8 - first - count
        return int.from_bytes(self._bits[start:stop], "big"), mask, start

    def missing(self) -> Iterator[int]:
        """Yields the clear bits in ascending order, of the state at the call."""
        for position, value in enumerate(bytes(self._bits)):
            if value == 0xFF:
                continue
            for bit in _BITS_OF_BYTE[value ^ 0xFF]:
                index = position * 8 + bit
                if index < self._length:
                    yield index

    def __or__(self, other: Bitmap) -> Bitmap:
        """Union of two bitmaps of the same length."""
        return self._combine(other, either=True)

    def __and__(self, other: Bitmap) -> Bitmap:
        """Intersection of two bitmaps of the same length."""
        return self._combine(other, either=False)

    def __eq__(self, other: object) -> bool:
        """Compares length and bits."""
        if not isinstance(other, Bitmap):
            return NotImplemented
        return self._length == other._length and self._bits == other._bits

    __hash__ = None  # type: ignore[assignment]  # mutable, like a set

    def _combine(self, other: Bitmap, *, either: bool) -> Bitmap:
        if self._length != other._length:
            raise LocalProtocolError(f"bitmaps of {self._length} and {other._length} bits")
        left = int.from_bytes(self._bits, "big")
        right = int.from_bytes(other._bits, "big")
        value = left | right if either else left & right
        return Bitmap.decode(value.to_bytes(len(self._bits), "big"), self._length)

    def _check(self, index: int) -> None:
        if not 0 <= index < self._length:
            raise LocalProtocolError(f"no chunk {index} in a bitmap of {self._length}")
