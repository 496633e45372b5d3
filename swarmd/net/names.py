"""Names of peers, resolved in the background: addresses of hosts, and `dnsaddr` lists of peers.

Dialing never waits for a name: it uses what is known, and what was known stays known while servers
fail, for an old address of a peer is better than none (the handshake proves who is there). Answers
are bounded, and so is the time they are kept. DNS is not trusted for anything else than addresses.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from protocol.errors import EncodingError, TransportError
from swarmd.net.address import Bootstrap, DNSAddress, PeerAddress

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DNSResolver

logger = logging.getLogger(__name__)

QUERY_S: Final = 5.0
"""Time for one question with its repetitions, seconds: what resolvers take by default."""
HOST_ADDRESSES_MAX: Final = 8
"""Addresses taken of one name."""
RECORDS_MAX: Final = 32
"""TXT records looked at."""
TTL_S_MIN: Final = 60.0
"""An answer is kept at least this long, seconds, so that short lives cost no stream of queries."""
TTL_S_MAX: Final = 900.0
"""... and at most this long: a moved server is found within a quarter of an hour."""
SYSTEM_TTL_S: Final = 300.0
"""How long an answer of the system's resolver is kept, seconds; it does not tell its life."""
RETRY_S_MIN: Final = 5.0
"""First pause after a failure, seconds."""
RETRY_S_MAX: Final = 300.0
"""Longest pause, seconds."""
_TXT_PREFIX: Final = "dnsaddr="
_TXT_CHARACTERS_MAX: Final = 512


@dataclass(frozen=True, slots=True)
class Server:
    """A DNS server to ask instead of the system's."""

    host: str
    """IP address."""
    port: int
    """UDP and TCP port."""


class Resolver:
    """Asks for addresses and TXT records; one question at a time for each caller."""

    def __init__(self, server: Server | None = None) -> None:
        """Asks `server`; None: whom the system asks."""
        self._server = server
        self._dns: DNSResolver | None = None

    def _resolver(self) -> DNSResolver:
        """The library's resolver; its import takes a tenth of a second, so it waits for its use."""
        if self._dns is None:
            import dns.asyncresolver
            import dns.resolver

            try:
                made = dns.asyncresolver.Resolver(configure=self._server is None)
            except dns.resolver.NoResolverConfiguration as error:
                raise TransportError(f"no DNS server is configured: {error}") from error
            if self._server is not None:
                made.nameservers = [self._server.host]
                made.port = self._server.port
            made.cache = None
            self._dns = made
        return self._dns

    async def hosts(self, name: str) -> tuple[tuple[str, ...], float]:
        """Addresses of a host, IPv6 and IPv4, and how long they may be kept, seconds.

        Raises:
            TransportError: nobody knows, or nobody answers.
        """
        if self._server is None:
            return await self._system_hosts(name), SYSTEM_TTL_S
        found: list[str] = []
        lives: list[float] = []
        failures: list[TransportError] = []
        for kind in ("AAAA", "A"):
            try:
                texts, life_s = await self._ask(name, kind)
            except TransportError as error:
                failures.append(error)
                continue
            found += [str(ipaddress.ip_address(text)) for text in texts]
            lives.append(life_s)
        if not found:
            raise failures[0]
        return tuple(found[:HOST_ADDRESSES_MAX]), min(lives)

    async def _system_hosts(self, name: str) -> tuple[str, ...]:
        try:
            with trio.fail_after(QUERY_S):
                rows = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, trio.TooSlowError) as error:
            raise TransportError(f"name {name}: {error}") from error
        hosts = dict.fromkeys(str(row[4][0]).partition("%")[0] for row in rows)
        return tuple(str(ipaddress.ip_address(host)) for host in hosts)[:HOST_ADDRESSES_MAX]

    async def texts(self, name: str) -> tuple[tuple[str, ...], float]:
        """TXT records of a name, and how long they may be kept, seconds.

        Raises:
            TransportError: there are none, or nobody answers.
        """
        return await self._ask(name, "TXT")

    async def _ask(self, name: str, kind: str) -> tuple[tuple[str, ...], float]:
        resolver = self._resolver()
        import dns.exception

        try:
            answer = await resolver.resolve(name, kind, lifetime=QUERY_S, search=False)
        except (dns.exception.DNSException, OSError) as error:
            raise TransportError(f"name {name}: {error}") from error
        if answer.rrset is None:
            raise TransportError(f"name {name} has no {kind} record")
        texts = [
            b"".join(record.strings).decode("ascii", "replace")
            if kind == "TXT"
            else str(record.address)
            for record in list(answer.rrset)[:RECORDS_MAX]
        ]
        return tuple(texts), float(answer.rrset.ttl)


class Names:
    """What the names of a configuration mean now."""

    def __init__(
        self,
        entries: Sequence[Bootstrap],
        resolver: Resolver,
        *,
        uint: Callable[[int], int],
        on_change: Callable[[], None],
    ) -> None:
        """Keeps the names among `entries` resolved while `run` runs.

        Args:
            entries: addresses, some of them with names.
            resolver: asks.
            uint: entropy, for the jitter of pauses.
            on_change: told when a name has got another meaning; must not block.
        """
        self._resolver = resolver
        self._uint = uint
        self._on_change = on_change
        self._literal = tuple(
            item for item in entries if isinstance(item, PeerAddress) and not item.is_name
        )
        self._named = tuple(item for item in entries if item not in self._literal)
        self._found: dict[Bootstrap, tuple[PeerAddress, ...]] = {}
        self.errors: dict[str, str] = {}
        """Names that could not be resolved the last time, and why; for people."""

    def addresses(self) -> tuple[PeerAddress, ...]:
        """All addresses known now, without names."""
        found = (address for item in self._named for address in self._found.get(item, ()))
        return tuple(dict.fromkeys((*self._literal, *found)))

    async def run(self) -> None:
        """Resolves until cancelled; each name by itself, so that none waits for another."""
        async with trio.open_nursery() as nursery:
            for item in self._named:
                nursery.start_soon(self._keep, item)

    async def _keep(self, item: Bootstrap) -> None:
        pause_s = RETRY_S_MIN
        while True:
            try:
                addresses, life_s = await self._resolve(item)
            except TransportError as error:
                self.errors[item.host] = str(error)[:200]
                logger.info("%s; what was known stays in use", error)
                wait_s, pause_s = pause_s, min(RETRY_S_MAX, pause_s * 2)
            else:
                self.errors.pop(item.host, None)
                wait_s, pause_s = min(max(life_s, TTL_S_MIN), TTL_S_MAX), RETRY_S_MIN
                if self._found.get(item) != addresses:
                    self._found[item] = addresses
                    self._on_change()
            await trio.sleep(wait_s * (0.75 + self._uint(512) / 1024))

    async def _resolve(self, item: Bootstrap) -> tuple[tuple[PeerAddress, ...], float]:
        if isinstance(item, PeerAddress):
            hosts, life_s = await self._resolver.hosts(item.host)
            return tuple(PeerAddress(item.peer, host, item.port) for host in hosts), life_s
        return await self._resolve_list(item)

    async def _resolve_list(self, item: DNSAddress) -> tuple[tuple[PeerAddress, ...], float]:
        texts, life_s = await self._resolver.texts(f"_dnsaddr.{item.host}")
        addresses: dict[PeerAddress, None] = {}
        for listed in filter(None, map(_listed, texts)):
            if not listed.is_name:
                addresses[listed] = None
                continue
            try:
                hosts, host_life_s = await self._resolver.hosts(listed.host)
            except TransportError as error:
                logger.info("%s, which %s lists", error, item.host)
                continue
            life_s = min(life_s, host_life_s)
            for host in hosts:
                addresses[PeerAddress(listed.peer, host, listed.port)] = None
        return tuple(addresses), life_s


def _listed(text: str) -> PeerAddress | None:
    """The address in a TXT record; None: another record, or of a form that is not dialed here."""
    if not text.startswith(_TXT_PREFIX) or len(text) > _TXT_CHARACTERS_MAX:
        return None
    try:
        return PeerAddress.parse(text.removeprefix(_TXT_PREFIX))
    except EncodingError as error:
        logger.debug("record not used: %s", error)
        return None
