"""When images became complete, by the daemons' own logs: looks are half a second apart, lines are
written at the moment, to the millisecond.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Final

from swarmd.clock import SystemClock

_COMPLETE: Final = re.compile(
    r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) INFO +swarmd\.services\.images: "
    r"\S+ (\S+) is complete$"
)
"""Time and version of a line that says that a release is complete."""


def completions(logs: Iterable[tuple[str, Path]], now_s: float) -> dict[tuple[str, str], float]:
    """Reads when each node first had each release.

    Args:
        logs: name and log of each node; a log that is missing says nothing.
        now_s: the present on the clock on which the answers shall be, seconds.

    Returns:
        Moments by node and version.
    """
    offset_s = now_s - SystemClock().wall_ms() / 1000
    found: dict[tuple[str, str], float] = {}
    for name, path in logs:
        for wall_s, version in _lines(path):
            found.setdefault((name, version), wall_s + offset_s)
    return found


def _lines(path: Path) -> Iterator[tuple[float, str]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        match = _COMPLETE.match(line)
        if match is not None:
            # Logs are in local time, and this is the machine that wrote them.
            written = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f")  # noqa: DTZ007
            yield written.timestamp(), match[2]
