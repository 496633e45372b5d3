"""Sets up the diagnostic log: one line per event on stderr, bounded however often it happens.

Peers can provoke messages, so equal ones are limited: of each (logger, template) only
`BURST` lines pass per `WINDOW_S`; the next line that passes says how many did not. Other people's
libraries are heard from `warning` up. The receipt log, not this one, holds what must be proven.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, TextIO

from swarmd.config import LogLevel

BURST: Final = 20
"""Lines of one kind that pass in a window: enough to see a pattern."""
WINDOW_S: Final = 60.0
"""Length of a window, seconds: a flood of one kind costs about 30 kB an hour."""
KINDS_MAX: Final = 1024
"""Kinds remembered; the code has fewer templates, so more means a library makes them up."""
_OURS: Final = ("swarmd", "protocol", "chunks", "ledger")
_FORMAT: Final = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class RateLimit(logging.Filter):
    """Lets `BURST` records of each kind pass per window, and counts the rest."""

    def __init__(self) -> None:
        """Starts with nothing seen."""
        super().__init__()
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Decides on one record; the first one after a flood carries the count of those dropped."""
        kind = (record.name, str(record.msg))
        start, count = self._windows.get(kind, (record.created, 0))
        # A wall clock that jumped back also opens a new window.
        if not 0 <= record.created - start < WINDOW_S:
            if count > BURST:
                record.msg = f"{record.msg} (and {count - BURST} more like it before)"
            start, count = record.created, 0
        if kind not in self._windows and len(self._windows) >= KINDS_MAX:
            self._windows.clear()
        self._windows[kind] = (start, count + 1)
        return count < BURST


class _Relevance(logging.Filter):
    """Drops what libraries say below `warning`."""

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name.partition(".")[0] in _OURS
        return ours or record.levelno >= logging.WARNING


class _Handler(logging.StreamHandler[TextIO]):
    """Our handler, recognisable when logging is configured again."""


def configure_logging(level: LogLevel, stream: TextIO | None = None) -> None:
    """Sends the log to stderr from `level` up; calling it again replaces the earlier set-up.

    Importing libp2p changes logging as well; the network adapter puts that right by itself.
    """
    handler = _Handler(sys.stderr if stream is None else stream)
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(_Relevance())
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [*(old for old in root.handlers if not isinstance(old, _Handler)), handler]
    root.setLevel(level.upper())
