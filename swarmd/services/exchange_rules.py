"""What the exchange asks of authority and scores, in the exchange's own terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from protocol import exchange_events
from protocol.digest import ManifestId
from swarmd.authority import Authority
from swarmd.net.address import PeerKey
from swarmd.peers import Offence, PeerRegistry
from swarmd.questions import Denial, Verdict

_OFFENCES: Final = {
    exchange_events.Offence.CORRUPT_CHUNK: Offence.BAD_CHUNK,
    exchange_events.Offence.CORRUPT_PAGE: Offence.FORGED,
    exchange_events.Offence.WRONG_LENGTH: Offence.BAD_CHUNK,
    exchange_events.Offence.UNSOLICITED: Offence.MALFORMED,
    exchange_events.Offence.MALFORMED: Offence.MALFORMED,
}


AnswerNoter = Callable[[str, str, bytes, str | None], None]
"""Takes (peer, action, manifest, rule that refused or None); called often, must not block."""


class ExchangeRules:
    """Answers the exchange's questions; see `exchange_ports.ExchangeAuthority`."""

    def __init__(self, authority: Authority, note: AnswerNoter) -> None:
        """Asks `authority`; tells `note` every answer."""
        self._authority = authority
        self._note = note

    def may_serve(self, peer: bytes, manifest_id: ManifestId) -> bool:
        """Whether a peer may be told about and given a manifest's content now."""
        verdict = self._authority.may_serve(PeerKey(peer), manifest_id)
        return self._noted(peer, "serve", manifest_id, verdict)

    def may_ask(self, peer: bytes, manifest_id: ManifestId) -> bool:
        """Whether a peer may learn that this node wants a manifest, and may serve it."""
        verdict = self._authority.may_take(PeerKey(peer), manifest_id)
        return self._noted(peer, "take", manifest_id, verdict)

    def _noted(self, peer: bytes, action: str, manifest_id: ManifestId, verdict: Verdict) -> bool:
        rule = verdict.rule if isinstance(verdict, Denial) else None
        self._note(peer.hex()[:16], action, manifest_id, rule)
        return rule is None


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
