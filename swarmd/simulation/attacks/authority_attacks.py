"""Attacks of the family `Family.AUTHORITY`."""

from __future__ import annotations

from typing import Final

from swarmd.simulation.attacks.attack import Attack
from swarmd.simulation.attacks.authority_eclipse import ECLIPSE
from swarmd.simulation.attacks.authority_emergency import PAUSE_ABUSE
from swarmd.simulation.attacks.authority_history import LONG_RANGE
from swarmd.simulation.attacks.authority_owners import STOLEN_APPROVERS, STOLEN_PUBLISHER
from swarmd.simulation.attacks.authority_reports import FAKE_FAILURES, SLANDER
from swarmd.simulation.attacks.authority_spam import SPAM, STATE_GROWTH
from swarmd.simulation.attacks.stolen_keys import VALIDATORS_ALONE

AUTHORITY_ATTACKS: Final[tuple[Attack, ...]] = (
    STOLEN_PUBLISHER,
    STOLEN_APPROVERS,
    VALIDATORS_ALONE,
    LONG_RANGE,
    PAUSE_ABUSE,
    FAKE_FAILURES,
    SLANDER,
    SPAM,
    STATE_GROWTH,
    ECLIPSE,
)
"""In the order of the page."""
