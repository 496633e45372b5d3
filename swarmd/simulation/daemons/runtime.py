"""Runs trio so that one seed decides everything: time, the order of tasks, chance, threads.

Time jumps to the next deadline whenever nobody can go on. What the daemon hands to worker threads
runs where it is called, because the order in which threads end cannot be replayed. Modules that ask
the operating system for the time (libp2p does) are given the simulated one. The order of sets of
strings differs between processes unless PYTHONHASHSEED is set: `replayable` says whether it is.
"""

from __future__ import annotations

import importlib
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import trio
import trio.testing

START_MS: Final = 1_700_000_000_000
"""What wall clocks show when a run begins, milliseconds since 1970."""
_NS_PER_S: Final = 1_000_000_000
_MS_PER_S: Final = 1_000

T = TypeVar("T")


class _Owed:
    """What threads should have waited: they run where they are called, and cannot."""

    def __init__(self) -> None:
        self._pause_s = 0.0

    def add(self, pause_s: float) -> None:
        self._pause_s += pause_s

    def take(self) -> float:
        pause_s, self._pause_s = self._pause_s, 0.0
        return pause_s


_owed: Final = _Owed()


def wait_in_thread(pause_s: float) -> None:
    """Has the worker thread that calls take so much longer, seconds of simulated time."""
    _owed.add(pause_s)


class SimulatedClock:
    """A node's clocks on simulated time; its wall clock may be wrong."""

    def __init__(self, *, skew_s: float = 0.0, drift: float = 0.0) -> None:
        """Goes as simulated time does, but for the wall clock's faults.

        Args:
            skew_s: seconds by which the wall clock is ahead at the start.
            drift: seconds by which it gains in each second.
        """
        self._skew_s = skew_s
        self._drift = drift

    def monotonic(self) -> float:
        """Seconds of simulated time."""
        return trio.current_time()

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as this node believes."""
        now = trio.current_time()
        return START_MS + round((now * (1.0 + self._drift) + self._skew_s) * _MS_PER_S)


def replayable() -> bool:
    """Whether two processes with one seed take the same steps: hashes of strings are fixed."""
    return os.environ.get("PYTHONHASHSEED", "random") != "random"


def run_simulated(main: Callable[[], Awaitable[T]], *, seed: int) -> T:
    """Runs an async function on simulated time; returns what it returns.

    Args:
        main: begins at time 0 of a clock of its own.
        seed: decides the order of tasks that could run at once, and what libraries draw.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    with _one_seed(seed), _stable_choices(), _inline_threads(), _simulated_time():
        return trio.run(main, clock=clock)


@contextmanager
def _replaced(holder: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextmanager
def _one_seed(seed: int) -> Iterator[None]:
    # Keys of single connections still come from OpenSSL; nothing that is done depends on them.
    # Trio offers no public switch for a replayable order of tasks; these two names are the one its
    # own tests use.
    runtime: Any = importlib.import_module("trio._core._run")
    state = random.getstate()
    random.seed(seed)
    chance = random.Random(seed)  # noqa: S311 - replayed by seed, guards nothing
    try:
        with (
            _replaced(runtime, "_ALLOW_DETERMINISTIC_SCHEDULING", value=True),
            _replaced(runtime, "_r", chance),
            _replaced(secrets, "token_bytes", chance.randbytes),
            _replaced(secrets, "randbelow", chance.randrange),
        ):
            yield
    finally:
        random.setstate(state)


@contextmanager
def _stable_choices() -> Iterator[None]:
    """Of two connections to one peer libp2p uses that at the higher memory address, all else equal;
    here the older one.
    """
    swarm = importlib.import_module("libp2p.network.swarm").Swarm

    def best(_self: object, connections: Sequence[Any]) -> object:
        return max(connections, key=lambda connection: len(connection.get_streams()))

    with _replaced(swarm, "_best_connection", best):
        yield


@contextmanager
def _inline_threads() -> Iterator[None]:
    async def run_sync(call: Callable[..., T], *arguments: object, **_options: object) -> T:
        await trio.lowlevel.checkpoint()
        try:
            return call(*arguments)
        finally:
            if (pause_s := _owed.take()) > 0:
                await trio.sleep(pause_s)

    _owed.take()
    with _replaced(trio.to_thread, "run_sync", run_sync):
        yield


@contextmanager
def _simulated_time() -> Iterator[None]:
    """Gives whoever asks the module `time` the simulated one, while trio runs in its thread."""
    real_time, real_monotonic = time.time, time.monotonic

    def monotonic() -> float:
        try:
            return trio.current_time()
        except RuntimeError:  # a thread of a library's own
            return real_monotonic()

    def wall() -> float:
        try:
            return START_MS / _MS_PER_S + trio.current_time()
        except RuntimeError:
            return real_time()

    def wall_ns() -> int:
        return round(wall() * _NS_PER_S)

    with (
        _replaced(time, "time", wall),
        _replaced(time, "monotonic", monotonic),
        _replaced(time, "time_ns", wall_ns),
    ):
        yield
