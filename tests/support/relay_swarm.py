"""Nodes with real relays over links with a rate and a delay; pulls are as simple as can be.

Each node sends one frame after the other at its rate. Messages are encoded and decoded. A node
pulls what its relay permits from whoever it knows to hold it, eight chunks at a time. After every
event the bounds of every queue are checked.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from protocol.bitfield import iterate_bits
from protocol.digest import ManifestId
from protocol.exchange_events import (
    ExchangeOffenceError,
    Offence,
    PeerBanned,
    PeerJoined,
    PeerLeft,
    Stop,
    TimerFired,
)
from protocol.relay import Relay
from protocol.relay_duties import PUSHCAP
from protocol.relay_estimates import Chance
from protocol.relay_events import (
    AskPossession,
    ChunksGained,
    ObjectReady,
    PeerClaims,
    PeerClaimsObject,
    PeerPossession,
    PeerRequested,
    PullFreed,
    PullGated,
    PullOpened,
    PushRefused,
    RelayEffect,
    RelayInput,
    RelayReceived,
    RelaySettings,
    SendPossession,
    SendPush,
    SendRelay,
    TakePush,
)
from protocol.relay_messages import Push, PushedChunk, decode_relay, encode_relay
from protocol.relay_receiving import PENDING_BYTES_MAX, PENDING_BYTES_PEER_MAX
from protocol.relay_scheduler import RelayScheduler
from protocol.relay_seeder import ALLOWANCE_MAX, UNVOUCHED_MAX

M = ManifestId(b"m" * 32)
CONTROL_BYTES = 75
"""What the headers of a small message cost."""
WINDOW = 8
"""Chunks a node asks for at once."""
PATIENCE_S = 5.0
"""After which a request is forgotten."""


def key(number: int) -> bytes:
    """A transport key."""
    return number.to_bytes(8, "big") * 4


@dataclass
class Node:
    """One node; `behaviour` changes or drops what it sends."""

    number: int
    relay: Relay
    have: set[int]
    rate: float
    verify_s: float = 0.002
    behaviour: Callable[[RelaySwarm, Node, int, object], Iterable[object]] | None = None
    scheduler: RelayScheduler = field(default_factory=RelayScheduler)
    claims: dict[int, int] = field(default_factory=dict)
    gate: int = 0
    asked: dict[int, float] = field(default_factory=dict)
    free_at: float = 0.0
    requests: list[tuple[int, int]] = field(default_factory=list)
    is_serving: bool = False
    is_gone: bool = False
    finished_at: float | None = None
    sent_bytes: int = 0
    duplicate_chunks: int = 0
    pulled_chunks: int = 0
    control_bytes: int = 0
    cut: list[tuple[int, Offence]] = field(default_factory=list)
    woken_at: float | None = None


class RelaySwarm:
    """The nodes and the clock."""

    def __init__(
        self,
        lengths: list[int],
        *,
        seed: int = 0,
        delay_s: float = 0.02,
        check: bool = True,
    ) -> None:
        """Makes a swarm of one object without nodes."""
        self.lengths = lengths
        self.now = 0.0
        self.nodes: dict[int, Node] = {}
        self.links: set[tuple[int, int]] = set()
        self.chance = Chance(seed)
        self.delay_s = delay_s
        self.check = check
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    @property
    def full(self) -> int:
        """All chunks."""
        return (1 << len(self.lengths)) - 1

    # Building ------------------------------------------------------------------------------------

    def add(
        self,
        number: int,
        *,
        holds: Iterable[int] = (),
        rate: float = 2.5e6,
        site: bytes = b"",
        is_leaf: bool = False,
        behaviour: Callable[[RelaySwarm, Node, int, object], Iterable[object]] | None = None,
    ) -> Node:
        """Adds a node and connects it with all that are there."""
        relay = Relay(
            manifest_id=M,
            own_key=key(number),
            chunk_counts=[len(self.lengths)],
            settings=RelaySettings(site=site, is_leaf=is_leaf),
            entropy=self.chance.below(2**62),
        )
        node = Node(number, relay, set(holds), rate, behaviour=behaviour, free_at=self.now)
        node.scheduler.add(relay, priority=0)
        if len(node.have) == len(self.lengths):
            node.finished_at = self.now
        self.nodes[number] = node
        held = sum(1 << index for index in node.have)
        self.feed(node, ObjectReady(object_number=0, lengths=self.lengths, held=held))
        for other in list(self.nodes.values()):
            if other is not node and not other.is_gone:
                self.connect(node, other)
        return node

    def connect(self, one: Node, other: Node) -> None:
        """Opens a stream; both tell by a bitfield what they hold."""
        self.links |= {(one.number, other.number), (other.number, one.number)}
        for node, peer in ((one, other), (other, one)):
            self.feed(node, PeerJoined(peer=key(peer.number)))
            node.scheduler.joined(node.relay, key(peer.number))
        for node, peer in ((one, other), (other, one)):
            self.send(node, peer.number, ("ask",), 50)

    def leave(self, number: int) -> None:
        """Ends a node without a word."""
        node = self.nodes[number]
        node.is_gone = True
        self.feed(node, Stop())
        for other in list(self.nodes.values()):
            self.disconnect(number, other.number)

    def disconnect(self, one: int, other: int) -> None:
        """Breaks a stream."""
        if (one, other) not in self.links:
            return
        self.links -= {(one, other), (other, one)}
        for number, peer in ((one, other), (other, one)):
            node = self.nodes[number]
            node.claims.pop(peer, None)
            node.scheduler.left(key(peer))
            if not node.is_gone:
                self.feed(node, PeerLeft(peer=key(peer)))

    # Time ----------------------------------------------------------------------------------------

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Does something later."""
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, call))

    def run(self, until_s: float = 300.0) -> None:
        """Runs until every node that is there has everything."""
        while self._heap and self.now < until_s:
            if all(n.is_gone or n.finished_at is not None for n in self.nodes.values()):
                return
            self.step()

    def run_until(self, time: float) -> None:
        """Runs until a time."""
        while self._heap and self._heap[0][0] <= time:
            self.step()
        self.now = max(self.now, time)

    def step(self) -> None:
        """Does what is next."""
        time, _, call = heapq.heappop(self._heap)
        self.now = max(self.now, time)
        call()

    def _wake(self, node: Node) -> None:
        deadline = node.relay.deadline
        if deadline is None or node.is_gone:
            return
        if node.woken_at is not None and self.now < node.woken_at <= deadline:
            return
        node.woken_at = max(deadline, self.now)
        self.at(node.woken_at, lambda: self._timer(node))

    def _timer(self, node: Node) -> None:
        deadline = node.relay.deadline
        if not node.is_gone and deadline is not None and deadline <= self.now:
            node.woken_at = None
            self.feed(node, TimerFired())
            after = node.relay.deadline
            assert after is None or after > self.now, (
                after,
                self.now,
                node.relay._gate.due_times(),
                node.relay._giving.due_times(),
                node.relay._news.due_at,
            )

    # Machines ------------------------------------------------------------------------------------

    def feed(self, node: Node, event: RelayInput) -> None:
        """Feeds a relay, executes its effects, and lets its scheduler go on."""
        self._execute(node, node.relay.handle(event, self.now))
        self._schedule(node)

    def _schedule(self, node: Node) -> None:
        if node.is_gone:
            return
        self._execute(node, [effect for _, effect in node.scheduler.next_effects(self.now)])
        if self.check:
            check_bounds(node)
        self._wake(node)

    def _execute(self, node: Node, effects: list[RelayEffect]) -> None:
        for effect in effects:
            match effect:
                case SendRelay():
                    body = b"".join(encode_relay(effect.message))
                    node.control_bytes += len(body) + CONTROL_BYTES
                    self.send(node, number_of(effect.peer), body, len(body))
                case SendPossession():
                    bits = sum(1 << index for index in node.have)
                    self.send(node, number_of(effect.peer), ("bits", bits), len(self.lengths) // 8)
                case AskPossession():
                    self.send(node, number_of(effect.peer), ("ask",), 50)
                case SendPush():
                    self._push(node, effect)
                case TakePush():
                    self.at(self.now + node.verify_s, lambda e=effect: self._verify(node, e))
                case PeerClaims(peer=peer, runs=runs):
                    for first, count in runs:
                        bits = ((1 << count) - 1) << first
                        number = number_of(peer)
                        node.claims[number] = node.claims.get(number, 0) | bits
                case PeerClaimsObject(peer=peer, bits=bits):
                    node.claims[number_of(peer)] = bits
                case PullGated():
                    node.gate = self.full
                case PullOpened(runs=runs):
                    for first, count in runs:
                        node.gate &= ~(((1 << count) - 1) << first)
                case PullFreed():
                    node.gate = 0
                case _:
                    raise AssertionError(f"no effect of an honest swarm: {effect}")
        self._pull(node)

    # Frames --------------------------------------------------------------------------------------

    def send(self, node: Node, target: int, body: object, size: int) -> None:
        """Sends a small message: it waits for nobody's frame."""
        if (node.number, target) not in self.links:
            return
        bodies = [body]
        if node.behaviour is not None:
            bodies = list(node.behaviour(self, node, target, body))
        for actual in bodies:
            delay = self.delay_s + (size + CONTROL_BYTES) / node.rate
            self.at(self.now + delay, lambda b=actual: self._receive(target, node.number, b))

    def _send_bulk(
        self, node: Node, target: int, body: object, size: int, left: Callable[[], None]
    ) -> None:
        node.free_at = max(node.free_at, self.now) + size * 1.05 / node.rate
        node.sent_bytes += size
        bodies = [body]
        if node.behaviour is not None:
            bodies = list(node.behaviour(self, node, target, body))
        self.at(node.free_at, left)
        for actual in bodies:
            arrival = node.free_at + self.delay_s
            self.at(arrival, lambda b=actual: self._receive(target, node.number, b))

    def _push(self, node: Node, effect: SendPush) -> None:
        indices = range(effect.first_index, effect.first_index + effect.count)
        push = Push(
            manifest_id=M,
            object_number=0,
            flags=effect.flags,
            delegates=effect.delegates,
            chunks=tuple(
                PushedChunk(index=index, data=content(index, self.lengths[index]))
                for index in indices
            ),
        )
        assert all(index in node.have for index in indices), "pushed what is not there"
        body = b"".join(encode_relay(push))
        target = number_of(effect.peer)

        def left() -> None:
            if not node.is_gone and (node.number, target) in self.links:
                node.scheduler.push_sent(effect.peer)
                self._schedule(node)

        self._send_bulk(node, target, body, len(body), left)

    def _receive(self, target: int, source: int, body: object) -> None:
        node = self.nodes[target]
        if node.is_gone or (target, source) not in self.links:
            return
        if isinstance(body, bytes):
            try:
                message = decode_relay(body)
                self.feed(node, RelayReceived(peer=key(source), message=message))
            except ExchangeOffenceError as error:
                self._cut(node, source, error.offence)
            return
        assert isinstance(body, tuple)
        match body:
            case ("bits", bits):
                self.feed(node, PeerPossession(peer=key(source), object_number=0, bits=bits))
            case ("ask",):
                bits = sum(1 << index for index in node.have)
                self.send(node, source, ("bits", bits), len(self.lengths) // 8)
            case ("get", index):
                self._serve(node, source, index)
            case ("chunk", index, data):
                self._pulled(node, source, index, data)

    def _cut(self, node: Node, culprit: int, offence: Offence) -> None:
        node.cut.append((culprit, offence))
        self.feed(node, PeerBanned(peer=key(culprit)))
        self.disconnect(node.number, culprit)

    # Storage -------------------------------------------------------------------------------------

    def _verify(self, node: Node, effect: TakePush) -> None:
        if node.is_gone:
            return
        source = number_of(effect.peer)
        for chunk in effect.push.chunks:
            if bytes(chunk.data) != content(chunk.index, self.lengths[chunk.index]):
                self.feed(node, PushRefused(peer=effect.peer, object_number=0, index=chunk.index))
                self._cut(node, source, Offence.CORRUPT_CHUNK)
                return
        self._gain(node, [chunk.index for chunk in effect.push.chunks])

    def _gain(self, node: Node, indices: list[int]) -> None:
        node.duplicate_chunks += sum(index in node.have for index in indices)
        node.have.update(indices)
        for index in indices:
            node.asked.pop(index, None)
        if len(node.have) == len(self.lengths) and node.finished_at is None:
            node.finished_at = self.now
        self.feed(node, ChunksGained(object_number=0, indices=indices))

    # Pulling -------------------------------------------------------------------------------------

    def _pull(self, node: Node) -> None:
        late = [
            index for index, asked_at in node.asked.items() if asked_at + PATIENCE_S <= self.now
        ]
        for index in late:
            del node.asked[index]
        missing = self.full & ~node.gate
        for peer in list(node.claims):
            if len(node.asked) >= WINDOW:
                return
            wanted = [
                index
                for index in iterate_bits(missing & node.claims[peer])
                if index not in node.have and index not in node.asked
            ]
            if wanted and (node.number, peer) in self.links:
                index = wanted[self.chance.below(len(wanted))]
                node.asked[index] = self.now
                self.send(node, peer, ("get", index), 60)
                self.at(self.now + PATIENCE_S + 0.001, lambda: self._pull(node))

    def _serve(self, node: Node, target: int, index: int) -> None:
        self.feed(node, PeerRequested(peer=key(target), object_number=0, indices=[index]))
        if index in node.have:
            node.requests.append((target, index))
            self._serve_next(node)

    def _serve_next(self, node: Node) -> None:
        """Answers one request at a time, when no fresh unit of a seeder is in its way."""
        if node.is_serving or not node.requests or node.is_gone:
            return
        if node.scheduler.is_pressing:
            self.at(self.now + 0.01, lambda: self._serve_next(node))
            return
        target, index = node.requests.pop(0)
        node.is_serving = True

        def left() -> None:
            node.is_serving = False
            self._serve_next(node)

        body = ("chunk", index, content(index, self.lengths[index]))
        self._send_bulk(node, target, body, self.lengths[index], left)

    def _pulled(self, node: Node, source: int, index: int, data: bytes) -> None:
        node.asked.pop(index, None)
        if data != content(index, self.lengths[index]):
            self._cut(node, source, Offence.CORRUPT_CHUNK)
            return
        node.pulled_chunks += 1
        self._gain(node, [index])


def content(index: int, length: int) -> bytes:
    """What is in a chunk."""
    return index.to_bytes(4, "big") * (length // 4) + b"x" * (length % 4)


def number_of(peer: bytes) -> int:
    """The number of a node with a key."""
    return int.from_bytes(peer[:8], "big")


def check_bounds(node: Node) -> None:
    """Every queue is within its bound (G7)."""
    state = node.relay._state
    giving = node.relay._giving
    duties = 0
    for member in state.members:
        assert len(member.urgent) <= PUSHCAP
        assert len(member.normal) <= PUSHCAP
        assert 0 <= member.pending_bytes <= PENDING_BYTES_PEER_MAX
        duties += len(member.urgent) + len(member.normal)
    assert duties == giving.duties.duty_count
    assert node.relay._receiving.pending_bytes <= PENDING_BYTES_MAX
    for seeder in giving.seeders:
        for _, record in seeder.relayers():
            uncredited = sum(unit.credited_at is None for unit in record.out.values())
            assert uncredited == record.uncredited_count <= ALLOWANCE_MAX
            assert len(record.out) - uncredited <= UNVOUCHED_MAX + 1
