"""What may be pulled, and when: the receiver's side of a relayed object.

While somebody seeds an object, its chunks are expected by push. A chunk may be asked for only when
it was heard of and did not come within the repair delay, when its sender skipped it or left, or
when nobody seeds the object any more. Chunks wait for their delay in one queue, in the order in
which they were heard of, so that no event looks at all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from protocol.exchange_events import PeerId
from protocol.relay_chunks import ChunkSet
from protocol.relay_estimates import DelayEstimate, QuantileEstimate
from protocol.relay_messages import Run

LATE_SHARE: Final = 0.95
"""Of the chunks that were heard of before they came, so many came within what is measured."""
LATE_FACTOR: Final = 3.0
"""The repair delay in times of that: one in twenty is later without being lost."""
LATE_S_START: Final = 1 / 3
"""What is taken for it before anything came, seconds."""
CAUTION_UP: Final = 1.05
"""Factor of the repair delay for each chunk that was pushed after it had been pulled."""
CAUTION_DOWN: Final = 0.99
"""The same for each chunk whose delay passes: it is forgotten about ten times slower than learnt if
a tenth of the repairs come too early."""
CAUTION_MAX: Final = 8.0
"""Largest such factor."""
REPAIR_S_MIN: Final = 0.5
"""Least repair delay, seconds: a batch of news alone takes as long."""
REPAIR_S_MAX: Final = 10.0
"""Longest repair delay, seconds."""
HEARD_MAX: Final = 4096
"""Runs of which it is remembered when they were heard of; the oldest are forgotten first: whoever
claims everything at once fills no memory."""
STALL_S_MIN: Final = 1.0
"""No push for at least so long, seconds, and an object is pulled though somebody claims to seed it:
a seeder that lies costs a second, one that pauses a few copies."""
STALL_S_START: Final = 3.0
"""The same before two pushes came, seconds."""
STALL_FACTOR: Final = 8.0
"""The same in mean distances between pushes."""


class RepairBoard:
    """Chunks of gated objects that were heard of and are not here."""

    def __init__(self, have: ChunkSet) -> None:
        """Watches what is held, which the owner keeps current."""
        self._have = have
        self._caution = 1.0
        self._heard = ChunkSet()
        self._opened = ChunkSet()
        self._queue: deque[tuple[float, int, int, PeerId]] = deque()
        self._heard_at: dict[int, float] = {}
        self._late = QuantileEstimate(LATE_S_START, share=LATE_SHARE)
        self._gap = DelayEstimate(STALL_S_START)
        self._first_at = 0.0
        self.pushed_at: float | None = None
        """When the last push that brought anything came, seconds."""
        self.pushed_count = 0
        """Pushes that brought anything, since the start."""

    @property
    def repair_s(self) -> float:
        """How long a chunk that was heard of is expected by push, seconds.

        Measured here, where all relayers' queues and this node's own downlink show: whoever goes by
        its own queue, and has little to relay, asks for what is on its way.
        """
        expected_s = LATE_FACTOR * self._late.value_s * self._caution
        return min(max(expected_s, REPAIR_S_MIN), REPAIR_S_MAX)

    @property
    def remembered(self) -> int:
        """Runs of which it is known when they were heard of."""
        return len(self._heard_at)

    @property
    def gap_s(self) -> float:
        """The mean distance between pushes that brought anything, seconds."""
        return STALL_S_START if self._gap.mean_s is None else self._gap.mean_s

    @property
    def usual_gap_s(self) -> float:
        """The same over all pushes so far, however few come now, seconds."""
        if self.pushed_at is None or self.pushed_count < 2:
            return STALL_S_START
        return (self.pushed_at - self._first_at) / (self.pushed_count - 1)

    @property
    def stall_s(self) -> float:
        """How long no push at all is normal, seconds."""
        if self._gap.mean_s is None:
            return STALL_S_START
        return max(STALL_S_MIN, 2 * self.repair_s, STALL_FACTOR * self.gap_s)

    @property
    def due_at(self) -> float | None:
        """When the oldest chunk may be asked for, seconds."""
        return self._queue[0][0] + self.repair_s if self._queue else None

    def may_be_due(self, now: float) -> bool:
        """Whether `take_due` may find something; cheaper than to ask it."""
        return bool(self._queue) and self._queue[0][0] + REPAIR_S_MIN <= now

    def heard(self, peer: PeerId, first: int, count: int, now: float) -> None:
        """Notes that a peer holds chunks; those missing here are expected by push from now on."""
        absent = ~self._have.window(first, count) & ~self._heard.window(first, count)
        if not absent & ((1 << count) - 1):
            return
        self._heard.add(first, count)
        self._queue.append((now, first, count, peer))
        self._heard_at[first] = now
        if len(self._heard_at) > HEARD_MAX:
            del self._heard_at[next(iter(self._heard_at))]

    def pushed(self, first: int, count: int, now: float) -> bool:
        """Notes that a push of a unit came; if it was pulled before, that was too early.

        Returns:
            Whether it brings anything: whoever repeats what is here does not work.
        """
        if self._opened.touches(first, count) and self._have.touches(first, count):
            self._caution = min(self._caution * CAUTION_UP, CAUTION_MAX)
        heard_at = self._heard_at.pop(first, None)
        if heard_at is not None:
            # What is longer changes nothing now, and would have to be forgotten later.
            self._late.sample(min(now - heard_at, REPAIR_S_MAX / LATE_FACTOR))
        if self._have.covers(first, count):
            return False
        if self.pushed_at is None:
            self._first_at = now
        else:
            self._gap.sample(now - self.pushed_at)
        self.pushed_at = now
        self.pushed_count += 1
        return True

    def open_now(self, first: int, count: int) -> list[Run]:
        """Permits chunks at once.

        Returns:
            Those that are missing and were not permitted before.
        """
        self._heard.add(first, count)
        wanted = ~self._have.window(first, count) & ~self._opened.window(first, count)
        if not wanted & ((1 << count) - 1):
            return []
        self._opened.add(first, count)
        return self._have.absent_runs(first, count)

    def take_due(self, now: float) -> list[Run]:
        """Takes out what waited long enough and is still missing."""
        runs: list[Run] = []
        while self._queue and self._queue[0][0] + self.repair_s <= now:
            _, first, count, _ = self._queue.popleft()
            if self._have.covers(first, count):
                self._heard_at.pop(first, None)
            opened = self.open_now(first, count)
            if opened:
                self._caution = max(self._caution * CAUTION_DOWN, 1.0)
            runs += opened
        return runs

    def lost_sender(self, peer: PeerId) -> list[Run]:
        """Takes out what was first heard of from a peer that left; looks at all that waits."""
        runs: list[Run] = []
        kept: deque[tuple[float, int, int, PeerId]] = deque()
        for entry in self._queue:
            if entry[3] == peer:
                runs += self.open_now(entry[1], entry[2])
            else:
                kept.append(entry)
        self._queue = kept
        return runs

    def forget(self, runs: Sequence[Run]) -> None:
        """Forgets what is known of chunks that rotted here, so that they are repaired again."""
        for first, count in runs:
            self._heard_at.pop(first, None)
            self._heard.remove(first, count)
            self._opened.remove(first, count)

    def clear(self) -> None:
        """Forgets what waits."""
        self._queue.clear()
        self._heard_at.clear()
