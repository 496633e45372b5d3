"""Which chunk to ask for next: the replaceable rule of `Download`, and rarest first as the default.

Rarest first (Cohen, "Incentives Build Robustness in BitTorrent", 2003, section 2.4.2) needs, for
each chunk, the number of peers that hold it. Here the counts are bit-sliced: plane `k` is one big
integer holding bit `k` of every chunk's count. Adding a peer's whole possession is one ripple-carry
over the planes, and the rarest of a set of candidates falls out of log2(peers) big-integer
operations, so no Python loop ever visits all chunks.

Ties are broken by position behind a start that moves with every pick and depends on the entropy
given at construction: peers with different entropy start at different places and so become useful
to each other, and chunks of one request tend to be neighbours, which disks like.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from protocol.bitfield import iterate_bits

_STEP: Final = 0x9E3779B97F4A7C15
"""Increment of a Weyl sequence: 2^64 divided by the golden ratio, which spreads evenly."""
_WORD: Final = 2**64 - 1


class Picker(Protocol):
    """A picking rule. Sets of chunks are integers: bit `n` stands for chunk number `n`."""

    def gained(self, chunks: int) -> None:
        """Notes that one more peer holds each of these chunks."""

    def lost(self, chunks: int) -> None:
        """Notes that one peer fewer holds each of these chunks."""

    def order(self, candidates: int) -> Iterator[int]:
        """Yields the candidates, best first; the caller takes as many as it needs."""


class RarestFirst:
    """Prefers the chunks that the fewest peers hold."""

    def __init__(self, *, size: int, entropy: int) -> None:
        """Starts with no peers.

        Args:
            size: number of chunks.
            entropy: any integer; decides ties and nothing else.
        """
        self._size = max(size, 1)
        self._cursor = entropy & _WORD
        self._planes: list[int] = []

    def gained(self, chunks: int) -> None:
        """Adds one to the counts of these chunks."""
        for position, plane in enumerate(self._planes):
            if not chunks:
                return
            self._planes[position] = plane ^ chunks
            chunks &= plane
        if chunks:
            self._planes.append(chunks)

    def lost(self, chunks: int) -> None:
        """Takes one from the counts of these chunks; each must have been gained before."""
        for position, plane in enumerate(self._planes):
            if not chunks:
                return
            self._planes[position] = plane ^ chunks
            chunks &= ~plane
        assert not chunks, "a chunk was lost more often than gained"

    def availability(self, chunk: int) -> int:
        """How many peers hold a chunk."""
        return sum((plane >> chunk & 1) << k for k, plane in enumerate(self._planes))

    def order(self, candidates: int) -> Iterator[int]:
        """Yields the candidates, rarest first."""
        self._cursor = (self._cursor + _STEP) & _WORD
        start = self._cursor % self._size
        while candidates:
            rarest = candidates
            for plane in reversed(self._planes):
                rarer = rarest & ~plane
                if rarer:
                    rarest = rarer
            yield from iterate_bits(rarest, start=start)
            yield from iterate_bits(rarest & ((1 << start) - 1))
            candidates &= ~rarest
