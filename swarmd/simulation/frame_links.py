"""Links for thousands of nodes: two events a frame where `LinkNetwork` has one for each quantum.

The same calls as `LinkNetwork`, for large units at links of some capacity. An uplink sends whole
frames, its streams in turn; a frame passes through: it has arrived when its last byte has passed
both links and the path between. Small messages take no turn. A receiver whose queue is longer than
`queue_s_max` says so, and is sent nothing more until it is shorter, which is what a window does.

Verifying is a part of the way. Not modelled, other than in `LinkNetwork`: slow start, windows,
acknowledgements, losses, standing queues of busy uplinks. Use it where a unit takes longer than
those, and compare at small scale.

What a node knows of another travels for `delay_s` at least. So two processes may each have some of
the nodes (`split`): what is for the other's lies in `outbox` until it is handed over (`take`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from swarmd.simulation.links import FrameLeft, LinkModel, NodeLink, NodeTraffic
from swarmd.simulation.world import World


@dataclass(slots=True, eq=False)
class _Stream:
    """One direction between two nodes."""

    target: _Node
    frames: deque[tuple[object, int, FrameLeft | None]] = field(default_factory=deque)
    queued_bytes: int = 0
    held_until: float = 0.0
    """Until then its receiver's queue is too long, as far as is known here."""


@dataclass(slots=True, eq=False)
class _Node:
    number: int
    uplink_bytes_per_s: float
    downlink_bytes_per_s: float
    traffic: NodeTraffic = field(default_factory=NodeTraffic)
    streams: dict[int, _Stream] = field(default_factory=dict)
    ring: deque[_Stream] = field(default_factory=deque)
    is_busy: bool = False
    left: FrameLeft | None = None
    """What it is told when the frame under way has left."""
    down_free_at: float = 0.0
    is_away: bool = False
    """Whether another process has it."""


@dataclass(slots=True, eq=False)
class Small:
    """A small message for some whom another process has."""

    source: int
    targets: tuple[int, ...]
    body: object


@dataclass(slots=True, eq=False)
class Frame:
    """The first byte of a frame reaches its receiver's downlink."""

    source: int
    target: int
    body: object
    wire_bytes: float
    """What it takes on the links."""
    duration_s: float
    """How long after its first byte its last one comes, at the soonest."""


@dataclass(slots=True, eq=False)
class Hold:
    """A sender hears that a receiver's queue is long."""

    source: int
    target: int
    until_s: float


Parcel = tuple[float, Small | Frame | Hold]
"""(when it happens, what)."""


class FrameNetwork:
    """See the module's docstring. An actor of the world; nodes are attached by their number."""

    def __init__(self, world: World, model: LinkModel, *, verify_s: float = 0.0) -> None:
        """Makes a network without nodes and adds it to the world.

        Args:
            world: where it is.
            model: delays and headers.
            verify_s: what a receiver needs to verify a frame, which it gets only then; seconds.
        """
        self._world = world
        self._verify_s = verify_s
        self._queue_s_max = model.queue_s_max
        self._header_factor = model.header_factor
        self._message_bytes = model.message_bytes
        self._delay_s = model.delay_s
        self._nodes: dict[int, _Node] = {}
        self.outbox: list[Parcel] = []
        """What happens at nodes that another process has."""
        self.pipe_bytes: Final = 0.0
        """Nothing: sites are not modelled here."""
        self.number: Final = world.add(self, is_timed=False)
        """The network's number in the world."""

    def attach(self, node: int, link: NodeLink) -> None:
        """Gives an actor of the world a link."""
        self._nodes[node] = _Node(node, link.uplink_bytes_per_s, link.downlink_bytes_per_s)

    def connect(self, one: int, other: int) -> None:
        """Opens a stream between two nodes, both directions; one that is open stays."""
        for source, target in ((one, other), (other, one)):
            streams = self._nodes[source].streams
            if target not in streams:
                streams[target] = _Stream(self._nodes[target])

    def disconnect(self, one: int, other: int) -> None:
        """Breaks the stream between two nodes: what is queued is gone.

        Once nodes are split nobody may leave: the other process would not hear of it.
        """
        if self._nodes[one].is_away or self._nodes[other].is_away:
            raise AssertionError(f"{one} and {other} part, one of them in another process")
        for source, target in ((one, other), (other, one)):
            stream = self._nodes[source].streams.pop(target, None)
            if stream is not None:
                stream.frames.clear()

    def split(self, away: Iterable[int]) -> None:
        """Leaves nodes to another process, from now on."""
        for number in away:
            self._nodes[number].is_away = True

    def is_here(self, event: object) -> bool:
        """Whether an event of this network is one of a node that this process has."""
        match event:
            case _Node():
                return not event.is_away
            case Frame():
                return not self._nodes[event.target].is_away
            case _:
                return True

    def take(self, parcels: Iterable[Parcel]) -> None:
        """Takes what another process had in its `outbox`."""
        for at, event in parcels:
            delay_s = at - self._world.now
            if isinstance(event, Small):
                for target in event.targets:
                    self._world.deliver(event.source, target, delay_s, event.body)
            else:
                owner = event.target if isinstance(event, Frame) else event.source
                self._world.post_for(owner, self.number, delay_s, event)

    def traffic(self, node: int) -> NodeTraffic:
        """What a node moved so far."""
        return self._nodes[node].traffic

    def queued_bytes(self, source: int, target: int) -> int:
        """Stream bytes given to a stream that have not left; 0 where there is none."""
        stream = self._nodes[source].streams.get(target)
        return 0 if stream is None else stream.queued_bytes

    def send(
        self,
        source: int,
        target: int,
        body: object,
        *,
        size_bytes: int,
        is_urgent: bool = False,
        token: object = None,
    ) -> None:
        """Sends a frame; see `LinkNetwork.send`."""
        node = self._nodes[source]
        stream = node.streams.get(target)
        if stream is None:
            return
        if is_urgent:
            self._send_small(node, stream.target, body, size_bytes)
            return
        if not stream.frames:
            node.ring.append(stream)
        left = None if token is None else FrameLeft(target, token)
        stream.frames.append((body, size_bytes, left))
        stream.queued_bytes += size_bytes
        if not node.is_busy:
            self._take_turn(node)

    def _send_small(self, node: _Node, target: _Node, body: object, size_bytes: int) -> None:
        wire_bytes = size_bytes + self._message_bytes
        sent, received = node.traffic, target.traffic
        sent.urgent_sent_bytes += wire_bytes
        sent.sent_bytes += wire_bytes
        sent.stream_sent_bytes += size_bytes
        received.received_bytes += wire_bytes
        received.stream_received_bytes += size_bytes
        delay_s = wire_bytes / node.uplink_bytes_per_s + self._delay_s
        if target.is_away:
            small = Small(node.number, (target.number,), body)
            self.outbox.append((self._world.now + delay_s, small))
        else:
            self._world.deliver(node.number, target.number, delay_s, body)

    def tell(self, source: int, targets: Iterable[int], body: object, *, size_bytes: int) -> None:
        """Sends one small message to many, who have it at one instant."""
        node = self._nodes[source]
        reached = [target for target in targets if target in node.streams]
        wire_bytes = size_bytes + self._message_bytes
        sent = node.traffic
        sent.urgent_sent_bytes += wire_bytes * len(reached)
        sent.sent_bytes += wire_bytes * len(reached)
        sent.stream_sent_bytes += size_bytes * len(reached)
        for target in reached:
            received = self._nodes[target].traffic
            received.received_bytes += wire_bytes
            received.stream_received_bytes += size_bytes
        delay_s = wire_bytes / node.uplink_bytes_per_s + self._delay_s
        away = []
        for target in reached:
            if self._nodes[target].is_away:
                away.append(target)
            else:
                self._world.deliver(source, target, delay_s, body)
        if away:
            self.outbox.append((self._world.now + delay_s, Small(source, tuple(away), body)))

    def _take_turn(self, node: _Node) -> None:
        """Sends one frame of the next stream whose receiver has room."""
        now = self._world.now
        soonest = math.inf
        ring = node.ring
        for _ in range(len(ring)):
            stream = ring.popleft()
            if not stream.frames:
                continue
            if stream.held_until <= now:
                self._send_frame(node, stream)
                return
            ring.append(stream)
            soonest = min(soonest, stream.held_until)
        node.is_busy = bool(ring)
        if ring:
            self._world.post_for(node.number, self.number, max(soonest - now, 1e-6), node)

    def _send_frame(self, node: _Node, stream: _Stream) -> None:
        body, size_bytes, left = stream.frames.popleft()
        stream.queued_bytes -= size_bytes
        if stream.frames:
            node.ring.append(stream)
        wire_bytes = size_bytes * self._header_factor
        sent, target = node.traffic, stream.target
        sent.sent_bytes += wire_bytes
        sent.stream_sent_bytes += size_bytes
        target.traffic.stream_received_bytes += size_bytes
        duration_s = wire_bytes / node.uplink_bytes_per_s
        node.is_busy = True
        node.left = left
        self._pass(target, Frame(node.number, target.number, body, wire_bytes, duration_s))
        self._world.post_for(node.number, self.number, duration_s, node)

    def _pass(self, target: _Node, event: Frame | Hold) -> None:
        """Has something happen at a node after the delay of the path."""
        if target.is_away:
            self.outbox.append((self._world.now + self._delay_s, event))
        else:
            self._world.post_for(target.number, self.number, self._delay_s, event)

    def _arrive(self, frame: Frame, now: float) -> None:
        """Queues a frame at its downlink; its first bytes pass while its last have not left."""
        target = self._nodes[frame.target]
        target.traffic.received_bytes += frame.wire_bytes
        free_at = target.down_free_at
        if free_at < now:
            free_at = now
        elif free_at - now > target.traffic.queue_s_max:
            target.traffic.queue_s_max = free_at - now
        free_at += frame.wire_bytes / target.downlink_bytes_per_s
        if free_at < now + frame.duration_s:
            free_at = now + frame.duration_s
        target.down_free_at = free_at
        self._world.deliver(frame.source, frame.target, free_at - now + self._verify_s, frame.body)
        if free_at - now > self._queue_s_max + frame.duration_s:
            until_s = free_at - self._queue_s_max
            self._pass(self._nodes[frame.source], Hold(frame.source, frame.target, until_s))

    # Actor ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """Never: all is posted."""
        return None

    def handle(self, event: object, now: float) -> None:
        """Has an uplink, which is free, go on; has something arrive."""
        match event:
            case _Node():
                left, event.left = event.left, None
                self._take_turn(event)
                if left is not None:
                    self._world.feed(event.number, left)
            case Frame():
                self._arrive(event, now)
            case Hold():
                stream = self._nodes[event.source].streams.get(event.target)
                if stream is not None:
                    stream.held_until = event.until_s
            case _:
                raise AssertionError(f"no event of a network: {event!r}")

    def receive(self, source: int, message: object, now: float) -> None:
        """Nobody sends to the network itself."""
        raise AssertionError(f"{source} sent {message!r} to the network at {now}")

    def wake(self, now: float) -> None:
        """Never asked for."""
        raise AssertionError(f"the network was woken at {now}")
