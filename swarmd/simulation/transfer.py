"""One image on its way to many nodes: sets a transfer up, runs it, and says how good it was.

The yardstick is the fluid bound: with uplinks and downlinks at their nominal rates and no overhead,
an image of F bytes cannot reach N nodes before max(F / u_s, F / d_min, N F / (u_s + sum u_i))
(Kumar and Ross, "Peer-assisted file distribution: the minimum distribution time", 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.limits import KIB, MIB
from protocol.relay_events import RelaySettings
from swarmd.simulation.exchange_host import SimulatedRelease
from swarmd.simulation.links import LinkModel, LinkNetwork, NodeLink
from swarmd.simulation.transfer_host import Disk, TransferHost, join
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.world import Link, World

THIN: Final = 2_500_000.0
"""Bytes a second of a link of 20 Mbit/s."""
_STEP_S: Final = 0.25
"""How often a run looks whether it is over, simulated seconds."""


def link(rate: float = THIN, down: float | None = None, *, site: int | None = None) -> NodeLink:
    """A link of one rate, or of two."""
    return NodeLink(
        uplink_bytes_per_s=rate, downlink_bytes_per_s=rate if down is None else down, site=site
    )


def fluid_bound_s(
    image_bytes: int, seeders: Iterable[NodeLink], others: Sequence[NodeLink]
) -> float:
    """The least time that the image takes to reach the others, seconds."""
    seeded = sum(each.uplink_bytes_per_s for each in seeders)
    total = seeded + sum(each.uplink_bytes_per_s for each in others)
    slowest = min(each.downlink_bytes_per_s for each in others)
    return max(image_bytes / seeded, image_bytes / slowest, len(others) * image_bytes / total)


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferFigures:
    """How a transfer went; times in simulated seconds."""

    finished_s: tuple[float | None, ...]
    """For each leecher, when it was complete, since it was made; None: never."""
    bound_s: float
    """The fluid bound."""
    seeder_share: float
    """Chunk bytes that the first seeder sent, in sizes of the image."""
    duplicate_share: float
    """Good chunk bytes received beyond those needed, of those needed."""
    bad_share: float
    """Chunk bytes received that did not match, of those needed."""
    control_share: float
    """Bytes of small messages with their headers, of all stream bytes."""
    pipe_share: float
    """Bytes on the wire between sites, in sizes of the image."""
    queue_s_max: float
    """Longest queue in front of any downlink."""

    @property
    def is_complete(self) -> bool:
        """Whether every leecher finished."""
        return all(time is not None for time in self.finished_s)

    @property
    def makespan(self) -> float:
        """When the last one finished, in bounds; infinite if one never did."""
        return self.makespan_of(range(len(self.finished_s)))

    def makespan_of(self, leechers: Iterable[int]) -> float:
        """When the last of some leechers finished, in bounds; infinite if one never did."""
        times = [self.finished_s[number] for number in leechers]
        return max(float("inf") if time is None else time for time in times) / self.bound_s

    @property
    def mean(self) -> float:
        """When leechers finished on average, in bounds."""
        times = [time for time in self.finished_s if time is not None]
        return sum(times) / len(times) / self.bound_s if times else float("inf")

    def __str__(self) -> str:
        return (
            f"makespan {self.makespan:.3f} mean {self.mean:.3f} seeder {self.seeder_share:.2f} F "
            f"duplicates {self.duplicate_share:.2%} control {self.control_share:.2%}"
        )


def make_release(world: World, image_bytes: int, chunk_bytes: int = 16 * KIB) -> SimulatedRelease:
    """Cuts random bytes into chunks of half to three halves of an average, as chunkers do."""
    data, position, chunks = world.random.randbytes(image_bytes), 0, []
    while position < image_bytes:
        length = world.random.randint(chunk_bytes // 2, chunk_bytes * 3 // 2)
        chunks.append(data[position : position + length])
        position += length
    return SimulatedRelease.of([chunks])


class Transfer:
    """A world with one image; add nodes, then `run`."""

    def __init__(
        self,
        seed: int,
        *,
        image_bytes: int = 16 * MIB,
        chunk_bytes: int = 16 * KIB,
        model: LinkModel | None = None,
        disk: Disk | None = None,
        knows_recipe: bool = True,
        is_relayed: bool = True,
    ) -> None:
        """Makes the world and the image.

        Args:
            seed: decides all that is random.
            image_bytes: size of the image.
            chunk_bytes: average size of its chunks.
            model: what the links share.
            disk: how long nodes take to verify.
            knows_recipe: whether leechers have the recipe from the start.
            is_relayed: whether nodes relay; if not, they only pull.
        """
        model = model or LinkModel()
        self.world: Final = World(seed, Link(latency_s=model.delay_s))
        """Where it happens."""
        self.network: Final = LinkNetwork(self.world, model)
        """How messages travel."""
        self.image_bytes: Final = image_bytes
        """Size of the image."""
        self.release: Final = make_release(self.world, image_bytes, chunk_bytes)
        """The image."""
        self.seeders: Final[list[TransferHost]] = []
        """Nodes that hold it from the start."""
        self.leechers: Final[list[TransferHost]] = []
        """Nodes that fetch it, those that left included."""
        self._disk = disk or Disk()
        self._knows_recipe = knows_recipe
        self._is_relayed = is_relayed

    def add_seeder(self, attached: NodeLink | None = None) -> TransferHost:
        """Adds a node that holds the image."""
        held = [range(len(chunks)) for chunks in self.release.components]
        host = self._make(TransferHost, attached)
        host.add_image(self.release, held=held, wants=False)
        self.seeders.append(host)
        self._join(host)
        return host

    def add_leecher(
        self,
        attached: NodeLink | None = None,
        *,
        kind: type[TransferHost] = TransferHost,
        held: Sequence[Iterable[int]] | None = None,
    ) -> TransferHost:
        """Adds a node that fetches the image, now, connected to all that are there.

        Args:
            attached: its link.
            kind: how it behaves.
            held: for each component, chunks it has from the start; None for nothing.
        """
        host = self._make(kind, attached)
        host.add_image(self.release, held=held, knows_recipe=self._knows_recipe)
        self.leechers.append(host)
        self._join(host)
        return host

    def _make(self, kind: type[TransferHost], attached: NodeLink | None) -> TransferHost:
        attached = attached or link()
        settings = None
        if self._is_relayed:
            site = b"" if attached.site is None else b"site-%d" % attached.site
            settings = RelaySettings(site=site)
        return kind(self.world, self.network, attached, disk=self._disk, relays=settings)

    def _join(self, host: TransferHost) -> None:
        join(self.network, host, [*self.seeders, *self.leechers])

    def run(
        self,
        until_s: float = 600.0,
        *,
        waits_for: Sequence[TransferHost] | None = None,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Runs until all leechers that did not leave are done, or a time has come.

        Args:
            until_s: when to give up, simulated seconds.
            waits_for: whom to wait for instead.
            check: called after every step of a quarter second.
        """
        while self.world.now < until_s:
            awaited = self.leechers if waits_for is None else waits_for
            if all(host.is_gone or host.is_done for host in awaited):
                return
            self.world.run_until(min(self.world.now + _STEP_S, until_s))
            if check is not None:
                check()

    def figures(self, bound_s: float | None = None) -> TransferFigures:
        """Says how it went.

        Args:
            bound_s: the yardstick, where it is not that of all nodes from the start.
        """
        nodes = [*self.seeders, *self.leechers]
        traffic = [self.network.traffic(host.number) for host in nodes]
        parts = [host.parts[0] for host in self.leechers]
        received = sum(sum(part.received_bytes.values()) for part in parts)
        gained = sum(part.figures.gained_bytes for part in parts)
        bad = sum(part.figures.bad_bytes for part in parts)
        if bound_s is None:
            bound_s = fluid_bound_s(
                self.image_bytes,
                [host.link for host in self.seeders],
                [host.link for host in self.leechers],
            )
        return TransferFigures(
            finished_s=tuple(_duration_s(part) for part in parts),
            bound_s=bound_s,
            seeder_share=self.seeders[0].parts[0].figures.sent_bytes / self.image_bytes,
            duplicate_share=(received - gained - bad) / max(gained, 1),
            bad_share=bad / max(gained, 1),
            control_share=sum(each.urgent_sent_bytes for each in traffic)
            / max(sum(each.stream_sent_bytes for each in traffic), 1),
            pipe_share=self.network.pipe_bytes / self.image_bytes,
            queue_s_max=max(each.queue_s_max for each in traffic),
        )


def _duration_s(part: ImagePart) -> float | None:
    finished_at = part.figures.finished_at
    return None if finished_at is None else finished_at - part.figures.started_at
