"""How far an address reaches: this machine, one link, a private network, or everywhere.

Telling a peer an address that means another machine at its place would leak how a network is built
and make the peer knock at doors of its own network. So each address has a scope, each connection
has one, and an address travels only over connections whose scope holds it (docs/spec/reach.md,
section 2).
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from functools import lru_cache
from typing import Final

_CARRIER: Final = ipaddress.ip_network("100.64.0.0/10")
"""Shared by the customers of one carrier (RFC 6598): private to whoever is behind it."""


class Scope(IntEnum):
    """Where an address means the same machine; the numbers are part of address statements."""

    NOWHERE = 0
    """Multicast, unspecified, reserved, or bound to one link: never told, never taken."""
    MACHINE = 1
    """Loopback."""
    SITE = 2
    """Private networks (RFC 1918, RFC 4193, RFC 6598)."""
    WORLD = 3
    """Everywhere."""


@lru_cache(maxsize=1024)
def scope_of(host: str) -> Scope:
    """The scope of an IPv4 or IPv6 address in text form; names and malformed texts have none."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return Scope.NOWHERE
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return scope_of(str(address.ipv4_mapped))
    if address.is_loopback:
        return Scope.MACHINE
    if address.is_multicast or address.is_unspecified or address.is_link_local:
        return Scope.NOWHERE
    if address.version == 4 and address in _CARRIER:
        return Scope.SITE
    if address.version == 6 and address.is_site_local:  # deprecated (RFC 3879)
        return Scope.NOWHERE
    if _is_reserved(address):
        return Scope.NOWHERE
    return Scope.SITE if _is_private(address) else Scope.WORLD


_PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
_RESERVED: Final = tuple(
    ipaddress.ip_network(text) for text in ("0.0.0.0/8", "240.0.0.0/4", "::/16", "100::/64")
)
"""Never a peer's: this network, class E with the broadcast address, discard prefix (RFC 6890)."""


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in network for network in _PRIVATE if network.version == address.version)


def _is_reserved(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in network for network in _RESERVED if network.version == address.version)


def connection_scope(remote_host: str) -> Scope:
    """The narrowest addresses that may be told over a connection, by the address at its other end.

    Where that is unknown, or the connection goes through a third node, only addresses that mean the
    same machine everywhere may be told.
    """
    scope = scope_of(remote_host)
    return Scope.WORLD if scope is Scope.NOWHERE else scope
