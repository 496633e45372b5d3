"""One image on its way to thousands of nodes, each connected to a few of the others.

Runs the production machines (`CrowdHost`) over links with one event a frame (`FrameNetwork`). Every
node has the same number of peers, chosen at random, as daemons that dial members until they have
enough; the seeder has more. `benchmarks/swarm_scale.py` shows what that costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.digest import sha256
from protocol.errors import ConfigError
from protocol.limits import CHUNK_BYTES_MAX, KIB, MIB
from protocol.relay_events import RelaySettings
from swarmd.simulation.crowd_halves import Half, run_halves
from swarmd.simulation.crowd_host import TICK_S, CrowdHost, make_shared_release
from swarmd.simulation.frame_links import FrameNetwork
from swarmd.simulation.links import LinkModel, NodeLink
from swarmd.simulation.transfer import THIN, fluid_bound_s
from swarmd.simulation.transfer_host import Disk, join
from swarmd.simulation.world import Link, WindowedWorld

_STEP_S: Final = 0.25
"""How often a run looks whether it is over, simulated seconds."""
_THIN_LINK: Final = NodeLink(uplink_bytes_per_s=THIN, downlink_bytes_per_s=THIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdScenario:
    """One image on its way to many nodes. Checks itself when made."""

    nodes: int
    """How many nodes fetch the image."""
    image_bytes: int
    """Size of the image."""
    unit_bytes: int = 1 * MIB
    """Size of its chunks."""
    links: tuple[NodeLink, ...] = (_THIN_LINK,)
    """Links of the nodes, in turns."""
    seeder: NodeLink = _THIN_LINK
    """The seeder's link."""
    peers: int = 16
    """Peers of each node: what daemons want by default; made even."""
    seeder_peers: int = 64
    """Peers of the seeder."""
    delay_s: float = 0.02
    """One way, seconds."""
    is_relayed: bool = True
    """Whether nodes relay; if not, they only pull."""
    tick_s: float = TICK_S
    """How late a machine's timer may be, seconds."""
    processes: int = 1
    """1 or 2: how many run it."""
    seed: int = 1
    """Decides all that is random."""

    def __post_init__(self) -> None:
        """Checks what a run depends on.

        Raises:
            ConfigError: a field is out of its range.
        """
        for name, low, high in (
            ("nodes", 1, 100_000),
            ("image_bytes", 1, 2**40),
            ("unit_bytes", KIB, CHUNK_BYTES_MAX),
            ("peers", 2, 4096),
            ("seeder_peers", 1, 4096),
            ("processes", 1, 2),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}: {value}, expected {low} to {high}")
        for link in (*self.links, self.seeder):
            if not (link.uplink_bytes_per_s > 0 and link.downlink_bytes_per_s > 0):
                raise ConfigError("links: every rate must be above 0")
        if not self.delay_s > 0:
            raise ConfigError("delay_s: must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdFigures:
    """How it went; times in simulated seconds."""

    bound_s: float
    """The fluid bound (`transfer.fluid_bound_s`)."""
    is_complete: bool
    """Whether every node finished."""
    finished_s: tuple[float, ...]
    """When each of those that finished did, ascending."""
    seeder_share: float
    """Chunk bytes that the seeder sent, in sizes of the image."""
    duplicate_share: float
    """Chunk bytes received beyond those needed, of those needed."""
    control_share: float
    """Bytes of small messages with their headers, of all stream bytes."""
    events: int
    """Events of the world."""
    deliveries: int
    """Units that nodes needed."""
    trace_hash: str
    """SHA-256 over all events: one seed, and one number of processes, one hash."""

    def quantile_s(self, share: float) -> float:
        """When a share of those that finished had; infinite if nobody did."""
        if not self.finished_s:
            return math.inf
        return self.finished_s[max(math.ceil(share * len(self.finished_s)) - 1, 0)]

    def ratio(self, share: float) -> float:
        """The same in fluid bounds."""
        return self.quantile_s(share) / self.bound_s


_WINDOW_SHARE: Final = 0.999
"""Windows as a part of the delay: rounding must not bring anything into a window that is over."""


def _make_world(scenario: CrowdScenario) -> WindowedWorld:
    """A world in which nodes take turns, since they know of each other after the delay only."""
    link = Link(latency_s=scenario.delay_s)
    return WindowedWorld(scenario.seed, link, scenario.delay_s * _WINDOW_SHARE)


class Crowd:
    """A world with one seeder and many nodes."""

    def __init__(self, scenario: CrowdScenario) -> None:
        """Makes all nodes and their connections."""
        self.scenario: Final = scenario
        """What was asked."""
        model = LinkModel(delay_s=scenario.delay_s)
        self.world: Final = _make_world(scenario)
        """Where it happens."""
        self.network: Final = FrameNetwork(self.world, model, verify_s=Disk().verify_s)
        """How messages travel."""
        self.release: Final = make_shared_release(scenario.image_bytes, scenario.unit_bytes)
        """The image."""
        self.seeder: Final = self._make(scenario.seeder, is_seeder=True)
        """Who holds it from the start."""
        self.nodes: Final[list[CrowdHost]] = [
            self._make(scenario.links[number % len(scenario.links)])
            for number in range(scenario.nodes)
        ]
        """Who fetches it."""
        self._connect()
        self._half: Half | None = None

    def _make(self, link: NodeLink, *, is_seeder: bool = False) -> CrowdHost:
        host = CrowdHost(
            self.world,
            self.network,
            link,
            relays=RelaySettings() if self.scenario.is_relayed else None,
            tick_s=self.scenario.tick_s,
        )
        held = [range(len(chunks)) for chunks in self.release.components] if is_seeder else None
        host.add_image(self.release, held=held, wants=not is_seeder)
        return host

    def _connect(self) -> None:
        """Peers by rings in random order: everybody has as many, and the whole is connected."""
        chance, nodes = self.world.random, self.nodes
        edges: dict[tuple[int, int], None] = {}
        for _ in range(self.scenario.peers // 2):
            ring = list(range(len(nodes)))
            chance.shuffle(ring)
            for one, other in zip(ring, [*ring[1:], ring[0]], strict=True):
                if one != other:
                    edges[min(one, other), max(one, other)] = None
        count = min(self.scenario.seeder_peers, len(nodes))
        for number in sorted(chance.sample(range(len(nodes)), count)):
            join(self.network, nodes[number], [self.seeder])
        for one, other in edges:
            join(self.network, nodes[one], [nodes[other]])

    def run(
        self,
        until_s: float,
        tell: Callable[[float, float], None] | None = None,
        tune: Callable[[], None] | None = None,
    ) -> None:
        """Runs until all nodes are complete, or a time has come.

        Args:
            until_s: when to give up, simulated seconds.
            tell: hears, every quarter of a simulated second, that time and the share of all chunk
                bytes that nodes hold (those of one process).
            tune: called in each process before such a step: what it wants of its system.
        """
        if self.scenario.processes > 1:
            self._half = run_halves(self, _STEP_S, until_s, tell, tune)
            return
        waiting: Sequence[CrowdHost] = self.nodes
        wanted = len(self.nodes) * self.scenario.image_bytes
        while waiting and self.world.now < until_s:
            if tune is not None:
                tune()
            self.world.run_until(min(self.world.now + _STEP_S, until_s))
            waiting = [host for host in waiting if not host.is_done]
            if tell is not None:
                gained = sum(host.parts[0].figures.gained_bytes for host in self.nodes)
                tell(self.world.now, gained / wanted)

    def figures(self) -> CrowdFigures:
        """Says how it went."""
        parts = [host.parts[0] for host in self.nodes]
        times = [part.figures.finished_at for part in parts]
        received = sum(sum(part.received_bytes.values()) for part in parts)
        gained = sum(part.figures.gained_bytes for part in parts)
        traffic = [self.network.traffic(host.number) for host in (self.seeder, *self.nodes)]
        image_bytes = self.scenario.image_bytes
        return CrowdFigures(
            bound_s=fluid_bound_s(
                image_bytes, [self.seeder.link], [host.link for host in self.nodes]
            ),
            is_complete=None not in times,
            finished_s=tuple(sorted(time for time in times if time is not None)),
            seeder_share=self.seeder.parts[0].figures.sent_bytes / image_bytes,
            duplicate_share=(received - gained) / max(gained, 1),
            control_share=sum(each.urgent_sent_bytes for each in traffic)
            / max(sum(each.stream_sent_bytes for each in traffic), 1),
            events=self.world.event_count + (self._half.events if self._half else 0),
            deliveries=len(self.nodes) * sum(map(len, self.release.components)),
            trace_hash=self._trace_hash(),
        )

    def _trace_hash(self) -> str:
        if self._half is None:
            return self.world.trace_hash
        return sha256((self.world.trace_hash + self._half.trace_hash).encode("ascii")).hex()
