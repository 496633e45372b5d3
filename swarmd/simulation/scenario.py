"""What a simulated swarm is made of and goes through: scenarios as frozen dataclasses.

`scenario_file` reads them from TOML. Every field has a default, a unit in its name or docstring and
a range that is checked when a scenario is made; a wrong value is one `ConfigError` that names the
key. Rules that join several fields are in `check`. The vocabulary is in docs/spec/simulation.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from protocol.errors import ConfigError
from protocol.limits import VALIDATORS_MAX, VALIDATORS_MIN

NODES_MAX: Final = 20_000
"""Gateways of one run; level 1 takes about a minute for a thousand (docs/simulating.md)."""
_MAP: Final = "map"


@dataclass(frozen=True, slots=True)
class Range:
    """What values a field may have."""

    minimum: float
    """Least value."""
    maximum: float
    """Greatest value."""
    above: bool = False
    """Whether the least value itself is not allowed."""

    def check(self, value: float, what: str) -> None:
        """Raises `ConfigError` unless the value is allowed."""
        is_least = self.above and value == self.minimum
        if math.isfinite(value) and self.minimum <= value <= self.maximum and not is_least:
            return
        least = f"above {self.minimum:g}" if self.above else f"{self.minimum:g}"
        raise ConfigError(f"{what}: {value:g}, allowed {least} to {self.maximum:g}")


def _number(default: float | None, minimum: float, maximum: float, *, above: bool = False) -> Any:
    return field(default=default, metadata={"range": Range(minimum, maximum, above)})


class FaultKind(StrEnum):
    """What may befall a swarm."""

    PARTITION = "partition"
    """Two sides cannot reach each other."""
    ONE_WAY = "one-way"
    """Nothing passes from the side cut off to the rest; the other direction works."""
    CRASH = "crash"
    """Nodes lose power and come back with what was synced."""
    CHURN = "churn"
    """Gateways leave one after another, each back after `away_s`."""
    SLOW_DISK = "slow-disk"
    """Gateways take `verify_ms` from a chunk's arrival until they hold it."""
    FULL_DISK = "full-disk"
    """Gateways' disks have no room but `free_kib`; what they hold stays."""
    LOSS = "loss"
    """Messages between validators and ledger news vanish with probability `loss`."""


DISK_FAULTS: Final = (FaultKind.SLOW_DISK, FaultKind.FULL_DISK)
"""Of gateways' disks: neither links nor ledgers notice."""


class Takes(StrEnum):
    """What is gone when a disk is full."""

    FREE = "free"
    """What nobody had: images that were begun keep the room they were given."""
    PROMISED = "promised"
    """That room, too, as far as nothing is written there: file systems that promise nothing."""


class Nat(StrEnum):
    """Who may call a node."""

    OPEN = "open"
    """Everybody."""
    CLOSED = "closed"
    """Nodes of its own site only; it calls the others, and what it opened works both ways."""


class Target(StrEnum):
    """Whom a fault concerns."""

    VALIDATORS = "validators"
    """Validators only."""
    GATEWAYS = "gateways"
    """Gateways only."""
    ALL = "all"
    """Both, each by its share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClass:
    """`[links.NAME]`: how nodes of one kind are attached."""

    up_mbit: float = _number(20.0, 0, 100_000, above=True)
    """Rate of the uplink, Mbit/s on the wire."""
    down_mbit: float = _number(20.0, 0, 100_000, above=True)
    """Rate of the downlink, Mbit/s on the wire."""
    latency_ms: float = _number(10.0, 0, 10_000)
    """One way from the node to the backbone; a path has both ends' together, milliseconds."""
    jitter_ms: float = _number(0.0, 0, 10_000)
    """Added to that for each packet, uniform from 0 to this, milliseconds."""
    loss: float = _number(0.0, 0, 0.5)
    """Probability that a packet is lost between node and backbone, in each direction."""
    duplication: float = _number(0.0, 0, 0.5)
    """Probability that a packet arrives twice, likewise."""
    reorder: float = _number(0.0, 0, 0.5)
    """Probability that a packet is held back so that later ones overtake it, likewise."""
    reorder_ms: float = _number(20.0, 0, 10_000, above=True)
    """How long, milliseconds."""
    queue_ms: float | None = _number(None, 1, 10_000)
    """What the routers at its ends hold back before they drop, milliseconds; unset: 100."""
    nat: Nat = Nat.OPEN
    """Whether others can call the nodes."""
    site: str = ""
    """Where the nodes stand; those of one site are near to each other. Empty: alone."""
    share: float = _number(1.0, 0, 1)
    """Part of the gateways that have this link; the shares of all classes sum to 1 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """`[network]`: what all links share."""

    latency_ms: float = _number(20.0, 0, 10_000)
    """One way between validators and for ledger news, milliseconds."""
    jitter_ms: float = _number(5.0, 0, 10_000)
    """Added to that, uniform from 0 to this, milliseconds."""
    loss: float = _number(0.0, 0, 0.9)
    """Probability that a ledger message vanishes."""
    duplication: float = _number(0.0, 0, 0.9)
    """Probability that a ledger message arrives twice."""
    segment_loss: float = _number(0.0, 0, 0.2)
    """Probability that a segment of an image's stream is lost and sent again."""
    pipe_mbit: float | None = _number(None, 0, 100_000, above=True)
    """What passes from one site to another, each direction, Mbit/s; unset: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Validators:
    """`[validators]`: who decides."""

    count: int = _number(4, VALIDATORS_MIN, VALIDATORS_MAX)
    """Seats; f = (count - 1) // 3 of them may misbehave."""
    delta_ms: float = _number(500.0, 1, 60_000)
    """How long a validator waits for a proposal first, milliseconds."""
    skew_ms: int = _number(100, 0, 60_000)
    """Greatest error of their clocks, either way, milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateways:
    """`[gateways]`: who fetches, keeps and passes on."""

    count: int = _number(16, 1, NODES_MAX)
    """Nodes, those that misbehave included."""
    peers: int = _number(64, 1, NODES_MAX)
    """Streams that a node opens at most by itself; with as many as there are nodes all know all."""
    poll_s: float = _number(2.0, 0.1, 3600)
    """How often a node asks a validator for news, beside what it is told, seconds."""
    verify_ms: float = _number(2.0, 0, 60_000)
    """From a chunk's arrival until it is verified and stored, milliseconds."""
    skew_ms: int = _number(0, 0, 86_400_000)
    """Greatest error of their wall clocks, either way, milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeders:
    """`[seeders]`: who has each image from the start."""

    count: int = _number(1, 1, 1000)
    """Nodes."""
    link: str = ""
    """Class of their links; empty: the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """`[image]`: what is distributed."""

    size_kib: int = _number(1024, 1, 64 * 1024 * 1024)
    """Bytes of one image, KiB."""
    chunk_kib: int = _number(16, 1, 4096)
    """Average chunk, KiB; the relay gathers chunks to units by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasePlan:
    """`[[releases]]`: one image on its way through owners, validators and gateways."""

    name: str = ""
    """For people; empty: its number."""
    publish_s: float = _number(1.0, 0, 1_000_000)
    """When its owners hand it to the validators, seconds."""
    revoke_s: float | None = _number(None, 0, 1_000_000)
    """When they take it back; unset: never."""
    changed: float = _number(1.0, 0, 1, above=True)
    """Part of its chunks that the release before does not have."""
    approvals: int = _number(2, 0, 2)
    """Owners that agreed; 2 are needed. With fewer it is an attack that must come to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`[[faults]]`: one thing that goes wrong for a while."""

    kind: FaultKind = FaultKind.PARTITION
    """What."""
    target: Target = Target.GATEWAYS
    """Whom it concerns."""
    start_s: float = _number(1.0, 0, 1_000_000)
    """When it begins, seconds."""
    end_s: float | None = _number(None, 0, 1_000_000)
    """When it ends; unset: never."""
    share: float = _number(0.5, 0, 1, above=True)
    """Part of the nodes that it concerns, rounded to the nearest node."""
    away_s: float = _number(2.0, 0, 100_000, above=True)
    """Churn: how long a node is away, seconds."""
    loss: float = _number(0.3, 0, 0.95)
    """Loss: the probability while it lasts."""
    verify_ms: float = _number(300.0, 0, 60_000)
    """Slow disks: from a chunk's arrival until it is stored, milliseconds."""
    free_kib: int = _number(0, 0, 64 * 1024 * 1024)
    """Full disks: what images may still take, KiB."""
    takes: Takes = Takes.FREE
    """Full disks: what is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversary:
    """`[[adversaries]]`: nodes that break the rules."""

    name: str = ""
    """Kind; `swarmd sim --list` names all."""
    share: float | None = _number(None, 0, 1)
    """Part of the nodes of its plane, rounded to the nearest node."""
    count: int | None = _number(None, 0, NODES_MAX)
    """How many, instead of a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """`[expect]`: bounds that a run is measured against; unset ones are not looked at."""

    finality_s: float | None = _number(10.0, 0, 1_000_000)
    """From the publication of a release until it is final, seconds."""
    heal_s: float | None = _number(30.0, 0, 1_000_000)
    """From the end of the last fault until every honest validator has two new blocks, seconds."""
    complete: float | None = _number(1.0, 0, 1)
    """Part of the honest gateways, present at the end, that hold every release in force."""
    makespan_p50: float | None = _number(None, 0, 1_000_000)
    """Median time from finality to completeness, in fluid bounds."""
    makespan_p99: float | None = _number(None, 0, 1_000_000)
    """The same of all but the slowest hundredth."""
    makespan_max: float | None = _number(None, 0, 1_000_000)
    """The same of the slowest."""
    revocation_s: float | None = _number(5.0, 0, 1_000_000)
    """From a revocation's finality, or the end of the last fault if that is later, until no
    honest gateway keeps the image, seconds."""
    seeder_images: float | None = _number(None, 0, 1_000_000)
    """What the seeders send of one release, in sizes of the image."""
    bad_share: float | None = _number(None, 0, 1_000_000)
    """Chunk bytes received that did not match, of those needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole scenario; the top level of its file."""

    name: str = "unnamed"
    """What it is called: the file's name without its ending."""
    summary: str = ""
    """One line for people."""
    duration_s: float = _number(60.0, 1, 1_000_000)
    """When a run is given up, simulated seconds; one that has nothing left to do ends before."""
    network: Network = field(default_factory=Network)
    """What all links share."""
    validators: Validators = field(default_factory=Validators)
    """Who decides."""
    gateways: Gateways = field(default_factory=Gateways)
    """Who fetches."""
    seeders: Seeders = field(default_factory=Seeders)
    """Who has the images."""
    image: Image = field(default_factory=Image)
    """What is distributed."""
    links: Mapping[str, LinkClass] = field(
        default_factory=lambda: {"default": LinkClass()}, metadata={_MAP: LinkClass}
    )
    """Classes of links by name, in order."""
    releases: tuple[ReleasePlan, ...] = (ReleasePlan(),)
    """What is published."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong."""
    adversaries: tuple[Adversary, ...] = ()
    """Who breaks the rules."""
    expect: Expectations = field(default_factory=Expectations)
    """What must come of it."""

    def __post_init__(self) -> None:
        """Checks every field's range.

        Raises:
            ConfigError: names the key and the reason.
        """
        check_ranges(self, "")
        _check_releases(self)
        _check_links(self)
        for number, fault in enumerate(self.faults):
            _check_fault(fault, f"faults[{number}]")
        for number, adversary in enumerate(self.adversaries):
            if (adversary.share is None) == (adversary.count is None):
                raise ConfigError(f"adversaries[{number}]: give either share or count")


def check_ranges(table: object, where: str) -> None:
    """Checks the ranges of a dataclass and of those in it.

    Args:
        table: a dataclass of this module.
        where: its place, such as `links.fast`; empty at the top.

    Raises:
        ConfigError: names the key and the reason.
    """
    for each in dataclasses.fields(table):  # type: ignore[arg-type]
        what = f"{where}.{each.name}" if where else each.name
        value, limits = getattr(table, each.name), each.metadata.get("range")
        if limits is not None and value is not None:
            limits.check(value, what)
        elif dataclasses.is_dataclass(value):
            check_ranges(value, what)
        elif isinstance(value, tuple):
            for number, item in enumerate(value):
                check_ranges(item, f"{what}[{number}]")
        elif isinstance(value, Mapping):
            for name, item in value.items():
                check_ranges(item, f"{what}.{name}")


def _check_releases(scenario: Scenario) -> None:
    if not scenario.releases:
        raise ConfigError("releases: nothing is published")
    for number, plan in enumerate(scenario.releases):
        what = f"releases[{number}]"
        if plan.publish_s >= scenario.duration_s:
            raise ConfigError(f"{what}.publish_s: not before duration_s ({scenario.duration_s:g})")
        if plan.revoke_s is not None and plan.revoke_s <= plan.publish_s:
            raise ConfigError(f"{what}.revoke_s: {plan.revoke_s:g}, not after publish_s")


def _check_links(scenario: Scenario) -> None:
    if not scenario.links:
        raise ConfigError("links: no class of links")
    total = sum(each.share for each in scenario.links.values())
    shares = [each.share for each in scenario.links.values()]
    if len(shares) > 1 and total > 1 + 1e-9:
        raise ConfigError(f"links: the shares sum to {total:g}, allowed 1 at most")
    name = scenario.seeders.link
    if name and name not in scenario.links:
        raise ConfigError(f"seeders.link: no class {name[:40]!r} in links")
    classes = scenario.links.values()
    sites = {each.site for each in classes}
    if all(each.nat is Nat.CLOSED for each in classes) and (len(sites) > 1 or "" in sites):
        raise ConfigError("links: every class is closed, so that nobody can call anybody")


def _check_fault(fault: Fault, what: str) -> None:
    if fault.end_s is not None and fault.end_s <= fault.start_s:
        raise ConfigError(f"{what}.end_s: {fault.end_s:g}, not after start_s ({fault.start_s:g})")
    of_gateways = fault.kind is FaultKind.CHURN or fault.kind in DISK_FAULTS
    if of_gateways and fault.target is not Target.GATEWAYS:
        raise ConfigError(f"{what}.target: {fault.kind.value} concerns gateways")
    if fault.kind is not FaultKind.FULL_DISK and (fault.free_kib or fault.takes is not Takes.FREE):
        key = "free_kib" if fault.free_kib else "takes"
        raise ConfigError(f"{what}.{key}: {fault.kind.value} fills no disk; full-disk does")
    if fault.kind in (FaultKind.CHURN, FaultKind.LOSS) and fault.end_s is None:
        raise ConfigError(f"{what}.end_s: {fault.kind.value} needs an end")
