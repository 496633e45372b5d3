"""Attacks of the family `Family.AUTHORITY`."""

from __future__ import annotations

from typing import Final

from swarmd.simulation.attacks.attack import Attack

AUTHORITY_ATTACKS: Final[tuple[Attack, ...]] = ()
"""In the order of the page."""
