"""Draws a fleet for the flow model: sites, their gateways, stages and when each hears of a release.

All arrays are made once from one seeded generator, in one fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from swarmd.simulation.flow import FlowScenario
from swarmd.simulation.links import LinkModel

Floats = NDArray[np.float64]
"""One number for each site or gateway."""
Integers = NDArray[np.int64]
"""One index for each site or gateway."""

HEADERS: Final = LinkModel().header_factor
"""Bytes on the wire for each byte of an image."""
ACKS: Final = LinkModel().ack_share
"""Bytes that a receiver sends back for each byte received."""
SILENCE_FACTOR: Final = 1.5
"""Heartbeats of silence after which a gateway without gossip asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Who takes part. Rates are bytes of the image a second, without headers."""

    site_of: Integers
    """Site of each gateway, ascending."""
    stage_of: Integers
    """Stage that each gateway belongs to."""
    delay_of: Floats
    """From the beginning of its stage until a gateway hears of the release, seconds."""
    downlinks: Floats
    """Of each site, what a gateway's local network lets through at most."""
    uplinks: Floats
    """Of each site; 0: it gives nothing away."""
    luck: Floats
    """Of each site, from 0 to 1: how far from the origins its peers leave it."""
    origin_rate: float
    """What all origins send together."""
    bound_s: float
    """The fluid bound with nominal rates, seconds."""

    @property
    def site_count(self) -> int:
        """How many sites there are."""
        return len(self.downlinks)


def draw_fleet(scenario: FlowScenario) -> Fleet:
    """Draws the fleet of a scenario."""
    chance = np.random.default_rng(scenario.seed)
    site_of = _draw_sites(scenario, chance)
    sites = int(site_of[-1]) + 1
    weights = np.array([each.share for each in scenario.classes])
    class_of = chance.choice(len(weights), size=sites, p=weights / weights.sum())
    uplinks = np.array(
        [each.uplink_bytes_per_s if each.uploads else 0.0 for each in scenario.classes]
    )[class_of]
    downlinks = np.array([each.downlink_bytes_per_s for each in scenario.classes])[class_of]
    shares = np.array([stage.share for stage in scenario.stages])
    stage_of = np.searchsorted(shares, chance.random(scenario.gateways), side="right")
    # Rounding may leave the highest places above the last share.
    np.minimum(stage_of, len(shares) - 1, out=stage_of)
    is_polling = np.array([each.is_polling for each in scenario.classes])[class_of][site_of]
    origins = scenario.origins * scenario.origin_uplink_bytes_per_s
    bound_s = scenario.image_bytes * max(
        1 / origins,
        1 / float(downlinks.min()),
        sites / (origins + float(uplinks.sum())),
    )
    if scenario.gateways_per_site > 1.0:
        np.minimum(downlinks, scenario.lan_bytes_per_s, out=downlinks)
    return Fleet(
        site_of=site_of,
        stage_of=stage_of,
        delay_of=_draw_delays(scenario, chance, is_polling),
        downlinks=downlinks / HEADERS,
        uplinks=uplinks / HEADERS,
        luck=chance.random(sites),
        origin_rate=origins / HEADERS,
        bound_s=bound_s,
    )


def _draw_sites(scenario: FlowScenario, chance: np.random.Generator) -> Integers:
    """The site of each gateway: sizes are geometric, the last site takes what is left."""
    if scenario.gateways_per_site == 1.0:
        return np.arange(scenario.gateways, dtype=np.int64)
    # As many sizes as gateways always suffice, and drawing them at once keeps the order fixed.
    sizes = chance.geometric(1 / scenario.gateways_per_site, size=scenario.gateways)
    sites = int(np.searchsorted(np.cumsum(sizes), scenario.gateways)) + 1
    return np.repeat(np.arange(sites, dtype=np.int64), sizes[:sites])[: scenario.gateways]


def _draw_delays(
    scenario: FlowScenario, chance: np.random.Generator, is_polling: NDArray[np.bool_]
) -> Floats:
    """Gossip reaches `degree` times as many with each hop; who hears none asks some time later."""
    count = scenario.gateways
    ranks = chance.random(count) * count
    hops = np.floor(np.log1p(ranks) / np.log(scenario.gossip_degree)) + chance.exponential(
        size=count
    )
    delays: Floats = scenario.gossip_hop_s * hops
    waits = chance.random(count) * SILENCE_FACTOR * scenario.heartbeat_s
    delays[is_polling] = waits[is_polling]
    return delays
