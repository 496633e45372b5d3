"""Links for thousands of nodes: one event where `LinkNetwork` has one for each quantum of a frame.

The same calls as `LinkNetwork`, for large units at links of some capacity. An uplink sends whole
frames, its streams in turn; a frame passes through: it has arrived when its last byte has passed
both links and the path between. Small messages take no turn. A receiver whose queue is longer than
`queue_s_max` is sent nothing more until it is shorter, which is what a window does.

Verifying is a part of the way. Not modelled, other than in `LinkNetwork`: slow start, windows,
acknowledgements, losses, standing queues of busy uplinks. Use it where a unit takes longer than
those, and compare at small scale.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
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
    last_arrival: float = 0.0
    is_dead: bool = False


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


@dataclass(slots=True, eq=False)
class _News:
    """A small message arrives at all whom its sender told it at once."""

    source: int
    targets: Sequence[int]
    body: object


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
        self._bulk_delay_s = model.delay_s + verify_s
        self._queue_s_max = model.queue_s_max
        self._header_factor = model.header_factor
        self._message_bytes = model.message_bytes
        self._delay_s = model.delay_s
        self._nodes: dict[int, _Node] = {}
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
        """Breaks the stream between two nodes: what is queued is gone."""
        for source, target in ((one, other), (other, one)):
            stream = self._nodes[source].streams.pop(target, None)
            if stream is not None:
                stream.is_dead = True
                stream.frames.clear()

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
            self._send_small(node, stream, body, size_bytes)
            return
        if not stream.frames:
            node.ring.append(stream)
        left = None if token is None else FrameLeft(target, token)
        stream.frames.append((body, size_bytes, left))
        stream.queued_bytes += size_bytes
        if not node.is_busy:
            self._take_turn(node)

    def _send_small(self, node: _Node, stream: _Stream, body: object, size_bytes: int) -> None:
        wire_bytes = size_bytes + self._message_bytes
        sent, target = node.traffic, stream.target
        sent.urgent_sent_bytes += wire_bytes
        sent.sent_bytes += wire_bytes
        sent.stream_sent_bytes += size_bytes
        received = target.traffic
        received.received_bytes += wire_bytes
        received.stream_received_bytes += size_bytes
        delay_s = wire_bytes / node.uplink_bytes_per_s + self._delay_s
        self._world.deliver(node.number, target.number, delay_s, body)

    def tell(self, source: int, targets: Sequence[int], body: object, *, size_bytes: int) -> None:
        """Sends one small message to many: they have it at one instant, which is one event."""
        node = self._nodes[source]
        wire_bytes = size_bytes + self._message_bytes
        reached = [target for target in targets if target in node.streams]
        for target in reached:
            received = self._nodes[target].traffic
            received.received_bytes += wire_bytes
            received.stream_received_bytes += size_bytes
        sent = node.traffic
        sent.urgent_sent_bytes += wire_bytes * len(reached)
        sent.sent_bytes += wire_bytes * len(reached)
        sent.stream_sent_bytes += size_bytes * len(reached)
        delay_s = wire_bytes / node.uplink_bytes_per_s + self._delay_s
        self._world.post(self.number, delay_s, _News(source, reached, body))

    def _take_turn(self, node: _Node) -> None:
        """Sends one frame of the next stream whose receiver has room."""
        now = self._world.now
        latest = now + self._queue_s_max
        soonest = math.inf
        ring = node.ring
        for _ in range(len(ring)):
            stream = ring.popleft()
            if not stream.frames:
                continue
            free_at = stream.target.down_free_at
            if free_at <= latest:
                self._send_frame(node, stream, now)
                return
            ring.append(stream)
            if free_at - self._queue_s_max < soonest:
                soonest = free_at - self._queue_s_max
        node.is_busy = bool(ring)
        if ring:
            self._world.post(self.number, max(soonest - now, 1e-6), node)

    def _send_frame(self, node: _Node, stream: _Stream, now: float) -> None:
        body, size_bytes, left = stream.frames.popleft()
        stream.queued_bytes -= size_bytes
        if stream.frames:
            node.ring.append(stream)
        wire_bytes = size_bytes * self._header_factor
        sent, target = node.traffic, stream.target
        sent.sent_bytes += wire_bytes
        sent.stream_sent_bytes += size_bytes
        received = target.traffic
        received.received_bytes += wire_bytes
        received.stream_received_bytes += size_bytes
        duration_s = wire_bytes / node.uplink_bytes_per_s
        free_at = target.down_free_at
        if free_at - now > received.queue_s_max:
            received.queue_s_max = free_at - now
        # Its first bytes arrive while its last have not left: the links are passed through.
        if free_at < now:
            free_at = now
        free_at += wire_bytes / target.downlink_bytes_per_s
        if free_at < now + duration_s:
            free_at = now + duration_s
        target.down_free_at = free_at
        if stream.last_arrival < free_at + self._bulk_delay_s:
            stream.last_arrival = free_at + self._bulk_delay_s
        node.is_busy = True
        node.left = left
        self._world.deliver(node.number, target.number, stream.last_arrival - now, body)
        self._world.post(self.number, duration_s, node)

    # Actor ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """Never: all is posted."""
        return None

    def handle(self, event: object, now: float) -> None:  # noqa: ARG002
        """Lets an uplink go on, which is free for the next frame, or hands news over."""
        if isinstance(event, _News):
            for target in event.targets:
                self._world.hand_over(event.source, target, event.body)
            return
        if not isinstance(event, _Node):
            raise AssertionError(f"no event of a network: {event!r}")  # noqa: TRY004
        left, event.left = event.left, None
        self._take_turn(event)
        if left is not None:
            self._world.feed(event.number, left)

    def receive(self, source: int, message: object, now: float) -> None:
        """Nobody sends to the network itself."""
        raise AssertionError(f"{source} sent {message!r} to the network at {now}")

    def wake(self, now: float) -> None:
        """Never asked for."""
        raise AssertionError(f"the network was woken at {now}")
