"""How far crash states are enumerated: a few torn variants in the tests, more on demand."""

from __future__ import annotations

import os

SEEDS_VARIABLE = "SWARMD_CRASH_SEEDS"
"""Environment variable: torn variants of each prefix; `make crash` sets it."""


def campaign_seeds(default: int) -> range:
    """Seeds of the torn variants of each prefix."""
    return range(int(os.environ.get(SEEDS_VARIABLE, default)))
