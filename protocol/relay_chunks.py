"""`ChunkSet`: a set of chunk numbers with O(1) work per unit, whatever the image's size.

`Bitfield` and the picker use big integers because they work on whole bitmaps. Relaying touches a
few chunks at a time, and an integer of 2^18 bits is copied as a whole to change one bit; here the
bits are in a bytearray of which only the bytes of the run are looked at.
"""

from __future__ import annotations

from protocol.bitfield import iterate_bits
from protocol.relay_messages import Run, runs_of


class ChunkSet:
    """Chunk numbers below a fixed size. Memory grows with the largest number added."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        """Starts empty."""
        self._bytes = bytearray()

    def __contains__(self, number: int) -> bool:
        at = number >> 3
        return at < len(self._bytes) and bool(self._bytes[at] >> (number & 7) & 1)

    def window(self, first: int, count: int) -> int:
        """The run's members as an integer: bit `i` stands for number `first + i`."""
        part = self._bytes[first >> 3 : (first + count + 7) >> 3]
        return int.from_bytes(part, "little") >> (first & 7) & ((1 << count) - 1)

    def covers(self, first: int, count: int) -> bool:
        """Whether every number of the run is a member."""
        if count == 1:
            return first in self
        return self.window(first, count) == (1 << count) - 1

    def touches(self, first: int, count: int) -> bool:
        """Whether any number of the run is a member."""
        return self.window(first, count) != 0

    def add(self, first: int, count: int, bits: int | None = None) -> None:
        """Adds a run, or of it only the numbers whose bits are set."""
        low, high = first >> 3, (first + count + 7) >> 3
        if len(self._bytes) < high:
            self._bytes.extend(bytes(high - len(self._bytes)))
        if count == 1 and bits is None:
            self._bytes[low] |= 1 << (first & 7)
            return
        wanted = (1 << count) - 1 if bits is None else bits
        value = int.from_bytes(self._bytes[low:high], "little") | wanted << (first & 7)
        self._bytes[low:high] = value.to_bytes(high - low, "little")

    def remove(self, first: int, count: int) -> None:
        """Removes a run."""
        low, high = first >> 3, min((first + count + 7) >> 3, len(self._bytes))
        if high <= low:
            return
        value = int.from_bytes(self._bytes[low:high], "little")
        value &= ~(((1 << count) - 1) << (first & 7))
        self._bytes[low:high] = value.to_bytes(high - low, "little")

    def absent_runs(self, first: int, count: int) -> list[Run]:
        """The parts of a run that are not members."""
        if count == 1:
            return [] if first in self else [(first, 1)]
        absent = ~self.window(first, count) & ((1 << count) - 1)
        return bit_runs(absent, first, count)

    def count(self, first: int, count: int) -> int:
        """How many numbers of a run are members."""
        return self.window(first, count).bit_count()


def bit_runs(bits: int, first: int, count: int) -> list[Run]:
    """The set bits of a window as runs of numbers."""
    if not bits:
        return []
    if bits == (1 << count) - 1:
        return [(first, count)]
    return runs_of(first + position for position in iterate_bits(bits))


def merge_runs(runs: list[Run]) -> list[Run]:
    """Sorts runs and joins those that touch or overlap."""
    merged: list[Run] = []
    for first, count in sorted(runs):
        if merged and first <= sum(merged[-1]):
            start = merged[-1][0]
            merged[-1] = (start, max(sum(merged[-1]), first + count) - start)
        else:
            merged.append((first, count))
    return merged
