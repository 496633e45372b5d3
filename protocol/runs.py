"""Sets of chunk indices as runs: what a request, an answer or news is about, at a cost by run.

Whoever asks for a mebibyte asks for dozens of chunks, nearly always neighbours. As a run they cost
as much as one, on the wire (docs/spec/exchange.md, X14) and in every book that is kept of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from protocol.errors import EncodingError, LocalProtocolError

Pair = tuple[int, int]
"""(first index, count) of one run."""


class Runs:
    """An immutable set of indices; ascending runs that neither overlap nor touch.

    Iterating yields the indices, ascending; `len` is how many there are.
    """

    __slots__ = ("_bits", "_count", "_pairs")

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        """Takes runs as they are.

        Raises:
            LocalProtocolError: they are empty, overlap, touch, or do not ascend.
        """
        self._bits = -1
        self._pairs = tuple(pairs)
        end = -1
        total = 0
        for first, count in self._pairs:
            if first <= end or count < 1 or first < 0:
                raise LocalProtocolError(f"run of {count} from {first} behind {end}")
            end = first + count
            total += count
        self._count = total

    @classmethod
    def of(cls, indices: Iterable[int]) -> Runs:
        """Makes the set of these indices, in any order; runs stay what they are."""
        if isinstance(indices, Runs):
            return indices
        if isinstance(indices, (tuple, list)) and len(indices) == 1 and indices[0] >= 0:
            return cls.run(indices[0], 1)
        pairs: list[Pair] = []
        for index in sorted(set(indices)):
            if pairs and index == sum(pairs[-1]):
                pairs[-1] = (pairs[-1][0], pairs[-1][1] + 1)
            else:
                pairs.append((index, 1))
        return cls(pairs)

    @classmethod
    def run(cls, first: int, count: int) -> Runs:
        """Makes the set of one run of at least one index, which the caller has checked."""
        runs = cls.__new__(cls)
        runs._bits = -1  # noqa: SLF001 - its own
        runs._pairs = ((first, count),)  # noqa: SLF001
        runs._count = count  # noqa: SLF001
        return runs

    @classmethod
    def merged(cls, pairs: Iterable[Pair]) -> Runs:
        """Makes a set of runs that may touch and come in any order; they must not overlap."""
        whole: list[Pair] = []
        for first, count in sorted(pairs):
            if whole and first == sum(whole[-1]):
                whole[-1] = (whole[-1][0], whole[-1][1] + count)
            else:
                whole.append((first, count))
        return cls(whole)

    @classmethod
    def of_ascending(cls, indices: Sequence[int]) -> Runs:
        """Makes the set of indices that are known to ascend strictly; cheap for one run."""
        if indices and indices[0] >= 0 and indices[-1] - indices[0] == len(indices) - 1:
            return cls.run(indices[0], len(indices))
        return cls.of(indices)

    @classmethod
    def of_bits(cls, bits: int) -> Runs:
        """Makes the set whose indices are the set bits of an integer."""
        if not bits:
            return NO_CHUNKS
        low = bits & -bits
        if not bits & (bits + low):
            runs = cls.run(low.bit_length() - 1, bits.bit_count())
        else:
            runs = cls(iterate_runs(bits))
        runs._bits = bits
        return runs

    @property
    def bits(self) -> int:
        """The set as an integer: bit `i` for index `i`; made once."""
        bits = self._bits
        if bits < 0:
            bits = 0
            for first, count in self._pairs:
                bits |= ((1 << count) - 1) << first
            self._bits = bits
        return bits

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The runs, ascending."""
        return self._pairs

    @property
    def first(self) -> int:
        """The least index of a set that has one."""
        return self._pairs[0][0]

    @property
    def last(self) -> int:
        """The greatest index of a set that has one."""
        first, count = self._pairs[-1]
        return first + count - 1

    def shifted(self, distance: int) -> Runs:
        """The set with `distance` added to each index."""
        if not distance:
            return self
        return Runs((first + distance, count) for first, count in self._pairs)

    def flat(self) -> tuple[int, ...]:
        """The wire form: first, count, first, count, ..."""
        return tuple(chain.from_iterable(self._pairs))

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(range(first, first + count) for first, count in self._pairs)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, index: int) -> bool:
        return any(first <= index < first + count for first, count in self._pairs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Runs):
            return NotImplemented
        return self._pairs == other._pairs

    def __hash__(self) -> int:
        return hash(self._pairs)

    def __repr__(self) -> str:
        return f"Runs({list(self._pairs)})"


NO_CHUNKS = Runs()
"""The empty set."""


def runs_of_flat(flat: Sequence[int], *, below: int, count_max: int) -> Runs:
    """Reads the wire form.

    Args:
        flat: what a peer sent, integers not below zero.
        below: no index reaches it.
        count_max: most indices.

    Raises:
        EncodingError: not pairs, or not ascending and apart, or over a bound.
    """
    if len(flat) % 2:
        raise EncodingError(f"{len(flat)} numbers are no runs")
    try:
        runs = Runs(zip(flat[::2], flat[1::2], strict=True))
    except LocalProtocolError as error:
        raise EncodingError(str(error)) from error
    if runs and runs.last >= below:
        raise EncodingError(f"index {runs.last}, allowed are those below {below}")
    if len(runs) > count_max:
        raise EncodingError(f"{len(runs)} indices, allowed are {count_max}")
    return runs


def iterate_runs(bits: int, *, start: int = 0) -> Iterator[Pair]:
    """Yields the runs of set bits, ascending, from position `start`.

    Takes time proportional to the number of runs plus the integer's length, not their product,
    where runs are short or few.
    """
    bits >>= start
    base = start
    pending: Pair | None = None
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        base += skip
        if bits & _WINDOW_MASK == _WINDOW_MASK:
            count = (~bits & (bits + 1)).bit_length() - 1
            window, width = 0, count
        else:
            count, window, width = 0, bits & _WINDOW_MASK, _WINDOW_BITS
        if count:
            pending, ready = _join(pending, (base, count))
            if ready is not None:
                yield ready
        offset = 0
        while window:
            low = (window & -window).bit_length() - 1
            window >>= low
            offset += low
            count = (~window & (window + 1)).bit_length() - 1
            window >>= count
            pending, ready = _join(pending, (base + offset, count))
            if ready is not None:
                yield ready
            offset += count
        bits >>= width
        base += width
    if pending is not None:
        yield pending


def _join(pending: Pair | None, run: Pair) -> tuple[Pair, Pair | None]:
    """Joins a run to the one before if they touch: (what may still grow, what is ready)."""
    if pending is not None and pending[0] + pending[1] == run[0]:
        return (pending[0], pending[1] + run[1]), None
    return run, pending


_WINDOW_BITS = 2048
"""Bits taken from a large integer at once: small integers are cheap to peel."""
_WINDOW_MASK = (1 << _WINDOW_BITS) - 1
