"""Who is connected, what they are, and how they behave.

Every peer is in one class: stranger (may say hello and ask to be enrolled), reader (suspended: may
read the ledger), member, validator. The registry is what the network adapter asks before it accepts
a connection or a stream, so the rule stands in one place. Misbehaviour costs points; at zero a peer
is sent away for a while. Points are local opinion: they never leave this node and convict nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

from protocol.digest import ChainId, DidId
from protocol.version import ProtocolName, protocol_id
from swarmd.clock import Clock
from swarmd.net.address import PeerKey
from swarmd.net.config import PeerClass as SlotClass

logger = logging.getLogger(__name__)

SCORE_START: Final = 100
"""Points of a peer nobody complained about."""
SCORE_RECOVERY_PER_S: Final = 0.05
"""Points regained per second: a full recovery takes 33 minutes."""
BAN_S: Final = 600.0
"""How long a peer at zero is sent away, seconds."""
BANNED_MAX: Final = 4096
"""Remembered bans; the oldest is forgotten first."""


class PeerClass(IntEnum):
    """What a peer has shown itself to be."""

    STRANGER = 0
    READER = 1
    MEMBER = 2
    VALIDATOR = 3


class Offence(Enum):
    """Misbehaviour: a label and what it costs."""

    REFUSED_TRANSACTION = ("refused_transaction", 5)
    """Submitted what the rules forbid."""
    STALLED = ("stalled", 0)
    """Did not send in time what it promised: counted, but thin links are no offence."""
    MALFORMED = ("malformed", 50)
    """Broke an encoding or a protocol."""
    FALSE_ANNOUNCEMENT = ("false_announcement", 50)
    """Announced as authorised what is not."""
    BAD_CHUNK = ("bad_chunk", 100)
    """Sent bytes that do not match their digest."""
    FORGED = ("forged", 100)
    """Sent a signature, certificate or proof that does not verify."""

    def __init__(self, label: str, cost: int) -> None:
        """Names the offence and prices it in points."""
        self.label = label
        self.cost = cost


@dataclass(slots=True, kw_only=True)
class Peer:
    """A connected peer."""

    key: PeerKey
    """Transport key; proven by the handshake."""
    peer_class: PeerClass = PeerClass.STRANGER
    """What it has shown itself to be."""
    did: DidId | None = None
    """Who it is; None: a stranger."""
    name: str = ""
    """Name in its record, for people."""
    groups: tuple[str, ...] = ()
    """Groups of its record."""
    height: int = 0
    """Height it last told."""
    proven_height: int = 0
    """Height of the header that shows its standing; my older copy does not overrule it."""
    connected_at: float = 0.0
    """Monotonic seconds."""
    is_lan: bool = False
    """Whether it is on the same local network, reached directly."""
    via: PeerKey | None = None
    """The member that passes the connection on; None: reached directly."""
    offences: dict[str, int] = field(default_factory=dict)
    """Count of each kind of misbehaviour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatistics:
    """Counts for status and metrics."""

    strangers: int
    readers: int
    members: int
    validators: int
    banned: int


class PeerRegistry:
    """Connected peers, scores and bans."""

    def __init__(
        self, chain: ChainId, clock: Clock, on_ban: Callable[[PeerKey, Offence], None]
    ) -> None:
        """Starts empty.

        Args:
            chain: whose protocols are spoken.
            clock: monotonic seconds.
            on_ban: told when a peer is sent away; must not block.
        """
        self._clock = clock
        self._on_ban = on_ban
        self._listeners: list[Callable[[PeerKey, Offence, str], None]] = []
        self._peers: dict[PeerKey, Peer] = {}
        self._scores: dict[PeerKey, tuple[float, float]] = {}
        self._banned_until: dict[PeerKey, float] = {}
        self._allowed: Final = {
            PeerClass.STRANGER: frozenset(
                protocol_id(chain, name) for name in (ProtocolName.HELLO, ProtocolName.ENROL)
            ),
            PeerClass.READER: frozenset(
                protocol_id(chain, name) for name in (ProtocolName.HELLO, ProtocolName.LEDGER)
            ),
            PeerClass.MEMBER: frozenset(
                protocol_id(chain, name)
                for name in (
                    ProtocolName.HELLO,
                    ProtocolName.LEDGER,
                    ProtocolName.EXCHANGE,
                    ProtocolName.LANE,
                    ProtocolName.SEALING,
                    ProtocolName.PEERS,
                    ProtocolName.FORWARD,
                )
            ),
            PeerClass.VALIDATOR: frozenset(
                protocol_id(chain, name) for name in ProtocolName if name is not ProtocolName.ENROL
            ),
        }

    def may_open(self, peer: PeerKey, protocol: str) -> bool:
        """Whether a peer of its class may open a stream of this protocol."""
        return protocol in self._allowed[self.peer_class(peer)]

    def peer_class(self, peer: PeerKey) -> PeerClass:
        """The class of a peer; STRANGER unless it has shown more."""
        known = self._peers.get(peer)
        return PeerClass.STRANGER if known is None else known.peer_class

    def is_banned(self, peer: PeerKey) -> bool:
        """Whether a peer is sent away for now."""
        until = self._banned_until.get(peer)
        return until is not None and self._clock.monotonic() < until

    def connected(self, key: PeerKey) -> Peer:
        """Notes a new connection; the peer starts as a stranger."""
        return self._peers.setdefault(key, Peer(key=key, connected_at=self._clock.monotonic()))

    def disconnected(self, key: PeerKey) -> Peer | None:
        """Forgets a peer that left; its score is kept."""
        return self._peers.pop(key, None)

    def get(self, key: PeerKey) -> Peer | None:
        """A connected peer, or None."""
        return self._peers.get(key)

    def by_did(self, did: DidId) -> Peer | None:
        """A connected peer by who it is, or None."""
        return next((peer for peer in self._peers.values() if peer.did == did), None)

    def at_least(self, least: PeerClass) -> tuple[Peer, ...]:
        """Connected peers of a class or above, in order of arrival."""
        return tuple(peer for peer in self._peers.values() if peer.peer_class >= least)

    def __iter__(self) -> Iterator[Peer]:
        """All connected peers, in order of arrival."""
        return iter(tuple(self._peers.values()))

    def listen(self, listener: Callable[[PeerKey, Offence, str], None]) -> None:
        """Adds a listener for (peer, offence, detail) of each offence; it must not block."""
        self._listeners.append(listener)

    def blame(self, key: PeerKey, offence: Offence, detail: str) -> None:
        """Takes points for misbehaviour; at zero the peer is sent away.

        Args:
            key: who.
            offence: what, and what it costs.
            detail: for the log; one line.
        """
        now = self._clock.monotonic()
        score, since = self._scores.get(key, (float(SCORE_START), now))
        score = min(SCORE_START, score + (now - since) * SCORE_RECOVERY_PER_S) - offence.cost
        self._scores[key] = (score, now)
        self._trim(self._scores)
        if (peer := self._peers.get(key)) is not None:
            peer.offences[offence.label] = peer.offences.get(offence.label, 0) + 1
        logger.warning("peer %s: %s: %s", key[:4].hex(), offence.label, detail[:200])
        for listener in self._listeners:
            listener(key, offence, detail)
        if score >= 1:  # what time has given back since the last offence is no point yet
            return
        self._scores.pop(key)
        self._banned_until[key] = now + BAN_S
        self._trim(self._banned_until)
        self._on_ban(key, offence)

    @staticmethod
    def _trim(table: dict[PeerKey, tuple[float, float]] | dict[PeerKey, float]) -> None:
        while len(table) > BANNED_MAX:
            table.pop(next(iter(table)))

    def statistics(self) -> PeerStatistics:
        """Counts by class."""
        counts = [0, 0, 0, 0]
        for peer in self._peers.values():
            counts[peer.peer_class] += 1
        banned = sum(self.is_banned(key) for key in self._banned_until)
        return PeerStatistics(
            strangers=counts[0],
            readers=counts[1],
            members=counts[2],
            validators=counts[3],
            banned=banned,
        )


class RegistryAdmission:
    """What the network adapter asks; answers from the registry."""

    def __init__(
        self, registry: PeerRegistry, is_enrolled: Callable[[PeerKey], bool] = lambda _peer: False
    ) -> None:
        """Answers from `registry`; `is_enrolled` tells whether an active subject holds a key."""
        self._registry = registry
        self._is_enrolled = is_enrolled

    def peer_class(self, peer: PeerKey) -> SlotClass:
        """The slots a peer takes; a reader is known, so it takes a member's.

        So does a key that the ledger names, before its hello: else strangers, whose keys cost
        nothing, keep every member out by taking all slots of strangers.
        """
        match self._registry.peer_class(peer):
            case PeerClass.STRANGER:
                return SlotClass.MEMBER if self._is_enrolled(peer) else SlotClass.STRANGER
            case PeerClass.VALIDATOR:
                return SlotClass.VALIDATOR
            case _:
                return SlotClass.MEMBER

    def may_connect(self, peer: PeerKey) -> bool:
        """Refuses peers that are sent away; everybody else may say hello."""
        return not self._registry.is_banned(peer)

    def may_open(self, peer: PeerKey, protocol: str) -> bool:
        """Whether a peer of its class may open a stream of this protocol."""
        return self._registry.may_open(peer, protocol)

    def may_gossip(self, peer: PeerKey) -> bool:
        """Gossip is for members and validators."""
        return self._registry.peer_class(peer) >= PeerClass.MEMBER
