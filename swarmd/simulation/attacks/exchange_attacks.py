"""Attacks of the family `Family.EXCHANGE`."""

from __future__ import annotations

from typing import Final

from swarmd.simulation.attacks.attack import Attack

EXCHANGE_ATTACKS: Final[tuple[Attack, ...]] = ()
"""In the order of the page."""
