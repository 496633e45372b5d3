"""The operator's choice of what this node is to relays."""

from __future__ import annotations

from enum import StrEnum

from protocol.relay_events import RelaySettings


class RelayMode(StrEnum):
    """What this node is to relays."""

    ON = "on"
    """Takes pushes, passes them on, and seeds what it holds."""
    LEAF = "leaf"
    """Takes pushes and passes nothing on; serves only who asks."""
    OFF = "off"
    """Takes no part: asks for everything, serves who asks."""


def relay_settings(mode: RelayMode, site: str) -> RelaySettings | None:
    """What a node of this mode says of itself; None: nothing."""
    if mode is RelayMode.OFF:
        return None
    return RelaySettings(site=site.encode(), is_leaf=mode is RelayMode.LEAF)
