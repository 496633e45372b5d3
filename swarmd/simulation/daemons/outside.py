"""What a scenario may do to a swarm of daemons, and what it sees of them: all of it from outside.

Whoever runs daemons in some way (in one process on simulated time, as processes on loopback, in
network namespaces) implements `OutsideSwarm`; `timeline` drives it through a scenario and
`judgement` says what came of it, the same way for all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from protocol.digest import Digest, ManifestId
from swarmd.simulation.links import NodeLink
from swarmd.simulation.scenario import Fault

PUBLISHER: Final = "publisher-1"
"""Name of the only seeder."""
HEARTBEAT_MS: Final = 2_000
"""Of the chain: often, so that whether it goes on is soon seen, milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look at the nodes that run."""

    heights: Mapping[str, int]
    """Heights of copies of the chain, of every running validator at least."""
    complete: Mapping[str, Collection[Digest]]
    """For each running gateway that keeps the rules, the images it has, complete and servable."""
    seeder_bytes: int
    """Sent by the publisher so far."""
    gateway_bytes: int
    """Sent by the gateways that keep the rules."""
    adversary_bytes: int = 0
    """Sent by the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is known only at the end of a run."""

    seeder_bytes: int
    """Sent by the publisher."""
    disagreements: int
    """Heights at which two nodes took different blocks for final."""
    offences: int
    """Offences that nodes hold against nodes that keep the rules; that somebody who was cut off
    did not answer in time is none."""
    spoilt: int | None = None
    """Complete images with bytes that are not the image's; None: not looked at."""
    completions: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """When a gateway was complete with a version, seconds of the event loop's clock, where that is
    known better than by looking."""
    event_count: int = 0
    """Events of the run; 0 where there are none to count."""
    trace_hash: str = ""
    """Equal for equal runs; empty where runs do not repeat."""
    cpu_share: float | None = None
    """Part of the machine's processors in use meanwhile; None where processors are free."""
    cpu_s: float | None = None
    """Processor seconds that the nodes took meanwhile; None likewise."""
    notes: tuple[str, ...] = ()
    """What a reader of the outcome has to know."""


class OutsideSwarm(Protocol):
    """Daemons that a scenario drives. Names are those of nodes, such as `gateway-1`."""

    @property
    def look_s(self) -> float:
        """Pause between two looks, seconds."""
        ...

    @property
    def validators(self) -> Sequence[str]:
        """All of them, running or not."""
        ...

    @property
    def gateways(self) -> Sequence[str]:
        """All that keep the rules, running or not."""
        ...

    @property
    def adversaries(self) -> Sequence[tuple[str, int]]:
        """Kinds of gateways that break the rules, with their number."""
        ...

    @property
    def running(self) -> Collection[str]:
        """The nodes that run now."""
        ...

    @property
    def links(self) -> Mapping[str, NodeLink] | None:
        """Rates of publisher and gateways by name; None: nobody keeps any."""
        ...

    async def start(self, *names: str) -> None:
        """Starts nodes; each listens when this returns."""
        ...

    async def crash(self, *names: str) -> None:
        """Ends nodes as a power failure does; what they wrote stays."""
        ...

    async def disturb(self, fault: Fault, away: Sequence[str]) -> None:
        """Begins a partition (both ways or one way) around `away`, or losses everywhere."""
        ...

    async def calm(self) -> None:
        """Ends whatever `disturb` began."""
        ...

    async def trouble(self, fault: Fault, names: Sequence[str]) -> None:
        """Fills or slows the disks of nodes, running or not."""
        ...

    async def relieve(self, fault: Fault, names: Sequence[str]) -> None:
        """Ends what `trouble` began."""
        ...

    async def propose(self, image: bytes, *, version: str) -> ManifestId:
        """Has the publisher stage and propose an image; final when this returns."""
        ...

    async def approve(self, manifest: ManifestId) -> None:
        """Has owners approve a release; final when this returns."""
        ...

    async def revoke(self, manifest: ManifestId) -> None:
        """Has owners revoke a release; final when this returns."""
        ...

    async def look(self) -> View:
        """Asks every node that runs.

        Raises:
            TransportError: a node ended by itself.
        """
        ...

    async def find(self) -> Findings:
        """Says what is known at the end; nothing is done to the swarm afterwards."""
        ...
