"""Streams for asking on the ledger protocol: one kept open for each peer, others for a single use.

Opening a stream costs two round trips of negotiation in eight small packets, which is most of what
a question costs on a fast link, and on one that is paid for by the byte. A kept stream that broke
is replaced once; every request of the protocol may be asked twice.
"""

from __future__ import annotations

from typing import Final

import trio

from protocol.errors import RemoteProtocolError, TransportError
from swarmd.net.address import PeerKey
from swarmd.net.network import Network, Stream

IDLE_S: Final = 7200.0
"""How long who answers leaves a stream open on which nothing is asked, seconds."""
KEEP_S: Final = IDLE_S - 600.0
"""How long who asks keeps one, seconds: it ends before the other side does. Whoever asks once in a
heartbeat and a half of ten minutes, or once an hour, never opens a second one."""


class LedgerStreams:
    """Asks one question at a time on each stream."""

    def __init__(self, network: Network, protocol: str, bytes_max: int) -> None:
        """Opens streams of `protocol` with frames of at most `bytes_max` bytes."""
        self._network = network
        self._protocol = protocol
        self._bytes_max = bytes_max
        self._kept: dict[PeerKey, tuple[Stream, float]] = {}

    async def ask(self, peer: PeerKey, request: bytes) -> bytes | None:
        """Sends a request and waits for its answer; None: the peer ended the stream instead.

        Raises:
            TransportError: no connection, or it broke.
            RemoteProtocolError: the peer broke the framing.
        """
        stream = await self._take(peer)
        if stream is not None:
            try:
                answer = await self._exchange(stream, request)
            except (TransportError, RemoteProtocolError):
                answer = None
            if answer is not None:
                await self._keep(peer, stream)
                return answer
        stream = await self._network.open_stream(
            peer, self._protocol, frame_bytes_max=self._bytes_max
        )
        answer = await self._exchange(stream, request)
        if answer is not None:
            await self._keep(peer, stream)
        return answer

    async def _exchange(self, stream: Stream, request: bytes) -> bytes | None:
        """One question; whatever goes wrong, cancellation included, ends the stream."""
        try:
            await stream.send_frame(request)
            answer = await stream.receive_frame()
        except BaseException:
            await _end(stream)
            raise
        if answer is None:
            await _end(stream)
        return answer

    async def _take(self, peer: PeerKey) -> Stream | None:
        kept = self._kept.pop(peer, None)
        if kept is None:
            return None
        stream, used_at = kept
        if trio.current_time() - used_at > KEEP_S:
            await _end(stream)
            return None
        return stream

    async def _keep(self, peer: PeerKey, stream: Stream) -> None:
        if peer in self._kept or not self._network.is_connected(peer):
            await _end(stream)
        else:
            self._kept[peer] = (stream, trio.current_time())

    def forget(self, peer: PeerKey) -> None:
        """A peer left, and its streams with it."""
        self._kept.pop(peer, None)


async def _end(stream: Stream) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
        await stream.reset()
