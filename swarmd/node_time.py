"""What time it is for a node: ledger time, the next header time, and the age of its knowledge.

A node has no trustworthy wall clock (it may have started in 1970). Its time is that of the newest
final header plus what passed on a monotonic clock since; how old that knowledge is, only answers of
validators tell (docs/adr/0004-age-of-knowledge.md).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

import trio

from ledger.chain import Chain
from protocol.errors import StorageError
from swarmd.clock import Clock
from swarmd.datadir import read_bounded, write_atomic
from swarmd.freshness import FreshnessClock
from swarmd.services.freshness import LAG_HEARTBEATS

_SAVED_BYTES_MAX: Final = 64


class NodeTime:
    """See the module's docstring."""

    def __init__(self, chain: Chain, clock: Clock, path: Path) -> None:
        """Reads the age that was saved at `path`, if any."""
        self._chain = chain
        self._clock = clock
        self._path = path
        self._head_seen = (chain.head.height, clock.monotonic())
        saved = read_bounded(path, bytes_max=_SAVED_BYTES_MAX) if path.exists() else None
        self.age: Final = FreshnessClock(
            saved, now=clock.monotonic(), wall_ms=clock.wall_ms(), head_ms=chain.head.time_ms
        )
        """How old this node's knowledge is."""

    async def save_age(self, saved: bytes) -> None:
        """Stores the age; a disk that takes no newer one must not keep an old one either."""
        try:
            await trio.to_thread.run_sync(write_atomic, self._path, saved)
        except StorageError:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            raise

    def ledger_ms(self) -> int:
        """Newest final header time plus monotonic time since this node has it, milliseconds."""
        height, since = self._head_seen
        if height != self._chain.head.height:
            self._head_seen = (self._chain.head.height, self._clock.monotonic())
            since = self._head_seen[1]
        return self._chain.head.time_ms + round((self._clock.monotonic() - since) * 1000)

    def next_ms(self) -> int:
        """The best guess of the next header time, milliseconds.

        While knowledge is fresh the ledger's time is right and a wall clock may be wrong; where the
        chain was away for long, the wall clock is all there is.
        """
        beats_ms = LAG_HEARTBEATS * self._chain.rules.parameters.heartbeat_ms
        if self.age.is_within(beats_ms, self._clock.monotonic()):
            return self.ledger_ms()
        return max(self.ledger_ms(), self._clock.wall_ms())
