"""Ways through a third member: used when no direct one leads to a peer, and kept for others.

A node that the world cannot reach keeps reservations with members that pass connections on, and
says so in its address statement. Whoever finds no direct way to it connects through one of them.
The connection inside is a full one: the peer proves its key to this node and nobody between can
read or change it; what the member between can do is to cut it. Rules: docs/spec/reach.md, 6.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import trio

from protocol.errors import RemoteProtocolError, TransportError, VerificationError
from protocol.forward_messages import (
    FORWARD_FRAME_BYTES_MAX,
    Connect,
    ForwardAnswer,
    ForwardStatus,
    Incoming,
    Reserve,
    decode_forward_answer,
)
from swarmd.entropy import Entropy
from swarmd.net.address import PeerKey, short_peer
from swarmd.net.forwarded import ForwardedStream
from swarmd.net.network import Network, Stream
from swarmd.peers import PeerClass, PeerRegistry

logger = logging.getLogger(__name__)

RESERVATIONS: Final = 2
"""Forwarders kept: one may fail without anybody noticing."""
LOOK_S: Final = 5.0
"""How often the reservations are looked at, seconds."""
REST_S_MIN: Final = 1.0
"""How long a forwarder is left alone after a reservation ended, seconds, before jitter; twice as
long after each refusal: one that has just met this node may not know it for a member yet."""
REST_S_MAX: Final = 60.0
"""Longest such rest, seconds."""
RESTS_MAX: Final = 128
"""Forwarders whose rests are remembered."""
ANSWER_S: Final = 20.0
"""How long a forwarder may take to answer, seconds; it may have to ask the other end."""
INCOMING_MAX: Final = 16
"""Connections through forwarders that others may have to this node at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetourGrounds:
    """What ways through others stand on."""

    network: Network
    registry: PeerRegistry
    entropy: Entropy
    protocol: str
    """Protocol id of this chain."""
    forwarders_of: Callable[[PeerKey], Iterable[PeerKey]]
    """Through whom a peer can be reached, by its own word."""
    is_forwarder: Callable[[PeerKey], bool]
    """Whether a member passes connections on, by its own word."""
    is_acquainted: Callable[[PeerKey], bool]
    """Whether a member shares a group with this node, or one of both is a validator."""
    is_needed: Callable[[], bool]
    """Whether the world cannot reach this node directly."""
    bring_up: Callable[[PeerKey], Awaitable[bool]]
    """Connects directly to a member; tells whether it is connected and knows us."""
    changed: Callable[[tuple[PeerKey, ...]], None]
    """Told the forwarders through which this node can be reached now."""


class Detours:
    """Keeps reservations, accepts connections over them, and makes connections over others'."""

    def __init__(self, grounds: DetourGrounds) -> None:
        """Wires the service; nothing is reserved before `run`."""
        self._grounds = grounds
        self._held: dict[PeerKey, trio.CancelScope] = {}
        self._trying: dict[PeerKey, None] = {}
        self._rests: dict[PeerKey, tuple[float, int]] = {}
        self._incoming = 0
        self._wake = trio.Event()

    @property
    def forwarders(self) -> tuple[PeerKey, ...]:
        """Members through which this node can be reached now."""
        return tuple(self._held)

    # -- being reachable -----------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps as many reservations as are needed, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                if self._grounds.is_needed():
                    for peer in self._willing():
                        self._trying[peer] = None
                        nursery.start_soon(self._reserve, peer)
                else:
                    for scope in self._held.values():
                        scope.cancel()
                with trio.move_on_after(LOOK_S):
                    await self._wake.wait()

    def wake(self) -> None:
        """Something has changed: members, statements, or whether this node can be reached."""
        self._wake.set()

    def _willing(self) -> list[PeerKey]:
        """Connected members worth asking, as many as are lacking."""
        now = trio.current_time()
        lacking = RESERVATIONS - len(self._held) - len(self._trying)
        found: list[PeerKey] = []
        for peer in self._grounds.registry.at_least(PeerClass.MEMBER):
            if len(found) >= lacking:
                break
            key = peer.key
            route = self._grounds.network.route(key)
            is_direct = route is not None and route.via is None
            is_new = key not in self._held and key not in self._trying
            is_due = self._rests.get(key, (0.0, 0))[0] <= now
            if is_direct and is_new and is_due and self._grounds.is_forwarder(key):
                found.append(key)
        return found

    async def _reserve(self, peer: PeerKey) -> None:
        scope = trio.CancelScope()
        try:
            with scope:
                await self._hold(peer, scope)
        except (TransportError, RemoteProtocolError, VerificationError) as error:
            logger.debug("%s passes nothing on to us: %s", short_peer(peer), error)
        finally:
            self._trying.pop(peer, None)
            self._rest(peer, was_held=self._held.get(peer) is scope)
            if self._held.get(peer) is scope:
                del self._held[peer]
                self._grounds.changed(self.forwarders)

    def _rest(self, peer: PeerKey, *, was_held: bool) -> None:
        """Leaves a forwarder alone for a while, the longer the more often it has refused."""
        refusals = 0 if was_held else self._rests.pop(peer, (0.0, 0))[1] + 1
        rest_s = min(REST_S_MAX, REST_S_MIN * 2.0 ** min(refusals, 20))
        jitter = 0.5 + self._grounds.entropy.uint(1024) / 1024
        self._rests[peer] = (trio.current_time() + rest_s * jitter, refusals)
        while len(self._rests) > RESTS_MAX:
            self._rests.pop(next(iter(self._rests)))

    async def _hold(self, peer: PeerKey, scope: trio.CancelScope) -> None:
        stream = await self._ask(peer, Reserve().encode())
        async with stream:
            logger.info("others reach this node through %s", short_peer(peer))
            self._held[peer] = scope
            self._trying.pop(peer, None)
            self._grounds.changed(self.forwarders)
            if await stream.receive_frame() is not None:
                raise RemoteProtocolError("a reservation has nothing more to say")

    async def _ask(self, peer: PeerKey, request: bytes) -> Stream:
        """Opens a stream and has a request granted.

        Raises:
            TransportError: it is not granted, or not in time.
            VerificationError: the answer is malformed.
        """
        stream = await self._grounds.network.open_stream(
            peer, self._grounds.protocol, frame_bytes_max=FORWARD_FRAME_BYTES_MAX
        )
        try:
            with trio.move_on_after(ANSWER_S):
                await stream.send_frame(request)
                frame = await stream.receive_frame()
                status = None if frame is None else decode_forward_answer(frame).status
                if status is ForwardStatus.ACCEPTED:
                    return stream
                said = "nothing" if status is None else status.name.lower()
                raise TransportError(f"forwarder {short_peer(peer)} says {said}")
            raise TransportError(f"forwarder {short_peer(peer)} does not answer")
        except BaseException:
            await stream.reset()
            raise

    async def accept(self, stream: Stream, request: Incoming) -> None:
        """Takes a connection that a forwarder offers, if this node has reserved with it."""
        source = PeerKey(request.source)
        is_welcome = (
            stream.peer in self._held
            and self._incoming < INCOMING_MAX
            and self._grounds.is_acquainted(source)
            and not self._grounds.registry.is_banned(source)
        )
        if not is_welcome:
            await stream.send_frame(ForwardAnswer(ForwardStatus.UNKNOWN).encode())
            return
        self._incoming += 1
        try:
            await stream.send_frame(ForwardAnswer(ForwardStatus.ACCEPTED).encode())
            inner = ForwardedStream(stream)
            self._grounds.network.accept_over(inner, stream.peer)
            await inner.ended.wait()
        finally:
            self._incoming -= 1

    # -- reaching others -----------------------------------------------------------------------

    async def reach(self, peer: PeerKey) -> bool:
        """Connects to a peer through one of its forwarders; tells whether it is connected now."""
        for forwarder in tuple(self._grounds.forwarders_of(peer)):
            if forwarder in (peer, self._grounds.network.peer):
                continue
            try:
                if await self._reach_through(forwarder, peer):
                    return True
            except (TransportError, RemoteProtocolError, VerificationError) as error:
                logger.debug("%s is not reached by a detour: %s", short_peer(peer), error)
        return False

    async def _reach_through(self, forwarder: PeerKey, peer: PeerKey) -> bool:
        route = self._grounds.network.route(forwarder)
        if route is None and not await self._grounds.bring_up(forwarder):
            return False
        if route is not None and route.via is not None:
            return False  # through two others is no way
        stream = await self._ask(forwarder, Connect(peer).encode())
        await self._grounds.network.connect_over(peer, ForwardedStream(stream), forwarder)
        return self._grounds.network.is_connected(peer)

    # -- ends ----------------------------------------------------------------------------------

    def drop(self, forwarder: PeerKey) -> None:
        """Ends the reservation with a member, at once: it may not pass anything on any more."""
        if (scope := self._held.get(forwarder)) is not None:
            scope.cancel()
