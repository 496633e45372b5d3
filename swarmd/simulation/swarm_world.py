"""The world and the links of a simulated swarm: one heap for validators, gateways and streams.

Ledger messages travel over the world's link, with loss and jitter, and stop at partitions; image
streams travel over `SwarmNetwork`, whose delays depend on both ends. A stream that a partition cuts
breaks on both sides.

What is wrong with a node's link (`Flaws`) lies between the node and the backbone: nodes of one site
do not meet it. A ledger message is a packet: it vanishes, comes twice or is overtaken. A stream
loses nothing but time: what is behind a lost or late segment waits for it (RFC 9293, 3.4), and a
segment that comes twice takes its time on the downlink.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from swarmd.simulation.links import _SEGMENT_BYTES, LinkModel, LinkNetwork, NodeLink, _Burst, _Flow
from swarmd.simulation.world import Link, World

RESEND_S_MIN: Final = 0.2
"""Least time until a lost small message is sent again, seconds: nothing that follows it tells the
sender, so a timer must (Linux's TCP_RTO_MIN)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flaws:
    """What may befall a packet between a node and the backbone, each way."""

    jitter_s: float = 0.0
    """Added to the latency, uniform from 0 to this, seconds."""
    loss: float = 0.0
    """Probability that it is lost."""
    duplication: float = 0.0
    """Probability that it arrives twice."""
    reorder: float = 0.0
    """Probability that it is held back."""
    reorder_s: float = 0.0
    """How long, seconds."""

    @property
    def are_any(self) -> bool:
        """Whether anything may."""
        return bool(self.jitter_s or self.loss or self.duplication or self.reorder)


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmLink(NodeLink):
    """A link with a delay and flaws of its own."""

    latency_s: float = 0.01
    """One way to the backbone, seconds; a path has both ends' together."""
    flaws: Flaws = Flaws()
    """What may befall a packet."""
    is_closed: bool = False
    """Whether only nodes of its site can call it."""

    def can_reach(self, other: SwarmLink) -> bool:
        """Whether one of two nodes can call the other."""
        is_near = self.site is not None and self.site == other.site
        return is_near or not (self.is_closed and other.is_closed)


class SwarmWorld(World):
    """A world in which one direction may be cut, and ends of streams are never lost."""

    def __init__(
        self, seed: int, link: Link, fingerprint: Callable[[object], bytes] | None = None
    ) -> None:
        """Makes an empty world; see `World`."""
        super().__init__(seed, link, fingerprint)
        self._muted: frozenset[int] = frozenset()
        self._flaws: dict[int, Flaws] = {}

    def spoil(self, actor: int, flaws: Flaws) -> None:
        """Has ledger messages from and to an actor suffer what its link does to packets."""
        if flaws.are_any:
            self._flaws[actor] = flaws

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
        elif source in self._flaws or target in self._flaws:
            self._send_spoilt(source, target, message)
        else:
            super().send(source, target, message)

    def _send_spoilt(self, source: int, target: int, message: object) -> None:
        if not self.is_connected(source, target):
            return
        link, chance = self.link, self.random
        flaws = [self._flaws[each] for each in (source, target) if each in self._flaws]
        if chance.random() < _either(link.loss, *(each.loss for each in flaws)):
            return
        twice = _either(link.duplication, *(each.duplication for each in flaws))
        for _ in range(1 + (chance.random() < twice)):
            delay_s = link.latency_s + chance.random() * link.jitter_s
            for each in flaws:
                delay_s += chance.random() * each.jitter_s
                if chance.random() < each.reorder:
                    delay_s += each.reorder_s
            self.deliver(source, target, delay_s, message)


class SwarmNetwork(LinkNetwork):
    """Links whose delay and flaws are those of both ends."""

    def __init__(self, world: World, model: LinkModel) -> None:
        """Makes a network without nodes; see `LinkNetwork`."""
        super().__init__(world, model)
        self._spoilt: Final[dict[tuple[int, int], tuple[Flaws, ...]]] = {}

    def _new_flow(self, source: int, target: int) -> _Flow:
        flow = super()._new_flow(source, target)
        start, end = flow.source.link, flow.target.link
        is_near = start.site is not None and start.site == end.site
        if not is_near and isinstance(start, SwarmLink) and isinstance(end, SwarmLink):
            flow.delay = start.latency_s + end.latency_s
            flaws = tuple(each for each in (start.flaws, end.flaws) if each.are_any)
            if flaws:
                self._spoilt[source, target] = flaws
        return flow

    def _launch(self, burst: _Burst, departure: float) -> None:
        if self._spoilt:
            flow = burst.flow
            flaws = self._spoilt.get((flow.source.number, flow.target.number), ())
            for each in flaws:
                departure += self._suffer(each, burst)
        super()._launch(burst, departure)

    def _suffer(self, flaws: Flaws, burst: _Burst) -> float:
        """What one end's flaws do to the segments of a burst: how much later they arrive, seconds.

        What follows in the stream waits, too: a burst never overtakes the one before.
        """
        flow, chance = burst.flow, self._world.random
        segments = max(-(-burst.stream_bytes // _SEGMENT_BYTES), 1)
        segment_bytes = min(_SEGMENT_BYTES * self._model.header_factor, burst.wire_bytes)
        later_s = chance.random() * flaws.jitter_s
        if flaws.loss and chance.random() < _any_of(segments, flaws.loss):
            round_trip_s = 2 * flow.delay + flow.source.link.bloat_s
            later_s += round_trip_s if burst.is_acked else max(round_trip_s, RESEND_S_MIN)
            self._shrink(flow, 0.0)
            flow.source.debt += segment_bytes
            flow.source.traffic.sent_bytes += segment_bytes
        if flaws.reorder and chance.random() < _any_of(segments, flaws.reorder):
            later_s += flaws.reorder_s
        if flaws.duplication and chance.random() < _any_of(segments, flaws.duplication):
            burst.wire_bytes += segment_bytes
        return later_s


def _any_of(count: int, probability: float) -> float:
    """The probability that one of so many events happens."""
    return float(1.0 - (1.0 - probability) ** count)


def _either(*probabilities: float) -> float:
    """The probability that one of several events happens."""
    return 1.0 - math.prod(1.0 - each for each in probabilities)
