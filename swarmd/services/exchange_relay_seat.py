"""One manifest being relayed: its machine, and what it is about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from protocol.authorised import AuthorisedManifest
from protocol.bitfield import Bitfield
from protocol.digest import Digest, ManifestId
from protocol.exchange_layout import Layout
from protocol.exchange_messages import HAVE_RUNS_MAX, BitfieldMessage, Have
from protocol.relay import Relay
from protocol.relay_events import PeerClaims, PeerClaimsObject
from protocol.runs import Runs
from swarmd.services.exchange_fetch import Fetch

URGENCY: Final = "urgency"
"""Name of the manifest's metadata that says how urgent an image is; approvers see it."""
_PRIORITIES: Final = {"high": 1, "low": -1}
"""Other texts, and none, are in between."""


def priority_of(authorised: AuthorisedManifest) -> int:
    """How urgent an image is where several are relayed; larger comes first."""
    return _PRIORITIES.get(authorised.manifest.metadata.get(URGENCY, ""), 0)


class RelaySeat:
    """See the module's docstring."""

    def __init__(self, authorised: AuthorisedManifest, relay: Relay, *, idle_until: float) -> None:
        """Starts without a fetch."""
        self.authorised: Final = authorised
        """The manifest."""
        self.relay: Final = relay
        """The machine."""
        self.fetch: Fetch | None = None
        """What fetches it, if anything does."""
        self.idle_until: float | None = idle_until
        """When to look whether anybody still takes part, seconds."""
        self.is_closed = False
        """Whether it ended."""
        self._layout = Layout([item.chunk_count for item in authorised.manifest.objects])

    @property
    def manifest_id(self) -> ManifestId:
        """The manifest's name."""
        return self.authorised.manifest_id

    @property
    def images(self) -> tuple[Digest, ...]:
        """Digest of each object."""
        return tuple(item.digest for item in self.authorised.manifest.objects)

    def as_told(self, claims: PeerClaims | PeerClaimsObject) -> Iterator[Have | BitfieldMessage]:
        """Claims as messages that a download takes."""
        if isinstance(claims, PeerClaimsObject):
            number = claims.object_number
            field = Bitfield(self._layout.chunk_count_of(number), claims.bits)
            yield BitfieldMessage(
                manifest_id=self.manifest_id, component=number, bits=field.encode()
            )
            return
        by_object: dict[int, list[tuple[int, int]]] = {}
        for first, count in claims.runs:
            number = self._layout.component_of(first)
            by_object.setdefault(number, []).append((first - self._layout.offset(number), count))
        for number, pairs in by_object.items():
            whole = Runs.merged(pairs).pairs
            for start in range(0, len(whole), HAVE_RUNS_MAX):
                yield Have(
                    manifest_id=self.manifest_id,
                    component=number,
                    indices=Runs(whole[start : start + HAVE_RUNS_MAX]),
                )
