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
from typing import Final, Protocol

Entry = tuple[float, int, int, int, object]
"""(time in seconds, order, target, source, event); no two have one order."""

NEVER: Final = 2**62
"""Number of a window that never comes."""
_SLOTS_PER_S: Final = 4096.0
"""A few hundred events of a large crowd fall into one slot."""


class Agenda(Protocol):
    """What a world needs of its agenda. Nothing may be pushed before the entry yielded last."""

    def push(self, entry: Entry, owner: int) -> None:
        """Adds an entry; `owner` says whose state it may touch."""
        ...

    def keep(self, is_kept: Callable[[Entry], bool]) -> None:
        """Drops all other entries."""
        ...

    def until(self, time: float) -> Iterator[Entry]:
        """Takes out what is due by `time`, in order, with what is pushed meanwhile."""
        ...


class Timeline:
    """One order for everybody."""

    def __init__(self) -> None:
        """Starts empty."""
        self._now: list[Entry] = []
        self._position = 0
        self._slot = -1
        self._later: dict[int, list[Entry]] = {}
        self._slots: list[int] = []

    def push(self, entry: Entry, owner: int) -> None:  # noqa: ARG002
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

    def keep(self, is_kept: Callable[[Entry], bool]) -> None:
        """See `Agenda`."""
        self._now = [entry for entry in self._now[self._position :] if is_kept(entry)]
        self._position = 0
        for entries in self._later.values():
            entries[:] = filter(is_kept, entries)

    def until(self, time: float) -> Iterator[Entry]:
        """See `Agenda`."""
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


class Windows:
    """An order for each owner, in windows of time that nothing crosses.

    Where whatever one owner does reaches another one a window later at the soonest, what both do
    within a window does not depend on who is first. So each does all of it in turn, while what it
    touches is near: where owners take a hundred kilobytes each, going from one to the next for each
    event costs as much as the events. Time goes back by up to a window from one owner to the next.
    """

    def __init__(self, window_s: float) -> None:
        """Starts empty.

        Args:
            window_s: less than what anything takes from one owner to another, seconds.
        """
        self._per_s = 1.0 / window_s
        self._window = -1
        self._now: dict[int, list[Entry]] = {}
        self._owner: int | None = None
        self._entries: list[Entry] = []
        self._position = 0
        self._later: dict[int, dict[int, list[Entry]]] = {}
        self._windows: list[int] = []

    def push(self, entry: Entry, owner: int) -> None:
        """Adds an entry; for another owner than the one whose turn it is, to a later window."""
        window = int(entry[0] * self._per_s)
        if window <= self._window:
            self._push_now(entry, owner)
            return
        owners = self._later.get(window)
        if owners is None:
            owners = self._later[window] = {}
            heapq.heappush(self._windows, window)
        entries = owners.get(owner)
        if entries is None:
            owners[owner] = [entry]
        else:
            entries.append(entry)

    def _push_now(self, entry: Entry, owner: int) -> None:
        if owner == self._owner:
            insort(self._entries, entry, self._position)
        elif self._owner is None:
            self._now.setdefault(owner, []).append(entry)
        else:
            raise AssertionError(f"{self._owner} reaches {owner} within a window: {entry!r}")

    @property
    def next(self) -> int:
        """Number of the first window with an entry; `NEVER` if there is none."""
        if self._now:
            return self._window
        return self._windows[0] if self._windows else NEVER

    def number(self, time: float) -> int:
        """Number of the window that a time is in."""
        return int(time * self._per_s)

    def keep(self, is_kept: Callable[[Entry], bool]) -> None:
        """See `Agenda`."""
        for entries in chain(self._now.values(), *(o.values() for o in self._later.values())):
            entries[:] = filter(is_kept, entries)

    def until(self, time: float) -> Iterator[Entry]:
        """Takes out what is due by `time`, window by window, owner by owner, in order."""
        return self._go(int(time * self._per_s), time)

    def window(self, number: int) -> Iterator[Entry]:
        """Takes out what is due up to the end of a window."""
        return self._go(number, math.inf)

    def _go(self, last: int, time: float) -> Iterator[Entry]:
        while True:
            left: dict[int, list[Entry]] = {}
            for owner in sorted(self._now):
                entries = self._entries = self._now[owner]
                entries.sort()
                self._owner, self._position = owner, 0
                while self._position < len(entries):
                    entry = entries[self._position]
                    if entry[0] > time:
                        left[owner] = entries[self._position :]
                        break
                    self._position += 1
                    yield entry
            self._owner, self._now = None, left
            if left or not self._windows or self._windows[0] > last:
                return
            self._window = heapq.heappop(self._windows)
            self._now = self._later.pop(self._window)
