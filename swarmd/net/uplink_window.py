"""How many bytes of pushes may be on the way at once, so that an uplink's queue stays short.

Each connection's congestion control fills what room it finds, and a dozen of them at once overrun
the queue of a thin uplink: at 5 Mbit/s with 100 ms of queue a seventh of all packets was dropped.
Together they are one sender. It keeps its own window over what all of them have sent and seen no
acknowledgement of: what the rate at which acknowledgements came lately fills in the shortest round
trip and a little queue (as BBR does, draft-ietf-ccwg-bbr). What a connection has not moved for
long waits elsewhere, before a downlink that is thinner, and takes no room: two peers with a quarter
of the rate held half of 128 KiB.

All of them send at once, each at its share of the rate. A unit that left at the rate of the whole
uplink would meet those of others before the downlink it goes to, which has the same rate and a
short queue: a twentieth of all packets was dropped there. A pure machine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from protocol.limits import KIB, MIB

WINDOW_BYTES_MIN: Final = 128 * KIB
"""Eight units of a thin link: some of them wait before the downlinks of whom they go to, which are
as busy as this uplink. 16 nodes at 5 Mbit/s whose queues drop what waits for more than 100 ms took
1.58 fluid bounds with 64 KiB, 1.39 with 160, and 1.95 with 320, where what was dropped comes late.
"""
WINDOW_S_MIN: Final = 0.4
"""On links thinner still the least window is what the rate fills in this time, seconds: 128 KiB are
a second of 1 Mbit/s. Eight nodes at 2 Mbit/s took 1.40 bounds so instead of 1.60, at 1 Mbit/s 1.63
to 1.87 instead of 1.76 to 2.03; with 0.3 s at 5 Mbit/s a fiftieth more than with 0.4."""
THIN_WINDOW_BYTES_MIN: Final = 48 * KIB
"""And so much in any case: three chunks."""
GAIN: Final = 1.25
"""By how much the window exceeds what the rate fills: so it finds out whether more goes."""
QUEUE_S: Final = 0.06
"""What the queue before the uplink may hold, seconds: less than home routers have."""
SAMPLE_S: Final = 0.1
"""What a rate is measured over at least, seconds."""
SAMPLES: Final = 20
"""The highest of so many rates counts: two seconds."""
STUCK_TIMES: Final = 2.0
"""What was sent so many times longer ago than the window takes to drain has left this uplink."""
STUCK_S_MAX: Final = 1.0
"""After this time that is so in any case, seconds: no queue of an uplink is longer."""
LOOK_S: Final = 0.024
"""Between two looks at the connections, seconds: the queues hold more than is sent in it, and each
look costs a system call for each connection."""
PACE_GAIN: Final = 1.5
"""By how much all connections together may send faster than the uplink did lately: what one leaves
of its share another takes. With 1.2 half as many packets were dropped among equal links, and 8
nodes at 2 Mbit/s took 1.33 bounds instead of 1.40; but peers that are slow take less than their
share, and beside two of them fast nodes took 1.64 and 1.84 bounds instead of 1.45 to 1.57."""
PACED_BYTES_PER_S_MAX: Final = 4 * MIB
"""Faster uplinks are not paced: there processors are the bound, and what is paced costs timers."""
PACE_CHANGE: Final = 0.25
"""A pace is changed by at least this share of it: each change costs a call for each connection."""
_USED_WEIGHT: Final = 1 / 8
"""Weight of a new count of connections in use in their mean."""
DRAINED_SHARE: Final = 0.25
"""An uplink with less than this share of its window under way is about to be idle."""


@dataclass(frozen=True, slots=True)
class PathState:
    """What the system knows of one connection."""

    unacked_bytes: int
    """Given to it and not acknowledged by the other end."""
    round_trip_s: float
    """Its shortest round trip, seconds."""
    sent_bytes: int
    """Given to it since it began."""


class UplinkWindow:
    """See the module's docstring."""

    def __init__(self) -> None:
        """Starts with the least window."""
        self._rates: deque[float] = deque(maxlen=SAMPLES)
        self._handed_bytes = 0
        self._under_way_bytes = 0
        self._round_trip_s = 0.0
        self._seen_at = -1.0
        self._sampled_at: float | None = None
        self._sampled_bytes = 0
        self._marks: Mapping[bytes, int] = {}
        self._old_marks: Mapping[bytes, int] = {}
        self._marked_at = 0.0
        self._used_count = 0.0
        self._pace_bytes_per_s: int | None = None
        self.is_known = False
        """Whether the system says anything of any connection."""

    @property
    def window_bytes(self) -> int:
        """What may be under way, bytes."""
        rate = max(self._rates, default=0.0)
        least_bytes = max(int(WINDOW_S_MIN * rate), THIN_WINDOW_BYTES_MIN)
        filled_bytes = int(GAIN * rate * (self._round_trip_s + QUEUE_S))
        return max(filled_bytes, min(least_bytes, WINDOW_BYTES_MIN))

    def is_due(self, now: float) -> bool:
        """Whether the connections should be looked at again, which costs system calls."""
        return now - self._seen_at >= LOOK_S

    def seen(self, paths: Mapping[bytes, PathState], waiting_bytes: int, now: float) -> None:
        """Takes what the connections are like now.

        Args:
            paths: all that pushes go over, by peer.
            waiting_bytes: of pushes handed out and not taken by a connection yet.
            now: monotonic seconds.
        """
        self._seen_at = now
        self.is_known = bool(paths)
        if not paths:
            return
        times = sorted(path.round_trip_s for path in paths.values())
        self._round_trip_s = times[len(times) // 2]
        unacked_bytes = waiting_bytes + sum(path.unacked_bytes for path in paths.values())
        self._under_way_bytes = waiting_bytes + self._fresh_bytes(paths)
        self._mark(paths, now)
        used_count = sum(path.unacked_bytes > 0 for path in paths.values())
        self._used_count += _USED_WEIGHT * (used_count - self._used_count)
        arrived_bytes = self._handed_bytes - unacked_bytes
        if self._sampled_at is None:
            self._sampled_at, self._sampled_bytes = now, arrived_bytes
        elif now - self._sampled_at >= SAMPLE_S:
            rate = (arrived_bytes - self._sampled_bytes) / (now - self._sampled_at)
            self._rates.append(max(rate, 0.0))
            self._sampled_at, self._sampled_bytes = now, arrived_bytes

    def _fresh_bytes(self, paths: Mapping[bytes, PathState]) -> int:
        """Unacknowledged bytes, of each path no more than it was given lately."""
        fresh_bytes = 0
        for key, path in paths.items():
            lately_bytes = path.sent_bytes - self._old_marks.get(key, 0)
            # Who was given less than before has a new connection.
            fresh_bytes += min(
                path.unacked_bytes, path.sent_bytes if lately_bytes < 0 else lately_bytes
            )
        return fresh_bytes

    def _mark(self, paths: Mapping[bytes, PathState], now: float) -> None:
        """Notes, from time to time, what each path was given: once and twice that long ago."""
        if now - self._marked_at >= self._stuck_s:
            self._old_marks = self._marks
            self._marks = {key: path.sent_bytes for key, path in paths.items()}
            self._marked_at = now

    @property
    def _stuck_s(self) -> float:
        rate = max(self._rates, default=0.0)
        return min(STUCK_TIMES * self.window_bytes / max(rate, 1.0), STUCK_S_MAX)

    def handed_out(self, size_bytes: int) -> None:
        """Counts a push."""
        self._handed_bytes += size_bytes
        self._under_way_bytes += size_bytes

    @property
    def is_drained(self) -> bool:
        """Whether the uplink is about to have nothing to send."""
        return self._under_way_bytes <= DRAINED_SHARE * self.window_bytes

    def pace(self) -> int | None:
        """What each connection should send at most, bytes per second; None: no limit.

        Their sum exceeds the rate whatever number of them is in use, so that a low rate is never
        the pace's own doing for long.
        """
        rate = max(self._rates, default=0.0)
        if not 0 < rate <= PACED_BYTES_PER_S_MAX:
            self._pace_bytes_per_s = None
            return None
        wanted = max(int(PACE_GAIN * rate / max(self._used_count, 1.0)), 1)
        known = self._pace_bytes_per_s
        if known is None or abs(wanted - known) > PACE_CHANGE * known:
            self._pace_bytes_per_s = wanted
        return self._pace_bytes_per_s

    @property
    def room_bytes(self) -> int:
        """What may still be handed out; not above 0 if nothing."""
        return self.window_bytes - self._under_way_bytes
