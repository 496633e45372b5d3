"""How busy the machine's processors were: whether a time measured here is the links' or theirs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_STAT: Final = Path("/proc/stat")


class ProcessorWatch:
    """Measures from its making on."""

    def __init__(self) -> None:
        """Begins to measure."""
        self._busy, self._total = _ticks()

    def share(self) -> float:
        """Part of all processors in use since the beginning, 0 to 1, whoever used them."""
        busy, total = _ticks()
        return (busy - self._busy) / max(total - self._total, 1)


def _ticks() -> tuple[int, int]:
    """Busy and total time of all processors so far, ticks."""
    words = _STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    ticks = [int(word) for word in words]
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def process_s(pid: int) -> float:
    """Processor seconds of a process so far; 0 where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    words = text.rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
