"""Executes what relays want: messages, pushes, and what downloads are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

import trio

from protocol.exchange_events import PeerId, PeerMessage, Send
from protocol.exchange_messages import BitfieldMessage
from protocol.relay_events import (
    AskPossession,
    PeerClaims,
    PeerClaimsObject,
    PullFreed,
    PullGated,
    PullOpened,
    RelayEffect,
    SendPossession,
    SendPush,
    SendRelay,
    TakePush,
)
from protocol.relay_messages import encode_relay
from swarmd.services.exchange_library import ServedLibrary
from swarmd.services.exchange_link import PeerLink
from swarmd.services.exchange_links import LinkTable
from swarmd.services.exchange_relay_frames import RelayFrame
from swarmd.services.exchange_relay_host import RelayHost
from swarmd.services.exchange_relay_seat import RelaySeat
from swarmd.services.exchange_relay_sender import PushSender


class RelayEffects:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        links: LinkTable,
        library: ServedLibrary,
        sender: PushSender,
        host: RelayHost,
        on_left: Callable[[PeerId], None],
    ) -> None:
        """Executes nothing that takes time until `nursery` is set.

        Args:
            links: the peers.
            library: what may be served.
            sender: reads and packs what is pushed.
            host: the service.
            on_left: told when the transport took a push, or it was not made.
        """
        self.nursery: trio.Nursery | None = None
        """Where reads run."""
        self._links = links
        self._library = library
        self._sender = sender
        self._host = host
        self._on_left = on_left

    def execute(self, seat: RelaySeat, effect: RelayEffect) -> None:
        """Executes one effect."""
        match effect:
            case SendRelay():
                link = self._links.get(effect.peer)
                if link is not None:
                    link.send_relayed(RelayFrame(encode_relay(effect.message), seat.manifest_id))
            case SendPush():
                self._push(seat, effect)
            case TakePush():
                if seat.fetch is not None:
                    seat.fetch.take_push(effect)
            case PullGated() | PullOpened() | PullFreed():
                if seat.fetch is not None:
                    seat.fetch.feed(effect)
            case PeerClaims() | PeerClaimsObject():
                self._pass_claims(seat, effect)
            case SendPossession() | AskPossession():
                self._speak_of_possession(seat, effect)
            case _:
                assert_never(effect)

    def _push(self, seat: RelaySeat, effect: SendPush) -> None:
        link = self._links.get(effect.peer)
        if link is None or self.nursery is None:
            self._on_left(effect.peer)
            return
        push = self._sender.from_memory(seat, effect)
        if push is not None:
            self._hand_over(seat, link, encode_relay(push))
        else:
            self.nursery.start_soon(self._read_and_push, seat, link, effect)

    async def _read_and_push(self, seat: RelaySeat, link: PeerLink, effect: SendPush) -> None:
        push, rotten = await self._sender.read(seat, effect, link.meter)
        if rotten:
            self._host.found_rot(seat.authorised, effect.object_number, rotten)
        if link.is_closed:
            return  # and what was under way on it was forgotten with it
        if push is None or seat.is_closed:
            self._on_left(effect.peer)
        else:
            self._hand_over(seat, link, encode_relay(push))

    def _hand_over(
        self, seat: RelaySeat, link: PeerLink, parts: Sequence[bytes | memoryview]
    ) -> None:
        peer = link.peer
        self._sender.begins(peer, self._host.now())
        link.send_relayed(RelayFrame(parts, seat.manifest_id, lambda: self._on_left(peer)))

    def _pass_claims(self, seat: RelaySeat, effect: PeerClaims | PeerClaimsObject) -> None:
        """Tells the download what it may ask a peer for."""
        fetch = seat.fetch
        if fetch is None or not fetch.machine.has_peer(effect.peer):
            return
        for message in seat.as_told(effect):
            fetch.feed(PeerMessage(peer=effect.peer, message=message))

    def _speak_of_possession(self, seat: RelaySeat, effect: SendPossession | AskPossession) -> None:
        """Tells a peer what is held here, or asks what it holds."""
        link = self._links.get(effect.peer)
        served = self._library.find(seat.manifest_id)
        if link is None or served is None:
            return
        if isinstance(effect, SendPossession):
            message = BitfieldMessage(
                manifest_id=seat.manifest_id,
                component=effect.object_number,
                bits=served.possession[effect.object_number].encode(),
            )
            link.send(Send(peer=effect.peer, message=message, served=seat.manifest_id))
        elif seat.fetch is not None and seat.fetch.machine.has_peer(effect.peer):
            link.send(Send(peer=effect.peer, message=seat.fetch.machine.interest))
