"""Attacks of the family `Family.UPDATE`."""

from __future__ import annotations

from typing import Final

from swarmd.simulation.attacks.attack import Attack
from swarmd.simulation.attacks.stolen_keys import KEY_COMPROMISE
from swarmd.simulation.attacks.update_bundles import MIX_AND_MATCH
from swarmd.simulation.attacks.update_forward import FAST_FORWARD
from swarmd.simulation.attacks.update_freeze import FREEZE, SPLIT_VIEW
from swarmd.simulation.attacks.update_mirror import MIRROR_ATTACKS
from swarmd.simulation.attacks.update_packing import BOMB, WRONG_PATCH
from swarmd.simulation.attacks.update_peers import ENDLESS_DATA, SLOW_RETRIEVAL
from swarmd.simulation.attacks.update_rollback import ROLLBACK
from swarmd.simulation.attacks.update_sealed import EAVESDROP
from swarmd.simulation.attacks.update_wrong import WRONG_SOFTWARE

UPDATE_ATTACKS: Final[tuple[Attack, ...]] = (
    *MIRROR_ATTACKS,
    ROLLBACK,
    FAST_FORWARD,
    FREEZE,
    ENDLESS_DATA,
    SLOW_RETRIEVAL,
    MIX_AND_MATCH,
    WRONG_SOFTWARE,
    KEY_COMPROMISE,
    EAVESDROP,
    SPLIT_VIEW,
    BOMB,
    WRONG_PATCH,
)
"""In the order of the page."""
