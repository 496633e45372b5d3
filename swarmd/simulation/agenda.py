"""What is to happen when: events by time, then in the order they were made.

A heap of everything under way costs a walk through memory for each event, a third of what a crowd
of thousands takes. Here events to come lie unsorted in slots of time; a slot is sorted when its
time comes, while it is small and near.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

Entry = tuple[float, int, int, int, object]
"""(time in seconds, order, target, source, event); no two have one order."""

_SLOTS_PER_S: Final = 4096.0
"""A few hundred events of a large crowd fall into one slot."""


class Agenda:
    """See the module's docstring. Nothing may be pushed before the entry yielded last."""

    def __init__(self) -> None:
        """Starts empty."""
        self._now: list[Entry] = []
        self._position = 0
        self._slot = -1
        self._later: dict[int, list[Entry]] = {}
        self._slots: list[int] = []

    def push(self, entry: Entry) -> None:
        """Adds an entry."""
        slot = int(entry[0] * _SLOTS_PER_S)
        if slot <= self._slot:
            insort(self._now, entry, self._position)
            return
        entries = self._later.get(slot)
        if entries is None:
            self._later[slot] = [entry]
            heapq.heappush(self._slots, slot)
        else:
            entries.append(entry)

    @property
    def next_s(self) -> float:
        """No entry is due before this, seconds; infinite if there is none."""
        if self._position < len(self._now):
            return self._now[self._position][0]
        return self._slots[0] / _SLOTS_PER_S if self._slots else math.inf

    def keep(self, is_kept: Callable[[Entry], bool]) -> None:
        """Drops entries."""
        entries = [*self._now[self._position :], *chain.from_iterable(self._later.values())]
        self._now, self._position, self._slot = [], 0, -1
        self._later, self._slots = {}, []
        for entry in filter(is_kept, entries):
            self.push(entry)

    def until(self, time: float) -> Iterator[Entry]:
        """Takes out what is due by `time`, in order, with what is pushed meanwhile."""
        last = int(time * _SLOTS_PER_S)
        while True:
            entries = self._now
            while self._position < len(entries):
                entry = entries[self._position]
                if entry[0] > time:
                    return
                self._position += 1
                yield entry
            if not self._slots or self._slots[0] > last:
                return
            self._slot = heapq.heappop(self._slots)
            self._now = self._later.pop(self._slot)
            self._now.sort()
            self._position = 0
