"""Messages of the peers protocol: where members are, and whether a member can be reached.

`/swarmd/<chain>/peers/1`: one request and one answer a stream, each one frame of canonical CBOR.
Rules: docs/spec/reach.md, sections 3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.address_statement import STATEMENT_BYTES_MAX
from protocol.encoding import Fields, Value, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.keys import PUBLIC_KEY_BYTES
from protocol.limits import KIB

PEERS_BYTES_MAX: Final = 64 * KIB
"""One frame: 48 statements of the greatest size."""
OWN_STATEMENTS_MAX: Final = 3
"""Statements a member tells about itself: one of each reach."""
WANTED_MAX: Final = 16
"""Peers asked for by name in one request."""
STATEMENTS_MAX: Final = 48
"""Statements of one answer."""
PORTS_MAX: Final = 4
"""Ports a member asks to be dialed back at."""
HOST_CHARACTERS_MAX: Final = 39
"""Longest text of an IPv6 address."""


class _Kind(IntEnum):
    ASK = 1
    PROBE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersRequest:
    """Says where the asker is, and asks where others are."""

    own: tuple[bytes, ...] = ()
    """The asker's own signed statements."""
    wanted: tuple[bytes, ...] = ()
    """Transport keys of peers whose statements are wanted in any case."""
    others: int = 0
    """How many other members' statements are welcome."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {0: int(_Kind.ASK), 1: list(self.own), 2: list(self.wanted), 3: self.others}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersAnswer:
    """What the answering member knows and may tell."""

    statements: tuple[bytes, ...]
    """Signed statements, of the answering member first."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: int(_Kind.ASK), 1: list(self.statements)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeRequest:
    """Asks whether the asker can be reached at some ports of the address it comes from."""

    ports: tuple[int, ...]
    """TCP ports; the host is always the one this request comes from."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: int(_Kind.PROBE), 1: list(self.ports)})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAnswer:
    """Where the request came from, and which ports led to the asker."""

    host: str
    """The asker's address as the answering member sees it; empty: not told."""
    reached: tuple[int, ...]
    """Ports at which the asker proved its key."""
    tried: bool
    """Whether the answering member tried at all."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical(
            {0: int(_Kind.PROBE), 1: self.host, 2: list(self.reached), 3: self.tried}
        )


def _statement(value: Value) -> bytes:
    return as_bytes(value, "statement", maximum=STATEMENT_BYTES_MAX)


def _key(value: Value) -> bytes:
    return as_bytes(value, "wanted peer", size=PUBLIC_KEY_BYTES)


def _port(value: Value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 65_535:
        raise EncodingError("port is not a number of 1 to 65535")
    return value


def _fields(frame: bytes, what: str) -> Fields:
    return Fields(decode_canonical(frame, bytes_max=PEERS_BYTES_MAX), what)


def decode_peers_request(frame: bytes) -> PeersRequest | ProbeRequest:
    """Reads a request.

    Raises:
        EncodingError: malformed, or of a kind this version does not know.
    """
    fields = _fields(frame, "peers request")
    result: PeersRequest | ProbeRequest
    match fields.enum(0, _Kind):
        case _Kind.ASK:
            result = PeersRequest(
                own=fields.items(1, _statement, maximum=OWN_STATEMENTS_MAX),
                wanted=fields.items(2, _key, maximum=WANTED_MAX),
                others=fields.uint(3, maximum=STATEMENTS_MAX),
            )
        case _Kind.PROBE:
            result = ProbeRequest(ports=fields.items(1, _port, maximum=PORTS_MAX, minimum=1))
    fields.finish()
    return result


def decode_peers_answer(frame: bytes) -> PeersAnswer:
    """Reads the answer to a `PeersRequest`.

    Raises:
        EncodingError: malformed.
    """
    fields = _fields(frame, "peers answer")
    fields.constant(0, _Kind.ASK)
    answer = PeersAnswer(statements=fields.items(1, _statement, maximum=STATEMENTS_MAX))
    fields.finish()
    return answer


def decode_probe_answer(frame: bytes) -> ProbeAnswer:
    """Reads the answer to a `ProbeRequest`.

    Raises:
        EncodingError: malformed.
    """
    fields = _fields(frame, "probe answer")
    fields.constant(0, _Kind.PROBE)
    answer = ProbeAnswer(
        host=fields.text(1, maximum=HOST_CHARACTERS_MAX),
        reached=fields.items(2, _port, maximum=PORTS_MAX),
        tried=fields.boolean(3),
    )
    fields.finish()
    return answer
