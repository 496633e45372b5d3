"""Which networks this machine is on, so that peers on the same one can be told from others.

Reads the kernel's tables of Linux; where there are none, no network is local. What is read is a
snapshot: interfaces come and go, so callers read again now and then.
"""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
"""A network of either family."""
ROUTES: Final = Path("/proc/net/route")
"""IPv4 routes: interface, destination, gateway, flags, ..., mask; numbers in host order hex."""
ADDRESSES6: Final = Path("/proc/net/if_inet6")
"""IPv6 addresses: address, index, prefix length, scope, flags, interface; in hex."""
NETWORKS_MAX: Final = 64
"""Networks taken of one table."""
_SIOCGIFADDR: Final = 0x8915
_INTERFACE_CHARACTERS_MAX: Final = 15
_ROUTE_UP: Final = 0x1


def on_link_networks() -> tuple[IPNetwork, ...]:
    """Networks this machine reaches without a router; loopback is none of them."""
    return (*_ipv4(_lines(ROUTES)), *_ipv6(_lines(ADDRESSES6)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _ipv4(lines: Iterable[str]) -> tuple[IPNetwork, ...]:
    found: dict[IPNetwork, None] = {}
    for line in lines:
        parts = line.split()
        if len(parts) < 8 or parts[0] == "Iface":
            continue
        destination, gateway, flags, mask = (int(parts[index], 16) for index in (1, 2, 3, 7))
        if gateway or not flags & _ROUTE_UP or not mask:
            continue
        host = ipaddress.IPv4Address(struct.pack("=I", destination))
        found[ipaddress.IPv4Network((host, mask.bit_count()), strict=False)] = None
    return tuple(item for item in found if not item.is_loopback)[:NETWORKS_MAX]


def _ipv6(lines: Iterable[str]) -> tuple[IPNetwork, ...]:
    found: dict[IPNetwork, None] = {}
    for line in lines:
        parts = line.split()
        if len(parts) < 6:
            continue
        host = ipaddress.IPv6Address(bytes.fromhex(parts[0]))
        if not host.is_link_local:
            found[ipaddress.IPv6Network((host, int(parts[2], 16)), strict=False)] = None
    return tuple(item for item in found if not item.is_loopback)[:NETWORKS_MAX]


def is_within(host: str, networks: Iterable[IPNetwork]) -> bool:
    """Whether an address is in one of some networks; text that is no address is in none."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in item for item in networks if item.version == address.version)


def interface_address(name: str) -> str:
    """The IPv4 address of an interface, given by name or as the address itself.

    Raises:
        ConfigError: there is no such interface, or it has no IPv4 address.
    """
    try:
        return str(ipaddress.IPv4Address(name))
    except ValueError:
        encoded = name.encode()
    if not 0 < len(encoded) <= _INTERFACE_CHARACTERS_MAX:
        raise ConfigError(f"{name[:40]!r} is neither an IPv4 address nor an interface")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", encoded))
        except OSError as error:
            raise ConfigError(f"interface {name}: {error.strerror}") from None
    return socket.inet_ntoa(answer[20:24])
