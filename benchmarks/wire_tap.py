"""Says what the bytes of one simulated node's connections are for: by protocol and cause.

Encryption hides from the wire what it carries, so the tap sits between multiplexer and Noise: there
a piece is what is sent at once, which TCP sends as a packet of its own, and the frames in it name
their streams. A stream's protocol is what its first lines agree on.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from unittest import mock

import trio

from protocol.catchup import decode_ledger_message
from protocol.errors import VerificationError
from swarmd.net import guards
from swarmd.net.address import PeerKey
from swarmd.net.yamux import Mux

NOISE_BYTES: Final = 18
"""What Noise adds to a piece: a length and a tag."""
_HEADER: Final = struct.Struct("!BBHII")
_DATA: Final = 0
_OPENING, _ENDING = 0x3, 0xC
_NEGOTIATION: Final = b"/multistream/"
_PREFIXES: Final = (b"/swarmd/", b"/meshsub/")


@dataclass(slots=True)
class Tally:
    """What crossed the connections of a node, in both directions."""

    pieces: Counter[str] = field(default_factory=Counter)
    """Pieces by cause; one that holds frames of several causes counts for the first."""
    bytes: Counter[str] = field(default_factory=Counter)
    """Bytes by cause, headers of the multiplexer and Noise's share included."""
    framing_bytes: int = 0
    """Of these, headers of the multiplexer and what Noise adds."""
    connections: int = 0
    """Connections whose handshake came to an end."""

    def since(self, before: Tally) -> Tally:
        """What came after a moment."""
        return Tally(
            self.pieces - before.pieces,
            self.bytes - before.bytes,
            self.framing_bytes - before.framing_bytes,
            self.connections - before.connections,
        )

    def copy(self) -> Tally:
        """What crossed so far."""
        return Tally(
            Counter(self.pieces), Counter(self.bytes), self.framing_bytes, self.connections
        )


class _TappedConnection:
    """A secured connection that tells what crosses it; all else is the real one's."""

    def __init__(self, real: Any, tally: Tally) -> None:
        self._real = real
        self._tally = tally
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def write(self, data: bytes) -> None:
        self._note(data)
        await self._real.write(data)

    async def read(self, n: int | None = None) -> bytes:
        data: bytes = await self._real.read(n)
        self._note(data)
        return data

    def _note(self, data: bytes) -> None:
        """Takes one piece: whole frames, as our multiplexer sends them."""
        position, first = 0, ""
        while position + _HEADER.size <= len(data):
            _version, kind, flags, stream, value = _HEADER.unpack_from(data, position)
            start = position + _HEADER.size
            position = start + (value if kind == _DATA else 0)
            cause = self._cause(kind, flags, stream, data[start:position])
            first = first or cause
            self._tally.bytes[cause] += position - start + _HEADER.size
            self._tally.framing_bytes += _HEADER.size
        self._tally.pieces[first] += 1
        self._tally.bytes[first] += NOISE_BYTES
        self._tally.framing_bytes += NOISE_BYTES

    def _cause(self, kind: int, flags: int, stream: int, body: bytes) -> str:
        name = self._names.get(stream, "")
        if not name and any(prefix in body for prefix in _PREFIXES):
            line = next(item for item in body.splitlines() if any(p in item for p in _PREFIXES))
            words = line.decode("ascii", "replace").split("/")
            name = self._names[stream] = words[3] if words[1] == "swarmd" else words[1]
            return "libp2p: agreeing on protocols"
        if flags & _OPENING or _NEGOTIATION in body or (name and f"/{name}/".encode() in body):
            return "libp2p: opening streams" if kind != _DATA else "libp2p: agreeing on protocols"
        if kind != _DATA:
            return "libp2p: ending streams" if flags & _ENDING else "libp2p: windows, pings"
        if name == "meshsub":
            return "libp2p: gossip"
        return (
            f"swarmd: {name} {_ledger_kind(body)}".strip()
            if name == "ledger"
            else (f"swarmd: {name or 'unknown'}")
        )


def _ledger_kind(body: bytes) -> str:
    """What kind of message a frame of the ledger stream holds: its length is one to four bytes."""
    for skipped in range(1, 5):
        try:
            return type(decode_ledger_message(body[skipped:])).__name__
        except VerificationError:
            continue
    return "part of a message"


@contextmanager
def tapped(peer: PeerKey) -> Iterator[Tally]:
    """Counts what crosses the connections that a node opens within the block."""
    tally = Tally()

    class TappedMux(Mux):
        def __init__(self, conn: Any, peer_id: Any, **options: Any) -> None:
            if guards.key_of(conn.get_local_peer()) == peer:
                tally.connections += 1
                conn = _TappedConnection(conn, tally)
            super().__init__(conn, peer_id, **options)

    with mock.patch.object(guards, "Mux", TappedMux):
        yield tally


@dataclass(frozen=True, slots=True)
class Sent:
    """Something that one end of a connection sent."""

    at_s: float
    """When, simulated seconds."""
    is_ours: bool
    """Whether the node that is measured sent it."""
    bytes: int
    """How much, headers of TCP and IP not counted."""


class Timeline:
    """When what was sent, for each connection of a node."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.sent: dict[int, list[Sent]] = {}
        """By the number of the place at the other end."""

    def note(self, own: int, source: int, target: int, size_bytes: int) -> None:
        """Takes what a place sends, if this node is one of the two."""
        if size_bytes and own in (source, target):
            other = target if source == own else source
            item = Sent(trio.current_time(), source == own, size_bytes)
            self.sent.setdefault(other, []).append(item)

    def used(self, start_s: float, still: Collection[int]) -> list[list[Sent]]:
        """What was sent so far on each connection that was used since a moment, or is open."""
        return [
            sent
            for number, sent in self.sent.items()
            if sent[-1].at_s >= start_s or number in still
        ]
