"""Passing connections on: what a willing member does for two others that cannot reach each other.

A member that nobody can dial keeps a reservation open here; another one asks for it; from then on
each frame of either goes to the other as it is. The connection inside is encrypted between the two
ends, so this node sees who talks to whom and how much, and nothing else. Everything is bounded:
reservations, connections in all and of each member, requests, and bytes a second. Only direct
connections of members count, so that no connection is passed on twice and none runs in circles.
Rules: docs/spec/reach.md, section 6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import trio

from protocol.errors import RemoteProtocolError, TransportError, VerificationError
from protocol.forward_messages import (
    FORWARD_FRAME_BYTES_MAX,
    Connect,
    ForwardAnswer,
    ForwardStatus,
    Incoming,
    decode_forward_answer,
)
from swarmd.member_keys import MemberKeys
from swarmd.net.address import PeerKey, short_peer
from swarmd.net.network import Network, Stream
from swarmd.peers import Offence, PeerClass, PeerRegistry
from swarmd.token_bucket import TokenBuckets

logger = logging.getLogger(__name__)

RESERVATIONS_MAX: Final = 64
"""Members that can be reached through one forwarder; each costs an idle stream."""
RESERVATION_S: Final = 6 * 3600.0
"""Longest life of a reservation, seconds; then the member asks again, and others have a chance."""
PER_PEER_MAX: Final = 4
"""Connections one member may have passed on at a time, on its own request."""
REQUEST_BURST: Final = 8
"""Requests one member may make at once."""
REQUEST_PER_S: Final = 0.1
"""Requests one member may make in the long run, per second."""
ANSWER_S: Final = 10.0
"""How long the reserved member may take to answer, seconds."""
IDLE_S: Final = 60.0
"""Without a byte for so long a connection may have to give way to another, seconds."""
SHARE: Final = 4
"""One member's connections get at most this part of the bytes a second: a quarter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwarderLimits:
    """What forwarding may cost; the operator's settings."""

    streams_max: int
    """Connections passed on at a time; 0: none, this node does not forward."""
    bytes_per_s: int
    """Bytes passed on each second, both directions of all connections together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwarderStatistics:
    """Counts for status and metrics."""

    reservations: int
    """Members reachable through this node now."""
    connections: int
    """Connections passed on now."""
    passed_bytes: int
    """Bytes passed on so far."""
    refused: int
    """Requests refused so far."""


@dataclass(slots=True, eq=False)
class _Passage:
    """A connection that is passed on."""

    source: PeerKey
    target: PeerKey
    scope: trio.CancelScope
    last_at: float


@dataclass(slots=True)
class _Throttle:
    """Bytes a second in all and for each member; who is over waits, and only he."""

    per_s: float
    _level: dict[PeerKey | None, tuple[float, float]] = field(default_factory=dict)

    async def pay(self, payer: PeerKey, size: int) -> None:
        """Takes bytes from the budgets, and waits until they are not in debt."""
        now = trio.current_time()
        delay_s = max(
            self._charge(None, self.per_s, size, now),
            self._charge(payer, self.per_s / SHARE, size, now),
        )
        if delay_s > 0:
            await trio.sleep(delay_s)

    def _charge(self, key: PeerKey | None, per_s: float, size: int, now: float) -> float:
        level, since = self._level.get(key, (per_s, now))
        level = min(per_s, level + (now - since) * per_s) - size
        self._level[key] = (level, now)
        return max(0.0, -level / per_s)

    def forget(self, payer: PeerKey) -> None:
        """A member has no connection any more that is passed on."""
        self._level.pop(payer, None)


class Forwarder:
    """Holds reservations and passes connections on."""

    def __init__(
        self,
        *,
        network: Network,
        registry: PeerRegistry,
        keys: MemberKeys,
        protocol: str,
        limits: ForwarderLimits,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Wires the service.

        Args:
            network: streams and routes.
            registry: classes and scores of peers.
            keys: who is acquainted with whom.
            protocol: protocol id of this chain.
            limits: what it may cost.
            on_change: told when a passage begins or ends; must not block.
        """
        self._network = network
        self._registry = registry
        self._keys = keys
        self._protocol = protocol
        self._limits = limits
        self._on_change = on_change
        self._reserved: dict[PeerKey, trio.CancelScope] = {}
        self._passages: dict[_Passage, None] = {}
        self._requests = TokenBuckets(burst=REQUEST_BURST, per_s=REQUEST_PER_S)
        self._throttle = _Throttle(float(limits.bytes_per_s))
        self._passed_bytes = 0
        self._refused = 0

    def statistics(self) -> ForwarderStatistics:
        """Counts for status and metrics."""
        return ForwarderStatistics(
            reservations=len(self._reserved),
            connections=len(self._passages),
            passed_bytes=self._passed_bytes,
            refused=self._refused,
        )

    # -- who may -------------------------------------------------------------------------------

    def _is_direct_member(self, peer: PeerKey) -> bool:
        route = self._network.route(peer)
        is_member = self._registry.peer_class(peer) >= PeerClass.MEMBER
        return is_member and route is not None and route.via is None

    def _may_ask(self, peer: PeerKey) -> ForwardStatus:
        """Whether this node does anything for a peer at all."""
        if not self._limits.streams_max or not self._is_direct_member(peer):
            return ForwardStatus.REFUSED
        if not self._requests.spend(peer, trio.current_time()):
            return ForwardStatus.BUSY
        return ForwardStatus.ACCEPTED

    async def _answer(self, stream: Stream, status: ForwardStatus) -> None:
        if status is not ForwardStatus.ACCEPTED:
            self._refused += 1
        await stream.send_frame(ForwardAnswer(status).encode())

    # -- reservations --------------------------------------------------------------------------

    async def hold(self, stream: Stream) -> None:
        """Keeps a reservation while its stream lasts."""
        peer = stream.peer
        status = self._may_ask(peer)
        if status is ForwardStatus.ACCEPTED and (
            peer not in self._reserved and len(self._reserved) >= RESERVATIONS_MAX
        ):
            status = ForwardStatus.BUSY
        if status is not ForwardStatus.ACCEPTED:
            await self._answer(stream, status)
            return
        if (older := self._reserved.pop(peer, None)) is not None:
            older.cancel()
        scope = self._reserved[peer] = trio.CancelScope()
        try:
            with trio.move_on_after(RESERVATION_S), scope:
                await self._answer(stream, status)
                if await stream.receive_frame() is not None:
                    raise RemoteProtocolError("a reservation has nothing more to say")
        except RemoteProtocolError as error:
            self._registry.blame(peer, Offence.MALFORMED, f"forward: {error}")
            raise
        finally:
            if self._reserved.get(peer) is scope:
                del self._reserved[peer]
        if scope.cancelled_caught:
            await stream.reset()

    # -- connections ---------------------------------------------------------------------------

    async def connect(self, stream: Stream, request: Connect) -> None:
        """Passes a connection on to a member that has reserved, until either side ends it."""
        source, target = stream.peer, PeerKey(request.target)
        status = self._may_connect(source, target)
        if status is not ForwardStatus.ACCEPTED:
            await self._answer(stream, status)
            return
        scope = trio.CancelScope()
        passage = _Passage(source, target, scope, trio.current_time())
        self._passages[passage] = None
        self._on_change()
        try:
            with scope:
                await self._pass_on(stream, passage)
        finally:
            self._passages.pop(passage)
            if not any(other.source == source for other in self._passages):
                self._throttle.forget(source)
            self._on_change()
        if scope.cancelled_caught:
            await stream.reset()

    def _may_connect(self, source: PeerKey, target: PeerKey) -> ForwardStatus:
        status = self._may_ask(source)
        if status is not ForwardStatus.ACCEPTED:
            return status
        is_known = target in self._reserved and self._keys.are_acquainted(source, target)
        if not is_known or source == target or not self._is_direct_member(target):
            return ForwardStatus.UNKNOWN
        own = sum(1 for passage in self._passages if passage.source == source)
        if own >= PER_PEER_MAX:
            return ForwardStatus.BUSY
        return ForwardStatus.ACCEPTED if self._has_room() else ForwardStatus.BUSY

    def _has_room(self) -> bool:
        """Whether another connection fits; the one that was idle the longest may give way."""
        if len(self._passages) < self._limits.streams_max:
            return True
        idlest = min(self._passages, key=lambda passage: passage.last_at)
        if trio.current_time() - idlest.last_at < IDLE_S or idlest.scope.cancel_called:
            return False
        idlest.scope.cancel()
        return True

    async def _pass_on(self, stream: Stream, passage: _Passage) -> None:
        try:
            onward = await self._network.open_stream(
                passage.target, self._protocol, frame_bytes_max=FORWARD_FRAME_BYTES_MAX
            )
        except TransportError:
            await self._answer(stream, ForwardStatus.UNKNOWN)
            return
        async with onward:
            status = await self._offer(onward, passage)
            await self._answer(stream, status)
            if status is ForwardStatus.ACCEPTED:
                logger.debug(
                    "%s reaches %s through this node",
                    short_peer(passage.source),
                    short_peer(passage.target),
                )
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, stream, onward, passage)
                    nursery.start_soon(self._pump, onward, stream, passage)

    async def _offer(self, onward: Stream, passage: _Passage) -> ForwardStatus:
        """Asks the reserved member; what it refuses looks as if it were not there."""
        with trio.move_on_after(ANSWER_S):
            await onward.send_frame(Incoming(passage.source).encode())
            frame = await onward.receive_frame()
            try:
                if (
                    frame is not None
                    and decode_forward_answer(frame).status is ForwardStatus.ACCEPTED
                ):
                    return ForwardStatus.ACCEPTED
            except VerificationError as error:
                self._registry.blame(passage.target, Offence.MALFORMED, f"forward: {error}")
        return ForwardStatus.UNKNOWN

    async def _pump(self, source: Stream, sink: Stream, passage: _Passage) -> None:
        """Passes one direction on; its end ends the other side's as well."""
        try:
            while (frame := await source.receive_frame()) is not None:
                await self._throttle.pay(passage.source, len(frame))
                passage.last_at = trio.current_time()
                await sink.send_frame([frame])
                self._passed_bytes += len(frame)
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("a connection passed on ended: %s", error)
        passage.scope.cancel()

    # -- ends ----------------------------------------------------------------------------------

    def drop(self, peer: PeerKey) -> None:
        """Ends everything a peer has here, at once: it left, or may not use this node any more."""
        if (scope := self._reserved.pop(peer, None)) is not None:
            scope.cancel()
        for passage in self._passages:
            if peer in (passage.source, passage.target):
                passage.scope.cancel()

    def review(self) -> None:
        """Looks at everything again after a block became final."""
        for peer in tuple(self._reserved):
            if not self._keys.is_enrolled(peer):
                self.drop(peer)
        for passage in self._passages:
            if not self._keys.are_acquainted(passage.source, passage.target):
                passage.scope.cancel()
