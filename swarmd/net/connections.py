"""Every connection of a node: dialing, accepting, admission, budgets, duplicates.

States of a connection: handshake (no key proved; few, short, the oldest gives way) -> registered
(key proved, admitted, holds a slot of its class) -> closed. libp2p neither dials nor listens.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.rcmgr import Direction
from multiaddr import Multiaddr

from protocol.errors import TransportError
from swarmd.net.address import PeerAddress, PeerKey, short_peer
from swarmd.net.config import Admission, NetworkConfig, PeerClass
from swarmd.net.connected import (
    ConnectionCounters,
    DialReport,
    OtherPeerError,
    PeerEvent,
    RegisteredConnection,
)
from swarmd.net.guards import GatedNoise, GuardedSwarm, RawStream, Upgrader, id_of, key_of
from swarmd.net.route import Route
from swarmd.net.wire import ByteStream, TCPWire, WireListener
from swarmd.net.yamux import Mux

if TYPE_CHECKING:
    from libp2p.abc import INetConn
    from libp2p.crypto.keys import KeyPair
    from libp2p.network.connection.swarm_connection import SwarmConn

logger = logging.getLogger(__name__)

SIMULTANEOUS_S: Final = 5.0
"""Two connections in opposite directions this close together were dialed at once, seconds."""
OUTBOUND_SPARE: Final = 64
"""Connections we dial beyond the inbound limits: our own decisions never wait for strangers."""
ACCEPT_PAUSE_S: Final = 0.1
"""Pause after the system refused to accept (out of descriptors or memory), seconds."""
_UNUSED_ADDRESS: Final = Multiaddr("/ip4/0.0.0.0/tcp/0")
"""libp2p wants a listen address for its log messages."""


class Connections:
    """The table of connections, keyed by peer; peers are in the order they came."""

    def __init__(
        self,
        config: NetworkConfig,
        admission: Admission,
        keys: KeyPair,
        *,
        on_registered: Callable[[PeerKey], Awaitable[None]],
        on_lost: Callable[[PeerKey, INetConn], Awaitable[None]],
    ) -> None:
        """Builds the table and libp2p's swarm below it.

        Args:
            config: limits and deadlines.
            admission: decides who may connect, and each peer's class.
            keys: our transport key.
            on_registered: runs in the background after a connection was registered.
            on_lost: runs in the background after a registered connection ended.
        """
        self._config = config
        self._admission = admission
        self._wire = config.wire or TCPWire()
        self._on_registered = on_registered
        self._on_lost = on_lost
        self._noise = GatedNoise(keys, self._may_enter)
        self._upgrader = Upgrader(self._noise, config)
        self.swarm: Final = GuardedSwarm(
            keys,
            self._upgrader,
            connections_max=config.connections_max + OUTBOUND_SPARE,
            on_connected=self._register,
            on_disconnected=self._forget,
        )
        self.own_key: Final = key_of(self.swarm.get_peer_id())
        self.counters: Final = ConnectionCounters()
        self.listeners: list[WireListener] = []
        self._by_peer: dict[PeerKey, list[RegisteredConnection]] = {}
        self._leaving: dict[RegisteredConnection, None] = {}
        self._dials: dict[PeerKey, trio.Lock] = {}
        self._handshakes: dict[RawStream, trio.CancelScope] = {}
        self._events_send, self.events = trio.open_memory_channel[PeerEvent](config.events_max)
        self._nursery: trio.Nursery | None = None

    def peers(self) -> tuple[PeerKey, ...]:
        """The connected peers, oldest first."""
        return tuple(self._by_peer)

    def __contains__(self, peer: PeerKey) -> bool:
        """Whether a peer is connected."""
        return peer in self._by_peer

    @property
    def handshake_count(self) -> int:
        """Inbound connections that have not proved a key yet."""
        return len(self._handshakes)

    # --- admission and budgets -----------------------------------------------------------------

    def _may_enter(self, peer: PeerKey, is_inbound: bool) -> bool:
        """The gate in the handshake: the peer has just proved this key."""
        allowed = peer != self.own_key and self._admission.may_connect(peer)
        if allowed and is_inbound and peer not in self._by_peer:
            peer_class = self._admission.peer_class(peer)
            allowed = (
                self._slots_taken(peer_class) < self._config.connections_of(peer_class)
                or self._who_gives_way(peer_class) is not None
            )
        if not allowed:
            self.counters.refused += 1
        return allowed

    def _slots_taken(self, peer_class: PeerClass) -> int:
        """Peers of a class that came to us; those only we dialed take no slot."""
        return sum(
            1
            for peer, known in self._by_peer.items()
            if any(held.is_inbound and held not in self._leaving for held in known)
            and self._admission.peer_class(peer) is peer_class
        )

    def _who_gives_way(self, peer_class: PeerClass) -> RegisteredConnection | None:
        """The stranger that had its time and is the oldest; members never give way."""
        if peer_class is not PeerClass.STRANGER:
            return None
        since_max = trio.current_time() - self._config.stranger_grace_s
        for peer, known in self._by_peer.items():  # in order of arrival
            if self._admission.peer_class(peer) is PeerClass.STRANGER:
                for held in known:
                    if held.is_inbound and held not in self._leaving and held.since <= since_max:
                        return held
        return None

    def _on_bytes(self, raw: RawStream, received: int, sent: int) -> None:
        """Counts, and cuts strangers off at their budget."""
        self.counters.bytes_in += received
        self.counters.bytes_out += sent
        if max(raw.bytes_in, raw.bytes_out) <= self._config.stranger_bytes_max:
            return
        peer = raw.peer
        if peer is None or self._admission.peer_class(peer) is PeerClass.STRANGER:
            self.counters.violations += 1
            raise ConnectionClosedError("stranger exceeded its byte budget")

    async def _watch_stranger(self, connection: RegisteredConnection) -> None:
        """Ends a connection whose peer is still a stranger when its time is over."""
        await trio.sleep(self._config.stranger_s)
        if connection not in self._by_peer.get(connection.peer, ()):
            return
        if self._admission.peer_class(connection.peer) is PeerClass.STRANGER:
            self.counters.violations += 1
            await connection.conn.close()

    # --- outbound ------------------------------------------------------------------------------

    async def connect(
        self,
        peer: PeerKey,
        addresses: Sequence[PeerAddress],
        report: DialReport = lambda _address, _error: None,
        *,
        replaces_forwarded: bool = False,
    ) -> None:
        """Connects unless connected; one dial per peer at a time."""
        if peer == self.own_key:
            raise TransportError("that address is our own")
        lock = self._dials.setdefault(peer, trio.Lock())
        try:
            async with lock:
                if peer not in self._by_peer or (replaces_forwarded and not self._is_direct(peer)):
                    await self._dial(peer, addresses, report)
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._dials.pop(peer, None)

    def _is_direct(self, peer: PeerKey) -> bool:
        return any(known.via is None for known in self._by_peer.get(peer, ()))

    async def connect_over(self, peer: PeerKey, stream: ByteStream, via: PeerKey) -> None:
        """Takes a byte stream that `via` passes on through the whole handshake with a peer.

        Raises:
            TransportError: the peer did not prove its key there in time, or is not admitted.
        """
        raw = self._counted(stream, via)
        try:
            with trio.fail_after(self._config.dial_s):
                await self._upgrade(raw, peer)
        except (Exception, trio.TooSlowError) as error:
            message = f"cannot reach {short_peer(peer)} through {short_peer(via)}: {error!r}"
            raise TransportError(message) from error

    def accept_over(self, stream: ByteStream, via: PeerKey) -> None:
        """Takes a byte stream that `via` passes on as if it had been accepted here."""
        self._spawn(self._greet, self._counted(stream, via))

    async def probe(self, address: PeerAddress) -> None:
        """Has a peer prove its key at an address, and hangs up.

        Raises:
            TransportError: it did not, within the time of a dial.
        """
        raw: RawStream | None = None
        try:
            with trio.fail_after(self._config.dial_s):
                raw = self._counted(await self._wire.dial(address.host, address.port))
                connection = RawConnection(raw, initiator=True)
                await self._upgrader.upgrade_security(connection, True, id_of(address.peer))
        except Exception as error:
            raise TransportError(f"no proof at {address.host}: {error!r}") from error
        finally:
            if raw is not None:
                await raw.close()

    async def _dial(
        self, peer: PeerKey, addresses: Sequence[PeerAddress], report: DialReport
    ) -> None:
        failures: list[str] = []
        others: list[PeerAddress] = []

        async def attempt(address: PeerAddress, ended: trio.Event) -> None:
            try:
                with trio.fail_after(self._config.dial_s):
                    await self._dial_one(address)
            except trio.TooSlowError as error:
                failures.append(f"{address.host} port {address.port} does not answer")
                report(address, error)
            except OtherPeerError as error:
                failures.append(str(error))
                others.append(error.proven)
                report(address, error)
            except Exception as error:  # noqa: BLE001 - handshakes fail in many ways, all alike
                failures.append(f"{address.host} port {address.port}: {error}")
                report(address, error)
            else:
                report(address, None)
                nursery.cancel_scope.cancel()
            ended.set()

        async with trio.open_nursery() as nursery:
            for address in addresses:
                ended = trio.Event()
                nursery.start_soon(attempt, address, ended)
                with trio.move_on_after(self._config.dial_stagger_s):
                    await ended.wait()
        if peer not in self._by_peer:
            reasons = "; ".join(failures) or "the connection ended at once"
            message = f"cannot reach {short_peer(peer)}: {reasons}"
            raise OtherPeerError(message, others[0]) if others else TransportError(message)

    async def _dial_one(self, address: PeerAddress) -> None:
        raw = self._counted(await self._wire.dial(address.host, address.port))
        try:
            await self._upgrade(raw, address.peer)
        except Exception as error:
            if raw.other is not None and isinstance(error, Exception):
                where = f"{address.host} port {address.port}"
                proven = replace(address, peer=raw.other)
                raise OtherPeerError(f"{where} is {short_peer(raw.other)}", proven) from error
            raise

    async def _upgrade(self, raw: RawStream, peer: PeerKey) -> None:
        try:
            await self.swarm.upgrade_outbound_raw_conn(
                RawConnection(raw, initiator=True), id_of(peer)
            )
        except BaseException:
            await raw.close()
            raise

    def _counted(self, stream: ByteStream, via: PeerKey | None = None) -> RawStream:
        raw = RawStream(stream, stall_s=self._config.stall_s, via=via)
        raw.on_bytes = self._on_bytes
        return raw

    # --- inbound -------------------------------------------------------------------------------

    async def bind(self) -> None:
        """Takes the listen addresses; raises `TransportError` when one is not available."""
        try:
            for host, port in self._config.listen:
                self.listeners.append(await self._wire.listen(host, port))
        except BaseException:
            await self.unbind()
            raise

    async def unbind(self) -> None:
        """Frees the listen addresses."""
        with trio.CancelScope(shield=True):
            for listener in self.listeners:
                await listener.aclose()
        self.listeners.clear()

    def start(self, nursery: trio.Nursery) -> None:
        """Accepts from now on; background work runs in `nursery`."""
        self._nursery = nursery
        for listener in self.listeners:
            nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: WireListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except TransportError as error:
                logger.warning("%s", error)
                await trio.sleep(ACCEPT_PAUSE_S)
            except trio.ClosedResourceError:
                return
            else:
                nursery.start_soon(self._greet, self._counted(stream))

    async def _greet(self, raw: RawStream) -> None:
        """Takes one inbound connection through its handshake."""
        if len(self._handshakes) >= self._config.handshakes_max:
            oldest = next(iter(self._handshakes))
            self._handshakes.pop(oldest).cancel()
        succeeded = False
        try:
            with trio.move_on_after(self._config.handshake_s) as scope:
                self._handshakes[raw] = scope
                await self.swarm.upgrade_inbound_raw_conn(
                    RawConnection(raw, initiator=False), _UNUSED_ADDRESS
                )
                succeeded = True
        except Exception as error:  # noqa: BLE001 - garbage fails in many ways, all alike
            logger.debug("inbound handshake failed: %r", error)
        finally:
            self._handshakes.pop(raw, None)
            if not succeeded:
                self.counters.failed_handshakes += 1
                await raw.close()

    # --- the table -----------------------------------------------------------------------------

    def _register(self, conn: SwarmConn) -> None:
        peer = key_of(conn.muxed_conn.peer_id)
        raw = conn.muxed_conn.raw if isinstance(conn.muxed_conn, Mux) else None
        is_inbound = conn.direction is Direction.INBOUND
        new = RegisteredConnection(conn, peer, is_inbound, trio.current_time(), raw)
        known = self._by_peer.setdefault(peer, [])
        losers = {self._loser(new, old) for old in known}
        known.append(new)
        if len(known) == 1:
            self._tell(PeerEvent(peer, is_connected=True))
        if conn.is_closed:
            self._forget(conn)
            return
        peer_class = self._admission.peer_class(peer)
        if new.is_inbound and self._slots_taken(peer_class) > self._config.connections_of(
            peer_class
        ):
            self.counters.refused += 1
            losers.add(self._who_gives_way(peer_class) or new)
        for loser in losers:
            self._leaving[loser] = None
            self._spawn(loser.conn.close)
        if peer_class is PeerClass.STRANGER:
            self._spawn(self._watch_stranger, new)
        self._spawn(self._on_registered, peer)

    def _loser(self, new: RegisteredConnection, old: RegisteredConnection) -> RegisteredConnection:
        """Which of two connections to one peer is closed; both ends decide alike."""
        if (new.via is None) is not (old.via is None):
            return new if old.via is None else old  # a direct one is never given up for a detour
        if new.is_inbound is not old.is_inbound and new.since - old.since < SIMULTANEOUS_S:
            inbound, outbound = (new, old) if new.is_inbound else (old, new)
            return inbound if self.own_key < new.peer else outbound
        return old

    def _forget(self, conn: INetConn) -> None:
        peer = key_of(conn.muxed_conn.peer_id)
        known = self._by_peer.get(peer, [])
        rest = [connection for connection in known if connection.conn is not conn]
        for connection in known:
            if connection.conn is conn:
                self._leaving.pop(connection, None)
        if len(rest) == len(known):
            return
        if isinstance(conn.muxed_conn, Mux) and conn.muxed_conn.violation is not None:
            self.counters.violations += 1
            logger.info("peer %s broke yamux: %s", short_peer(peer), conn.muxed_conn.violation)
        if rest:
            self._by_peer[peer] = rest
        else:
            del self._by_peer[peer]
            self._tell(PeerEvent(peer, is_connected=False))
        self._spawn(self._on_lost, peer, conn)

    def _tell(self, event: PeerEvent) -> None:
        try:
            self._events_send.send_nowait(event)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            self.counters.events_dropped += 1

    def _spawn(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._contained, function, args)

    async def _contained(
        self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]
    ) -> None:
        try:
            await function(*args)
        except Exception:
            self.counters.faults += 1
            logger.exception("a network task failed and was contained")

    def route(self, peer: PeerKey) -> Route | None:
        """The way to a connected peer: of its connections, the one that stays; None: no way."""
        known = [item for item in self._by_peer.get(peer, ()) if item not in self._leaving]
        return known[-1].route() if known else None

    async def disconnect_via(self, forwarder: PeerKey) -> None:
        """Ends every connection that a member passes on."""
        for known in list(self._by_peer.values()):
            for connection in known:
                if connection.via == forwarder:
                    await connection.conn.close()

    async def disconnect(self, peer: PeerKey) -> None:
        """Ends every connection to a peer."""
        for connection in list(self._by_peer.get(peer, ())):
            await connection.conn.close()

    async def shut_down(self) -> None:
        """Stops listening, ends handshakes and connections, all at once, then the swarm."""
        self._nursery = None
        await self.unbind()
        for scope in list(self._handshakes.values()):
            scope.cancel()
        async with trio.open_nursery() as nursery:
            for conn in self.swarm.get_connections():
                nursery.start_soon(conn.close)
        await self.swarm.close()
        self._events_send.close()
