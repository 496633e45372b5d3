"""News of chunks that became servable: gathered for a moment, then told to who is interested."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

from protocol.digest import ManifestId
from protocol.exchange_events import Acquired, PeerId
from protocol.runs import Runs
from swarmd.services.exchange_link import PeerLink

HAVE_DELAY_S: Final = 0.05
"""How long news of verified chunks is gathered before it is told, seconds."""
HAVE_DELAY_S_MAX: Final = 0.4
"""What that grows to, doubling, where much comes in: there, how often everybody is told costs."""
FAST_CHUNKS_PER_S: Final = 480
"""So many chunks in a second are much: 8 MiB/s of chunks of 16 KiB, the smallest images'."""


class News:
    """See the module's docstring."""

    def __init__(
        self, links: Iterable[PeerLink], is_told: Callable[[ManifestId, PeerId], bool]
    ) -> None:
        """Starts with nothing to tell.

        Args:
            links: gives the links of the moment.
            is_told: whether a peer hears of a manifest's chunks by a relay.
        """
        self._links = links
        self._is_told = is_told
        self._gathered: dict[tuple[ManifestId, int], int] = {}
        self._added = trio.Event()

    def note(self, manifest_id: ManifestId, component: int, indices: Runs) -> None:
        """Has chunks told of soon."""
        if indices:
            key = (manifest_id, component)
            self._gathered[key] = self._gathered.get(key, 0) | indices.bits
            self._added.set()

    def forget(self, manifest_id: ManifestId) -> None:
        """Tells nothing of a manifest that was not told yet."""
        self._gathered = {
            key: bits for key, bits in self._gathered.items() if key[0] != manifest_id
        }

    async def run(self) -> None:
        """Tells news until cancelled."""
        delay_s = HAVE_DELAY_S
        while True:
            await self._added.wait()
            await trio.sleep(delay_s)
            self._added = trio.Event()
            gathered, self._gathered = self._gathered, {}
            count = sum(bits.bit_count() for bits in gathered.values())
            delay_s = next_delay_s(delay_s, count)
            for (manifest_id, component), bits in gathered.items():
                indices = Runs.of_bits(bits)
                event = Acquired(manifest_id=manifest_id, component=component, indices=indices)
                for link in self._links:
                    if not self._is_told(manifest_id, link.peer):
                        link.feed(event)


def next_delay_s(delay_s: float, count: int) -> float:
    """How long news is gathered after `count` chunks came in `delay_s`, seconds."""
    if count < FAST_CHUNKS_PER_S * delay_s:
        return HAVE_DELAY_S
    return min(2 * delay_s, HAVE_DELAY_S_MAX)
