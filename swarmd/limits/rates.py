"""Rates, and when they hold: the settings of `[traffic]` as values.

A schedule is a list of windows of the week in UTC with rates of their own; the first window that
holds decides, outside all of them the general rates do. Text form of an entry:

    Mon,Tue,Wed,Thu,Fri 08:00-18:00 up=64 down=256

in KiB per second; `up=0` means no limit, and what is not named keeps the general rate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from protocol.calendar import WeeklyWindow
from protocol.errors import ConfigError
from protocol.limits import KIB
from swarmd.floor import parse_floor_window

RATE_KIB_MIN: Final = 16
"""Least rate that is no prohibition, KiB/s: a frame of 256 KiB takes 16 s at it. To allow nothing
there is the off switch."""
RATE_KIB_MAX: Final = 1 << 24
"""16 GiB/s."""
_ENTRY: Final = re.compile(r"(\S+ \S+)((?: (?:up|down)=[0-9]{1,8}){1,2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Bytes per second; None: no limit."""

    up: int | None = None
    """To all peers beyond the site together."""
    down: int | None = None
    """From all of them together."""
    peer_up: int | None = None
    """To each of them."""
    peer_down: int | None = None
    """From each of them."""
    lan_up: int | None = None
    """To all peers of the same site together."""
    lan_down: int | None = None
    """From all of them together."""


@dataclass(frozen=True, slots=True)
class ScheduledRates:
    """Rates that hold within a window of the week."""

    window: WeeklyWindow
    """When, in UTC."""
    changes: tuple[tuple[str, int | None], ...]
    """`up` or `down` with the rate that holds then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatePlan:
    """General rates, and what holds at which time of the week."""

    general: Rates = Rates()
    """Outside all windows."""
    schedule: tuple[ScheduledRates, ...] = ()
    """The first window that holds decides."""

    def at(self, time_ms: int) -> Rates:
        """The rates at a moment, milliseconds since 1970 (UTC)."""
        for entry in self.schedule:
            if entry.window.contains(time_ms):
                return replace(self.general, **dict(entry.changes))
        return self.general


def rate_of(kib_per_s: int, what: str) -> int | None:
    """A setting in KiB/s as bytes per second; 0: no limit.

    Raises:
        ConfigError: out of range.
    """
    if kib_per_s and not RATE_KIB_MIN <= kib_per_s <= RATE_KIB_MAX:
        raise ConfigError(f"{what}: {kib_per_s} KiB/s, allowed 0, or {RATE_KIB_MIN} and more")
    return kib_per_s * KIB or None


def parse_scheduled(text: str, what: str) -> ScheduledRates:
    """Reads one entry of a schedule.

    Raises:
        ConfigError: it is something else.
    """
    match = _ENTRY.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{what}: {text[:80]!r} is not DAYS HH:MM-HH:MM up=KIB down=KIB, "
            "as Mon,Tue 08:00-18:00 up=64 down=256"
        )
    changes: dict[str, int | None] = {}
    for part in match[2].split():
        name, _, number = part.partition("=")
        if name in changes:
            raise ConfigError(f"{what}: {text[:80]!r} names {name} twice")
        changes[name] = rate_of(int(number), f"{what}: {name}")
    return ScheduledRates(parse_floor_window(match[1], what), tuple(changes.items()))


def parse_schedule(texts: Sequence[str], what: str) -> tuple[ScheduledRates, ...]:
    """Reads a schedule.

    Raises:
        ConfigError: an entry is something else.
    """
    return tuple(parse_scheduled(text, what) for text in texts)
