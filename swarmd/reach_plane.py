"""The reach of one node: what finds, dials and keeps its peers, wired together.

`RunningNode` makes one and tells it of peers and blocks. Here the parts meet: the names of the
configuration, the address book, and the service that dials.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from protocol.address_statement import Reach
from protocol.digest import ChainId, DidId, tagged_digest
from protocol.errors import StorageError, VerificationError
from protocol.forward_messages import (
    FORWARD_FRAME_BYTES_MAX,
    Connect,
    Incoming,
    Reserve,
    decode_forward_request,
)
from protocol.keys import PrivateKey
from protocol.peers_messages import PEERS_BYTES_MAX
from protocol.version import ProtocolName, protocol_id
from swarmd.address_book import BOOK_NAME, AddressBook
from swarmd.config import (
    LAN_AUTO,
    METERED_FETCH_PEERS,
    METERED_PEERS,
    NetworkSection,
    parse_endpoint,
)
from swarmd.entropy import Entropy
from swarmd.member_keys import MemberKeys
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.net.dial_plan import Candidate, Origin
from swarmd.net.local_networks import (
    IPNetwork,
    is_within,
    on_link_networks,
)
from swarmd.net.names import Names, Resolver, Server
from swarmd.net.network import Network, Stream
from swarmd.own_addresses import OwnAddresses, Reachability
from swarmd.peers import Offence, Peer, PeerClass, PeerRegistry
from swarmd.services.detours import DetourGrounds, Detours
from swarmd.services.forwarder import Forwarder, ForwarderLimits
from swarmd.services.lan import LanDiscovery
from swarmd.services.peer_exchange import DEADLINE_S, ExchangeGrounds, PeerExchange
from swarmd.services.reach import ReachService, Sources, no_detour

logger = logging.getLogger(__name__)

NETWORKS_S: Final = 60.0
"""How often the networks of this machine are read anew, seconds."""
SITE_BYTES: Final = 8
"""Bytes of a site's name."""
FIRST_FRAME_S: Final = 10.0
"""How long a peer may take to say what a stream of the forward protocol is for, seconds."""
FORWARD_STREAMS_PER_PEER: Final = 16
"""Streams of the forward protocol one peer may have open here: its own requests, and what it
offers as a forwarder."""
SAVE_S: Final = 60.0
"""How often a changed address book is written, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounds:
    """What the reach stands on."""

    chain: ChainId
    """Whose members are reached."""
    settings: NetworkSection
    """The operator's settings."""
    folder: Path
    """The data directory."""
    network: Network
    """Dials and accepts."""
    registry: PeerRegistry
    """Who the peers are."""
    entropy: Entropy
    """Jitter and choice."""
    keys: MemberKeys
    """Whose keys they are."""
    era: Callable[[], int]
    """Era of my copy of the ledger."""
    time_ms: Callable[[], int]
    """Ledger time, milliseconds."""
    is_current: Callable[[], bool]
    """Whether my copy is known to be current."""
    is_fetching: Callable[[], bool]
    """Whether images are being fetched."""
    token_addresses: Callable[[], tuple[PeerAddress, ...]]
    """Addresses of the token while this node joins."""
    greet: Callable[[PeerKey], Awaitable[PeerClass]]
    """Says hello."""
    did: DidId
    """Who this node is."""
    node_key: PrivateKey
    """Signs statements."""


class ReachPlane:
    """See the module's docstring."""

    def __init__(self, grounds: Grounds) -> None:
        """Wires the parts; nothing is dialed before `run`."""
        self._grounds = grounds
        settings, keys = grounds.settings, grounds.keys
        self._path = grounds.folder / BOOK_NAME
        self.network: Final = grounds.network
        """Dials and accepts."""
        self.registry: Final = grounds.registry
        """Who the peers are."""
        self.keys: Final = keys
        """Whose keys they are."""
        self.book: Final = AddressBook(
            grounds.chain,
            subject=keys.subject,
            is_member=keys.is_enrolled,
            era=grounds.era,
            time_ms=grounds.time_ms,
        )
        """Where members are."""
        self.names: Final = Names(
            settings.bootstrap,
            Resolver(_server(settings.resolver)),
            uint=grounds.entropy.uint,
            on_change=self._names_changed,
        )
        """What the names of the configuration mean."""
        self.reach: Final = self._make_reach()
        """Dials."""
        network = grounds.network
        listen = [(item.host, item.port) for item in network.listen_addresses]
        self.own: Final = OwnAddresses(
            identity=(grounds.did, network.peer, grounds.node_key),
            chain=grounds.chain,
            announced=[(item.host, item.port) for item in settings.announce],
            listen=listen,
        )
        """Where this node is."""
        self.exchange: Final = self._make_exchange()
        """Asks members, and answers them."""
        self.lan: Final = self._make_lan(listen)
        """Who is heard on the local network; None: nobody is listened for."""
        self.own.forwards = settings.forward
        self.forwarder: Final = self._make_forwarder()
        """Passes connections of others on."""
        self.detours: Final = self._make_detours()
        """Ways through others."""
        self._local: tuple[IPNetwork, ...] = ()

    def _make_reach(self) -> ReachService:
        grounds, keys = self._grounds, self.keys
        settings = grounds.settings
        return ReachService(
            network=grounds.network,
            registry=grounds.registry,
            entropy=grounds.entropy,
            sources=Sources(
                configured=self._configured,
                found=self._found,
                wanted=self._wanted,
                owner_of=keys.holder,
                has_detour=lambda peer: bool(self.book.forwarders(peer)),
                current_key=keys.current_key,
                is_current=grounds.is_current,
                proved=self._proved,
                member_count=lambda: max(len(self.book), len(grounds.network.peers())),
            ),
            greet=grounds.greet,
            peers_wanted=settings.peers_wanted,
            peers_max=self._metered_peers if settings.metered else None,
            detour=self._detour,
        )

    def _make_exchange(self) -> PeerExchange:
        grounds = self._grounds
        return PeerExchange(
            ExchangeGrounds(
                network=grounds.network,
                registry=grounds.registry,
                keys=grounds.keys,
                book=self.book,
                own=self.own,
                entropy=grounds.entropy,
                protocol=protocol_id(grounds.chain, ProtocolName.PEERS),
                era=grounds.era,
                time_ms=grounds.time_ms,
                peers_wanted=grounds.settings.peers_wanted,
                learned=self._learned,
            )
        )

    def _make_forwarder(self) -> Forwarder:
        grounds, settings = self._grounds, self._grounds.settings
        return Forwarder(
            network=grounds.network,
            registry=grounds.registry,
            keys=grounds.keys,
            protocol=protocol_id(grounds.chain, ProtocolName.FORWARD),
            limits=ForwarderLimits(
                streams_max=settings.forward_streams_max if settings.forward else 0,
                bytes_per_s=settings.forward_bytes_per_s,
            ),
        )

    def _make_detours(self) -> Detours:
        grounds, own_key = self._grounds, self._grounds.network.peer
        return Detours(
            DetourGrounds(
                network=grounds.network,
                registry=grounds.registry,
                entropy=grounds.entropy,
                protocol=protocol_id(grounds.chain, ProtocolName.FORWARD),
                forwarders_of=self.book.forwarders,
                is_forwarder=self.book.is_forwarder,
                is_acquainted=lambda peer: grounds.keys.are_acquainted(own_key, peer),
                is_needed=self._is_unreachable,
                bring_up=self.reach.bring_up,
                changed=self._forwarders_changed,
            )
        )

    def _make_lan(self, listen: Sequence[tuple[str, int]]) -> LanDiscovery | None:
        wanted = self._grounds.settings.lan_interface
        if not wanted:
            return None
        return LanDiscovery(
            chain=self._grounds.chain,
            peer=self._grounds.network.peer,
            interface=wanted,
            listen=listen,
            on_change=self.reach.wake,
        )

    def serve(self) -> None:
        """Answers peers from now on."""
        if self._grounds.settings.peer_exchange:
            self._grounds.network.handle(
                protocol_id(self._grounds.chain, ProtocolName.PEERS),
                self.exchange.answer,
                streams_per_peer_max=2,
                deadline_s=DEADLINE_S,
                frame_bytes_max=PEERS_BYTES_MAX,
            )
            self._grounds.network.handle(
                protocol_id(self._grounds.chain, ProtocolName.FORWARD),
                self._answer_forward,
                streams_per_peer_max=FORWARD_STREAMS_PER_PEER,
                deadline_s=None,
                frame_bytes_max=FORWARD_FRAME_BYTES_MAX,
            )

    async def _answer_forward(self, stream: Stream) -> None:
        """Serves one stream of the forward protocol."""
        frame: bytes | None = None
        with trio.move_on_after(FIRST_FRAME_S):
            frame = await stream.receive_frame()
        if frame is None:
            await stream.reset()
            return
        try:
            request = decode_forward_request(bytes(frame))
        except VerificationError as error:
            self._grounds.registry.blame(stream.peer, Offence.MALFORMED, f"forward: {error}")
            await stream.reset()
            return
        match request:
            case Reserve():
                await self.forwarder.hold(stream)
            case Connect():
                await self.forwarder.connect(stream, request)
            case Incoming():
                await self.detours.accept(stream, request)

    def _learned(self, peer: PeerKey) -> None:
        """There is news about where a peer is, or about how the world sees this node."""
        self.reach.has_news(peer)
        self.detours.wake()

    def _metered_peers(self) -> int:
        """Peers of a metered node: few, and more only while it fetches."""
        return METERED_FETCH_PEERS if self._grounds.is_fetching() else METERED_PEERS

    def _is_unreachable(self) -> bool:
        return self.exchange.reachability() is Reachability.UNREACHABLE

    def _forwarders_changed(self, forwarders: tuple[PeerKey, ...]) -> None:
        """Says anew where this node is."""
        self.own.forwarders = forwarders
        for peer in self._grounds.registry.at_least(PeerClass.MEMBER):
            self.exchange.peer_connected(peer.key)

    async def _detour(self, peer: PeerKey) -> bool:
        if not self._grounds.settings.peer_exchange:
            return await no_detour(peer)
        self.exchange.want(peer)
        return await self.detours.reach(peer)

    def peer_demoted(self, peer: PeerKey) -> None:
        """A peer is no member any more: nothing goes through it, and nothing of it through us."""
        self.forwarder.drop(peer)
        self.detours.drop(peer)

    def on_commit(self) -> None:
        """A block became final."""
        self.forwarder.review()

    def peer_connected(self, peer: Peer) -> None:
        """A peer has become a member, or was met as one."""
        self._note_route(peer)
        if peer.peer_class >= PeerClass.MEMBER and self._grounds.settings.peer_exchange:
            self.exchange.peer_connected(peer.key)
            self.detours.wake()

    def _names_changed(self) -> None:
        self.reach.wake()

    def _note_route(self, peer: Peer) -> None:
        """Notes by which way a peer is connected now."""
        route = self._grounds.network.route(peer.key)
        peer.via = None if route is None else route.via
        peer.is_lan = route is not None and is_within(route.host, self._local)

    def _proved(self, address: PeerAddress) -> None:
        """A peer has proved its key at an address that this node dialed."""
        self.book.note_proven(address)
        if (peer := self._grounds.registry.get(address.peer)) is not None:
            self._note_route(peer)

    def _configured(self) -> tuple[PeerAddress, ...]:
        return tuple(dict.fromkeys((*self.names.addresses(), *self._grounds.token_addresses())))

    def stated(self) -> tuple[tuple[str, int], ...]:
        """Where this node tells members that it is."""
        now = trio.current_time()
        return tuple(
            (item.host, item.port) for reach in Reach for item in self.own.addresses(reach, now)
        )

    def site(self) -> bytes:
        """Names this node's local network among the networks of members; empty: nobody is near.

        All who see each other as near give it one name, that of the smallest key among them.
        """
        near = [
            peer.key for peer in self._grounds.registry.at_least(PeerClass.MEMBER) if peer.is_lan
        ]
        if not near:
            return b""
        return tagged_digest("swarmd/site/1", min(self._grounds.network.peer, *near))[:SITE_BYTES]

    async def _watch_networks(self) -> None:
        """Keeps up with the networks this machine is on."""
        named = [text for text in self._grounds.settings.lan_networks if text != LAN_AUTO]
        fixed = tuple(ipaddress.ip_network(text) for text in named)
        is_auto = len(named) < len(self._grounds.settings.lan_networks)
        while True:
            found = await trio.to_thread.run_sync(on_link_networks) if is_auto else ()
            self._local = (*fixed, *found)
            for peer in self._grounds.registry:
                self._note_route(peer)
            await trio.sleep(NETWORKS_S)

    def _found(self, peer: PeerKey) -> Iterator[Candidate]:
        """Addresses beside the configured ones; the better vouched for come last and stand."""
        for address in () if self.lan is None else self.lan.addresses(peer):
            yield Candidate(address, Origin.LAN)
        for address in self.book.stated(peer):
            yield Candidate(address, Origin.STATED)
        for address in self.book.proven(peer):
            yield Candidate(address, Origin.PROVEN)

    def _wanted(self) -> Iterator[PeerKey]:
        """Members to meet: near ones, then those that share a group, in changing order."""
        own = self._grounds.network.peer
        if self._is_unreachable() and not self.detours.forwarders:
            yield from filter(self.book.is_forwarder, self.book.members())
        for peer in () if self.lan is None else self.lan.peers():
            if self._grounds.keys.are_acquainted(own, peer) or not self._grounds.is_current():
                yield peer
        known = list(dict.fromkeys((*self.book.members(), *self.book.proven_peers())))
        while known:
            peer = known.pop(self._grounds.entropy.uint(len(known)))
            if self._grounds.keys.are_acquainted(own, peer):
                yield peer

    async def run(self) -> None:
        """Runs everything until cancelled; what has changed is saved at the end, too."""
        await trio.to_thread.run_sync(self.book.load, self._path)
        for peer in self.book.proven_peers():
            for address in self.book.proven(peer):
                self.reach.plan.proved(address)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.names.run)
                nursery.start_soon(self._watch_networks)
                if self.lan is not None:
                    nursery.start_soon(self.lan.run)
                nursery.start_soon(self.reach.run)
                if self._grounds.settings.peer_exchange:
                    nursery.start_soon(self.exchange.run)
                    nursery.start_soon(self.detours.run)
                nursery.start_soon(self._keep_saved)
        finally:
            with trio.CancelScope(shield=True):
                await self._save()

    async def _keep_saved(self) -> None:
        while True:
            await trio.sleep(SAVE_S)
            await self._save()

    async def _save(self) -> None:
        if not self.book.is_changed:
            return
        self.book.is_changed = False
        data = self.book.encode()
        try:
            await trio.to_thread.run_sync(partial(AddressBook.write, self._path, data))
        except StorageError as error:
            logger.warning("the address book is not saved: %s", error)


def _server(text: str) -> Server | None:
    return None if not text else Server(*parse_endpoint(text, "network.resolver"))
