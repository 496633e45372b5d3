"""Where this node can be reached, as far as it knows, and its signed statements about it.

An address is stated if the operator announced it or if another member has just reached this node
there. What sockets and peers say about the own address are only guesses that are worth a probe.
Pure: time comes as an argument; others probe and tell (docs/spec/reach.md, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from protocol.address_statement import (
    ADDRESSES_MAX,
    LIFETIME_MS_MAX,
    AddressStatement,
    Reach,
    SignedStatement,
    StatedAddress,
    sign_statement,
)
from protocol.digest import ChainId, DidId
from protocol.errors import EncodingError
from protocol.keys import PrivateKey
from protocol.peers_messages import PORTS_MAX
from swarmd.net.address import PeerKey
from swarmd.net.address_scope import Scope, scope_of

LIFE_MS: Final = 3 * 86_400_000
"""Life of a statement, milliseconds: a gateway that was off for a weekend is found again."""
RENEW_MS: Final = 12 * 3_600_000
"""Age at which an unchanged statement is made anew, milliseconds."""
CONFIRMED_S: Final = 6 * 3600.0
"""How long a probe's success counts, seconds; then it is repeated or the address is dropped."""
PROBE_S: Final = 3 * 3600.0
"""Age of the last success at which a new probe is due, seconds."""
DENIALS_MIN: Final = 2
"""Members that must have tried in vain before this node believes that nobody can reach it; fewer
are enough if no others are there."""
WITNESSES_MIN: Final = 2
"""Members that must have reached this node at an address which none of its sockets has."""
HOSTS_MAX: Final = 16
"""Own hosts remembered."""

assert LIFE_MS <= LIFETIME_MS_MAX, "longer ones would be refused"


class Reachability(Enum):
    """Whether the world can reach this node, by what members have tried."""

    UNKNOWN = "unknown"
    """Nobody has tried yet."""
    REACHABLE = "reachable"
    """The operator says so, or a member did reach it."""
    UNREACHABLE = "unreachable"
    """Members have tried in vain, or this node does not listen."""


@dataclass(slots=True)
class _Seen:
    """What is known of an own address."""

    confirmed_at: float | None = None
    said_by: dict[PeerKey, None] = field(default_factory=dict)
    denied_by: dict[PeerKey, None] = field(default_factory=dict)


class OwnAddresses:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        identity: tuple[DidId, PeerKey, PrivateKey],
        chain: ChainId,
        announced: Sequence[tuple[str, int]],
        listen: Sequence[tuple[str, int]],
    ) -> None:
        """Starts with what the operator says.

        Args:
            identity: who this node is, its transport key, and the node key that signs.
            chain: whose member it is.
            announced: hosts and ports that the operator announces.
            listen: where this node listens, with real ports.
        """
        self._did, self._peer, self._key = identity
        self._chain = chain
        self._announced = tuple(announced)
        self._listen = tuple(listen)
        self._seen: dict[tuple[str, int], _Seen] = {}
        self._denied_by: dict[PeerKey, None] = {}
        self._signed: dict[Reach, SignedStatement] = {}
        self.forwarders: tuple[PeerKey, ...] = ()
        """Members that pass connections on to this node now."""
        self.forwards = False
        """Whether this node passes connections on."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Ports this node listens on, worth a probe."""
        return tuple(dict.fromkeys(port for _, port in self._listen))[:PORTS_MAX]

    # -- learning ------------------------------------------------------------------------------

    def is_probe_due(self, local_host: str, now: float) -> bool:
        """Whether a member that sees this node at or from a host should be asked to probe."""
        if not self.ports:
            return False
        known = [seen for (host, _), seen in self._seen.items() if host == local_host]
        last = max((seen.confirmed_at or 0.0 for seen in known if seen.confirmed_at), default=None)
        return last is None or now - last >= PROBE_S

    def confirmed(
        self, host: str, ports: Iterable[int], now: float, *, by: PeerKey, local_host: str
    ) -> None:
        """A member says that it reached this node at some ports of a host.

        A host that is not that of an own socket is believed only when `WITNESSES_MIN` members say
        the same: else one liar had this node state a victim's address as its own.
        """
        for port in ports:
            if port in self.ports and self._is_statable(host, port):
                seen = self._seen.setdefault((host, port), _Seen())
                seen.said_by[by] = None
                if host == local_host or len(seen.said_by) >= WITNESSES_MIN:
                    seen.confirmed_at = now
                    if scope_of(host) is Scope.WORLD:
                        self._denied_by.clear()
                while len(seen.said_by) > WITNESSES_MIN:
                    seen.said_by.pop(next(iter(seen.said_by)))
        while len(self._seen) > HOSTS_MAX:
            self._seen.pop(next(iter(self._seen)))

    def denied(self, host: str, by: PeerKey) -> None:
        """A member tried to reach this node at a host in vain."""
        if scope_of(host) is Scope.WORLD:
            self._denied_by[by] = None
            while len(self._denied_by) > HOSTS_MAX:
                self._denied_by.pop(next(iter(self._denied_by)))
        for (known, _), seen in self._seen.items():
            if known == host:
                seen.denied_by[by] = None
                if len(seen.denied_by) >= DENIALS_MIN:
                    seen.confirmed_at = None
                    seen.denied_by.clear()

    @staticmethod
    def _is_statable(host: str, port: int) -> bool:
        try:
            StatedAddress(host, port)
        except EncodingError:
            return False
        return scope_of(host) is not Scope.NOWHERE

    # -- knowing -------------------------------------------------------------------------------

    def addresses(self, reach: Reach, now: float) -> tuple[StatedAddress, ...]:
        """Addresses of one reach that may be stated."""
        fresh = [
            address
            for address, seen in self._seen.items()
            if seen.confirmed_at is not None and now - seen.confirmed_at < CONFIRMED_S
        ]
        known = dict.fromkeys((*self._announced, *fresh))
        return tuple(
            StatedAddress(host, port)
            for host, port in known
            if int(scope_of(host)) == int(reach) and self._is_statable(host, port)
        )[:ADDRESSES_MAX]

    def reachability(self, now: float, *, members: int) -> Reachability:
        """Whether the world can reach this node.

        Args:
            now: monotonic seconds.
            members: connected members outside of this node's own networks that could try.
        """
        if self.addresses(Reach.WORLD, now):
            return Reachability.REACHABLE
        if not self._listen:
            return Reachability.UNREACHABLE
        denials = len(self._denied_by)
        if denials and denials >= min(DENIALS_MIN, max(1, members)):
            return Reachability.UNREACHABLE
        return Reachability.UNKNOWN

    # -- stating -------------------------------------------------------------------------------

    def statements(
        self, scope: Scope, *, era: int, time_ms: int, last_sequence: int, now: float
    ) -> tuple[SignedStatement, ...]:
        """Current statements that may be told over a connection; signed anew where needed.

        Args:
            scope: of the connection.
            era: of the own copy of the ledger.
            time_ms: ledger time, milliseconds.
            last_sequence: the greatest sequence signed so far, in earlier runs too.
            now: monotonic seconds.
        """
        return tuple(
            signed
            for reach in Reach
            if int(reach) >= int(scope)
            and (signed := self._current(reach, era, time_ms, last_sequence, now)) is not None
        )

    @property
    def sequence(self) -> int:
        """The greatest sequence signed in this run; 0: none."""
        return max((item.statement.sequence for item in self._signed.values()), default=0)

    def _current(
        self, reach: Reach, era: int, time_ms: int, last_sequence: int, now: float
    ) -> SignedStatement | None:
        addresses = self.addresses(reach, now)
        is_world = reach is Reach.WORLD
        forwarders = tuple(bytes(key) for key in self.forwarders) if is_world else ()
        forwards = self.forwards and is_world and bool(addresses)
        held = self._signed.get(reach)
        if held is None and not (addresses or forwarders):
            return None
        if held is not None and self._is_good(held.statement, era, time_ms):
            said = (held.statement.addresses, held.statement.forwarders, held.statement.forwards)
            if said == (addresses, forwarders, forwards):
                return held
        sequence = max(time_ms, last_sequence + 1, self.sequence + 1)
        statement = AddressStatement(
            era=era,
            subject=self._did,
            peer=self._peer,
            reach=reach,
            sequence=sequence,
            expires_ms=sequence + LIFE_MS,
            addresses=addresses,
            forwarders=forwarders,
            forwards=forwards,
        )
        self._signed[reach] = sign_statement(statement, self._key, self._chain)
        return self._signed[reach]

    @staticmethod
    def _is_good(statement: AddressStatement, era: int, time_ms: int) -> bool:
        return statement.era == era and time_ms - statement.sequence < RENEW_MS
