"""Whom to dial when and where: a machine without I/O, clock or randomness of its own.

Participants: the host, which dials and reports; this machine, which remembers how each address
behaved. Goals: a live address is found among dead ones within one stagger each; a dead address
costs ever less; a peer that many nodes lost at once is not stormed by them; an address that nobody
but its teller vouches for cannot be made a target. Non-goals: who is a member, names, sockets.

Rules (docs/spec/reach.md, section 1):
- An address that failed rests for a time that doubles with each failure, spread by jitter; a
  success clears it.
- An address that has never proved its peer's key is *unproven*: it is tried a few times a day, and
  all unproven addresses together, those of one peer and those at one host are rationed besides.
- A peer that was lost is due after a random part of the time that keeps the redials of all nodes
  below `REDIALS_PER_S`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import zip_longest
from typing import Final

from swarmd.net.address import PeerAddress, PeerKey

REST_S_MIN: Final = 0.5
"""Rest of an address after its first failure, seconds, before jitter."""
REST_S_MAX: Final = 60.0
"""Longest rest of an address the operator configured, seconds, before jitter."""
FOUND_REST_S_MAX: Final = 3600.0
"""Longest rest of any other address, seconds, before jitter."""
UNPROVEN_TRIES: Final = 4
"""Failures after which an address that never proved its key is left alone for a day."""
GIVEN_UP_S: Final = 86_400.0
"""How long such an address is left alone, seconds."""
DIALED_AT_ONCE: Final = 8
"""Addresses of one peer tried in one attempt."""
RECORDS_MAX: Final = 4096
"""Addresses remembered: about 1 MiB. Those never proved are forgotten first, the oldest first."""
REDIALS_PER_S: Final = 64
"""What one node takes well from all that lost it: a handshake costs it about 5 ms."""
SPREAD_S_MAX: Final = 60.0
"""Longest time over which redials of a lost peer are spread, seconds."""
JITTER_STEPS: Final = 1024
"""Resolution of the jitter."""
_HOUR_S: Final = 3600.0
UNPROVEN_PER_HOUR: Final = 240
"""Dials of unproven addresses in all."""
UNPROVEN_PER_PEER_HOUR: Final = 16
"""Dials of unproven addresses that one peer stated: two full statements."""
UNPROVEN_PER_HOST_HOUR: Final = 8
"""Dials of unproven addresses at one host, whoever stated them."""
METERS_MAX: Final = 2048
"""Rations kept; the one used least recently is forgotten first, and is full by then or nearly."""


class Origin(Enum):
    """Who vouches for an address."""

    CONFIGURED = "configured"
    """The operator, in the configuration or a token."""
    PROVEN = "proven"
    """This node: the peer proved its key there before."""
    LAN = "lan"
    """Found on the local network."""
    STATED = "stated"
    """The peer itself, in a signed statement."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address that may lead to a peer."""

    address: PeerAddress
    """Where; the host is an address, not a name."""
    origin: Origin
    """Who vouches for it."""


@dataclass(slots=True)
class AddressRecord:
    """How an address has behaved."""

    failures: int = 0
    """In a row, since the last success."""
    not_before: float = 0.0
    """Rests until then, monotonic seconds."""
    good_at: float | None = None
    """Last success, monotonic seconds; None: never since this was made."""
    is_proven: bool = False
    """The peer has proved its key here, now or before a restart."""
    tried_at: float | None = None
    """Last attempt, monotonic seconds."""
    error: str = ""
    """Why the last attempt failed; empty after a success."""


@dataclass(slots=True)
class _Meter:
    """A ration that refills evenly."""

    left: float
    since: float


class _Rations:
    """Rations by key: `burst` at once, as many again in an hour."""

    def __init__(self) -> None:
        self._meters: dict[Hashable, _Meter] = {}

    def left(self, key: Hashable, burst: int, now: float) -> float:
        meter = self._meters.get(key)
        if meter is None:
            return float(burst)
        return min(float(burst), meter.left + (now - meter.since) * burst / _HOUR_S)

    def take(self, key: Hashable, burst: int, now: float) -> None:
        left = self.left(key, burst, now)
        self._meters.pop(key, None)
        self._meters[key] = _Meter(left - 1, now)
        while len(self._meters) > METERS_MAX:
            self._meters.pop(next(iter(self._meters)))


def host_key(host: str) -> str:
    """What counts as one host: an IPv4 address, or the first 64 bits of an IPv6 address."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return host
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)


def interleaved(addresses: Iterable[PeerAddress]) -> tuple[PeerAddress, ...]:
    """Alternates the address families, IPv6 first (RFC 8305, section 4), order kept within each."""
    listed = list(addresses)
    six = [item for item in listed if ":" in item.host]
    four = [item for item in listed if ":" not in item.host]
    pairs = zip_longest(six, four)
    return tuple(item for pair in pairs for item in pair if item is not None)


@dataclass(slots=True)
class _Peer:
    not_before: float = 0.0
    refusals: int = 0


@dataclass(slots=True, kw_only=True)
class DialPlan:
    """The memory of addresses, and what follows from it."""

    uint: Callable[[int], int]
    """Entropy: a random integer below its argument."""
    _records: dict[PeerAddress, AddressRecord] = field(default_factory=dict)
    _peers: dict[PeerKey, _Peer] = field(default_factory=dict)
    _rations: _Rations = field(default_factory=_Rations)

    # -- asking --------------------------------------------------------------------------------

    def record(self, address: PeerAddress) -> AddressRecord | None:
        """What is remembered of an address; None: nothing."""
        return self._records.get(address)

    def choose(
        self, peer: PeerKey, candidates: Iterable[Candidate], now: float
    ) -> tuple[PeerAddress, ...]:
        """The addresses to try now, best first; empty: none is due.

        Last good first, then the others by family and by how seldom they failed. What is returned
        counts against the rations: dial it.
        """
        if now < self._not_before(peer):
            return ()
        ready = [item for item in candidates if self._is_ready(item, now)]
        good = [item.address for item in ready if self._good_at(item.address) is not None]
        good.sort(key=lambda address: -(self._good_at(address) or 0.0))
        rest = [item for item in ready if self._good_at(item.address) is None]
        rest.sort(key=lambda item: (self._failures(item.address), _RANK[item.origin]))
        others = interleaved(item.address for item in rest)
        chosen = tuple(dict.fromkeys((*good, *others)))[:DIALED_AT_ONCE]
        return self._within_rations(chosen, ready, now)

    def due_at(self, peer: PeerKey, candidates: Iterable[Candidate], now: float) -> float:
        """When the peer and one of the addresses are due next, monotonic seconds.

        Without addresses the peer's own rest decides: there may be a way through a third node.
        """
        times = [self._ready_at(item, now) for item in candidates]
        return max(now, self._not_before(peer), min(times, default=now))

    def _ready_at(self, item: Candidate, now: float) -> float:
        record = self._records.get(item.address)
        return now if record is None else max(now, record.not_before)

    def _is_ready(self, item: Candidate, now: float) -> bool:
        return self._ready_at(item, now) <= now

    def _not_before(self, peer: PeerKey) -> float:
        known = self._peers.get(peer)
        return 0.0 if known is None else known.not_before

    def _good_at(self, address: PeerAddress) -> float | None:
        record = self._records.get(address)
        if record is None or record.failures or not record.is_proven:
            return None
        return record.good_at or 0.0

    def _failures(self, address: PeerAddress) -> int:
        record = self._records.get(address)
        return 0 if record is None else record.failures

    # -- rations -------------------------------------------------------------------------------

    def _is_rationed(self, item: Candidate) -> bool:
        if item.origin in (Origin.CONFIGURED, Origin.PROVEN):
            return False
        record = self._records.get(item.address)
        return record is None or not record.is_proven

    def _meters(self, address: PeerAddress) -> tuple[tuple[Hashable, int], ...]:
        return (
            ("all", UNPROVEN_PER_HOUR),
            (("peer", address.peer), UNPROVEN_PER_PEER_HOUR),
            (("host", host_key(address.host)), UNPROVEN_PER_HOST_HOUR),
        )

    def _within_rations(
        self, chosen: tuple[PeerAddress, ...], ready: list[Candidate], now: float
    ) -> tuple[PeerAddress, ...]:
        """Leaves out unproven addresses beyond the rations, and takes from them for the others."""
        vouched = {item.address for item in ready if not self._is_rationed(item)}
        allowed: list[PeerAddress] = []
        for address in chosen:
            if address not in vouched:
                meters = self._meters(address)
                if any(self._rations.left(key, burst, now) < 1 for key, burst in meters):
                    continue
                for key, burst in meters:
                    self._rations.take(key, burst, now)
            allowed.append(address)
        return tuple(allowed)

    # -- being told ----------------------------------------------------------------------------

    def proved(self, address: PeerAddress) -> None:
        """The peer proved its key here in an earlier run of this node."""
        self._record(address).is_proven = True

    def succeeded(self, address: PeerAddress, now: float) -> None:
        """The peer proved its key here."""
        record = self._record(address)
        record.failures, record.not_before, record.error = 0, 0.0, ""
        record.good_at = record.tried_at = now
        record.is_proven = True

    def failed(self, address: PeerAddress, origin: Origin, error: str, now: float) -> None:
        """The peer did not prove its key here, or did not take us for a member."""
        record = self._record(address)
        record.failures += 1
        record.tried_at, record.error = now, error[:200]
        longest = REST_S_MAX if origin is Origin.CONFIGURED else FOUND_REST_S_MAX
        rest_s = min(longest, REST_S_MIN * 2.0 ** min(record.failures - 1, 20))
        is_unproven = origin in (Origin.STATED, Origin.LAN) and not record.is_proven
        if is_unproven and record.failures >= UNPROVEN_TRIES:
            rest_s = GIVEN_UP_S
        record.not_before = now + rest_s * (0.5 + self._jitter())

    def lost(self, peer: PeerKey, now: float, *, nodes: int) -> None:
        """The connection to a peer ended; `nodes`: how many others may have lost it as well."""
        spread_s = min(SPREAD_S_MAX, nodes / REDIALS_PER_S)
        self._rest(peer, now + spread_s * self._jitter(), refusals=0)

    def refused(self, peer: PeerKey, now: float, *, longest_s: float = REST_S_MAX) -> None:
        """An attempt did not end with a peer that takes us for a member, whatever the reason."""
        known = self._peers.get(peer)
        refusals = 1 if known is None else known.refusals + 1
        rest_s = min(longest_s, REST_S_MIN * 2.0 ** min(refusals - 1, 20))
        self._rest(peer, now + rest_s * (0.5 + self._jitter()), refusals)

    def welcomed(self, peer: PeerKey) -> None:
        """The peer is connected and takes us for a member."""
        self._peers.pop(peer, None)

    def _rest(self, peer: PeerKey, until: float, refusals: int) -> None:
        self._peers.pop(peer, None)
        self._peers[peer] = _Peer(until, refusals)
        while len(self._peers) > RECORDS_MAX:
            self._peers.pop(next(iter(self._peers)))

    def _jitter(self) -> float:
        return self.uint(JITTER_STEPS) / JITTER_STEPS

    def _record(self, address: PeerAddress) -> AddressRecord:
        record = self._records.get(address)
        if record is None:
            record = self._records[address] = AddressRecord()
            if len(self._records) > RECORDS_MAX:
                self._forget_one(address)
        return record

    def _forget_one(self, kept: PeerAddress) -> None:
        unproven = (
            address
            for address, record in self._records.items()
            if not record.is_proven and address != kept
        )
        self._records.pop(next(unproven, next(iter(self._records))))


_RANK: Final = {
    Origin.LAN: 0,
    Origin.PROVEN: 1,
    Origin.CONFIGURED: 2,
    Origin.STATED: 3,
}
"""Order of addresses that failed equally often: the nearest and best vouched for first."""
