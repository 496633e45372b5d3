"""One agenda of events, links with faults, one seed, one trace hash.

Actors are sans-IO: the world feeds them inputs and wakes them at their deadline; they answer by
calling `send` and `post`. Times are simulated seconds. Everything random comes from one generator,
events at one instant run in the order they were made, and a running SHA-256 over all events tells
whether two runs were the same.
"""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from swarmd.simulation.agenda import Agenda, Entry, Timeline, Windows


class Actor(Protocol):
    """Something that lives in the world."""

    def receive(self, source: int, message: object, now: float, /) -> None:
        """Takes a message that another actor sent."""
        ...

    def handle(self, event: object, now: float, /) -> None:
        """Takes an event posted by the actor itself or by a scenario."""
        ...

    def wake(self, now: float, /) -> None:
        """Takes note that `deadline` has passed."""
        ...

    @property
    def deadline(self) -> float | None:
        """When the actor wants to be woken, simulated seconds; None for never."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How messages travel between any two actors."""

    latency_s: float = 0.05
    """Least delay, seconds."""
    jitter_s: float = 0.0
    """Additional delay, uniform between 0 and this, seconds; above the sending pace it reorders."""
    loss: float = 0.0
    """Probability that a message vanishes."""
    duplication: float = 0.0
    """Probability that a message arrives twice."""


_INSTANT: Final = struct.Struct(">dI")
_TRACE_BYTES: Final = 64 * 1024
"""The trace is hashed in portions of about so many bytes: a call for each event costs more."""


class World:
    """The event loop of a simulation."""

    def __init__(
        self,
        seed: int,
        link: Link,
        fingerprint: Callable[[object], bytes] | None = None,
        agenda: Agenda | None = None,
    ) -> None:
        """Makes an empty world at time 0.

        Args:
            seed: decides all that is random.
            link: how messages travel until somebody changes `link`.
            fingerprint: what of an event enters the trace hash; its type's name by default.
            agenda: keeps what is to happen; by default in one order for all.
        """
        self.random: Final = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
        """The only source of chance."""
        self.now = 0.0
        """Simulated seconds since the start."""
        self.link = link
        """How messages travel."""
        self.event_count = 0
        """Events executed so far."""
        self._fingerprint = fingerprint or _type_name
        self._agenda = Timeline() if agenda is None else agenda
        self._add = self._agenda.push
        self._order = 0
        self._actors: list[Actor] = []
        self._woken_at: list[float | None] = []
        self._is_timed: list[bool] = []
        self._sides: dict[int, int] = {}
        self._trace = hashlib.sha256()
        self._noted = bytearray()

    @property
    def trace_hash(self) -> str:
        """SHA-256 over all events executed so far, hexadecimal."""
        self._hash_noted()
        return self._trace.hexdigest()

    def add(self, actor: Actor, *, is_timed: bool = True) -> int:
        """Puts an actor into the world and returns its number.

        Without `is_timed` its deadline is never asked for.
        """
        self._actors.append(actor)
        self._is_timed.append(is_timed)
        self._woken_at.append(None)
        if is_timed:
            self._schedule_wake(len(self._actors) - 1)
        return len(self._actors) - 1

    def poke(self, actor: int) -> None:
        """Reads an actor's deadline again, because something outside of all events changed it."""
        self._schedule_wake(actor)

    # -- links ---------------------------------------------------------------------------------

    def partition(self, sides: dict[int, int]) -> None:
        """Cuts links between actors on different sides; who is not named is on side 0."""
        self._sides = dict(sides)

    def heal(self) -> None:
        """Ends the partition; what was lost stays lost."""
        self._sides = {}

    def is_connected(self, one: int, other: int) -> bool:
        """Tells whether messages pass between two actors."""
        return self._sides.get(one, 0) == self._sides.get(other, 0)

    def send(self, source: int, target: int, message: object) -> None:
        """Sends a message over the link as it is now."""
        if not self.is_connected(source, target):
            return
        link, chance = self.link, self.random
        if link.loss and chance.random() < link.loss:
            return
        copies = 2 if link.duplication and chance.random() < link.duplication else 1
        for _ in range(copies):
            delay = link.latency_s
            if link.jitter_s:
                delay += chance.random() * link.jitter_s
            self._push(self.now + delay, target, source, message)

    def post(self, target: int, delay_s: float, event: object) -> None:
        """Feeds an event to an actor after a delay, past all links."""
        self._order += 1
        self._add((self.now + delay_s, self._order, target, -1, event), target)

    def post_for(self, owner: int, target: int, delay_s: float, event: object) -> None:
        """Feeds an event to an actor that serves several: it concerns only one of them."""
        self._order += 1
        self._add((self.now + delay_s, self._order, target, -1, event), owner)

    def deliver(self, source: int, target: int, delay_s: float, message: object) -> None:
        """Hands a message over after a delay that another model of links has worked out."""
        self._order += 1
        self._add((self.now + delay_s, self._order, target, source, message), target)

    def _push(self, time: float, target: int, source: int, event: object) -> None:
        self._order += 1
        self._add((time, self._order, target, source, event), target)

    def drop(self, is_gone: Callable[[int, object], bool]) -> None:
        """Has some of what was to happen not happen: told by target and event."""
        self._agenda.keep(lambda entry: not is_gone(entry[2], entry[4]))

    # -- running -------------------------------------------------------------------------------

    def run_until(self, time: float) -> None:
        """Executes events until `time`, including those at it."""
        self._run(self._agenda.until(time))
        self.now = max(self.now, time)

    def _run(self, entries: Iterator[Entry]) -> None:
        actors, is_timed, noted, pack = self._actors, self._is_timed, self._noted, _INSTANT.pack
        fingerprint = self._fingerprint
        for now, _, target, source, event in entries:
            self.now = now
            if event is _WAKE:
                if not self._wake(target):
                    continue
            else:
                # As `_note` does, without a call for each event.
                self.event_count += 1
                noted += pack(now, target) + fingerprint(event)
                if len(noted) >= _TRACE_BYTES:
                    self._hash_noted()
                if source < 0:
                    actors[target].handle(event, now)
                else:
                    actors[target].receive(source, event, now)
            if is_timed[target]:
                self._schedule_wake(target)

    def _wake(self, target: int) -> bool:
        """Wakes an actor if it wants to be woken now; whether this was the wake it waits for."""
        if self._woken_at[target] != self.now:
            return False
        self._woken_at[target] = None
        actor = self._actors[target]
        deadline = actor.deadline
        if deadline is not None and deadline <= self.now:
            self._note(target, b"wake")
            actor.wake(self.now)
        return True

    def feed(self, target: int, event: object) -> None:
        """Feeds an event to an actor at this instant, before all others: saves a turn of the heap.

        Only for who is called by the world itself, such as a model of links.
        """
        self._note(target, self._fingerprint(event))
        self._actors[target].handle(event, self.now)
        if self._is_timed[target]:
            self._schedule_wake(target)

    def _note(self, target: int, fingerprint: bytes) -> None:
        self.event_count += 1
        noted = self._noted
        noted += _INSTANT.pack(self.now, target) + fingerprint
        if len(noted) >= _TRACE_BYTES:
            self._hash_noted()

    def _hash_noted(self) -> None:
        self._trace.update(self._noted)
        self._noted.clear()

    def _schedule_wake(self, target: int) -> None:
        """Keeps at most one live wake for an actor; outdated ones are skipped when popped."""
        deadline = self._actors[target].deadline
        if deadline is None:
            self._woken_at[target] = None
            return
        time = max(deadline, self.now)
        if self._woken_at[target] != time:
            self._woken_at[target] = time
            self._push(time, target, -1, _WAKE)


class _Wake:
    """Marks a wake in the heap."""


_WAKE: Final = _Wake()


_NAMES: Final[dict[type, bytes]] = {}
"""Names of the types of events met so far."""


def _type_name(event: object) -> bytes:
    kind = type(event)
    name = _NAMES.get(kind)
    if name is None:
        name = _NAMES[kind] = kind.__name__.encode("ascii")
    return name


class WindowedWorld(World):
    """A world whose actors do in turn what they do within a window of time; see `Windows`."""

    def __init__(self, seed: int, link: Link, window_s: float) -> None:
        """Makes an empty world at time 0.

        Args:
            seed: decides all that is random.
            link: how messages travel.
            window_s: less than what anything takes from one actor to another, seconds.
        """
        self.windows: Final = Windows(window_s)
        """What is to happen."""
        super().__init__(seed, link, agenda=self.windows)

    def run_window(self, number: int) -> None:
        """Executes events up to the end of a window."""
        self._run(self.windows.window(number))
