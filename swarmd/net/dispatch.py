"""Inbound streams: who may open which, how many, how long, and what a failure costs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from protocol.errors import LocalProtocolError, RemoteProtocolError, SwarmError, TransportError
from swarmd.net.address import PeerKey, short_peer
from swarmd.net.config import Admission, NetworkConfig, PeerClass
from swarmd.net.guards import key_of
from swarmd.net.negotiation import answer_negotiation
from swarmd.net.stream import Stream, StreamHandler

if TYPE_CHECKING:
    from libp2p.abc import INetStream

logger = logging.getLogger(__name__)

_NEGOTIATING = ""
"""Counts a peer's streams that have not agreed on a protocol yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedProtocol:
    """A protocol this node serves."""

    handler: StreamHandler
    """Serves one stream."""
    streams_per_peer_max: int
    """Streams of this protocol one peer may have open."""
    deadline_s: float | None
    """Seconds after which a stream is reset; None for long-lived ones."""
    frame_bytes_max: int
    """Bytes of one frame's body."""


RawHandler = Callable[["INetStream"], Awaitable[None]]
"""Serves a stream of a protocol that libp2p itself implements."""


class Dispatcher:
    """Routes inbound streams to handlers."""

    def __init__(self, config: NetworkConfig, admission: Admission) -> None:
        """Serves nothing yet."""
        self._config = config
        self._admission = admission
        self._served: dict[str, ServedProtocol] = {}
        self._raw: dict[str, tuple[RawHandler, Callable[[PeerKey], bool], int]] = {}
        self._open: dict[PeerKey, dict[str, int]] = {}
        self.refused = 0
        """Streams turned away."""
        self.faults = 0
        """Unexpected exceptions of handlers."""

    def serve(self, protocol: str, served: ServedProtocol) -> None:
        """Adds a protocol.

        Raises:
            LocalProtocolError: it is served already.
        """
        if protocol in self._served:
            raise LocalProtocolError(f"protocol {protocol} has a handler already")
        self._served[protocol] = served

    def serve_raw(
        self,
        protocol: str,
        handler: RawHandler,
        *,
        may_open: Callable[[PeerKey], bool],
        streams_per_peer_max: int,
    ) -> None:
        """Adds a protocol of libp2p's own, with its own rule of who may open it."""
        self._raw[protocol] = (handler, may_open, streams_per_peer_max)

    @property
    def stream_count(self) -> int:
        """Inbound streams being served, gossip not counted."""
        return sum(
            count
            for counts in self._open.values()
            for name, count in counts.items()
            if name not in self._raw
        )

    async def on_stream(self, stream: INetStream) -> None:
        """Serves one inbound stream; nothing it raises reaches libp2p."""
        try:
            await self._serve(stream)
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("inbound stream ended: %s", error)
        except SwarmError as error:
            logger.info("inbound stream refused: %s", error)
        except Exception:
            self.faults += 1
            logger.exception("a stream handler failed and was contained")
        else:
            return
        with trio.CancelScope(shield=True):
            await stream.reset()

    async def _serve(self, stream: INetStream) -> None:
        peer = key_of(stream.muxed_conn.peer_id)
        counts = self._open.setdefault(peer, {})
        self._check_count(peer, sum(counts.values()), self._limit(peer))
        name = _NEGOTIATING
        counts[name] = counts.get(name, 0) + 1
        try:
            protocol = await self._negotiate(stream, peer)
            counts[name] -= 1
            name = protocol
            counts[name] = counts.get(name, 0) + 1
            await self._run(stream, peer, protocol, counts[name] - 1)
        finally:
            counts[name] -= 1
            if not any(counts.values()):
                self._open.pop(peer, None)

    def _limit(self, peer: PeerKey) -> int:
        if self._admission.peer_class(peer) is PeerClass.STRANGER:
            return self._config.stranger_streams_max
        return self._config.streams_per_peer_max

    def _check_count(self, peer: PeerKey, others: int, limit: int) -> None:
        if others >= limit:
            self.refused += 1
            raise TransportError(f"peer {short_peer(peer)} has {others} streams, allowed {limit}")

    async def _negotiate(self, stream: INetStream, peer: PeerKey) -> str:
        """Agrees on a protocol; those the peer may not open do not exist for it."""
        offered = [name for name in self._served if self._admission.may_open(peer, name)]
        offered += [name for name, (_, may_open, _) in self._raw.items() if may_open(peer)]
        try:
            return await answer_negotiation(stream, offered, timeout_s=self._config.negotiate_s)
        except TransportError:
            self.refused += 1
            raise

    async def _run(self, stream: INetStream, peer: PeerKey, protocol: str, others: int) -> None:
        raw = self._raw.get(protocol)
        if raw is not None:
            handler, _, limit = raw
            self._check_count(peer, others, limit)
            await handler(stream)
            await stream.close()
            return
        served = self._served[protocol]
        self._check_count(peer, others, served.streams_per_peer_max)
        ours = Stream(stream, peer, protocol, frame_bytes_max=served.frame_bytes_max)
        if served.deadline_s is None:
            await served.handler(ours)
        else:
            with trio.move_on_after(served.deadline_s) as scope:
                await served.handler(ours)
            if scope.cancelled_caught:
                raise TransportError(f"{protocol} took longer than {served.deadline_s} s")
        await ours.aclose()
