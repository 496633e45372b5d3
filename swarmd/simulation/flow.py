"""What a flow-level simulation is asked and what it answers: 10^4 to 10^6 gateways, as fluids.

Participants: a few origins, which hold the image; sites, each with one way to the world and one or
more gateways behind it. A rollout begins in stages; a site hears of a release some gossip hops
after its stage began. Bytes are a fluid: what the nodes upload together is shared evenly among
those that lack something (max-min fair, as relays share it), within each site's downlink and never
ahead of what the origins gave out.

Goals: makespan, origin traffic, and what chain and anchors carry, for fleets that no event-driven
simulation holds. Non-goals: single chunks, liars, losses; those are the transfer simulation's
(`swarmd/simulation/transfer.py`), against which this model is tested where both run.

This module needs the standard library only; `flow_run.run_flow` computes, with NumPy.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, fields
from typing import Final

from protocol.errors import ConfigError
from protocol.limits import KIB, MIB

GATEWAYS_MAX: Final = 2_000_000
"""Most gateways: their arrays take some 100 bytes each."""
ORIGINS_MAX: Final = 64
"""Most origins."""
CLASSES_MAX: Final = 64
"""Most classes of links."""
STAGES_MAX: Final = 16
"""Most stages, as in a rollout plan (rollout.md, R1)."""
THIN: Final = 2_500_000.0
"""Bytes a second of a link of 20 Mbit/s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClass:
    """How a share of the sites is attached."""

    share: float = 1.0
    """Weight among the classes; they need not add up to 1."""
    uplink_bytes_per_s: float = THIN
    """What a site can send, bytes on the wire a second."""
    downlink_bytes_per_s: float = THIN
    """What a site can receive, bytes on the wire a second."""
    uploads: bool = True
    """Whether its gateways give chunks away; metered ones do not."""
    is_polling: bool = False
    """Whether its gateways hear no gossip and ask after one and a half heartbeats of silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowStage:
    """A stage of the rollout."""

    share: float
    """Share of all gateways that have the release offered from this stage on, above the one before;
    the last stage has 1."""
    soak_s: float = 0.0
    """Least time from its beginning until the next stage begins, seconds."""
    success_share: float = 0.9
    """Share of the gateways added by this stage that must be done before the next begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowScenario:
    """One image on its way to a fleet. Checks itself when made."""

    gateways: int
    """How many gateways fetch the image."""
    image_bytes: int
    """Size of the image."""
    seed: int = 1
    """Decides all that is random."""
    classes: tuple[LinkClass, ...] = (LinkClass(),)
    """How sites are attached."""
    origins: int = 1
    """Nodes that hold the image from the start."""
    origin_uplink_bytes_per_s: float = THIN
    """What each origin can send, bytes on the wire a second."""
    gateways_per_site: float = 1.0
    """Gateways behind one link, on average; geometrically distributed. 1: every one alone."""
    lan_bytes_per_s: float = 10 * THIN
    """What a gateway can receive from others of its site, bytes on the wire a second."""
    stages: tuple[FlowStage, ...] = (FlowStage(share=1.0),)
    """The rollout."""
    peers: int = 32
    """Sites that each site is connected to. With no more sites all know all, which is faster."""
    origin_peers: int = 64
    """Sites that each origin is connected to."""
    unit_bytes: int = 16 * KIB
    """What scheduling moves at once; sets the length of the tail."""
    delay_s: float = 0.02
    """One way between two sites, seconds."""
    bloat_s: float = 0.05
    """Standing queue of a busy uplink, seconds."""
    gossip_hop_s: float = 0.0
    """Mean delay of a gossip hop, seconds; 0: all hear at once."""
    gossip_degree: int = 8
    """Mesh of the gossip: how many members each tells."""
    heartbeat_s: float = 600.0
    """Of the chain, seconds; polling gateways hear of a release by its silence."""

    def __post_init__(self) -> None:
        """Checks every field.

        Raises:
            ConfigError: a field is out of its range; names field and range.
        """
        self._check_counts()
        self._check_rates()
        if not 1 <= len(self.classes) <= CLASSES_MAX:
            raise ConfigError(f"classes: {len(self.classes)}, expected 1 to {CLASSES_MAX}")
        for number, each in enumerate(self.classes):
            _positive(f"classes[{number}].share", each.share)
            _positive(f"classes[{number}].downlink_bytes_per_s", each.downlink_bytes_per_s)
            if each.uploads:
                _positive(f"classes[{number}].uplink_bytes_per_s", each.uplink_bytes_per_s)
        self._check_stages()

    def _check_counts(self) -> None:
        for name, low, high in (
            ("gateways", 1, GATEWAYS_MAX),
            ("image_bytes", 1, 2**44),
            ("seed", 0, 2**63 - 1),
            ("origins", 1, ORIGINS_MAX),
            ("peers", 1, 4096),
            ("origin_peers", 1, 4096),
            ("unit_bytes", KIB, 64 * MIB),
            ("gossip_degree", 2, 256),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}: {value}, expected {low} to {high}")

    def _check_rates(self) -> None:
        for name in ("origin_uplink_bytes_per_s", "lan_bytes_per_s", "heartbeat_s"):
            _positive(name, getattr(self, name))
        for name in ("delay_s", "bloat_s", "gossip_hop_s"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{name}: {value}, expected 0 or more")
        if not 1.0 <= self.gateways_per_site <= 10_000.0:
            raise ConfigError(
                f"gateways_per_site: {self.gateways_per_site}, expected 1 to 10,000 on average"
            )

    def _check_stages(self) -> None:
        if not 1 <= len(self.stages) <= STAGES_MAX:
            raise ConfigError(f"stages: {len(self.stages)}, expected 1 to {STAGES_MAX}")
        share = 0.0
        for number, stage in enumerate(self.stages):
            if not share < stage.share <= 1.0:
                raise ConfigError(
                    f"stages[{number}].share: {stage.share}, expected above {share} and at most 1"
                )
            share = stage.share
            if not 0.0 <= stage.soak_s < math.inf:
                raise ConfigError(f"stages[{number}].soak_s: {stage.soak_s}, expected 0 or more")
            if not 0.0 <= stage.success_share <= 1.0:
                raise ConfigError(
                    f"stages[{number}].success_share: {stage.success_share}, expected 0 to 1"
                )
        if share != 1.0:
            raise ConfigError(f"stages: the last share is {share}, expected 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFigures:
    """How it went; times in seconds since the first stage began."""

    gateways: int
    """How many gateways there were."""
    sites: int
    """Behind how many links."""
    bound_s: float
    """The fluid bound for all sites at once (`transfer.fluid_bound_s`); stages are not in it."""
    p50_s: float
    """When half of the gateways were complete."""
    p99_s: float
    """When 99 of 100 were."""
    makespan_s: float
    """When the last one was."""
    fetch_p50_s: float
    """Median time of a gateway from hearing of the release to having it."""
    fetch_p99_s: float
    """The same of 99 of 100."""
    origin_bytes: float
    """Image bytes that origins sent."""
    origin_share: float
    """The same, of all bytes that gateways needed (N F)."""
    site_bytes: float
    """Image bytes that entered sites from outside."""
    stage_starts_s: tuple[float, ...]
    """When each stage began."""
    curve: tuple[tuple[float, float], ...]
    """Completion over time: at most 256 points (seconds, share of gateways that are complete)."""
    origin_curve: tuple[tuple[float, float], ...]
    """Origins' bytes over time: at most 256 points (seconds, image bytes sent so far)."""
    steps: int
    """Time steps computed."""
    result_hash: str = field(compare=False)
    """SHA-256 over every gateway's finish (microseconds): one seed, one hash, on one platform."""

    @property
    def makespan(self) -> float:
        """When the last one was complete, in fluid bounds."""
        return self.makespan_s / self.bound_s

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def scenario_hash(scenario: FlowScenario) -> str:
    """SHA-256 over a scenario, hexadecimal: which question a result answers."""
    return hashlib.sha256(repr(scenario).encode()).hexdigest()


def _positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ConfigError(f"{name}: {value}, expected more than 0")
