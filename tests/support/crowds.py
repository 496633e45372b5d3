"""Crowds that are small enough for a test."""

from __future__ import annotations

from typing import Any, Final

from protocol.limits import KIB, MIB
from swarmd.simulation.crowd import CrowdScenario
from swarmd.simulation.links import NodeLink

_RATE: Final = 12_500_000.0
"""100 Mbit/s, bytes a second."""
ONE: Final = NodeLink(uplink_bytes_per_s=_RATE, downlink_bytes_per_s=_RATE)
"""The link that everybody has."""


def small_crowd(**options: Any) -> CrowdScenario:
    """Two dozen nodes and 2 MiB, unless told otherwise."""
    usual: dict[str, Any] = {
        "nodes": 24,
        "image_bytes": 2 * MIB,
        "unit_bytes": 64 * KIB,
        "links": (ONE,),
        "seeder": ONE,
        "peers": 8,
        "seeder_peers": 8,
    }
    return CrowdScenario(**{**usual, **options})
