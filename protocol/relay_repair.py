"""What may be pulled, and when: the receiver's side of a relayed object.

While somebody seeds an object, its chunks are expected by push. A chunk may be asked for only when
it was heard of and did not come within the repair delay, when its sender skipped it or left, or
when nobody seeds the object any more. Chunks wait for their delay in one queue, in the order in
which they were heard of, so that no event looks at all of them.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

from protocol.exchange_events import PeerId
from protocol.relay_chunks import ChunkSet
from protocol.relay_estimates import DelayEstimate, QuantileEstimate
from protocol.relay_messages import Run

REPAIR_S_START: Final = 1.0
"""Repair delay before anything was measured, seconds."""
REPAIR_FACTOR: Final = 2.0
"""The repair delay in delays that nine of ten pushes do not exceed."""
REPAIR_S_MIN: Final = 0.25
"""Least repair delay, seconds: a batch of news alone takes as long."""
REPAIR_S_MAX: Final = 10.0
"""Longest repair delay, seconds."""
STALL_S_MIN: Final = 1.0
"""No push for at least so long, seconds, and an object is pulled though somebody claims to seed it:
a seeder that lies costs a second, one that pauses a few copies."""
STALL_S_START: Final = 3.0
"""The same before two pushes came, seconds."""
STALL_FACTOR: Final = 8.0
"""The same in mean distances between pushes."""
_SAMPLES_MAX: Final = 4096
"""Chunks whose first news is remembered for the estimate."""


class RepairBoard:
    """Chunks of gated objects that were heard of and are not here."""

    def __init__(self, have: ChunkSet) -> None:
        """Watches what is held, which the owner keeps current."""
        self._have = have
        self._heard = ChunkSet()
        self._opened = ChunkSet()
        self._queue: deque[tuple[float, int, int, PeerId]] = deque()
        self._samples: OrderedDict[int, float] = OrderedDict()
        self.delay = QuantileEstimate(REPAIR_S_START / REPAIR_FACTOR)
        """From the first news of a chunk to its push: of what one member pulled early, it may be
        very long, so no mean and deviation."""
        self._gap = DelayEstimate(STALL_S_START)
        self.pushed_at: float | None = None
        """When the last push came, seconds."""

    @property
    def repair_s(self) -> float:
        """How long a chunk that was heard of is expected by push, seconds."""
        return min(max(REPAIR_FACTOR * self.delay.value_s, REPAIR_S_MIN), REPAIR_S_MAX)

    @property
    def stall_s(self) -> float:
        """How long no push at all is normal, seconds."""
        if self._gap.mean_s is None:
            return STALL_S_START
        return max(STALL_S_MIN, 2 * self.repair_s, STALL_FACTOR * self._gap.mean_s)

    @property
    def due_at(self) -> float | None:
        """When the oldest chunk may be asked for, seconds."""
        return self._queue[0][0] + self.repair_s if self._queue else None

    def heard(self, peer: PeerId, first: int, count: int, now: float) -> None:
        """Notes that a peer holds chunks; those missing here are expected by push from now on."""
        absent = ~self._have.window(first, count) & ~self._heard.window(first, count)
        if not absent & ((1 << count) - 1):
            return
        self._heard.add(first, count)
        self._queue.append((now, first, count, peer))
        self._samples.setdefault(first, now)
        if len(self._samples) > _SAMPLES_MAX:
            self._samples.popitem(last=False)

    def pushed(self, first: int, count: int, now: float) -> None:
        """Notes that a push of a unit came: measures how long after its first news."""
        for number in range(first, first + count):
            heard_at = self._samples.pop(number, None)
            if heard_at is not None:
                self.delay.sample(now - heard_at)
        if self.pushed_at is not None:
            self._gap.sample(now - self.pushed_at)
        self.pushed_at = now

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
            runs += self.open_now(first, count)
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
            self._heard.remove(first, count)
            self._opened.remove(first, count)

    def clear(self) -> None:
        """Forgets what waits."""
        self._queue.clear()
        self._samples.clear()
