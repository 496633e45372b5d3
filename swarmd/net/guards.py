"""Fences around libp2p 0.8.1: the swarm, the handshake, the raw connection, the service tasks.

Only public names of libp2p are overridden. What each fence keeps out is in
`docs/adr/0003-libp2p-behind-guards.md`; each has an attack in `tests/swarmd/net/`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

import trio
from libp2p.abc import IMuxedConn, INetConn, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import Ed25519PrivateKey as LibP2PPrivateKey
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519_key_pair
from libp2p.custom_types import TProtocol
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.protocol_muxer.generic_selector import GenericMultistreamSelector
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service.api import InternalManagerAPI
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from protocol.errors import EncodingError
from protocol.limits import KIB
from swarmd.net.address import PeerKey, peer_id_bytes, peer_key_from_id_bytes
from swarmd.net.wire import ByteStream, local_address, remote_address
from swarmd.net.yamux import Mux

if TYPE_CHECKING:
    from libp2p.network.connection.swarm_connection import SwarmConn

    from swarmd.net.config import NetworkConfig

logger = logging.getLogger(__name__)

YAMUX: Final = TProtocol("/yamux/1.0.0")
"""The only stream multiplexer offered."""
RECEIVE_BYTES: Final = 256 * KIB
"""Bytes taken from the wire at a time: four full Noise messages, a usual socket buffer."""
READ_BYTES_MAX: Final = 64 * KIB
"""Largest exact read of the layers above (a Noise message has at most 65,535 bytes); an unproved
peer that announces more is cut off before a byte of it is buffered."""


def key_of(peer_id: ID) -> PeerKey:
    """The transport key inside a libp2p peer id.

    Raises:
        EncodingError: the id does not embed an Ed25519 key.
    """
    return peer_key_from_id_bytes(peer_id.to_bytes())


def id_of(peer: PeerKey) -> ID:
    """The libp2p peer id of a transport key."""
    return ID(peer_id_bytes(peer))


class RawStream(ReadWriteCloser):
    """A byte stream as libp2p's handshakes want it: reads are exact, bytes are counted.

    `read(n)` waits for n bytes or the end. That is right because everything above the wire knows
    the length it waits for (multistream-select lines, Noise frames), and it is needed because
    libp2p gives up after 100 partial reads, which a thin link delivers for one frame.
    """

    def __init__(self, stream: ByteStream, *, stall_s: float, via: PeerKey | None = None) -> None:
        """Takes over a byte stream.

        Args:
            stream: the bytes.
            stall_s: how long a send may block, seconds.
            via: the member that passes them on, if one does.
        """
        self.via: Final = via
        """The member that passes the bytes on; None: nobody."""
        self._stream = stream
        self._stall_s = stall_s
        self._buffer = bytearray()
        self._is_closed = False
        self.peer: PeerKey | None = None
        """Who proved to be at the other end, once the handshake is done."""
        self.other: PeerKey | None = None
        """Who proved to be there instead of the peer we dialed."""
        self.bytes_in = 0
        """Bytes received so far."""
        self.bytes_out = 0
        """Bytes sent so far."""
        self.on_bytes: Callable[[RawStream, int, int], None] | None = None
        """Told the bytes in and out after each transfer; may raise to end the connection."""

    def _count(self, received: int, sent: int) -> None:
        self.bytes_in += received
        self.bytes_out += sent
        if self.on_bytes is not None:
            self.on_bytes(self, received, sent)

    async def read(self, n: int | None = None) -> bytes:
        """Waits for exactly `n` bytes (any number if None); fewer mean the end.

        Raises:
            IOException: the connection broke, or `n` is larger than anything honest.
        """
        wanted = 1 if n is None else n
        if wanted > READ_BYTES_MAX:
            raise IOException(f"peer announced {wanted} bytes, at most {READ_BYTES_MAX}")
        if len(self._buffer) >= wanted:
            await trio.lowlevel.checkpoint()
        while len(self._buffer) < wanted:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError("connection broke") from error
            if not data:
                break
            self._buffer += data
            self._count(len(data), 0)
        if not self._buffer and wanted:
            raise ConnectionClosedError("connection ended")
        size = len(self._buffer) if n is None else min(n, len(self._buffer))
        with memoryview(self._buffer) as view:
            result = bytes(view[:size])
        del self._buffer[:size]
        return result

    async def write(self, data: bytes) -> None:
        """Sends everything.

        Raises:
            IOException: the connection broke or stalled.
        """
        try:
            with trio.fail_after(self._stall_s):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("connection broke") from error
        except trio.TooSlowError as error:
            raise ConnectionClosedError("peer does not read") from error
        self._count(0, len(data))

    async def close(self) -> None:
        """Closes the stream at once; repeating it is harmless."""
        if self._is_closed:
            return
        self._is_closed = True
        with trio.CancelScope(shield=True) as scope:
            scope.cancel()
            await self._stream.aclose()

    def get_remote_address(self) -> tuple[str, int] | None:
        """The address at the other end."""
        return remote_address(self._stream)

    def get_local_address(self) -> tuple[str, int] | None:
        """The address at this end."""
        return local_address(self._stream)


class _Expected(ID):
    """The peer id we dial; remembers which one the other side proved.

    libp2p compares the two right after it has verified the other side's signature, and before it
    tells who we are.
    """

    proven: ID | None = None

    def __eq__(self, other: object) -> bool:
        """Compares, and remembers what with."""
        if isinstance(other, ID):
            self.proven = other
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        """Compares, and remembers what with."""
        return not self == other

    __hash__ = ID.__hash__


class GatedNoise(NoiseTransport):
    """Noise, followed by one question: may the peer that proved this key stay?"""

    def __init__(self, keys: KeyPair, may_enter: Callable[[PeerKey, bool], bool]) -> None:
        """`may_enter(peer, is_inbound)` decides, after the proof and before anything else."""
        super().__init__(keys, noise_privkey=new_x25519_key_pair().private_key)
        self._may_enter = may_enter
        self._raw: Final = WeakKeyDictionary[ISecureConn, RawStream]()

    def raw_of(self, secured: ISecureConn) -> RawStream | None:
        """The byte stream below a connection that was secured here."""
        return self._raw.get(secured)

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Secures a connection a peer opened."""
        return await self._admit(conn, await super().secure_inbound(conn), is_inbound=True)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """Secures a connection we opened."""
        expected = _Expected(peer_id.to_bytes())
        try:
            secured = await super().secure_outbound(conn, expected)
        except PeerIDMismatchesPubkey:
            raw = getattr(conn, "stream", None)
            if isinstance(raw, RawStream) and expected.proven is not None:
                with contextlib.suppress(EncodingError):
                    raw.other = key_of(expected.proven)
            raise
        return await self._admit(conn, secured, is_inbound=False)

    async def _admit(
        self, conn: IRawConnection, secured: ISecureConn, *, is_inbound: bool
    ) -> ISecureConn:
        try:
            peer = key_of(secured.get_remote_peer())
        except EncodingError as error:
            await secured.close()
            raise HandshakeFailure("peer key is not Ed25519") from error
        if not self._may_enter(peer, is_inbound):
            await secured.close()
            raise HandshakeFailure("peer is not admitted")
        raw = getattr(conn, "stream", None)
        if isinstance(raw, RawStream):
            raw.peer = peer
            self._raw[secured] = raw
        return secured


class Upgrader(TransportUpgrader):
    """Noise and our own yamux, nothing else."""

    def __init__(self, noise: GatedNoise, config: NetworkConfig) -> None:
        """Offers exactly one security protocol and one multiplexer."""
        super().__init__({NOISE: noise}, {}, negotiate_timeout=config.negotiate_s)
        self._noise = noise
        self._config = config
        self._muxers: GenericMultistreamSelector[type[Mux]] = GenericMultistreamSelector()
        self._muxers.add_handler(YAMUX, Mux)

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Negotiates the multiplexer."""
        try:
            await self._muxers.select(conn, conn.is_initiator, self._config.negotiate_s)
        except (MultiselectError, MultiselectClientError) as error:
            raise MuxerUpgradeFailure("failed to negotiate the multiplexer") from error
        mux = Mux(
            conn,
            peer_id,
            streams_max=self._config.streams_per_peer_max,
            window_bytes=self._config.stream_window_bytes,
            stall_s=self._config.stall_s,
        )
        mux.raw = self._noise.raw_of(conn)
        return mux


class SafeManager:
    """Stands before a service's task manager so that a failing task fails alone.

    In libp2p any exception in any task ends the whole service, and a malformed message from a peer
    is enough to raise one. Daemon tasks pass through: if one of those ends, the supervisor must
    rebuild the host.
    """

    def __init__(self, real: InternalManagerAPI, on_failure: Callable[[BaseException], None]):
        """Wraps `real`; `on_failure` is told each exception that was caught."""
        self.real: Final = real
        self._on_failure = on_failure

    def run_task(
        self,
        async_fn: Callable[..., Awaitable[Any]],
        *args: Any,
        daemon: bool = False,
        name: str | None = None,
    ) -> None:
        """Runs a task whose exceptions are caught."""

        async def guarded() -> None:
            try:
                await async_fn(*args)
            except Exception as error:  # noqa: BLE001 - this is the fence
                self._on_failure(error)

        self.real.run_task(
            guarded, daemon=daemon, name=name or getattr(async_fn, "__name__", "task")
        )

    def __getattr__(self, name: str) -> Any:
        """Everything else is the real manager's."""
        return getattr(self.real, name)


class Fence:
    """Gives a service its task manager fenced in: one fence for as long as it is one manager."""

    def __init__(self, on_failure: Callable[[BaseException], None]) -> None:
        """`on_failure` is told each exception that a task raised."""
        self._on_failure = on_failure
        self._safe: SafeManager | None = None

    def around(self, real: InternalManagerAPI) -> InternalManagerAPI:
        """The manager behind the fence."""
        if self._safe is None or self._safe.real is not real:
            self._safe = SafeManager(real, self._on_failure)
        # It passes on whatever it does not fence.
        return cast("InternalManagerAPI", self._safe)


class GuardedSwarm(Swarm):
    """libp2p's connection table, without its dialing, its listeners and its fragility."""

    def __init__(
        self,
        keys: KeyPair,
        upgrader: TransportUpgrader,
        *,
        connections_max: int,
        on_connected: Callable[[SwarmConn], None],
        on_disconnected: Callable[[INetConn], None],
    ) -> None:
        """No transports: `network.py` dials and accepts itself and hands raw connections over."""
        peer_id = ID.from_pubkey(keys.public_key)
        peerstore = PeerStore()
        peerstore.add_key_pair(peer_id, keys)
        self._fence = Fence(_log_task_failure)
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        super().__init__(
            peer_id,
            peerstore,
            upgrader,
            transports=[],
            retry_config=RetryConfig(max_retries=0),
            connection_config=ConnectionConfig(
                max_connections=connections_max + 1,
                min_connections=0,
                low_watermark=0,
                high_watermark=connections_max + 1,
                max_connections_per_peer=connections_max + 1,
                auto_connect_interval=86_400.0,
            ),
        )
        self.notifees.clear()

    @property
    def manager(self) -> InternalManagerAPI:
        """The task manager behind its fence."""
        return self._fence.around(super().manager)

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Registers a connection and tells the network."""
        conn = await super().add_conn(muxed_conn, direction)
        self._on_connected(conn)
        return conn

    def remove_conn(self, swarm_conn: SwarmConn) -> None:
        """Forgets a connection and tells the network."""
        super().remove_conn(swarm_conn)
        self._on_disconnected(swarm_conn)


def _log_task_failure(error: BaseException) -> None:
    logger.debug("a libp2p task failed and was contained: %r", error)


def key_pair(seed: bytes) -> KeyPair:
    """libp2p's form of our transport key."""
    private = LibP2PPrivateKey.from_bytes(seed)
    return KeyPair(private, private.get_public_key())


class _Forwarder(logging.Handler):
    """Passes libp2p's records on to our logger, at debug level only."""

    def emit(self, record: logging.LogRecord) -> None:
        """Forwards one record; libp2p's errors are remote-triggered, so they never shout."""
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s: %s", record.name, record.getMessage()[:300])


def quiet_logging() -> None:
    """Keeps what peers can provoke out of the operator's log.

    Importing libp2p leaves its logger at WARNING without a handler, so that Python's last resort
    prints to stderr, and some of its modules call the root logger, which would install a handler.
    """
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())
    library = logging.getLogger("libp2p")
    library.propagate = False
    library.setLevel(logging.WARNING)
    if not any(isinstance(handler, _Forwarder) for handler in library.handlers):
        library.handlers[:] = [_Forwarder()]
