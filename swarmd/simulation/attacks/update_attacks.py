"""Attacks of the family `Family.UPDATE`."""

from __future__ import annotations

from typing import Final

from swarmd.simulation.attacks.attack import Attack
from swarmd.simulation.attacks.update_forward import FAST_FORWARD
from swarmd.simulation.attacks.update_freeze import FREEZE, SPLIT_VIEW
from swarmd.simulation.attacks.update_mirror import MIRROR_ATTACKS
from swarmd.simulation.attacks.update_rollback import ROLLBACK

UPDATE_ATTACKS: Final[tuple[Attack, ...]] = (
    *MIRROR_ATTACKS,
    ROLLBACK,
    FAST_FORWARD,
    FREEZE,
    SPLIT_VIEW,
)
"""In the order of the page."""
