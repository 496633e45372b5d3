"""Accepts lanes: TLS, then a claim, then a welcome, all within a few seconds.

Whoever connects is nobody until it shows a token that this node gave to a peer, signed with that
peer's transport key. Until then it holds one of few places; when they are all taken, the oldest of
the network that holds most gives way, so that a flood from one place is at its own expense.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from protocol.digest import ChainId
from protocol.errors import SwarmError, TransportError
from protocol.keys import PublicKey
from protocol.lane_offer import (
    LANE_CLAIM_BYTES,
    LANE_SECRET_BYTES,
    LANE_TOKEN_BYTES,
    LANE_WELCOME,
    check_lane_claim,
    derive_lane_keys,
)
from swarmd.entropy import Entropy
from swarmd.net.address import PeerKey, short_peer
from swarmd.net.keepalive import KEEPALIVE_ACCEPTED_IDLE_S
from swarmd.net.lane import Lane, LaneWorkers
from swarmd.net.lane_certificate import LaneIdentity
from swarmd.net.lane_cipher import RecordCipher
from swarmd.net.lane_handshake import LaneOpening
from swarmd.net.lane_tokens import TokenBook
from swarmd.token_bucket import TokenBuckets

logger = logging.getLogger(__name__)

CLAIM_S: Final = 5.0
"""Seconds for TLS and claim: four round trips of a satellite link."""
HALF_OPEN_MAX: Final = 64
"""Connections that have made no claim yet."""
HALF_OPEN_PER_NETWORK_MAX: Final = 8
"""Such connections from one IPv4 address or one IPv6 /64."""
HANDSHAKES_PER_S: Final = 50.0
"""Handshakes begun in the long run: at 0.7 ms each 4 % of a processor."""
HANDSHAKES_BURST: Final = 100.0
"""Handshakes begun at once: a hundred gateways that come back together."""
HANDSHAKES_PER_NETWORK_PER_S: Final = 10.0
"""Of these, from one IPv4 address or IPv6 /64: five of them have to work together to shut others
out, who then use a stream."""
HANDSHAKES_PER_NETWORK_BURST: Final = 40.0
"""At once: a site of gateways behind one address."""
LANES_PER_PEER_MAX: Final = 2
"""Lanes a peer may have opened: one, and its successor after a reconnect; the oldest gives way."""
BACKLOG: Final = 64
"""Connections the kernel holds before they are accepted."""
ACCEPT_PAUSE_S: Final = 0.1
"""Pause after the system refused to accept (out of descriptors or memory), seconds."""
_IPV6_NETWORK_BITS: Final = 64


@dataclass(slots=True)
class LaneServerCounters:
    """What a server has seen."""

    accepted: int = 0
    """Lanes whose claim was granted."""
    refused: int = 0
    """Claims that were not."""
    failed: int = 0
    """Connections that ended or gave way before a claim."""
    faults: int = 0
    """Unexpected exceptions of whoever uses a lane: defects of ours, contained."""
    received_bytes: int = 0
    """Bytes of frames that came over lanes which are closed."""
    sent_bytes: int = 0
    """Bytes of frames that went over them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneGate:
    """What decides about a claim, and answers it."""

    chain: ChainId
    """Whose peers these are."""
    era: Callable[[], int]
    """The era now."""
    tokens: TokenBook
    """What was given out."""
    entropy: Entropy
    """Makes secrets."""
    may_use: Callable[[PeerKey], bool]
    """Whether a peer may have a lane now; the answer of a moment ago may be outdated."""


class LaneServer:
    """See the module's docstring."""

    def __init__(
        self,
        identity: LaneIdentity,
        gate: LaneGate,
        workers: LaneWorkers,
        serve: Callable[[Lane], Awaitable[None]],
    ) -> None:
        """Listens nowhere yet.

        Args:
            identity: the certificate.
            gate: decides about claims.
            workers: run large steps of lanes.
            serve: uses a lane until it ends; the lane is closed when it returns or raises.
        """
        self._identity = identity
        self._gate = gate
        self._workers = workers
        self._serve = serve
        self._listeners: list[socket.socket] = []
        self._handshakes = TokenBuckets(burst=HANDSHAKES_BURST, per_s=HANDSHAKES_PER_S)
        self._handshakes_of_network = TokenBuckets(
            burst=HANDSHAKES_PER_NETWORK_BURST, per_s=HANDSHAKES_PER_NETWORK_PER_S
        )
        self._half_open: dict[socket.socket, tuple[str, trio.CancelScope]] = {}
        self.lanes: Final[dict[Lane, None]] = {}
        """Open lanes, oldest first."""
        self.counters: Final = LaneServerCounters()

    @property
    def port(self) -> int | None:
        """Where it listens; the same port at every address; None: nowhere."""
        return self._listeners[0].getsockname()[1] if self._listeners else None

    @property
    def half_open_count(self) -> int:
        """Connections that have made no claim yet."""
        return len(self._half_open)

    def bind(self, hosts: tuple[str, ...], port: int) -> None:
        """Takes one port at some addresses of this machine.

        Args:
            hosts: IPv4 or IPv6 addresses.
            port: 0 takes one that is free at the first; at others where it is taken, none.

        Raises:
            TransportError: an address is not available.
        """
        try:
            for host in hosts:
                self._listeners.append(_listen(host, self.port or port))
        except OSError as error:
            self.close()
            raise TransportError(f"cannot listen for lanes on {host}: {error}") from error

    def close(self) -> None:
        """Stops listening; lanes go on."""
        for listener in self._listeners:
            trio.lowlevel.notify_closing(listener.fileno())
            listener.close()
        self._listeners.clear()

    async def run(self) -> None:
        """Accepts until cancelled; then every lane is closed."""
        try:
            async with trio.open_nursery() as nursery:
                for listener in self._listeners:
                    nursery.start_soon(self._accept, listener, nursery)
        finally:
            self.close()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            try:
                await trio.lowlevel.wait_readable(listener.fileno())
                sock, address = listener.accept()
            except BlockingIOError:
                continue
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if listener.fileno() < 0:
                    return  # closed before it was waited for
                if error.errno != errno.ECONNABORTED:  # gone before it was accepted: no matter
                    logger.warning("cannot accept lanes now: %s", error)
                    await trio.sleep(ACCEPT_PAUSE_S)
                continue
            sock.setblocking(False)
            nursery.start_soon(self._greet, sock, str(address[0]))

    # Handshake -----------------------------------------------------------------------------------

    async def _greet(self, sock: socket.socket, host: str) -> None:
        network = _network_of(host)
        self._make_place(network)
        lane: Lane | None = None
        with trio.move_on_after(CLAIM_S) as scope:
            self._half_open[sock] = (network, scope)
            try:
                lane = await self._admit(sock, network)
            except (SwarmError, OSError) as error:
                logger.debug("no lane for %s: %s", host, error)
            finally:
                self._half_open.pop(sock, None)
        if lane is None:
            self.counters.failed += 1
            return
        await self._use(lane)

    def _make_place(self, network: str) -> None:
        """Ends the oldest of a network that has too many, or of the one that has most."""
        counts: dict[str, int] = {}
        for held, _ in self._half_open.values():
            counts[held] = counts.get(held, 0) + 1
        if counts.get(network, 0) >= HALF_OPEN_PER_NETWORK_MAX:
            greedy = network
        elif len(self._half_open) >= HALF_OPEN_MAX:
            greedy = max(counts, key=lambda held: counts[held])
        else:
            return
        oldest = next(sock for sock, (held, _) in self._half_open.items() if held == greedy)
        self._half_open.pop(oldest)[1].cancel()

    def _begin_handshake(self, network: str) -> None:
        """Counts a handshake, which costs a signature; the network pays first.

        Raises:
            TransportError: too many begin at this time.
        """
        now = trio.current_time()
        if not self._handshakes_of_network.spend(network, now):
            raise TransportError("too many handshakes from there")
        if not self._handshakes.spend(None, now):
            raise TransportError("too many handshakes")

    async def _admit(self, sock: socket.socket, network: str) -> Lane:
        """Takes one connection through TLS and claim; closes it unless that succeeds.

        Raises:
            TransportError: it ended too early, too many begin now, or the claim is not granted.
            SignatureError: the claim is somebody else's.
            OSError: the connection broke.
        """
        try:
            await trio.lowlevel.wait_readable(sock.fileno())  # silence costs nothing
            self._begin_handshake(network)
            opening = LaneOpening(sock, self._identity.context, server_side=True)
            await opening.shake_hands()
            claim = await opening.receive_exactly(LANE_CLAIM_BYTES)
            peer, client_secret = self._judge(claim)
            server_secret = self._gate.entropy.token(LANE_SECRET_BYTES)
            await opening.send(LANE_WELCOME + server_secret)
            keys = derive_lane_keys(
                claim[:LANE_TOKEN_BYTES],
                self._identity.fingerprint,
                client_secret=client_secret,
                server_secret=server_secret,
            )
            cipher = RecordCipher(
                sock,
                self._workers.record_buffers,
                send_key=keys.server,
                receive_key=keys.client,
                early=opening.leave(),
            )
            idle_s = KEEPALIVE_ACCEPTED_IDLE_S
            return Lane(sock, peer, self._workers, cipher, idle_s=idle_s)
        except BaseException:
            sock.close()
            raise

    def _judge(self, claim: bytes) -> tuple[PeerKey, bytes]:
        """Returns whose claim it is, and the client's secret."""
        gate = self._gate
        peer = gate.tokens.take(claim[:LANE_TOKEN_BYTES], trio.current_time())
        try:
            if peer is None:
                raise TransportError("the token is unknown, used or expired")
            client_secret = check_lane_claim(
                claim,
                self._identity.fingerprint,
                PublicKey(peer),
                chain=gate.chain,
                era=gate.era(),
            )
            if not gate.may_use(peer):
                raise TransportError(f"peer {short_peer(peer)} may not have a lane any more")
        except SwarmError:
            self.counters.refused += 1
            raise
        return peer, client_secret

    # Use -----------------------------------------------------------------------------------------

    async def _use(self, lane: Lane) -> None:
        self.counters.accepted += 1
        own = [held for held in self.lanes if held.peer == lane.peer]
        if len(own) >= LANES_PER_PEER_MAX:
            own[0].break_off()
        self.lanes[lane] = None
        try:
            await self._serve(lane)
        except SwarmError as error:
            logger.debug("%r ended: %s", lane, error)
        except Exception:
            self.counters.faults += 1
            logger.exception("the user of a lane failed and was contained")
        finally:
            self.lanes.pop(lane, None)
            await lane.reset()
            self.counters.received_bytes += lane.received_bytes
            self.counters.sent_bytes += lane.sent_bytes

    def peer_gone(self, peer: PeerKey) -> None:
        """Ends every lane of a peer that is gone or suspended."""
        for lane in tuple(self.lanes):
            if lane.peer == peer:
                lane.break_off()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _network_of(host: str) -> str:
    """What one attacker surely has to itself: an IPv4 address, or an IPv6 /64."""
    address = ipaddress.ip_address(host.split("%", 1)[0])
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
