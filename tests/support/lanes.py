"""Lanes over real sockets: pairs, servers, and what attackers need to speak to them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from protocol.digest import ChainId
from protocol.keys import PrivateKey
from protocol.lane_offer import LaneOffer
from swarmd.net.address import PeerKey
from swarmd.net.lane import Lane, LaneWorkers
from swarmd.net.lane_certificate import client_context, make_lane_identity
from swarmd.net.lane_cipher import wrap_tls
from swarmd.net.lane_client import LaneClient
from swarmd.net.lane_server import LaneGate, LaneServer
from swarmd.net.lane_tokens import TokenBook

CHAIN = ChainId(bytes(range(32)))
"""The chain of these tests."""
LIMIT_S = 10.0
"""Every wait in these tests ends by then, seconds."""
CLIENT = PrivateKey(bytes([1]) * 32)
"""Transport key of the peer that opens lanes."""
SERVER = PrivateKey(bytes([2]) * 32)
"""Transport key of the peer that accepts them."""
THIEF = PrivateKey(bytes([3]) * 32)
"""Transport key of a member that was given no token."""


def peer_of(key: PrivateKey) -> PeerKey:
    """The peer that holds a transport key."""
    return PeerKey(key.public.raw)


def tls_pair(folder: Path) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
    """Two ends of a TLS connection over loopback TCP, after the handshake, non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    ends = (
        wrap_tls(near, client_context(), server_side=False),
        wrap_tls(far, make_lane_identity(folder).context, server_side=True),
    )
    waiting = list(ends)
    while waiting:
        end = waiting.pop(0)
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(end)
    return ends


def lane_pair(folder: Path) -> tuple[Lane, Lane]:
    """Two ends of a lane, the first one the client's."""
    near, far = tls_pair(folder)
    workers = LaneWorkers()
    return Lane(near, peer_of(SERVER), workers), Lane(far, peer_of(CLIENT), workers)


async def echo(lane: Lane) -> None:
    """Answers each frame with itself."""
    while (frame := await lane.receive_frame()) is not None:
        await lane.send_frame((memoryview(frame),))


@dataclass
class Port:
    """A lane server with everything a test wants to change."""

    server: LaneServer
    tokens: TokenBook
    offer_base: LaneOffer
    suspended: set[PeerKey] = field(default_factory=set)
    _next: int = 0

    def offer(self, peer: PeerKey | None = None) -> LaneOffer:
        """Gives a token to a peer, by default the client."""
        self._next += 1
        token = self._next.to_bytes(32, "big")
        assert self.tokens.give(peer or peer_of(CLIENT), token, trio.current_time())
        return LaneOffer(
            port=self.offer_base.port, fingerprint=self.offer_base.fingerprint, token=token
        )


@asynccontextmanager
async def lane_port(
    folder: Path,
    serve: Callable[[Lane], Awaitable[None]] = echo,
    *,
    host: str = "127.0.0.1",
) -> AsyncIterator[Port]:
    """Runs a lane server."""
    identity = make_lane_identity(folder)
    suspended: set[PeerKey] = set()
    tokens = TokenBook()
    gate = LaneGate(
        chain=CHAIN, era=lambda: 0, tokens=tokens, may_use=lambda peer: peer not in suspended
    )
    server = LaneServer(identity, gate, LaneWorkers(), serve)
    server.bind((host,), 0)
    assert server.port is not None
    base = LaneOffer(port=server.port, fingerprint=identity.fingerprint, token=bytes(32))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run)
        yield Port(server, tokens, base, suspended)
        nursery.cancel_scope.cancel()


def lane_client(key: PrivateKey = CLIENT) -> LaneClient:
    """A client that signs claims with a key."""
    return LaneClient(key=key, chain=CHAIN, era=lambda: 0, workers=LaneWorkers())
