"""The world and the links of a simulated swarm: one heap for validators, gateways and streams.

Ledger messages travel over the world's link, with loss and jitter, and stop at partitions; image
streams travel over `SwarmNetwork`, whose delays depend on both ends. A stream that a partition cuts
breaks on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from swarmd.simulation.links import LinkNetwork, NodeLink, _Flow
from swarmd.simulation.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmLink(NodeLink):
    """A link with a delay of its own."""

    latency_s: float = 0.01
    """One way to the backbone, seconds; a path has both ends' together."""


class SwarmWorld(World):
    """A world in which one direction may be cut, and ends of streams are never lost."""

    _muted: frozenset[int] = frozenset()

    def mute(self, actors: Iterable[int]) -> None:
        """Cuts what these actors send to others; what is sent to them still arrives."""
        self._muted = frozenset(actors)

    def heal(self) -> None:
        """Ends partitions of both kinds; what was lost stays lost."""
        super().heal()
        self._muted = frozenset()

    def is_connected(self, one: int, other: int) -> bool:
        """Tells whether messages pass from one actor to another."""
        if one in self._muted and other not in self._muted:
            return False
        return super().is_connected(one, other)

    def send(self, source: int, target: int, message: object) -> None:
        """Sends a message over the link as it is now; the end of a stream (None) always arrives."""
        if message is None:
            self.deliver(source, target, self.link.latency_s, None)
        else:
            super().send(source, target, message)


class SwarmNetwork(LinkNetwork):
    """Links whose delay is that of both ends."""

    def _new_flow(self, source: int, target: int) -> _Flow:
        flow = super()._new_flow(source, target)
        start, end = flow.source.link, flow.target.link
        is_near = start.site is not None and start.site == end.site
        if not is_near and isinstance(start, SwarmLink) and isinstance(end, SwarmLink):
            flow.delay = start.latency_s + end.latency_s
        return flow
