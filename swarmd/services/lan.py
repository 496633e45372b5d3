"""Finding peers on the local network by multicast DNS (RFC 6762, RFC 6763), where that is wanted.

What is said aloud: a service of this program, a truncated hash of the chain id, the transport key
and the port. Nothing tells what is held, for which groups, or which machine this is by name. What
is heard is a hint where a key may be found: membership is proved by the handshake and by hello.

The multicast is zeroconf's, which runs an event loop of its own in a thread; the two sides meet
only where its callback hands a found service over (docs/adr/0015-reach.md).
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from protocol.digest import ChainId, tagged_digest
from protocol.errors import ConfigError, EncodingError
from swarmd.net.address import PeerAddress, PeerKey, parse_peer_id, peer_id_text
from swarmd.net.address_scope import scope_of
from swarmd.net.local_networks import interface_address

if TYPE_CHECKING:
    from zeroconf import ServiceInfo, Zeroconf

logger = logging.getLogger(__name__)

SERVICE_TYPE: Final = "_swarmd._tcp.local."
"""Service type (RFC 6763, section 7)."""
HINT_BYTES: Final = 8
"""Bytes of the hash that stands for the chain: enough to tell chains apart on one network, too few
to show which chain it is among those somebody does not know."""
FOUND_MAX: Final = 256
"""Peers of the local network that are remembered; further ones are ignored until one leaves."""
HOSTS_MAX: Final = 4
"""Addresses taken of one service."""
RETRY_S: Final = 60.0
"""How often the interface is looked at, seconds."""
ASK_MS: Final = 3000
"""How long a found service is asked for its addresses, milliseconds."""
_PROPERTY_CHARACTERS_MAX: Final = 64


def chain_hint(chain: ChainId) -> str:
    """What stands for the chain on the local network: 16 hex digits."""
    return tagged_digest("swarmd/lan-chain/1", chain)[:HINT_BYTES].hex()


def instance_name(chain: ChainId, peer: PeerKey) -> str:
    """The name of this node's service: 16 hex digits that are the same after each start."""
    return tagged_digest("swarmd/lan-name/1", chain + peer)[:HINT_BYTES].hex()


class LanDiscovery:
    """Announces this node on one interface and notes whom else it hears there."""

    def __init__(
        self,
        *,
        chain: ChainId,
        peer: PeerKey,
        interface: str,
        listen: Sequence[tuple[str, int]],
        on_change: Callable[[], None],
    ) -> None:
        """Prepares the announcement; nothing is sent before `run`.

        Args:
            chain: whose members are looked for.
            peer: this node's transport key.
            interface: the interface that is used, and no other: its name or its IPv4 address.
            listen: where this node listens; what is not on that interface is not announced.
            on_change: told when somebody was found; must not block.
        """
        self._chain = chain
        self._peer = peer
        self._wanted = interface
        self._interface = ""
        self._listen = tuple(listen)
        self._on_change = on_change
        self._found: dict[str, tuple[PeerAddress, ...]] = {}

    def addresses(self, peer: PeerKey) -> tuple[PeerAddress, ...]:
        """Where a peer was heard."""
        return tuple(
            address
            for addresses in self._found.values()
            for address in addresses
            if address.peer == peer
        )

    def peers(self) -> tuple[PeerKey, ...]:
        """Keys that were heard, in the order they came."""
        return tuple(dict.fromkeys(items[0].peer for items in self._found.values()))

    async def run(self) -> None:
        """Announces and listens until cancelled; leaving is said, too.

        An interface that is not there yet, or has no address, is looked at again every minute.
        """
        while True:
            try:
                self._interface = interface_address(self._wanted)
                await self._run_on_interface()
            except (OSError, ConfigError) as error:
                logger.warning("nobody is looked for on the local network: %s", error)
            await trio.sleep(RETRY_S)

    async def _run_on_interface(self) -> None:
        """Announces and listens as long as the interface has its address."""
        token = trio.lowlevel.current_trio_token()
        opened = await trio.to_thread.run_sync(self._open, token)
        try:
            while interface_address(self._wanted) == self._interface:  # noqa: ASYNC110
                await trio.sleep(RETRY_S)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(opened.close)

    def _open(self, token: trio.lowlevel.TrioToken) -> Zeroconf:
        """Starts the multicast; runs in a worker thread, for it probes for three seconds."""
        from zeroconf import IPVersion, ServiceBrowser, ServiceListener, Zeroconf

        discovery = self
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((self._interface, 0))  # zeroconf leaves sockets open if it is not ours

        class Heard(ServiceListener):
            def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
                info = zc.get_service_info(type_, name, timeout=ASK_MS)
                if info is not None:
                    token.run_sync_soon(discovery.heard, name, _properties(info), _hosts(info))

            def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
                self.add_service(zc, type_, name)

            def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:  # noqa: ARG002
                token.run_sync_soon(discovery.left, name)

        opened = Zeroconf(interfaces=[self._interface], ip_version=IPVersion.V4Only)
        try:
            ServiceBrowser(opened, SERVICE_TYPE, Heard())
            if (port := self._port()) is not None:
                opened.register_service(self._announcement(port))
        except BaseException:
            opened.close()
            raise
        return opened

    def _port(self) -> int | None:
        """Where this node listens on the interface; None: nowhere."""
        everywhere = ipaddress.IPv4Address(0)
        hosts = [(ipaddress.ip_address(host), port) for host, port in self._listen]
        return next(
            (port for host, port in hosts if host == everywhere or str(host) == self._interface),
            None,
        )

    def _announcement(self, port: int) -> ServiceInfo:
        from zeroconf import ServiceInfo

        name = instance_name(self._chain, self._peer)
        return ServiceInfo(
            SERVICE_TYPE,
            f"{name}.{SERVICE_TYPE}",
            addresses=[socket.inet_aton(self._interface)],
            port=port,
            properties={"c": chain_hint(self._chain), "p": peer_id_text(self._peer)},
            server=f"{name}.local.",
        )

    # -- what was heard ------------------------------------------------------------------------

    def heard(
        self, name: str, properties: dict[str, str], hosts: tuple[tuple[str, int], ...]
    ) -> None:
        """Takes a service in if it is of this chain and well formed; anybody may have sent it."""
        if properties.get("c") != chain_hint(self._chain):
            return
        try:
            peer = parse_peer_id(properties.get("p", ""))
            found = tuple(
                PeerAddress(peer, host, port)
                for host, port in hosts[:HOSTS_MAX]
                if scope_of(host) is scope_of(self._interface)
            )
        except EncodingError as error:
            logger.debug("service on the local network not used: %s", error)
            return
        is_new = self._found.get(name) != found
        if peer == self._peer or not found or not is_new:
            return
        if name not in self._found and len(self._found) >= FOUND_MAX:
            return
        self._found[name] = found
        self._on_change()

    def left(self, name: str) -> None:
        """Forgets a service that said good-bye or was not heard any more."""
        self._found.pop(name, None)


def _properties(info: ServiceInfo) -> dict[str, str]:
    """The text properties of a service that can be ours; nothing longer is looked at."""
    found: dict[str, str] = {}
    for key, value in info.properties.items():
        if value is not None and len(key) == 1 and len(value) <= _PROPERTY_CHARACTERS_MAX:
            found[key.decode("ascii", "replace")] = value.decode("ascii", "replace")
    return found


def _hosts(info: ServiceInfo) -> tuple[tuple[str, int], ...]:
    """IPv4 addresses of a service, with its port."""
    hosts = [ipaddress.ip_address(text) for text in info.parsed_addresses()[:HOSTS_MAX]]
    return tuple((str(host), info.port) for host in hosts if host.version == 4 and info.port)
