"""What a seeder has left to give: units that nobody else is known to hold, and those given back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from protocol.exchange_events import PeerId
from protocol.relay_chunks import ChunkSet
from protocol.relay_messages import Run
from protocol.relay_units import SeedShare, UnitCutter

_CLAIMS_MAX: Final = 255
"""Claims that are counted of one chunk."""


class FreshUnits:
    """See the module's docstring."""

    def __init__(self, *, share: SeedShare, cutter: UnitCutter, have: ChunkSet) -> None:
        """Starts with every chunk of the object fresh.

        Args:
            share: which chunks are this node's to push.
            cutter: cuts runs into units.
            have: what this node holds; the owner keeps it current.
        """
        self._share = share
        self._cutter = cutter
        self._have = have
        self._taken = ChunkSet()
        self._claims = bytearray(cutter.end - cutter.start)
        self.witnesses_min = 2
        """Members that must claim a chunk before it counts as held elsewhere: what fewer claim may
        be a lie that would keep it from the others."""
        self._cursor = cutter.start
        self._step = 0
        self._helps = False
        self._returned: deque[Run] = deque()

    def next_unit(self) -> Run | None:
        """Takes the next unit out, returned ones first."""
        while self._returned:
            run = self._returned.popleft()
            if not self._is_known(run):
                return run
        unit = self._peek()
        if unit is not None:
            self._taken.add(*unit)
        return unit

    def claimed(self, first: int, count: int) -> None:
        """Notes that one more member holds chunks: what enough hold need not be pushed."""
        if self.is_exhausted:
            return  # who holds what decides nothing any more
        start = first - self._cutter.start
        for position in range(start, start + count):
            claims = self._claims[position]
            if claims < self.witnesses_min and claims < _CLAIMS_MAX:
                self._claims[position] = claims + 1
                if claims + 1 >= min(self.witnesses_min, _CLAIMS_MAX):
                    self._taken.add(self._cutter.start + position, 1)

    def set_members(self, count: int) -> None:
        """Notes how many receive the object: more than a third of them must tell the same."""
        self.witnesses_min = max(2, (count - 1) // 3 + 1)

    def known_before(self, claims: Iterable[int]) -> None:
        """Notes what members held before any unit was given.

        Args:
            claims: for each member what it claims; bit `i` stands for the object's chunk `i`.
        """
        # at_least[k]: chunks that k + 1 of the members so far claim.
        at_least = [0] * self.witnesses_min
        for claim in claims:
            for position in range(self.witnesses_min - 1, 0, -1):
                at_least[position] |= at_least[position - 1] & claim
            at_least[0] |= claim
        start, end = self._cutter.start, self._cutter.end
        self._taken.add(start, end - start, at_least[-1])

    def set_others(self, others: Iterable[PeerId]) -> None:
        """Notes who else seeds; a share that fell to this node is looked at from its start."""
        if self._share.set_others(others):
            self._cursor, self._step = self._cutter.start, 0
            self._helps = False

    def give_back(self, run: Run) -> None:
        """Takes back a unit that was given and did not spread."""
        self._returned.append(run)

    @property
    def is_exhausted(self) -> bool:
        """Whether no unit is left to give."""
        may_help = self._share.has_others and not self._helps
        return not self._returned and not may_help and self._peek() is None

    @property
    def left_bytes(self) -> int:
        """About how much of this node's own stripes was never looked at."""
        return self._cutter.bytes_from(self._cursor)

    @property
    def waits_to_help(self) -> bool:
        """Whether this node's own stripes are given out, and those of other seeders are not its."""
        is_done = not self._returned and self._peek() is None
        return is_done and self._share.has_others and not self._helps

    def help_others(self) -> None:
        """Goes on with the stripes of other seeders."""
        self._helps = True

    @property
    def has_fresh(self) -> bool:
        """Whether a unit is left that was never given."""
        return self._peek() is not None

    def _peek(self) -> Run | None:
        """The next fresh unit: own stripes ascending, then others' from the end.

        Each chunk is passed once, however often this is called.
        """
        while self._cursor < self._cutter.end:
            if self._is_own_fresh(self._cursor):
                return self._cutter.unit_at(self._cursor, self._is_own_fresh)
            self._cursor += 1
        if self._helps:
            while self._step < self._share.steps:
                number = self._share.from_end(self._step)
                if number < self._cutter.end and self._is_fresh(number):
                    return self._cutter.unit_at(number, self._is_fresh)
                self._step += 1
        return None

    def _is_known(self, run: Run) -> bool:
        """Whether enough members hold a unit that was given back."""
        start = run[0] - self._cutter.start
        enough = min(self.witnesses_min, _CLAIMS_MAX)
        return min(self._claims[start : start + run[1]]) >= enough

    def _is_fresh(self, number: int) -> bool:
        return number not in self._taken and number in self._have

    def _is_own_fresh(self, number: int) -> bool:
        return self._is_fresh(number) and self._share.is_own(number)
