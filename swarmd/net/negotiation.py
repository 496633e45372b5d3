"""Agreement on a stream's protocol, showing each peer only what it may open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from libp2p.abc import INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from protocol.errors import TransportError

LINE_BYTES_MAX: Final = 1024
"""Longest line of a negotiation: multistream-select's own bound."""


class StreamRefusedError(TransportError):
    """The peer does not offer the protocol to us, or did not answer."""


class _BoundedLines(ReadWriteCloser):
    """A stream that refuses to read a longer line than negotiation needs."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        if n is None or n > LINE_BYTES_MAX:
            raise IOException(f"negotiation line of {n} bytes, at most {LINE_BYTES_MAX}")
        return await self._stream.read(n)

    async def write(self, data: bytes) -> None:
        await self._stream.write(data)

    async def close(self) -> None:
        await self._stream.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._stream.get_remote_address()


async def answer_negotiation(stream: INetStream, offered: Iterable[str], *, timeout_s: int) -> str:
    """Lets the peer choose one of the offered protocols; others do not exist for it.

    Raises:
        TransportError: the peer chose none in time, or broke the stream.
    """
    handlers: dict[TProtocol | None, None] = {TProtocol(name): None for name in offered}
    try:
        chosen, _ = await Multiselect(handlers).negotiate(  # type: ignore[arg-type] # no handlers
            MultiselectCommunicator(_BoundedLines(stream)), timeout_s
        )
    except (BaseLibp2pError, UnicodeDecodeError) as error:
        raise TransportError("peer agreed on no protocol") from error
    return str(chosen)


async def request_protocol(stream: INetStream, protocols: Sequence[str], *, timeout_s: int) -> str:
    """Asks the peer for the first of the protocols it offers.

    Raises:
        StreamRefusedError: it offers none of them to us.
    """
    try:
        return await MultiselectClient().select_one_of(
            [TProtocol(name) for name in protocols],
            MultiselectCommunicator(_BoundedLines(stream)),
            timeout_s,
        )
    except (BaseLibp2pError, UnicodeDecodeError) as error:
        raise StreamRefusedError(f"peer refused {', '.join(protocols)}") from error
