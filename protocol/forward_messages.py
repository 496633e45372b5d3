"""Messages of the forward protocol: a member passes a connection between two others on.

`/swarmd/<chain>/forward/1`: the first frame of a stream says what it is for, the first answer
whether it may be. A reservation lasts as long as its stream. After `Connect` and `Incoming` were
accepted, every further frame is a piece of the connection between the two ends, which is encrypted
from end to end; the node between them changes and reads nothing. Rules: docs/spec/reach.md,
section 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.keys import PUBLIC_KEY_BYTES
from protocol.limits import KIB

FORWARD_FRAME_BYTES_MAX: Final = 64 * KIB
"""One piece of a connection: a full Noise message with its length fits."""
FORWARD_MESSAGE_BYTES_MAX: Final = 256
"""Longest message that is no piece."""


class _Kind(IntEnum):
    RESERVE = 1
    CONNECT = 2
    INCOMING = 3
    ANSWER = 4


class ForwardStatus(IntEnum):
    """What became of a request."""

    ACCEPTED = 1
    """It is granted."""
    BUSY = 2
    """Not now: no room, or asked too often."""
    UNKNOWN = 3
    """There is no such way, or not for the asker; which of both is not told."""
    REFUSED = 4
    """Never: this node does not pass connections on, or the asker itself is reached so."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Asks to be reachable through the answering member while the stream lasts."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: int(_Kind.RESERVE)})


@dataclass(frozen=True, slots=True)
class Connect:
    """Asks for a connection to a member that has reserved."""

    target: bytes
    """Its transport key, 32 bytes."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: int(_Kind.CONNECT), 1: self.target})


@dataclass(frozen=True, slots=True)
class Incoming:
    """Offers a connection to a member that has reserved."""

    source: bytes
    """Transport key of the member that asks for it, 32 bytes; its proof comes with the handshake
    inside."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: int(_Kind.INCOMING), 1: self.source})


@dataclass(frozen=True, slots=True)
class ForwardAnswer:
    """The answer to any of these."""

    status: ForwardStatus
    """What became of it."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: int(_Kind.ANSWER), 1: int(self.status)})


ForwardRequest = Reserve | Connect | Incoming
"""What a stream may begin with."""


def _fields(frame: bytes) -> Fields:
    value = decode_canonical(frame, bytes_max=FORWARD_MESSAGE_BYTES_MAX)
    return Fields(value, "forward message")


def decode_forward_request(frame: bytes) -> ForwardRequest:
    """Reads the first frame of a stream.

    Raises:
        EncodingError: malformed, or not a request.
    """
    fields = _fields(frame)
    request: ForwardRequest
    match fields.enum(0, _Kind):
        case _Kind.RESERVE:
            request = Reserve()
        case _Kind.CONNECT:
            request = Connect(fields.bytes(1, size=PUBLIC_KEY_BYTES))
        case _Kind.INCOMING:
            request = Incoming(fields.bytes(1, size=PUBLIC_KEY_BYTES))
        case _Kind.ANSWER:
            fields.constant(0, _Kind.RESERVE)  # an answer is no request
            request = Reserve()
    fields.finish()
    return request


def decode_forward_answer(frame: bytes) -> ForwardAnswer:
    """Reads the answer to a request.

    Raises:
        EncodingError: malformed, or not an answer.
    """
    fields = _fields(frame)
    fields.constant(0, _Kind.ANSWER)
    answer = ForwardAnswer(fields.enum(1, ForwardStatus))
    fields.finish()
    return answer
