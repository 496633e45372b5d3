"""The lanes of one node: offers them, asks for them, and ends them with their peers' standing.

Participants: this node, its members; a control stream of the network for each question. Goals: bulk
bytes off the muxed connection where that is possible, a libp2p stream of the same protocol where it
is not, and nobody notices the difference but by speed. Non-goals: what is sent (the exchange), who
is a member (the registry). Rules: docs/spec/lane.md.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from protocol.digest import ChainId
from protocol.errors import EncodingError, RemoteProtocolError, TransportError, VerificationError
from protocol.keys import Signer
from protocol.lane_offer import (
    LANE_ADDRESSES_MAX,
    LANE_MESSAGE_BYTES_MAX,
    LANE_TOKEN_BYTES,
    LaneOffer,
    LaneStatus,
    check_lane_question,
    decode_lane_answer,
    encode_lane_answer,
    encode_lane_question,
)
from protocol.version import ProtocolName, protocol_id
from swarmd.entropy import Entropy
from swarmd.net.address import PeerKey, short_peer
from swarmd.net.keepalive import KEEPALIVE_IDLE_S
from swarmd.net.lane import Lane, LaneWorkers
from swarmd.net.lane_backoff import LaneBackoff
from swarmd.net.lane_certificate import LaneIdentity, make_lane_identity
from swarmd.net.lane_client import LaneClient
from swarmd.net.lane_server import LaneGate, LaneServer
from swarmd.net.lane_tokens import TokenBook
from swarmd.net.network import Network
from swarmd.net.stream import Stream

logger = logging.getLogger(__name__)

QUESTION_S: Final = 5.0
"""Seconds for a question and its answer: as long as agreeing on a stream's protocol may take."""
QUESTIONS_PER_PEER_MAX: Final = 2
"""Questions of one peer at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """Where lanes are accepted."""

    hosts: tuple[str, ...]
    """Addresses of this machine to listen at; empty: this node only opens lanes."""
    port: int
    """TCP port at all of them; 0 takes a free one."""
    folder: Path
    """The data directory; used for a moment where memory has no files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSurroundings:
    """What lanes need from the rest of the node."""

    network: Network
    """Carries questions and offers."""
    chain: ChainId
    """Whose peers these are."""
    era: Callable[[], int]
    """The era now."""
    key: Signer
    """This node's transport key."""
    entropy: Entropy
    """Makes tokens and secrets."""
    may_use: Callable[[PeerKey], bool]
    """Whether a peer may have a lane now."""
    idle_s: int = KEEPALIVE_IDLE_S
    """Idle seconds before TCP probes the other end of a lane that this node opened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatistics:
    """What lanes are and were."""

    port: int | None
    """Where this node accepts lanes; None: nowhere."""
    accepted: int
    """Lanes that peers opened."""
    opened: int
    """Lanes that this node opened."""
    open: int
    """Of both, those that are open now."""
    refused_claims: int
    """Claims with an unknown, used, expired or stolen token."""
    failed_connections: int
    """Connections to the lane port without a claim in time."""
    fallbacks: int
    """Times a libp2p stream was used instead."""
    received_bytes: int
    """Bytes of frames that came over lanes."""
    sent_bytes: int
    """Bytes of frames that went over lanes."""


class LaneService:
    """See the module's docstring."""

    def __init__(
        self,
        settings: LaneSettings | None,
        around: LaneSurroundings,
        serve: Callable[[Lane], Awaitable[None]],
    ) -> None:
        """Listens nowhere yet.

        Args:
            settings: where to accept lanes; None: no lanes at all, in either direction.
            around: the rest of the node.
            serve: uses a lane that a peer opened, until it ends.
        """
        self._settings = settings
        self._around = around
        self._tokens = TokenBook()
        self._backoff = LaneBackoff()
        self._workers = LaneWorkers()
        self._identity: LaneIdentity | None = None
        self._server: LaneServer | None = None
        self._serve = serve
        self._client = LaneClient(
            key=around.key,
            chain=around.chain,
            era=around.era,
            entropy=around.entropy,
            workers=self._workers,
            idle_s=around.idle_s,
        )
        self._opened: dict[Lane, None] = {}
        self._opened_count = self._fallbacks = 0
        self._received_bytes = self._sent_bytes = 0
        self._protocol = protocol_id(around.chain, ProtocolName.LANE)

    # Running -------------------------------------------------------------------------------------

    def serve_protocol(self) -> None:
        """Answers questions from now on; without a listener the answer is that there is none."""
        if self._settings is not None:
            self._around.network.handle(
                self._protocol,
                self.answer,
                streams_per_peer_max=QUESTIONS_PER_PEER_MAX,
                deadline_s=QUESTION_S,
                frame_bytes_max=LANE_MESSAGE_BYTES_MAX,
            )

    async def bind(self) -> None:
        """Makes the certificate and takes the port.

        A port that is taken costs the fixed port, not the daemon.

        Raises:
            TransportError: an address to listen at is not this machine's.
            OSError: the data directory cannot be written, where that is needed.
        """
        settings = self._settings
        if settings is None or not settings.hosts:
            return
        identity = await trio.to_thread.run_sync(make_lane_identity, settings.folder)
        gate = LaneGate(
            chain=self._around.chain,
            era=self._around.era,
            tokens=self._tokens,
            entropy=self._around.entropy,
            may_use=self._around.may_use,
        )
        server = LaneServer(identity, gate, self._workers, self._serve)
        try:
            server.bind(settings.hosts, settings.port)
        except TransportError as error:
            logger.warning("%s; taking a free port for lanes instead", error)
            server.bind(settings.hosts, 0)
        self._identity, self._server = identity, server

    async def run(self) -> None:
        """Accepts lanes until cancelled; then those are closed."""
        if self._server is not None:
            await self._server.run()

    def statistics(self) -> LaneStatistics:
        """What happened so far."""
        server = self._server
        lanes = (*self._opened, *(() if server is None else server.lanes))
        return LaneStatistics(
            port=None if server is None else server.port,
            accepted=0 if server is None else server.counters.accepted,
            opened=self._opened_count,
            open=len(lanes),
            refused_claims=0 if server is None else server.counters.refused,
            failed_connections=0 if server is None else server.counters.failed,
            fallbacks=self._fallbacks,
            received_bytes=self._received_bytes
            + sum(lane.received_bytes for lane in lanes)
            + (0 if server is None else server.counters.received_bytes),
            sent_bytes=self._sent_bytes
            + sum(lane.sent_bytes for lane in lanes)
            + (0 if server is None else server.counters.sent_bytes),
        )

    def peer_gone(self, peer: PeerKey) -> None:
        """Ends every lane of a peer that is gone or suspended, and forgets its tokens."""
        self._tokens.revoke(peer)
        if self._server is not None:
            self._server.peer_gone(peer)
        for lane in tuple(self._opened):
            if lane.peer == peer:
                lane.break_off()

    # Offering ------------------------------------------------------------------------------------

    async def answer(self, stream: Stream) -> None:
        """Serves one question."""
        question = await stream.receive_frame()
        if question is None:
            return
        try:
            check_lane_question(question)
        except EncodingError as error:
            raise RemoteProtocolError(str(error)) from error
        await stream.send_frame((encode_lane_answer(self._offer(stream.peer)),))

    def _offer(self, peer: PeerKey) -> LaneOffer | LaneStatus:
        identity = self._identity
        port = None if self._server is None else self._server.port
        if identity is None or port is None or self._settings is None:
            return LaneStatus.NONE
        token = self._around.entropy.token(LANE_TOKEN_BYTES)
        if not self._tokens.give(peer, token, trio.current_time()):
            return LaneStatus.BUSY
        return LaneOffer(
            port=port,
            fingerprint=identity.fingerprint,
            token=token,
            addresses=_worth_telling(self._settings.hosts),
        )

    # Opening -------------------------------------------------------------------------------------

    async def open_or(
        self, peer: PeerKey, fall_back: Callable[[PeerKey], Awaitable[Stream]]
    ) -> Lane | Stream:
        """Opens a lane to a connected peer, or else what `fall_back` opens.

        Raises:
            TransportError: neither can be opened.
        """
        lane = await self._try(peer)
        if lane is not None:
            return lane
        self._fallbacks += 1
        return await fall_back(peer)

    async def _try(self, peer: PeerKey) -> Lane | None:
        network = self._around.network
        if self._settings is None or not network.is_connected(peer):
            return None
        if not self._backoff.is_worth_trying(peer, trio.current_time()):
            return None
        try:
            lane = await self._open(peer)
        except (TransportError, RemoteProtocolError, VerificationError) as error:
            pause_s = self._backoff.failed(peer, trio.current_time())
            logger.info(
                "no lane to %s, next try in %d s: %s", short_peer(peer), round(pause_s), error
            )
            return None
        self._backoff.succeeded(peer)
        self._opened_count += 1
        self._opened[lane] = None
        lane.on_closed = self._closed
        # Whoever left while the lane was being opened ended those of its lanes that there were.
        if not self._around.may_use(peer) or not network.is_connected(peer):
            await lane.reset()
            raise TransportError(f"peer {short_peer(peer)} may not have a lane any more")
        return lane

    async def _open(self, peer: PeerKey) -> Lane:
        offer, host = await self._ask(peer)
        return await self._client.open(peer, offer, host)

    async def _ask(self, peer: PeerKey) -> tuple[LaneOffer, str]:
        """Asks a peer for an offer; returns it with the address the peer has here."""
        with trio.move_on_after(QUESTION_S):
            stream = await self._around.network.open_stream(
                peer, self._protocol, frame_bytes_max=LANE_MESSAGE_BYTES_MAX
            )
            async with stream:
                await stream.send_frame((encode_lane_question(),))
                body = await stream.receive_frame()
            if body is None:
                raise TransportError("the question for a lane was not answered")
            answer = decode_lane_answer(body)
            if isinstance(answer, LaneStatus):
                raise TransportError(f"the answer is {answer.name.lower()}")
            if not stream.remote_host:
                raise TransportError("the connection has no address")
            return answer, stream.remote_host
        raise TransportError(f"the question for a lane was not answered within {QUESTION_S} s")

    def _closed(self, lane: Lane) -> None:
        self._opened.pop(lane, None)
        self._received_bytes += lane.received_bytes
        self._sent_bytes += lane.sent_bytes


def _worth_telling(hosts: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses that mean something to others."""
    told = [host for host in hosts if not ipaddress.ip_address(host).is_unspecified]
    return tuple(told[:LANE_ADDRESSES_MAX])
