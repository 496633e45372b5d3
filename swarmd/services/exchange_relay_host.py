"""What relays need from the exchange service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from protocol.authorised import AuthorisedManifest
from protocol.digest import ManifestId
from protocol.exchange_events import Offence, PeerId
from protocol.runs import Runs

T = TypeVar("T")


class RelayHost(Protocol):
    """The service, as its relays see it."""

    def now(self) -> float:
        """Seconds, monotonic."""
        ...

    def may_relay(self, peer: PeerId, manifest_id: ManifestId) -> bool:
        """Whether a peer may take part in a manifest's relay now."""
        ...

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Runs blocking work in a worker thread."""
        ...

    def blame_relay(self, peer: PeerId, offence: Offence, detail: str) -> None:
        """Scores a peer and ends its link."""
        ...

    def found_rot(self, authorised: AuthorisedManifest, number: int, indices: Runs) -> None:
        """Takes note of chunks that rotted."""
        ...
