"""A gateway's daemon that lies to those who fetch and relay: the real exchange with other links.

Every message passes the `outgoing` of the same class that says at level machines what leaves
instead; all else (possession, requests, the store, hello) is the daemon's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, Protocol

import trio

from protocol.digest import ManifestId
from protocol.exchange_events import Flushed, Send
from protocol.exchange_messages import (
    Chunks,
    ExchangeMessage,
    RecipePageMessage,
    encode_exchange_parts,
)
from protocol.relay_messages import Push, RelayMessage, decode_relay, encode_relay
from swarmd.services.exchange_link import PeerLink
from swarmd.services.exchange_relay_frames import RelayFrame
from swarmd.simulation.byzantine.claiming_relayer import ClaimingRelayer
from swarmd.simulation.byzantine.endless_peer import EndlessPeer
from swarmd.simulation.byzantine.free_rider import FreeRider
from swarmd.simulation.byzantine.lying_relayer import LyingRelayer
from swarmd.simulation.byzantine.misdealing_peer import MisdealingPeer
from swarmd.simulation.byzantine.mute_relayer import MuteRelayer
from swarmd.simulation.byzantine.stalling_peer import StallingPeer
from swarmd.simulation.byzantine.stalling_relayer import StallingRelayer
from swarmd.simulation.exchange_host import ExchangeHost
from swarmd.simulation.processes.replacing import replace_in
from swarmd.simulation.transfer_host import TransferHost

KINDS: Final[dict[str, type[ExchangeHost | TransferHost]]] = {
    "claiming_relayer": ClaimingRelayer,
    "endless_peer": EndlessPeer,
    "free_rider": FreeRider,
    "lying_relayer": LyingRelayer,
    "misdealing_peer": MisdealingPeer,
    "mute_relayer": MuteRelayer,
    "stalling_peer": StallingPeer,
    "stalling_relayer": StallingRelayer,
}
"""By name; those that need nothing of a simulated world but messages."""
WireMessage = ExchangeMessage | RelayMessage
"""What travels between nodes."""


class Mouth(Protocol):
    """What decides what leaves."""

    def outgoing(self, target: int, message: Any) -> Iterable[Any]:
        """What leaves instead of a message."""
        ...


def mouth_of(name: str, link: RogueLink) -> Mouth:
    """A rogue of level machines, without a world, that speaks over a link."""
    kind = KINDS[name]

    def enter_no_world(_self: object) -> None:
        """Stands alone."""

    def chunk_count(_self: object, manifest_id: ManifestId, component: int) -> int:
        """Chunks of a component of an image that is open here."""
        return link.chunk_count(manifest_id, component)

    def postpone(_self: object, _target: int, message: WireMessage, delay_s: float) -> None:
        """Sends a message later."""
        link.postpone(message, delay_s)

    surroundings = {"__init__": enter_no_world, "chunk_count": chunk_count, "postpone": postpone}
    made: Mouth = type(kind.__name__, (kind,), surroundings)()
    return made


class RogueLink(PeerLink):
    """A link whose messages pass a rogue."""

    name: str = ""
    """Of the rogue; set by `rebel`."""

    def __init__(self, *arguments: Any, **parts: Any) -> None:
        """See `PeerLink`."""
        super().__init__(*arguments, **parts)
        self._mouth = mouth_of(self.name, self)
        self._last_served: ManifestId | None = None

    def chunk_count(self, manifest_id: ManifestId, component: int) -> int:
        """Chunks of a component of an image that is open here."""
        served = self.upload._library.find(manifest_id)  # noqa: SLF001 - rogues know no privacy
        return 0 if served is None else served.possession[component].size

    def postpone(self, message: WireMessage, delay_s: float) -> None:
        """Sends a message later, as it is."""
        if self._nursery is not None:
            self._nursery.start_soon(self._say_later, message, delay_s)

    async def _say_later(self, message: WireMessage, delay_s: float) -> None:
        await trio.sleep(delay_s)
        manifest_id = getattr(message, "manifest_id", None) or self._last_served
        if manifest_id is not None:
            self._say(message, manifest_id)

    def _say(self, message: WireMessage, manifest_id: ManifestId) -> None:
        """Queues what the rogue made, past all accounts."""
        if isinstance(message, RelayMessage):
            parts = encode_relay(message)
        else:
            parts = encode_exchange_parts(message)
        is_bulk = isinstance(message, Push | Chunks | RecipePageMessage)
        super().send_relayed(RelayFrame(parts, manifest_id, _nothing if is_bulk else None))

    def send(self, effect: Send) -> None:
        """Queues what the rogue makes of a message."""
        message = effect.message
        if effect.served is None:
            for item in self._mouth.outgoing(0, message):
                super().send(Send(peer=effect.peer, message=item, served=None))
            return
        self._last_served = effect.served
        for item in self._mouth.outgoing(0, message):
            self._say(item, effect.served)
        if isinstance(message, Chunks | RecipePageMessage) and self._nursery is not None:
            # Whatever became of it, the upload that wanted to send it must not notice.
            size = message.payload_bytes if isinstance(message, Chunks) else len(message.page)
            flushed = Flushed(payload_bytes=size)
            self._nursery.start_soon(self._pretend, partial(self.feed, flushed))

    def send_relayed(self, frame: RelayFrame) -> None:
        """Queues what the rogue makes of a frame."""
        for item in self._mouth.outgoing(0, decode_relay(b"".join(frame.parts))):
            self._say(item, frame.manifest_id)
        if frame.on_left is not None and self._nursery is not None:
            self._nursery.start_soon(self._pretend, frame.on_left)

    async def _pretend(self, left: Callable[[], None]) -> None:
        """Has a machine believe that what it sent has left."""
        await trio.lowlevel.checkpoint()
        left()


def _nothing() -> None:
    """What follows when a lie has left."""


def rebel(name: str) -> None:
    """Has the exchange of this process use rogue links from now on."""
    replace_in("swarmd.services.exchange", "PeerLink", type("Link", (RogueLink,), {"name": name}))
