"""Skewed clocks: validators that keep every rule by a clock that is an hour wrong."""

from __future__ import annotations

from ledger.simplex.engine import Simplex
from swarmd.simulation.byzantine.rogue import RogueHost

HOUR_MS = 3_600_000


class ClockAhead(RogueHost):
    """An hour ahead; finds every proposal stale."""

    engine_type = Simplex
    skew = HOUR_MS


class ClockBehind(RogueHost):
    """An hour behind; finds every proposal premature."""

    engine_type = Simplex
    skew = -HOUR_MS
