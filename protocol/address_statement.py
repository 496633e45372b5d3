"""Address statements: a member says where it can be reached, signed by its node key.

COSE_Sign1 over (chain, era, subject, transport key, sequence, expiry, addresses). Only the member
itself can name addresses for its key, so nobody is sent to a place in somebody else's name; whoever
passes a statement on changes nothing. Rules: docs/spec/reach.md, section 2.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from protocol.cose import Signed, parse_signed, sign
from protocol.digest import ChainId, DidId
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    as_uint,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.keys import PUBLIC_KEY_BYTES, PrivateKey, PublicKey

STATEMENT_TAG: Final = "swarmd/addresses/1"
"""Domain of these signatures."""
STATEMENT_BYTES_MAX: Final = 1024
"""Eight addresses of 39 characters and two forwarders take about 700 bytes."""
ADDRESSES_MAX: Final = 8
"""Addresses of one statement."""
FORWARDERS_MAX: Final = 4
"""Forwarders of one statement."""
LIFETIME_MS_MAX: Final = 7 * 86_400_000
"""Between a statement's making and its expiry, milliseconds: a gateway that was off for a weekend
is still found; one that moved is not looked for in vain for longer."""
_HOST_CHARACTERS_MAX: Final = 39
_PORT_MAX: Final = 65_535
_PORTS_BELOW_1024: Final = (443,)
"""Privileged ports a statement may name. Others belong to services that a stranger's bytes might
disturb (mail, file servers), which no member shall be able to send a whole group to."""


def is_peer_port(port: int) -> bool:
    """Whether a member may have others dial a TCP port in its name."""
    return 1024 <= port <= _PORT_MAX or port in _PORTS_BELOW_1024


class Reach(IntEnum):
    """How far the addresses of a statement mean the same machine."""

    MACHINE = 1
    """Loopback."""
    SITE = 2
    """Private networks."""
    WORLD = 3
    """Everywhere."""


@dataclass(frozen=True, slots=True, order=True)
class StatedAddress:
    """A host and a TCP port."""

    host: str
    """IPv4 or IPv6 address in canonical text form; never a name."""
    port: int
    """443, or 1024 to 65535."""

    def __post_init__(self) -> None:
        """Refuses what a statement may not name.

        Raises:
            EncodingError: not a canonical address, or a port that belongs to other services.
        """
        if len(self.host) > _HOST_CHARACTERS_MAX:
            raise EncodingError(f"stated host of {len(self.host)} characters, at most 39")
        try:
            address = ipaddress.ip_address(self.host)
        except ValueError:
            raise EncodingError(f"stated host {self.host!r} is not an address") from None
        if str(address) != self.host or "%" in self.host:
            raise EncodingError(f"stated host {self.host!r} is not in canonical form")
        if not is_peer_port(self.port):
            raise EncodingError(f"stated port {self.port}, allowed 443 and 1024 to {_PORT_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressStatement:
    """What a member says about itself."""

    era: int
    """Era it is signed for."""
    subject: DidId
    """Who; its node key signs."""
    peer: bytes
    """Its transport key, 32 bytes; a rotation of that key ends the statement."""
    reach: Reach
    """How far these addresses reach; a member has one statement of each kind."""
    sequence: int
    """Greater in each newer statement of the kind: ledger time in milliseconds, or one more than
    the last."""
    expires_ms: int
    """Ledger time from which it is void, milliseconds; at most a week after `sequence`."""
    addresses: tuple[StatedAddress, ...]
    """Where it listens; empty: nowhere (any more)."""
    forwarders: tuple[bytes, ...] = ()
    """Transport keys of members that pass connections on to it, with `Reach.WORLD` only."""
    forwards: bool = False
    """Whether it passes connections on to others, with `Reach.WORLD` only."""

    def __post_init__(self) -> None:
        """Refuses inconsistent statements.

        Raises:
            EncodingError: a list is too long or has repetitions, or the life is too long.
        """
        if len(self.peer) != PUBLIC_KEY_BYTES:
            raise EncodingError(f"stated peer key of {len(self.peer)} bytes, expected 32")
        for items, maximum in (
            (self.addresses, ADDRESSES_MAX),
            (self.forwarders, FORWARDERS_MAX),
        ):
            if len(items) > maximum or len(set(items)) != len(items):
                raise EncodingError(f"statement with {len(items)} entries, or one twice")
        if not 0 < self.expires_ms - self.sequence <= LIFETIME_MS_MAX:
            raise EncodingError("statement lives for no time, or for more than a week")
        if self.reach is not Reach.WORLD and (self.forwarders or self.forwards):
            raise EncodingError("forwarding is stated with the addresses of the world only")

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        return encode_canonical(
            {
                0: 1,
                1: self.era,
                2: self.subject,
                3: self.peer,
                4: int(self.reach),
                5: self.sequence,
                6: self.expires_ms,
                7: [[item.host, item.port] for item in self.addresses],
                8: list(self.forwarders),
                9: self.forwards,
            }
        )


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A parsed statement; not verified until `verify` was called."""

    statement: AddressStatement
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self, key: PublicKey, chain: ChainId) -> None:
        """Checks the signature of the subject's node key.

        Raises:
            SignatureError: another key, chain or era, or altered bytes.
        """
        self.signed.verify(key, tag=STATEMENT_TAG, chain=chain, era=self.statement.era)


def _address(value: Value) -> StatedAddress:
    host, port = as_array(value, "stated address", size=2)
    if not isinstance(host, str):
        raise EncodingError("stated host is not text")
    return StatedAddress(host, as_uint(port, "stated port", maximum=_PORT_MAX))


def _key(value: Value) -> bytes:
    return as_bytes(value, "forwarder", size=PUBLIC_KEY_BYTES)


def parse_statement(raw: bytes) -> SignedStatement:
    """Parses signed statement bytes, without checking the signature.

    Raises:
        EncodingError: malformed, inconsistent, or over 1 KiB.
    """
    signed = parse_signed(raw, bytes_max=STATEMENT_BYTES_MAX)
    value = decode_canonical(signed.payload, bytes_max=STATEMENT_BYTES_MAX)
    fields = Fields(value, "address statement")
    fields.constant(0, 1)
    statement = AddressStatement(
        era=fields.uint(1),
        subject=DidId(fields.digest(2)),
        peer=fields.bytes(3, size=PUBLIC_KEY_BYTES),
        reach=fields.enum(4, Reach),
        sequence=fields.uint(5),
        expires_ms=fields.uint(6),
        addresses=fields.items(7, _address, maximum=ADDRESSES_MAX),
        forwarders=fields.items(8, _key, maximum=FORWARDERS_MAX),
        forwards=fields.boolean(9),
    )
    fields.finish()
    return SignedStatement(statement, signed)


def sign_statement(statement: AddressStatement, key: PrivateKey, chain: ChainId) -> SignedStatement:
    """Signs a statement with the subject's node key."""
    raw = sign(statement.encode(), key, tag=STATEMENT_TAG, chain=chain, era=statement.era)
    return parse_statement(raw)
