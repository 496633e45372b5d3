"""Opens lanes that peers have offered: dials, checks the certificate, makes the claim."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from protocol.digest import ChainId
from protocol.errors import TransportError, VerificationError
from protocol.keys import Signer
from protocol.lane_offer import (
    LANE_SECRET_BYTES,
    LANE_WELCOME,
    LANE_WELCOME_BYTES,
    LaneOffer,
    derive_lane_keys,
    make_lane_claim,
)
from swarmd.entropy import Entropy
from swarmd.net.address import PeerKey, short_peer
from swarmd.net.address_scope import connection_scope, scope_of
from swarmd.net.keepalive import KEEPALIVE_IDLE_S
from swarmd.net.lane import Lane, LaneWorkers
from swarmd.net.lane_certificate import client_context
from swarmd.net.lane_cipher import RecordCipher
from swarmd.net.lane_handshake import LaneOpening

CONNECT_S: Final = 2.0
"""Seconds for TCP at all addresses together: what a firewall that drops packets costs."""
OPEN_S: Final = 6.0
"""Seconds for everything after the offer: the server allows 5 for TLS and claim."""


class WrongCertificateError(VerificationError):
    """Somebody else answers at the address, or sits on the way to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneClient:
    """See the module's docstring."""

    key: Signer
    """This node's transport key; signs claims."""
    chain: ChainId
    """Whose peers these are."""
    era: Callable[[], int]
    """The era now."""
    entropy: Entropy
    """Makes secrets."""
    workers: LaneWorkers
    """Run large steps of lanes."""
    idle_s: int = KEEPALIVE_IDLE_S
    """Idle seconds before TCP probes the other end."""

    async def open(self, peer: PeerKey, offer: LaneOffer, control_host: str) -> Lane:
        """Opens the lane that `peer` offered.

        Args:
            peer: who offered it.
            offer: where, and what proves both ends.
            control_host: the address at which the offer was had; tried first.

        Raises:
            TransportError: it cannot be opened from here now.
            WrongCertificateError: somebody else answered.
        """
        failure: Exception | None = None
        with trio.move_on_after(OPEN_S):
            connect_until = trio.current_time() + CONNECT_S
            for host in candidates(control_host, offer.addresses):
                try:
                    with trio.fail_at(connect_until):
                        sock = await _connect(host, offer.port)
                    return await self._claim(sock, peer, offer)
                except trio.TooSlowError:
                    failure = failure or TransportError(f"{host} port {offer.port} is silent")
                    break
                except (OSError, TransportError) as error:
                    failure = TransportError(f"{host} port {offer.port}: {error}")
                except WrongCertificateError as error:
                    failure = error
        raise failure or TransportError(f"no lane to {short_peer(peer)} within {OPEN_S} s")

    async def _claim(self, sock: socket.socket, peer: PeerKey, offer: LaneOffer) -> Lane:
        """Shows the token to the holder of the certificate, and to nobody else."""
        try:
            opening = LaneOpening(sock, client_context(), server_side=False)
            await opening.shake_hands()
            shown = hashlib.sha256(opening.peer_certificate).digest()
            if not hmac.compare_digest(shown, offer.fingerprint):
                raise WrongCertificateError(f"lane of {short_peer(peer)}: another certificate")
            client_secret = self.entropy.token(LANE_SECRET_BYTES)
            claim = make_lane_claim(
                offer.token,
                offer.fingerprint,
                self.key,
                client_secret=client_secret,
                chain=self.chain,
                era=self.era(),
            )
            await opening.send(claim)
            welcome = await opening.receive_exactly(LANE_WELCOME_BYTES)
            if not welcome.startswith(LANE_WELCOME):
                raise TransportError("the claim was answered with something else than a welcome")
            keys = derive_lane_keys(
                offer.token,
                offer.fingerprint,
                client_secret=client_secret,
                server_secret=welcome[len(LANE_WELCOME) :],
            )
            cipher = RecordCipher(
                sock,
                self.workers.record_buffers,
                send_key=keys.client,
                receive_key=keys.server,
                early=opening.leave(),
            )
            return Lane(sock, peer, self.workers, cipher, idle_s=self.idle_s)
        except BaseException:
            sock.close()
            raise


def candidates(control_host: str, offered: tuple[str, ...]) -> Iterator[str]:
    """Addresses worth dialing, the one that is known to work first.

    An offer is somebody else's word: nobody has us knock at doors of our own machine or network
    (docs/spec/reach.md, section 2).
    """
    yield control_host
    least = connection_scope(control_host)
    for host in offered:
        if host != control_host and scope_of(host) >= least:
            yield host


async def _connect(host: str, port: int) -> socket.socket:
    """Connects a non-blocking socket; `host` is an address, perhaps with a zone.

    Raises:
        OSError: nobody answers there.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock.fileno())
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock
