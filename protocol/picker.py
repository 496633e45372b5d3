"""Which chunk to ask for next: the replaceable rule of `Download`, and rarest first as the default.

Rarest first (Cohen, "Incentives Build Robustness in BitTorrent", 2003, section 2.4.2) needs, for
each chunk, the number of peers that hold it. Here the counts are bit-sliced: plane `k` is one big
integer holding bit `k` of every chunk's count. Adding a peer's whole possession is one ripple-carry
over the planes, and the rarest of a set of candidates falls out of log2(peers) big-integer
operations, so no Python loop ever visits all chunks.

Ties are broken by position behind a start. With one peer to take from, that is the beginning:
what comes in order need not be read again to hash the whole. With several it is another one each
time, which the entropy given at construction decides: while one node holds what all others lack,
those that went on where they ended would soon walk through the same gaps side by side, and each ask
for what its neighbour is asking for, too (100 nodes, each connected to 16: 4.7 copies left the only
seeder, and 1.9 with starts by chance). What is picked at once is still a run, which disks like and
which costs no more than one chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from protocol.relay_estimates import Chance
from protocol.runs import Pair, iterate_runs

STARTS_MAX: Final = 4096
"""Places where picks may start; more would cut large images into runs that cost more than the
requests they make."""


class Picker(Protocol):
    """A picking rule. Sets of chunks are integers: bit `n` stands for chunk number `n`."""

    def gained(self, chunks: int) -> None:
        """Notes that one more peer holds each of these chunks."""

    def lost(self, chunks: int) -> None:
        """Notes that one peer fewer holds each of these chunks."""

    def order(self, candidates: int, *, is_alone: bool = False) -> Iterator[Pair]:
        """Yields the candidates as runs, best first; the caller takes as many as it needs.

        `is_alone` tells that one peer is all there is to take from.
        """


class RarestFirst:
    """Prefers the chunks that the fewest peers hold."""

    __slots__ = (
        "_chance",
        "_planes",
        "_starts",
        "_stride",
    )

    def __init__(self, *, size: int, entropy: int) -> None:
        """Starts with no peers.

        Args:
            size: number of chunks.
            entropy: any integer; decides ties and nothing else.
        """
        self._chance = Chance(entropy)
        self._stride = -(-size // STARTS_MAX) or 1
        self._starts = -(-size // self._stride)
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

    def order(self, candidates: int, *, is_alone: bool = False) -> Iterator[Pair]:
        """Yields the candidates as runs, rarest first."""
        start = 0 if is_alone else self._chance.below(self._starts or 1) * self._stride
        while candidates:
            rarest = candidates
            for plane in reversed(self._planes):
                rarer = rarest & ~plane
                if rarer:
                    rarest = rarer
            behind = rarest >> start
            if behind:
                # The first run by itself: most callers take no other.
                first = (behind & -behind).bit_length() - 1
                behind >>= first
                count = (~behind & (behind + 1)).bit_length() - 1
                yield start + first, count
                behind >>= count
                if behind:
                    yield from iterate_runs(rarest, start=start + first + count)
            if start:
                yield from iterate_runs(rarest & ((1 << start) - 1))
            candidates &= ~rarest
