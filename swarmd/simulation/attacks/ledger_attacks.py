"""Attacks of the family `Family.LEDGER`."""

from __future__ import annotations

from typing import Final

from swarmd.simulation.attacks.attack import Attack

LEDGER_ATTACKS: Final[tuple[Attack, ...]] = ()
"""In the order of the page."""
