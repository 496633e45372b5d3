"""Network namespaces with real NAT between them, for tests that run as root on Linux.

Topology: one public network (a bridge in a namespace of its own), public hosts on it, and homes: a
router with a public and a private side that masquerades, and one host behind it. All homes use the
same private network, as homes do. Rules of nftables are written to the kernel directly, since the
`nft` tool need not be installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

PUBLIC = "203.0.113"
"""The public network, /24 (TEST-NET-3, RFC 5737)."""
PRIVATE = "192.168.77"
"""The private network of every home, /24."""

_NFT_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 3, 6
_REQUEST, _ACK, _CREATE = 0x1, 0x4, 0x400
_IPV4 = 2
_POSTROUTING, _SOURCE_NAT = 4, 100
_META_OUT_INTERFACE = 7
_NESTED = 0x8000


def reason_to_skip() -> str | None:
    """Why namespaces with NAT cannot be made here; None: they can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root"
    if shutil.which("ip") is None:
        return "needs iproute2"
    name = f"sw{os.getpid()}probe"
    try:
        run("ip", "netns", "add", name)
    except (subprocess.CalledProcessError, OSError) as error:
        return f"needs network namespaces: {error}"
    try:
        run("ip", "-n", name, "link", "add", "out0", "type", "veth", "peer", "name", "in0")
        in_namespace(name, masquerade, "out0")
    except (subprocess.CalledProcessError, OSError) as error:
        return f"needs veth and nftables NAT in the kernel: {error}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    return None


def run(*command: str) -> None:
    """Runs a command that must succeed."""
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def in_namespace(name: str, function: object, *args: str) -> None:
    """Calls a function in a child process inside a namespace."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY)
            _setns(descriptor)
            function(*args)  # type: ignore[operator]
            status = 0
        finally:
            os._exit(status)
    _, code = os.waitpid(child, 0)
    if code != 0:
        raise OSError(f"{function!r} failed inside namespace {name}")


def _setns(descriptor: int) -> None:
    import ctypes

    clone_newnet = 0x40000000
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, clone_newnet) != 0:
        raise OSError(ctypes.get_errno(), "setns")


# -- nftables over netlink ---------------------------------------------------------------------


def _attribute(kind: int, data: bytes) -> bytes:
    size = 4 + len(data)
    return struct.pack("=HH", size, kind) + data + bytes(-size % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack(">I", number))


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


def _message(kind: int, flags: int, family: int, resource: int, payload: bytes, seq: int) -> bytes:
    body = struct.pack(">BBH", family, 0, resource) + payload
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, seq, 0) + body


def _expression(name: str, *parts: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *parts))


def masquerade(interface: str) -> None:
    """Hides everything that leaves by an interface of this namespace behind its address."""
    hook = _nested(4, _number(1, _POSTROUTING), _number(2, _SOURCE_NAT))
    rule = _nested(
        4,
        _expression("meta", _number(1, 1), _number(2, _META_OUT_INTERFACE)),
        _expression(
            "cmp",
            _number(1, 1),
            _number(2, 0),
            _nested(3, _attribute(1, interface.encode().ljust(16, b"\0"))),
        ),
        _expression("masq"),
    )
    steps = [
        (_NEW_TABLE, _text(1, "home")),
        (_NEW_CHAIN, _text(1, "home") + _text(3, "out") + hook + _text(7, "nat")),
        (_NEW_RULE, _text(1, "home") + _text(2, "out") + rule),
    ]
    batch = _message(_BATCH_BEGIN, 0, 0, _NFT_SUBSYSTEM, b"", 0)
    for number, (kind, payload) in enumerate(steps, start=1):
        full = _NFT_SUBSYSTEM << 8 | kind
        batch += _message(full, _ACK | _CREATE, _IPV4, 0, payload, number)
    batch += _message(_BATCH_END, 0, 0, _NFT_SUBSYSTEM, b"", len(steps) + 1)
    netfilter = 12
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netfilter) as sock:
        sock.bind((0, 0))
        sock.settimeout(5)
        sock.send(batch)
        acknowledged = 0
        while acknowledged < len(steps):
            data = sock.recv(65536)
            while data:
                size, kind = struct.unpack_from("=IH", data)
                if kind == 2:  # NLMSG_ERROR, which also carries acknowledgements
                    (error,) = struct.unpack_from("=i", data, 16)
                    if error:
                        raise OSError(-error, os.strerror(-error))
                    acknowledged += 1
                data = data[(size + 3) & ~3 :]


# -- topology ----------------------------------------------------------------------------------


@dataclass
class Internet:
    """Namespaces of one test; every name begins with the test process's number."""

    prefix: str = field(default_factory=lambda: f"sw{os.getpid() % 100_000}")
    names: list[str] = field(default_factory=list)
    _links: int = 0

    def name(self, label: str) -> str:
        return f"{self.prefix}{label}"

    def _namespace(self, label: str) -> str:
        name = self.name(label)
        run("ip", "netns", "add", name)
        self.names.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        return name

    def open(self) -> None:
        """Makes the public network."""
        hub = self._namespace("net")
        run("ip", "-n", hub, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", hub, "link", "set", "br0", "up")

    def _plug(self, namespace: str, interface: str, address: str) -> None:
        """Connects an interface of a namespace to the public network."""
        self._links += 1
        hub, port = self.name("net"), f"p{self._links}"
        run(
            *("ip", "-n", hub, "link", "add", port, "type", "veth"),
            *("peer", "name", interface, "netns", namespace),
        )
        run("ip", "-n", hub, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", interface)
        run("ip", "-n", namespace, "link", "set", interface, "up")

    def host(self, label: str, number: int) -> str:
        """Adds a public host; returns its address."""
        address = f"{PUBLIC}.{number}"
        self._plug(self._namespace(label), "eth0", address)
        return address

    def home(self, label: str, number: int) -> str:
        """Adds a router that masquerades, and a host behind it; returns the public address."""
        router, host = self._namespace(f"{label}r"), self._namespace(label)
        public = f"{PUBLIC}.{number}"
        self._plug(router, "out0", public)
        run(
            *("ip", "-n", router, "link", "add", "in0", "type", "veth"),
            *("peer", "name", "eth0", "netns", host),
        )
        run("ip", "-n", router, "addr", "add", f"{PRIVATE}.1/24", "dev", "in0")
        run("ip", "-n", router, "link", "set", "in0", "up")
        run("ip", "-n", host, "addr", "add", f"{PRIVATE}.2/24", "dev", "eth0")
        run("ip", "-n", host, "link", "set", "eth0", "up")
        run("ip", "-n", host, "route", "add", "default", "via", f"{PRIVATE}.1")
        run("ip", "netns", "exec", router, "sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
        in_namespace(router, masquerade, "out0")
        return public

    def close(self) -> None:
        """Deletes every namespace that was made here, and with them their interfaces."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def internet() -> Iterator[Internet]:
    """A public network for the duration of a block."""
    made = Internet()
    try:
        made.open()
        yield made
    finally:
        made.close()
