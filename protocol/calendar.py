"""Times that policies name: weekly windows and freezes, in header time and UTC.

Header time is milliseconds since 1970-01-01T00:00Z without leap seconds, so that weekday and minute
of the day follow by division. A window never crosses midnight: two windows say that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from protocol.encoding import Value, as_array, as_uint, check_range
from protocol.errors import EncodingError

MINUTE_MS: Final = 60_000
"""A minute in milliseconds."""
HOUR_MS: Final = 60 * MINUTE_MS
"""An hour in milliseconds."""
DAY_MS: Final = 24 * HOUR_MS
"""A day in milliseconds."""
DAY_MINUTES: Final = 24 * 60
"""Minutes of a day."""
DURATION_MS_MAX: Final = 366 * DAY_MS
"""Longest wait or age a policy may name: beyond it a slip would be for ever."""
WEEK_DAYS: Final = 7
"""Days of a week; bit 0 of a mask is Monday."""
DAY_NAMES: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
"""Names of weekdays, Monday first."""
_EPOCH_DAY: Final = 3
"""1970-01-01 was a Thursday."""


def day_of_week(time_ms: int) -> int:
    """The UTC weekday of a header time: 0 is Monday."""
    return (time_ms // DAY_MS + _EPOCH_DAY) % WEEK_DAYS


def minute_of_day(time_ms: int) -> int:
    """The UTC minute of the day of a header time, 0 to 1,439."""
    return time_ms % DAY_MS // MINUTE_MS


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """A span of minutes on some days of each week, in UTC."""

    days: int
    """Mask of weekdays, bit 0 is Monday; 1 to 127."""
    from_minute: int
    """First minute of the day that is inside."""
    to_minute: int
    """First minute behind it, at most 1,440."""

    def __post_init__(self) -> None:
        """Refuses a window that is never open.

        Raises:
            EncodingError: no day, or a span that is empty or not within a day.
        """
        check_range(self.days, "window's days", minimum=1, maximum=(1 << WEEK_DAYS) - 1)
        check_range(self.to_minute, "window's end", minimum=1, maximum=DAY_MINUTES)
        check_range(self.from_minute, "window's begin", maximum=self.to_minute - 1)

    def contains(self, time_ms: int) -> bool:
        """Tells whether a header time is inside."""
        is_day = bool(self.days >> day_of_week(time_ms) & 1)
        return is_day and self.from_minute <= minute_of_day(time_ms) < self.to_minute

    def to_value(self) -> Value:
        """The wire form: [days, from, to]."""
        return [self.days, self.from_minute, self.to_minute]

    @classmethod
    def from_value(cls, value: Value) -> WeeklyWindow:
        """Reads the wire form; raises EncodingError."""
        days, begin, end = (
            as_uint(item, "window", maximum=DAY_MINUTES)
            for item in as_array(value, "window", size=3)
        )
        return cls(days, begin, end)


@dataclass(frozen=True, slots=True)
class Freeze:
    """A span of header time in which nothing is authorised and nothing new is offered."""

    from_ms: int
    """First millisecond of it."""
    to_ms: int
    """First millisecond behind it."""

    def __post_init__(self) -> None:
        """Refuses an empty or endless span.

        Raises:
            EncodingError: it is one, or longer than 366 days.
        """
        check_range(self.from_ms, "freeze's begin")
        check_range(
            self.to_ms,
            "freeze's end",
            minimum=self.from_ms + 1,
            maximum=self.from_ms + DURATION_MS_MAX,
        )

    def contains(self, time_ms: int) -> bool:
        """Tells whether a header time is inside."""
        return self.from_ms <= time_ms < self.to_ms

    def to_value(self) -> Value:
        """The wire form: [from, to]."""
        return [self.from_ms, self.to_ms]

    @classmethod
    def from_value(cls, value: Value) -> Freeze:
        """Reads the wire form; raises EncodingError."""
        begin, end = (as_uint(item, "freeze") for item in as_array(value, "freeze", size=2))
        return cls(begin, end)


def check_freezes(freezes: Sequence[Freeze]) -> None:
    """Checks that spans ascend and do not touch, so that one list stands for one calendar.

    Raises:
        EncodingError: they do not.
    """
    if any(later.from_ms <= earlier.to_ms for earlier, later in pairwise(freezes)):
        raise EncodingError("freezes do not ascend, or two of them touch")
