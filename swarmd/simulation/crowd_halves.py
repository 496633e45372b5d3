"""A crowd in two processes: each runs half of the nodes, for the same result each time.

Whatever one node learns of another has travelled for the path's delay, at least, which is more than
a window (`agenda.Windows`). So both processes run one window, hand over what is for the other's
nodes, and so on (Chandy and Misra, "Distributed simulation", 1979, without null messages). Nothing
depends on which of them is faster. Order among events of one instant is not that of one process, so
figures of one and of two processes differ as those of two seeds do.

The second process is a fork of the first once the crowd is made; at the end it says how its nodes
fared and is gone. POSIX only.
"""

from __future__ import annotations

import marshal
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any, NoReturn

from protocol.exchange_messages import Chunks, Have, Request
from protocol.runs import Pair, Runs
from swarmd.simulation.frame_links import Frame, Hold, Parcel, Small

if TYPE_CHECKING:
    from swarmd.simulation.crowd import Crowd
    from swarmd.simulation.crowd_host import CrowdHost
    from swarmd.simulation.exchange_host import SimulatedRelease

_CHUNKS, _REQUEST, _HAVE, _OTHER = range(4)
_SMALL, _FRAME, _HOLD = range(3)
Plain = tuple[Any, ...]
"""What `marshal` takes; only a fork of this very process reads it."""


class Codec:
    """Parcels of a crowd as plain tuples; content is not copied, for both processes have it."""

    def __init__(self, release: SimulatedRelease) -> None:
        """Takes the image, of one component, that all messages are about."""
        self._manifest_id = release.manifest_id
        (self._units,) = release.components

    def encode(self, parcels: Sequence[Parcel]) -> list[Plain]:
        """Makes tuples of parcels."""
        plain: list[Plain] = []
        for at, event in parcels:
            if type(event) is Frame:
                body = self._plain_body(event.body)
                rest = event.wire_bytes, event.duration_s
                plain.append((_FRAME, at, event.source, event.target, body, *rest))
            elif type(event) is Small:
                body = self._plain_body(event.body)
                plain.append((_SMALL, at, event.source, event.targets, body))
            else:
                assert isinstance(event, Hold)
                plain.append((_HOLD, at, event.source, event.target, event.until_s))
        return plain

    def decode(self, plain: Sequence[Plain]) -> list[Parcel]:
        """Makes parcels of such tuples."""
        parcels: list[Parcel] = []
        for kind, at, source, target, what, *rest in plain:
            if kind == _FRAME:
                parcels.append((at, Frame(source, target, self._body(what), *rest)))
            elif kind == _SMALL:
                parcels.append((at, Small(source, target, self._body(what))))
            else:
                parcels.append((at, Hold(source, target, what)))
        return parcels

    def _plain_body(self, body: object) -> Plain:
        if type(body) is Chunks and self._is_own(body):
            return _CHUNKS, body.request_id, body.indices.pairs, body.lengths
        if type(body) is Request:
            return _REQUEST, body.request_id, body.component, body.indices.pairs
        if type(body) is Have:
            return _HAVE, body.component, body.indices.pairs
        return _OTHER, pickle.dumps(body)

    def _is_own(self, body: Chunks) -> bool:
        units = self._units
        return len(body.payload) == len(body.indices) and all(
            data is units[index] for index, data in zip(body.indices, body.payload, strict=True)
        )

    def _body(self, plain: Plain) -> object:
        kind, *rest = plain
        if kind == _CHUNKS:
            request_id, pairs, lengths = rest
            indices = _runs(pairs)
            payload = tuple(map(self._units.__getitem__, indices))
            return Chunks(request_id=request_id, indices=indices, lengths=lengths, payload=payload)
        manifest_id = self._manifest_id
        if kind == _REQUEST:
            request_id, component, pairs = rest
            return Request(
                request_id=request_id,
                manifest_id=manifest_id,
                component=component,
                indices=_runs(pairs),
            )
        if kind == _HAVE:
            component, pairs = rest
            return Have(manifest_id=manifest_id, component=component, indices=Runs(pairs))
        return pickle.loads(rest[0])  # noqa: S301 - a fork of this very process wrote it


def _runs(pairs: Sequence[Pair]) -> Runs:
    return Runs.run(*pairs[0]) if len(pairs) == 1 else Runs(pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fared:
    """How one node fared."""

    number: int
    finished_at: float | None
    sent_bytes: int
    gained_bytes: int
    received_bytes: int
    urgent_sent_bytes: int
    stream_sent_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """What the other process did."""

    events: int
    """Events of its world."""
    trace_hash: str
    """SHA-256 over all of them."""
    fared: tuple[_Fared, ...]
    """How its nodes fared."""


def run_halves(
    crowd: Crowd,
    step_s: float,
    until_s: float,
    tell: Callable[[float, float], None] | None,
    tune: Callable[[], None] | None,
) -> Half:
    """Runs a crowd in this process and a fork of it; afterwards all nodes show how they fared.

    Args:
        crowd: which must not have run.
        step_s: how often it is asked whether all are complete, simulated seconds.
        until_s: when to give up, simulated seconds.
        tell: hears after each step the time and the share of their bytes that this half's nodes
            hold.
        tune: called in both processes before each step.

    Raises:
        RuntimeError: the other process failed.
    """
    here, there = Pipe()
    child = os.fork()
    if not child:
        here.close()
        _run_second(crowd, there, step_s, until_s, tune)
    there.close()
    try:
        runner = _Runner(crowd, here, is_first=True)
        runner.run(step_s, until_s, tell, tune)
        half = here.recv()
    except (EOFError, OSError) as error:
        raise RuntimeError("the other half of the crowd failed") from error
    finally:
        here.close()
        os.waitpid(child, 0)
    assert isinstance(half, Half)
    runner.note(half)
    return half


def _run_second(
    crowd: Crowd,
    peer: Connection,
    step_s: float,
    until_s: float,
    tune: Callable[[], None] | None,
) -> NoReturn:
    """Runs as the fork, tells the first process how it went, and ends."""
    status = 1
    try:
        runner = _Runner(crowd, peer, is_first=False)
        runner.run(step_s, until_s, None, tune)
        peer.send(runner.half())
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(status)


class _Runner:
    """One process's half."""

    def __init__(self, crowd: Crowd, peer: Connection, *, is_first: bool) -> None:
        self._crowd = crowd
        self._peer = peer
        self._is_first = is_first
        self._codec = Codec(crowd.release)
        self._own: list[CrowdHost] = [
            host for number, host in enumerate(crowd.nodes) if number % 2 == (0 if is_first else 1)
        ]
        own = {host.number for host in self._own}
        if is_first:
            own.add(crowd.seeder.number)
        everybody = [crowd.seeder, *crowd.nodes]
        away = {host.number for host in everybody} - own
        crowd.network.split(sorted(away))
        network = crowd.network.number
        crowd.world.drop(
            lambda target, event: (
                target in away or (target == network and not crowd.network.is_here(event))
            )
        )

    def run(
        self,
        step_s: float,
        until_s: float,
        tell: Callable[[float, float], None] | None,
        tune: Callable[[], None] | None,
    ) -> None:
        """Runs until all nodes of both are complete, or a time has come."""
        world, own = self._crowd.world, self._own
        waiting: Sequence[CrowdHost] = own
        is_any_waiting, window = True, 0
        end_s = 0.0
        while is_any_waiting and end_s < until_s:
            end_s = min(end_s + step_s, until_s)
            if tune is not None:
                tune()
            while window <= world.windows.number(end_s):
                world.run_window(window)
                window = self._hand_over()
            world.now = end_s
            waiting = [host for host in waiting if not host.is_done]
            is_any_waiting = self._swap(bool(waiting)) or bool(waiting)
            if tell is not None:
                gained = sum(host.parts[0].figures.gained_bytes for host in own)
                tell(world.now, gained / (len(own) * self._crowd.scenario.image_bytes))

    def _hand_over(self) -> int:
        """Gives and takes what is for the other's nodes; returns the next window of both."""
        world, network = self._crowd.world, self._crowd.network
        sent, network.outbox = network.outbox, []
        number = world.windows.number
        window = min([world.windows.next, *(number(at) for at, _ in sent)])
        their_window: int
        their_window, received = self._swap((window, self._codec.encode(sent)))
        network.take(self._codec.decode(received))
        return min(window, their_window)

    def _swap(self, given: Any) -> Any:
        """Gives something to the other process, takes what it gives: never both wait for room."""
        data = marshal.dumps(given)
        if self._is_first:
            self._peer.send_bytes(data)
            return marshal.loads(self._peer.recv_bytes())  # noqa: S302 - see `Plain`
        taken = self._peer.recv_bytes()
        self._peer.send_bytes(data)
        return marshal.loads(taken)  # noqa: S302

    def half(self) -> Half:
        """Says how the nodes of this process fared."""
        world, network = self._crowd.world, self._crowd.network
        fared = []
        for host in self._own:
            part, traffic = host.parts[0], network.traffic(host.number)
            fared.append(
                _Fared(
                    number=host.number,
                    finished_at=part.figures.finished_at,
                    sent_bytes=part.figures.sent_bytes,
                    gained_bytes=part.figures.gained_bytes,
                    received_bytes=sum(part.received_bytes.values()),
                    urgent_sent_bytes=traffic.urgent_sent_bytes,
                    stream_sent_bytes=traffic.stream_sent_bytes,
                )
            )
        return Half(events=world.event_count, trace_hash=world.trace_hash, fared=tuple(fared))

    def note(self, half: Half) -> None:
        """Has the nodes of the other process show how they fared there."""
        by_number = {host.number: host for host in self._crowd.nodes}
        for fared in half.fared:
            part = by_number[fared.number].parts[0]
            part.figures.finished_at = fared.finished_at
            part.figures.sent_bytes = fared.sent_bytes
            part.figures.gained_bytes = fared.gained_bytes
            part.received_bytes.clear()
            part.took(self._crowd.seeder.number, fared.received_bytes)
            traffic = self._crowd.network.traffic(fared.number)
            traffic.urgent_sent_bytes = fared.urgent_sent_bytes
            traffic.stream_sent_bytes = fared.stream_sent_bytes
