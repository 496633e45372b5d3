"""Thin links between nodes: what a transfer meets on the way, without packets.

A node has an uplink and a downlink with a rate each. Between two nodes runs one flow a direction,
an ordered stream with a window like TCP's. The uplink serves its flows round robin in quanta; the
downlink is one queue. Nothing is ever lost unless `loss` says so, and then only time is: a stream
delivers everything, in order, or breaks as a whole.

What is modelled, and after what:

- Headers of Ethernet, IP and TCP (1,514 bytes carry 1,448), and the receiver's ACKs.
- Slow start from ten segments (RFC 6928), growth only while the window is the limit (RFC 7661),
  reduction to 0.7 (RFC 9438, section 4.6) once a round trip while a queue at the far end or in the
  pipe between two sites is longer than `queue_s_max`, additive growth afterwards.
- A busy uplink keeps a standing queue in front of it that every byte waits through (`bloat_s`).
- Small messages (`is_urgent`) wait for no turn: only for their stream's frame under way.
- Sites: nodes of one site are near to each other; all that passes between two sites shares a pipe.

Not modelled: handshakes, timeouts, idle restart, CPU time. Times are simulated seconds; all
arithmetic is on floats in one fixed order: a seed gives the same run wherever IEEE 754 holds.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from swarmd.simulation.world import World

_SEGMENT_BYTES: Final = 1448
"""Payload of a full segment on Ethernet with timestamps."""
_WINDOW_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest window: what a receive buffer allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkModel:
    """The physics that all links share."""

    delay_s: float = 0.02
    """One way between nodes that share no site, seconds."""
    site_delay_s: float = 0.0005
    """One way between two nodes of a site, seconds."""
    pipe_bytes_per_s: float | None = None
    """What passes from one site to another, each direction, bytes a second; None: no limit."""
    quantum_bytes: int = 8192
    """What a flow sends in one turn, bytes."""
    header_factor: float = 1514 / 1448
    """Bytes on the wire for each byte of a stream."""
    ack_share: float = 0.02
    """Bytes that a receiver sends back for each byte received."""
    message_bytes: int = 75
    """What a small message costs besides its own bytes: one packet's headers."""
    initial_window_bytes: int = 10 * 1460
    """Window of a new flow, bytes (RFC 6928)."""
    backoff: float = 0.7
    """What is left of a window that met a long queue or a loss."""
    queue_s_max: float = 0.1
    """Queue that makes windows shrink, seconds."""
    loss: float = 0.0
    """Probability that a segment is lost and sent again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLink:
    """How one node is attached."""

    uplink_bytes_per_s: float
    """What it can send, bytes on the wire a second."""
    downlink_bytes_per_s: float
    """What it can receive, bytes on the wire a second."""
    site: int | None = None
    """Where it stands; None: alone."""
    bloat_s: float = 0.05
    """Standing queue in front of its uplink while it is busy, seconds."""
    queue_s_max: float | None = None
    """Queue in front of its downlink that makes windows shrink, seconds; None: the model's."""


@dataclass(slots=True)
class FrameLeft:
    """Told to a sender: the last byte of a bulk frame has left the uplink.

    Not frozen, since one is made for every frame.
    """

    target: int
    """Whom the frame is for."""
    token: object
    """What the sender gave with it."""


@dataclass(frozen=True, slots=True)
class FrameBlocked:
    """Told to a sender, once for a frame: it waits for its flow's window, not for a turn."""

    target: int
    """Whom the frame is for."""
    token: object
    """What the sender gave with it."""


@dataclass(slots=True)
class NodeTraffic:
    """What one node moved; wire bytes include headers, messages and ACKs."""

    sent_bytes: float = 0.0
    """Bytes on the wire of its uplink."""
    received_bytes: float = 0.0
    """Bytes on the wire of its downlink."""
    stream_sent_bytes: int = 0
    """Bytes of streams that left, small messages included."""
    stream_received_bytes: int = 0
    """Bytes of streams delivered, small messages included."""
    urgent_sent_bytes: int = 0
    """Of those sent, bytes of small messages with their packets' headers."""
    queue_s_max: float = 0.0
    """Longest queue in front of its downlink so far, seconds."""


@dataclass(slots=True, eq=False)
class _Frame:
    body: object
    size_bytes: int
    left_bytes: int
    token: object
    is_block_told: bool = False


@dataclass(slots=True, eq=False)
class _Flow:
    """One direction of a stream."""

    source: _Node
    target: _Node
    window: float
    threshold: float = float("inf")
    in_flight: int = 0
    frames: deque[_Frame] = field(default_factory=deque)
    urgent: deque[_Frame] = field(default_factory=deque)
    queued_bytes: int = 0
    acks: deque[tuple[float, int]] = field(default_factory=deque)
    last_arrival: float = 0.0
    cut_until: float = 0.0
    is_in_ring: bool = False
    is_waiting: bool = False
    is_dead: bool = False
    delay: float = 0.0
    pipe: _Pipe | None = None

    @property
    def is_within_frame(self) -> bool:
        """Whether a bulk frame has begun to leave, so that nothing may come between its bytes."""
        return bool(self.frames) and self.frames[0].left_bytes < self.frames[0].size_bytes

    @property
    def has_frames(self) -> bool:
        """Whether anything waits to leave."""
        return bool(self.frames or self.urgent)


@dataclass(slots=True, eq=False)
class _Pipe:
    """A queue with a rate: what two sites share."""

    rate: float
    free_at: float = 0.0
    carried_bytes: float = 0.0


@dataclass(slots=True, eq=False)
class _Node:
    number: int
    link: NodeLink
    traffic: NodeTraffic = field(default_factory=NodeTraffic)
    ring: deque[_Flow] = field(default_factory=deque)
    busy_until: float = -1.0
    is_busy: bool = False
    debt: float = 0.0
    down_free_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Turn:
    """The uplink is free for the next quantum."""

    node: _Node


@dataclass(slots=True, eq=False)
class _Opened:
    """ACKs may have made room in a flow's window."""

    flow: _Flow


@dataclass(slots=True, eq=False)
class _Burst:
    """Bytes of one flow under way together, with the frames that end in them."""

    flow: _Flow
    stream_bytes: int
    wire_bytes: float
    frames: tuple[_Frame, ...]
    is_acked: bool
    at_pipe: bool


class LinkNetwork:
    """See the module's docstring. An actor of the world; nodes are attached by their number."""

    def __init__(self, world: World, model: LinkModel) -> None:
        """Makes a network without nodes and adds it to the world."""
        self._world = world
        self._model = model
        self._nodes: dict[int, _Node] = {}
        self._flows: dict[tuple[int, int], _Flow] = {}
        self._pipes: dict[tuple[int, int], _Pipe] = {}
        self.number: Final = world.add(self)
        """The network's number in the world."""

    # Setting up ----------------------------------------------------------------------------------

    def attach(self, node: int, link: NodeLink) -> None:
        """Gives an actor of the world a link."""
        self._nodes[node] = _Node(node, link)

    def connect(self, one: int, other: int) -> None:
        """Opens a stream between two nodes, both directions; one that is open stays."""
        for source, target in ((one, other), (other, one)):
            if (source, target) not in self._flows:
                self._flows[source, target] = self._new_flow(source, target)

    def _new_flow(self, source: int, target: int) -> _Flow:
        start, end = self._nodes[source], self._nodes[target]
        is_near = start.link.site is not None and start.link.site == end.link.site
        flow = _Flow(start, end, float(self._model.initial_window_bytes))
        flow.delay = self._model.site_delay_s if is_near else self._model.delay_s
        if start.link.site is not None and end.link.site is not None and not is_near:
            flow.pipe = self._pipe(start.link.site, end.link.site)
        return flow

    def _pipe(self, source: int, target: int) -> _Pipe | None:
        rate = self._model.pipe_bytes_per_s
        if rate is None:
            return None
        return self._pipes.setdefault((source, target), _Pipe(rate))

    def disconnect(self, one: int, other: int) -> None:
        """Breaks the stream between two nodes: what is queued or under way is gone."""
        for key in ((one, other), (other, one)):
            flow = self._flows.pop(key, None)
            if flow is not None:
                flow.is_dead = True
                flow.frames.clear()
                flow.urgent.clear()

    # What scenarios look at ----------------------------------------------------------------------

    def traffic(self, node: int) -> NodeTraffic:
        """What a node moved so far."""
        return self._nodes[node].traffic

    @property
    def pipe_bytes(self) -> float:
        """Bytes on the wire that passed between sites."""
        return sum(pipe.carried_bytes for pipe in self._pipes.values())

    def queued_bytes(self, source: int, target: int) -> int:
        """Stream bytes given to a flow that have not left; 0 where there is none."""
        flow = self._flows.get((source, target))
        return 0 if flow is None else flow.queued_bytes

    # Sending -------------------------------------------------------------------------------------

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
        """Sends a frame; it arrives as a message of the world, or never if the stream breaks.

        Args:
            source: who sends.
            target: for whom.
            body: what arrives.
            size_bytes: what it takes on the stream.
            is_urgent: a small message, which takes no turn of its own.
            token: handed back in `FrameLeft`, perhaps in `FrameBlocked` before, to a sender of
                bulk; None: not told.
        """
        flow = self._flows.get((source, target))
        if flow is None:
            return
        frame = _Frame(body, size_bytes, size_bytes, token)
        if is_urgent:
            flow.source.traffic.urgent_sent_bytes += size_bytes + self._model.message_bytes
            if not flow.is_within_frame and not flow.urgent:
                self._send_urgent(flow, frame)
                return
            flow.urgent.append(frame)
        else:
            flow.frames.append(frame)
        flow.queued_bytes += size_bytes
        self._enlist(flow)

    def _send_urgent(self, flow: _Flow, frame: _Frame) -> None:
        now, node = self._world.now, flow.source
        wire_bytes = float(frame.size_bytes + self._model.message_bytes)
        node.traffic.sent_bytes += wire_bytes
        node.traffic.stream_sent_bytes += frame.size_bytes
        arrival = now + wire_bytes / node.link.uplink_bytes_per_s
        if node.is_busy:
            node.debt += wire_bytes
            arrival += node.link.bloat_s
        burst = _Burst(flow, frame.size_bytes, wire_bytes, (frame,), False, flow.pipe is not None)
        self._launch(burst, arrival)

    def _enlist(self, flow: _Flow) -> None:
        """Puts a flow with something to send into its uplink's ring, and starts the uplink."""
        if not flow.is_in_ring and not flow.is_waiting and flow.has_frames:
            flow.is_in_ring = True
            flow.source.ring.append(flow)
            if not flow.source.is_busy:
                self._take_turn(flow.source)

    def _take_turn(self, node: _Node) -> None:
        """Sends one quantum of the next flow whose window allows it."""
        now, ring, model = self._world.now, node.ring, self._model
        while ring:
            flow = ring.popleft()
            if flow.has_frames and self._has_room(flow):
                break
            flow.is_in_ring = False
            if flow.has_frames:
                # Without an ACK under way, the next burst to arrive makes one (`_acknowledge`).
                flow.is_waiting = True
                self._tell_blocked(flow)
                if flow.acks:
                    self._post(flow.acks[0][0], _Opened(flow))
        else:
            node.is_busy = False
            return
        was_busy = node.busy_until >= now
        burst, left = self._cut_quantum(flow)
        if flow.frames or flow.urgent:
            ring.append(flow)
        else:
            flow.is_in_ring = False
        wire_bytes = burst.wire_bytes + node.debt
        node.debt = 0.0
        if model.loss:
            wire_bytes += self._lose(flow, burst)
        node.is_busy = True
        node.busy_until = now + wire_bytes / node.link.uplink_bytes_per_s
        bloat = node.link.bloat_s if was_busy or ring else 0.0
        self._launch(burst, node.busy_until + bloat)
        self._post(node.busy_until, _Turn(node))
        for token in left:
            self._world.post(
                node.number, node.busy_until - now, FrameLeft(flow.target.number, token)
            )

    def _tell_blocked(self, flow: _Flow) -> None:
        frame = flow.frames[0] if flow.frames else None
        if frame is not None and frame.token is not None and not frame.is_block_told:
            frame.is_block_told = True
            blocked = FrameBlocked(flow.target.number, frame.token)
            self._world.post(flow.source.number, 0.0, blocked)

    def _cut_quantum(self, flow: _Flow) -> tuple[_Burst, list[object]]:
        """Takes the next quantum off a flow; with it the tokens of bulk frames that end in it."""
        room, ended = self._model.quantum_bytes, []
        while flow.has_frames and room:
            queue = flow.urgent if flow.urgent and not flow.is_within_frame else flow.frames
            frame = queue[0]
            taken = min(room, frame.left_bytes)
            frame.left_bytes -= taken
            room -= taken
            if not frame.left_bytes:
                ended.append(queue.popleft())
        stream_bytes = self._model.quantum_bytes - room
        wire_bytes = stream_bytes * self._model.header_factor
        flow.in_flight += stream_bytes
        flow.queued_bytes -= stream_bytes
        traffic = flow.source.traffic
        traffic.sent_bytes += wire_bytes
        traffic.stream_sent_bytes += stream_bytes
        burst = _Burst(flow, stream_bytes, wire_bytes, tuple(ended), True, flow.pipe is not None)
        return burst, [frame.token for frame in ended if frame.token is not None]

    def _lose(self, flow: _Flow, burst: _Burst) -> float:
        """Perhaps loses a segment of a quantum: the stream behind it waits one round trip."""
        segments = -(-burst.stream_bytes // _SEGMENT_BYTES)
        if self._world.random.random() >= 1.0 - (1.0 - self._model.loss) ** segments:
            return 0.0
        self._shrink(flow, 0.0)
        round_trip = 2 * flow.delay + flow.source.link.bloat_s
        flow.last_arrival = max(flow.last_arrival, self._world.now + flow.delay) + round_trip
        again = _SEGMENT_BYTES * self._model.header_factor
        flow.source.traffic.sent_bytes += again
        return again

    # Windows -------------------------------------------------------------------------------------

    def _has_room(self, flow: _Flow) -> bool:
        now = self._world.now
        while flow.acks and flow.acks[0][0] <= now:
            self._grow(flow, flow.acks.popleft()[1])
        return not flow.in_flight or flow.in_flight + self._model.quantum_bytes <= flow.window

    def _grow(self, flow: _Flow, acked_bytes: int) -> None:
        # Only a window that was used grows: RFC 7661; in slow start half used is used, as in Linux.
        if flow.window < flow.threshold:
            if 2 * flow.in_flight >= flow.window:
                flow.window += acked_bytes
        elif flow.in_flight + 2 * self._model.quantum_bytes >= flow.window:
            flow.window += _SEGMENT_BYTES * acked_bytes / flow.window
        flow.window = min(flow.window, _WINDOW_BYTES_MAX)
        flow.in_flight -= acked_bytes

    def _shrink(self, flow: _Flow, queue_s: float) -> None:
        """Reduces a window, at most once a round trip, of which the queue is a part."""
        now = self._world.now
        if now < flow.cut_until:
            return
        flow.cut_until = now + 2 * flow.delay + flow.source.link.bloat_s + queue_s
        flow.window = max(flow.window * self._model.backoff, 2.0 * _SEGMENT_BYTES)
        flow.threshold = flow.window

    # On the way ----------------------------------------------------------------------------------

    def _launch(self, burst: _Burst, departure: float) -> None:
        flow = burst.flow
        # The delay counts behind the pipe, so that it is passed once.
        arrival = departure if burst.at_pipe else departure + flow.delay
        flow.last_arrival = max(flow.last_arrival, arrival)
        self._post(flow.last_arrival, burst)

    def _pass_pipe(self, burst: _Burst, pipe: _Pipe) -> None:
        now = self._world.now
        start = max(now, pipe.free_at)
        if start - now > self._model.queue_s_max:
            self._shrink(burst.flow, start - now)
        pipe.free_at = start + burst.wire_bytes / pipe.rate
        pipe.carried_bytes += burst.wire_bytes
        burst.at_pipe = False
        # One pipe is one queue, so what follows arrives in order without `last_arrival`.
        self._post(pipe.free_at + burst.flow.delay, burst)

    def _arrive(self, burst: _Burst) -> None:
        flow, now = burst.flow, self._world.now
        node = flow.target
        start = max(now, node.down_free_at)
        queue_s = start - now
        if queue_s > node.traffic.queue_s_max:
            node.traffic.queue_s_max = queue_s
        limit_s = node.link.queue_s_max
        if queue_s > (self._model.queue_s_max if limit_s is None else limit_s):
            self._shrink(flow, queue_s)
        done = start + burst.wire_bytes / node.link.downlink_bytes_per_s
        node.down_free_at = done
        node.traffic.received_bytes += burst.wire_bytes
        node.traffic.stream_received_bytes += burst.stream_bytes
        if burst.is_acked:
            self._acknowledge(flow, burst, done)
        for frame in burst.frames:
            self._world.deliver(flow.source.number, node.number, done - now, frame.body)

    def _acknowledge(self, flow: _Flow, burst: _Burst, done: float) -> None:
        node = flow.target
        ack_bytes = burst.wire_bytes * self._model.ack_share
        node.traffic.sent_bytes += ack_bytes
        returned = done + flow.delay
        if node.is_busy:
            node.debt += ack_bytes
            returned += node.link.bloat_s
        if flow.acks:
            returned = max(returned, flow.acks[-1][0])
        flow.acks.append((returned, burst.stream_bytes))
        if flow.is_waiting and len(flow.acks) == 1:
            self._post(returned, _Opened(flow))

    # Actor ---------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """Never: all is posted."""
        return None

    def handle(self, event: object, now: float) -> None:  # noqa: ARG002
        """Moves bytes on."""
        match event:
            case _Turn():
                self._take_turn(event.node)
            case _Burst():
                if event.flow.is_dead:
                    return
                if event.at_pipe and event.flow.pipe is not None:
                    self._pass_pipe(event, event.flow.pipe)
                else:
                    self._arrive(event)
            case _Opened():
                event.flow.is_waiting = False
                self._enlist(event.flow)
            case _:
                raise AssertionError(f"no event of a network: {event!r}")

    def receive(self, source: int, message: object, now: float) -> None:
        """Nobody sends to the network itself."""
        raise AssertionError(f"{source} sent {message!r} to the network at {now}")

    def wake(self, now: float) -> None:
        """Never asked for."""
        raise AssertionError(f"the network was woken at {now}")

    def _post(self, time: float, event: object) -> None:
        self._world.post(self.number, time - self._world.now, event)
