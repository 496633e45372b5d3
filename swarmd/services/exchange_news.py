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
        while True:
            await self._added.wait()
            await trio.sleep(HAVE_DELAY_S)
            self._added = trio.Event()
            gathered, self._gathered = self._gathered, {}
            for (manifest_id, component), bits in gathered.items():
                indices = Runs.of_bits(bits)
                event = Acquired(manifest_id=manifest_id, component=component, indices=indices)
                for link in self._links:
                    if not self._is_told(manifest_id, link.peer):
                        link.feed(event)
