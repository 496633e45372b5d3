"""What the exchange asks of authority and scores, in the exchange's own terms."""

from __future__ import annotations

from typing import Final

from protocol import exchange_events
from protocol.digest import ManifestId
from swarmd.authority import Authority
from swarmd.net.address import PeerKey
from swarmd.peers import Offence, PeerRegistry
from swarmd.questions import Permit

_OFFENCES: Final = {
    exchange_events.Offence.CORRUPT_CHUNK: Offence.BAD_CHUNK,
    exchange_events.Offence.CORRUPT_PAGE: Offence.FORGED,
    exchange_events.Offence.WRONG_LENGTH: Offence.BAD_CHUNK,
    exchange_events.Offence.UNSOLICITED: Offence.MALFORMED,
    exchange_events.Offence.MALFORMED: Offence.MALFORMED,
}


class ExchangeRules:
    """Answers the exchange's questions; see `exchange_ports.ExchangeAuthority`."""

    def __init__(self, authority: Authority) -> None:
        """Asks `authority`."""
        self._authority = authority

    def may_serve(self, peer: bytes, manifest_id: ManifestId) -> bool:
        """Whether a peer may be told about and given a manifest's content now."""
        return isinstance(self._authority.may_serve(PeerKey(peer), manifest_id), Permit)

    def may_ask(self, peer: bytes, manifest_id: ManifestId) -> bool:
        """Whether a peer may learn that this node wants a manifest, and may serve it."""
        return isinstance(self._authority.may_take(PeerKey(peer), manifest_id), Permit)


class ExchangeScore:
    """Turns the exchange's offences into points; see `exchange_ports.PeerScore`."""

    def __init__(self, registry: PeerRegistry) -> None:
        """Scores in `registry`."""
        self._registry = registry

    def blame(self, peer: bytes, offence: exchange_events.Offence, detail: str) -> None:
        """Notes proven misbehaviour."""
        self._registry.blame(PeerKey(peer), _OFFENCES[offence], detail)

    def stalled(self, peer: bytes) -> None:
        """Notes that a peer answered nothing in time."""
        self._registry.blame(PeerKey(peer), Offence.STALLED, "no answer in time")
