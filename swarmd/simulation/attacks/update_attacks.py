"""Attacks of the family `Family.UPDATE`."""

from __future__ import annotations

from typing import Final

from swarmd.simulation.attacks.attack import Attack

UPDATE_ATTACKS: Final[tuple[Attack, ...]] = ()
"""In the order of the page."""
