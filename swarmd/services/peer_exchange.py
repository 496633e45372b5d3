"""Peer exchange: members tell each other where they and other members are, and probe each other.

Answers go to members only, about members that the asker is acquainted with: the same group, or a
validator on either side. A statement travels as its author signed it, and only over connections of
its reach. Nothing here says what anybody holds. Rules: docs/spec/reach.md, sections 3 and 4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from protocol.address_statement import is_peer_port, parse_statement
from protocol.errors import (
    EncodingError,
    RemoteProtocolError,
    SignatureError,
    TransportError,
    VerificationError,
)
from protocol.peers_messages import (
    PEERS_BYTES_MAX,
    STATEMENTS_MAX,
    WANTED_MAX,
    PeersAnswer,
    PeersRequest,
    ProbeAnswer,
    ProbeRequest,
    decode_peers_answer,
    decode_peers_request,
    decode_probe_answer,
)
from swarmd.address_book import AddressBook
from swarmd.entropy import Entropy
from swarmd.member_keys import MemberKeys
from swarmd.net.address import PeerAddress, PeerKey, short_peer
from swarmd.net.address_scope import Scope, connection_scope, scope_of
from swarmd.net.network import Network, Stream, StreamRefusedError
from swarmd.own_addresses import OwnAddresses, Reachability
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.token_bucket import TokenBuckets

logger = logging.getLogger(__name__)

DEADLINE_S: Final = 20.0
"""One request and its answer, seconds: a probe of four ports takes two dials' time."""
ROUND_S: Final = 3600.0
"""Between two rounds while members are enough, seconds: about 50 KB a day."""
HURRY_S: Final = 30.0
"""Between two rounds while members are lacking, seconds, at first; doubles up to `ROUND_S`."""
SILENT_S: Final = 24 * 3600.0
"""How long a peer that does not offer the protocol is not asked again on a connection, seconds."""
OTHERS_MIN: Final = 4
"""Statements asked for when no member is lacking, so that the book stays of this world."""
ASK_BURST: Final = 8
"""Requests a peer may make at once."""
ASK_PER_S: Final = 1 / 15
"""Requests a peer may make in the long run, per second."""
PROBE_BURST: Final = 4
"""Probes a peer may ask for at once; each costs a dial of each port."""
PROBE_PER_S: Final = 1 / 60
"""Probes a peer may ask for in the long run, per second."""
LOOKED_AT_PER_ANSWER: Final = 4
"""Members looked at for each statement asked for: bounds the work of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeGrounds:
    """What the exchange of addresses stands on."""

    network: Network
    registry: PeerRegistry
    keys: MemberKeys
    book: AddressBook
    own: OwnAddresses
    entropy: Entropy
    protocol: str
    """Protocol id of this chain."""
    era: Callable[[], int]
    time_ms: Callable[[], int]
    peers_wanted: int
    """Members to be connected to."""
    learned: Callable[[PeerKey], None]
    """Told of whom there are new addresses; of this node itself when its reachability changed."""


class PeerExchange:
    """Asks members and answers them."""

    def __init__(self, grounds: ExchangeGrounds) -> None:
        """Wires the service; it asks nobody before `run`."""
        self._grounds = grounds
        self._asks = TokenBuckets(burst=ASK_BURST, per_s=ASK_PER_S)
        self._probes = TokenBuckets(burst=PROBE_BURST, per_s=PROBE_PER_S)
        self._new, self._met = trio.open_memory_channel[PeerKey](64)
        self._wanted: dict[PeerKey, None] = {}
        self._silent_until: dict[PeerKey, float] = {}

    # -- telling -------------------------------------------------------------------------------

    async def answer(self, stream: Stream) -> None:
        """Handles an inbound stream; the network adapter bounds its time and its size."""
        frame = await stream.receive_frame()
        if frame is None:
            return
        try:
            request = decode_peers_request(bytes(frame))
            if isinstance(request, PeersRequest):
                reply = self._tell(stream, request).encode()
            else:
                reply = (await self._probe(stream, request)).encode()
        except (VerificationError, RemoteProtocolError) as error:
            self._blame(stream.peer, error)
            await stream.reset()
            return
        await stream.send_frame(reply)
        await stream.close_write()

    def _tell(self, stream: Stream, request: PeersRequest) -> PeersAnswer:
        peer, scope = stream.peer, self._scope(stream.peer)
        self._take_own(peer, request.own, scope)
        if not self._asks.spend(peer, trio.current_time()):
            return PeersAnswer(statements=())
        told = dict.fromkeys(self._own_statements(scope))
        for other in (*map(PeerKey, request.wanted), *self._others(request.others)):
            if len(told) >= STATEMENTS_MAX:
                break
            if other != peer and self._grounds.keys.are_acquainted(peer, other):
                told.update(dict.fromkeys(self._statements_of(other, scope)))
        return PeersAnswer(statements=tuple(told)[:STATEMENTS_MAX])

    def _scope(self, peer: PeerKey) -> Scope:
        """The scope of the connection to a peer; the world's where a third node is between."""
        route = self._grounds.network.route(peer)
        return Scope.WORLD if route is None else connection_scope(route.host)

    def _own_statements(self, scope: Scope) -> list[bytes]:
        grounds = self._grounds
        signed = grounds.own.statements(
            scope,
            era=grounds.era(),
            time_ms=grounds.time_ms(),
            last_sequence=grounds.book.own_sequence,
            now=trio.current_time(),
        )
        if grounds.own.sequence > grounds.book.own_sequence:
            grounds.book.own_sequence = grounds.own.sequence
            grounds.book.is_changed = True
        return [item.signed.raw for item in signed]

    def _others(self, count: int) -> Iterable[PeerKey]:
        """Some members of the book, in an order that nobody can foresee."""
        known = list(self._grounds.book.members())
        for _ in range(min(len(known), count * LOOKED_AT_PER_ANSWER)):
            yield known.pop(self._grounds.entropy.uint(len(known)))

    def _statements_of(self, member: PeerKey, scope: Scope) -> list[bytes]:
        return [
            item.signed.raw
            for item in self._grounds.book.statements(member)
            if int(item.statement.reach) >= int(scope)
        ]

    def _take_own(self, peer: PeerKey, statements: Iterable[bytes], scope: Scope) -> None:
        for raw in statements:
            if parse_statement(raw).statement.peer != peer:
                raise EncodingError("a peer's own statement is about somebody else")
            if self._grounds.book.take(raw, scope) is not None:
                self._grounds.learned(peer)

    def _blame(self, peer: PeerKey, error: Exception) -> None:
        offence = Offence.FORGED if isinstance(error, SignatureError) else Offence.MALFORMED
        self._grounds.registry.blame(peer, offence, f"peers: {error}")

    # -- probing for others --------------------------------------------------------------------

    async def _probe(self, stream: Stream, request: ProbeRequest) -> ProbeAnswer:
        """Dials the asker back at the address it comes from, and at no other."""
        route = self._grounds.network.route(stream.peer)
        host = "" if route is None or route.via is not None else route.host
        if scope_of(host) is Scope.NOWHERE or not self._probes.spend(
            stream.peer, trio.current_time()
        ):
            return ProbeAnswer(host="", reached=(), tried=False)
        reached: dict[int, None] = {}

        async def attempt(port: int) -> None:
            try:
                await self._grounds.network.probe(PeerAddress(stream.peer, host, port))
            except TransportError as error:
                logger.debug("probe of %s: %s", short_peer(stream.peer), error)
            else:
                reached[port] = None

        async with trio.open_nursery() as nursery:
            for port in filter(is_peer_port, dict.fromkeys(request.ports)):
                nursery.start_soon(attempt, port)
        ports = tuple(port for port in request.ports if port in reached)
        return ProbeAnswer(host=host, reached=ports, tried=True)

    # -- asking --------------------------------------------------------------------------------

    def peer_connected(self, peer: PeerKey) -> None:
        """A member is connected and knows us; it is asked once, soon."""
        self._silent_until.pop(peer, None)
        try:
            self._new.send_nowait(peer)
        except trio.WouldBlock:
            logger.debug("%s is asked for addresses later", short_peer(peer))

    def want(self, peer: PeerKey) -> None:
        """The addresses of a peer are wanted; the next members asked are asked for them."""
        self._wanted[peer] = None
        while len(self._wanted) > WANTED_MAX:
            self._wanted.pop(next(iter(self._wanted)))

    async def run(self) -> None:
        """Asks new members, and one member in each round, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_new)
            nursery.start_soon(self._ask_in_rounds)

    async def _ask_new(self) -> None:
        async for peer in self._met:
            await self._ask_quietly(peer)

    async def _ask_in_rounds(self) -> None:
        pause_s = HURRY_S
        while True:
            jitter = 0.75 + self._grounds.entropy.uint(512) / 1024
            await trio.sleep(pause_s * jitter)
            known = self._grounds.registry.at_least(PeerClass.MEMBER)
            members = [peer for peer in known if not self._is_silent(peer.key)]
            if members:
                chosen = members[self._grounds.entropy.uint(len(members))]
                await self._ask_quietly(chosen.key)
            lacking = self._lacking()
            pause_s = min(ROUND_S, pause_s * 2) if lacking else ROUND_S

    def _is_silent(self, peer: PeerKey) -> bool:
        """Whether a peer takes no part: asking a metered one again would only cost it money."""
        now, until = trio.current_time(), self._silent_until
        for other in [other for other, end in until.items() if end <= now]:
            del until[other]
        return peer in until

    def _lacking(self) -> int:
        members = len(self._grounds.registry.at_least(PeerClass.MEMBER))
        return max(0, self._grounds.peers_wanted - members)

    async def _ask_quietly(self, peer: PeerKey) -> None:
        if self._grounds.registry.peer_class(peer) < PeerClass.MEMBER or self._is_silent(peer):
            return
        try:
            with trio.fail_after(DEADLINE_S):
                await self.ask(peer)
                await self._have_probed(peer)
        except StreamRefusedError as error:
            logger.debug(
                "%s takes no part in the exchange of addresses: %r", short_peer(peer), error
            )
            self._silent_until[peer] = trio.current_time() + SILENT_S
        except (TransportError, trio.TooSlowError) as error:
            logger.debug("%s tells no addresses: %r", short_peer(peer), error)
        except (VerificationError, RemoteProtocolError) as error:
            self._blame(peer, error)

    async def ask(self, peer: PeerKey) -> int:
        """Asks one member; returns of how many members there is news.

        Raises:
            TransportError: it does not answer.
            VerificationError: it answers with what it cannot have believed itself.
        """
        scope = self._scope(peer)
        request = PeersRequest(
            own=tuple(self._own_statements(scope)),
            wanted=tuple(self._wanted),
            others=min(STATEMENTS_MAX, max(OTHERS_MIN, 3 * self._lacking())),
        )
        answer = decode_peers_answer(await self._question(peer, request.encode()))
        news: dict[PeerKey, None] = {}
        for raw in answer.statements:
            about = self._grounds.book.take(raw, scope)
            if about is not None and about != self._grounds.network.peer:
                news[about] = None
        if news:
            self._wanted = {key: None for key in self._wanted if key not in news}
        for about in news:
            self._grounds.learned(about)
        return len(news)

    async def _have_probed(self, peer: PeerKey) -> None:
        """Asks a member to dial this node back, if that would tell something new."""
        grounds = self._grounds
        route = grounds.network.route(peer)
        if route is None or route.via is not None or not grounds.own.ports:
            return
        now = trio.current_time()
        if not grounds.own.is_probe_due(route.local_host, now):
            return
        request = ProbeRequest(ports=grounds.own.ports)
        answer = decode_probe_answer(await self._question(peer, request.encode()))
        if not answer.tried or scope_of(answer.host) is Scope.NOWHERE:
            return
        before = self.reachability()
        if answer.reached:
            grounds.own.confirmed(
                answer.host, answer.reached, now, by=peer, local_host=route.local_host
            )
        else:
            grounds.own.denied(answer.host, peer)
        if before is not self.reachability():
            logger.info("the world finds this node %s", self.reachability().value)
            grounds.learned(grounds.network.peer)

    def reachability(self) -> Reachability:
        """Whether the world can reach this node."""
        outside = sum(
            1
            for peer in self._grounds.registry.at_least(PeerClass.MEMBER)
            if self._scope(peer.key) is Scope.WORLD
        )
        return self._grounds.own.reachability(trio.current_time(), members=outside)

    async def _question(self, peer: PeerKey, request: bytes) -> bytes:
        stream = await self._grounds.network.open_stream(
            peer, self._grounds.protocol, frame_bytes_max=PEERS_BYTES_MAX
        )
        async with stream:
            await stream.send_frame(request)
            await stream.close_write()
            frame = await stream.receive_frame()
        if frame is None:
            raise TransportError(f"peer {short_peer(peer)} closed the stream without an answer")
        return bytes(frame)
