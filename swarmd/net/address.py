"""Names of peers and where to reach them: transport keys, peer ids and multiaddrs.

Pure Python: nothing here imports libp2p, so the command line can show and check addresses without
paying for it. Formats: libp2p peer ids (an identity multihash over the protobuf key, base58btc) and
the multiaddr text form, restricted to what this project dials.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, NewType

import base58

from protocol.errors import ConfigError, EncodingError

PeerKey = NewType("PeerKey", bytes)
"""Raw Ed25519 transport public key of a peer, 32 bytes; maps losslessly to its libp2p peer id."""

PEER_KEY_BYTES: Final = 32
"""Bytes of a `PeerKey` (RFC 8032)."""
PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")
"""What precedes the key in a peer id: identity multihash (00, length 36), protobuf key type Ed25519
(08 01), 32 bytes of data (12 20)."""

_PEER_ID_CHARACTERS_MAX: Final = 52
"""An Ed25519 peer id is 52 characters long; nothing longer is decoded."""
_DNS_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_DNS_CHARACTERS_MAX: Final = 253
"""Longest host name (RFC 1035)."""
_PORT_MAX: Final = 65535


def peer_key(raw: bytes) -> PeerKey:
    """Checks the length of a raw key.

    Raises:
        EncodingError: not 32 bytes.
    """
    if len(raw) != PEER_KEY_BYTES:
        raise EncodingError(f"peer key of {len(raw)} bytes, expected {PEER_KEY_BYTES}")
    return PeerKey(bytes(raw))


def peer_id_bytes(peer: PeerKey) -> bytes:
    """The binary peer id: 38 bytes."""
    return PEER_ID_PREFIX + peer


def peer_key_from_id_bytes(raw: bytes) -> PeerKey:
    """Reads a binary peer id.

    Raises:
        EncodingError: not the id of an Ed25519 key.
    """
    if len(raw) != len(PEER_ID_PREFIX) + PEER_KEY_BYTES or not raw.startswith(PEER_ID_PREFIX):
        raise EncodingError(f"peer id {raw[:8].hex()} does not name an Ed25519 key")
    return PeerKey(raw[len(PEER_ID_PREFIX) :])


def peer_id_text(peer: PeerKey) -> str:
    """The peer id as people and multiaddrs write it: `12D3Koo…`, 52 characters."""
    return base58.b58encode(peer_id_bytes(peer)).decode("ascii")


def parse_peer_id(text: str) -> PeerKey:
    """Reads a peer id; only the one canonical text of a key is accepted.

    Raises:
        EncodingError: not base58btc, or not the id of an Ed25519 key.
    """
    if not 0 < len(text) <= _PEER_ID_CHARACTERS_MAX:
        raise EncodingError(f"peer id of {len(text)} characters, expected 52")
    try:
        raw = base58.b58decode(text)
    except ValueError as error:
        raise EncodingError(f"peer id {text!r} is not base58btc") from error
    peer = peer_key_from_id_bytes(raw)
    if peer_id_text(peer) != text:
        raise EncodingError(f"peer id {text!r} is not in canonical form")
    return peer


def short_peer(peer: PeerKey) -> str:
    """Eight hex digits that name a peer in logs."""
    return peer[:4].hex()


def _is_name(host: str) -> bool:
    labels = host.split(".")
    return len(host) <= _DNS_CHARACTERS_MAX and all(map(_DNS_LABEL.fullmatch, labels))


def _host_protocol(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not _is_name(host):
            raise EncodingError(f"host {host!r} is neither an address nor a name") from None
        return "dns4"
    if str(address) != host:
        raise EncodingError(f"host {host!r} is not in canonical form, expected {address}")
    return "ip4" if address.version == 4 else "ip6"


@dataclass(frozen=True, slots=True, order=True)
class PeerAddress:
    """Where a peer can be dialed, and the key it must prove there."""

    peer: PeerKey
    """Key the node at this address must prove."""
    host: str
    """IPv4 or IPv6 address in canonical text form, or a lower-case DNS name."""
    port: int
    """TCP port, 1 to 65535."""

    def __post_init__(self) -> None:
        """Refuses malformed parts."""
        peer_key(self.peer)
        _host_protocol(self.host)
        if not 0 < self.port <= _PORT_MAX:
            raise EncodingError(f"port {self.port}, allowed 1 to {_PORT_MAX}")

    @property
    def is_name(self) -> bool:
        """Whether the host is a name that has to be resolved."""
        return _host_protocol(self.host) == "dns4"

    @property
    def multiaddr(self) -> str:
        """Text form, such as `/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…`."""
        protocol = _host_protocol(self.host)
        return f"/{protocol}/{self.host}/tcp/{self.port}/p2p/{peer_id_text(self.peer)}"

    def __str__(self) -> str:
        """The multiaddr."""
        return self.multiaddr

    @classmethod
    def parse(cls, text: str) -> PeerAddress:
        """Reads a multiaddr received from a peer or a file; only the canonical text is accepted.

        Raises:
            EncodingError: malformed, or a transport this project does not dial.
        """
        parts = text.split("/")
        if len(parts) != 7 or parts[0] or parts[3] != "tcp" or parts[5] != "p2p":
            raise EncodingError(
                f"address {text[:120]!r}, expected /ip4|ip6|dns4/HOST/tcp/PORT/p2p/PEER"
            )
        _, protocol, host, _, port, _, peer_id = parts
        if not (port.isascii() and port.isdigit()) or len(port) > len(str(_PORT_MAX)):
            raise EncodingError(f"port {port[:8]!r} is not a number")
        address = cls(peer=parse_peer_id(peer_id), host=host, port=int(port))
        if address.multiaddr != text:
            raise EncodingError(
                f"address {text[:120]!r} is not in canonical form (/{protocol}), "
                f"expected {address.multiaddr}"
            )
        return address

    @classmethod
    def from_config(cls, text: str) -> PeerAddress:
        """Reads a multiaddr an operator wrote.

        Raises:
            ConfigError: malformed.
        """
        try:
            return cls.parse(text)
        except EncodingError as error:
            raise ConfigError(f"peer address: {error}") from error


@dataclass(frozen=True, slots=True, order=True)
class DNSAddress:
    """A name whose TXT records list addresses of peers (libp2p's `dnsaddr`)."""

    host: str
    """Lower-case DNS name; the records are at `_dnsaddr.` before it."""

    def __post_init__(self) -> None:
        """Refuses what is no name."""
        if not _is_name(self.host) or "." not in self.host:
            raise EncodingError(f"host {self.host[:80]!r} is not a DNS name")

    @property
    def multiaddr(self) -> str:
        """Text form: `/dnsaddr/bootstrap.example.org`."""
        return f"/dnsaddr/{self.host}"

    def __str__(self) -> str:
        """The multiaddr."""
        return self.multiaddr


Bootstrap = PeerAddress | DNSAddress
"""Where a node may begin to look for others."""


def parse_bootstrap(text: str) -> Bootstrap:
    """Reads what an operator wrote to say where to begin.

    Raises:
        ConfigError: malformed.
    """
    if not text.startswith("/dnsaddr/"):
        return PeerAddress.from_config(text)
    try:
        return DNSAddress(text.removeprefix("/dnsaddr/"))
    except EncodingError as error:
        raise ConfigError(f"peer address: {error}") from error


def bootstrap_peers(entries: tuple[Bootstrap, ...]) -> tuple[PeerAddress, ...]:
    """The entries of a configuration that name their peers themselves."""
    return tuple(item for item in entries if isinstance(item, PeerAddress))
