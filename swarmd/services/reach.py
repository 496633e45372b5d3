"""Reaching peers: keeps connections to configured peers, and finds others where those are too few.

An address is configured with the key that its node had then. Keys rotate: the ledger says which key
follows, and that one is dialed. A node that was away may meet a key its copy does not know yet.
While its copy is not known to be current, it says hello to whoever answers, and the membership
proof decides; once it is current, a key that the ledger does not know is a stranger's, and is not
told who we are.

One task decides whom to dial next and when (`swarmd.net.dial_plan` remembers how addresses behave);
each dial is a task of its own, so that a silent address delays nobody. Rules: docs/spec/reach.md.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from protocol.digest import DidId
from protocol.errors import RemoteProtocolError, TransportError
from swarmd.entropy import Entropy
from swarmd.net.address import PeerAddress, PeerKey, short_peer
from swarmd.net.dial_plan import REST_S_MAX, Candidate, DialPlan, Origin
from swarmd.net.network import Network, OtherPeerError
from swarmd.peers import PeerClass, PeerRegistry

logger = logging.getLogger(__name__)

CHECK_S: Final = 5.0
"""How often everything is looked at anew, seconds; what happens meanwhile wakes the task."""
TURN_S_MIN: Final = 0.02
"""Least pause between two looks, seconds: a due time that cannot be met must not spin."""
DIALS_MAX: Final = 16
"""Peers dialed at once."""
LOOKED_AT_MAX: Final = 64
"""Found members looked at in one turn, in changing order: bounds its work."""
FOUND_REST_S: Final = 600.0
"""Longest rest of a found peer that could not be met, seconds, before jitter; news ends it."""
DETOUR_S: Final = 600.0
"""How often a direct way to a peer that is reached through a third node is tried, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What the ledger and the other services know about addresses."""

    configured: Callable[[], Sequence[PeerAddress]]
    """Addresses of the configuration and of tokens, names resolved as far as they are."""
    found: Callable[[PeerKey], Iterable[Candidate]]
    """Other addresses of a peer."""
    wanted: Callable[[], Iterable[PeerKey]]
    """Members worth dialing while connections are too few, the best first."""
    owner_of: Callable[[PeerKey], DidId | None]
    """Who holds or once held a key, by my copy of the ledger."""
    has_detour: Callable[[PeerKey], bool]
    """Whether a peer says that it can be reached through others."""
    current_key: Callable[[PeerKey], PeerKey]
    """The key that follows one that was rotated, by my copy of the ledger."""
    is_current: Callable[[], bool]
    """Whether my copy of the ledger is known to be current."""
    proved: Callable[[PeerAddress], None]
    """Told where a peer proved its key."""
    member_count: Callable[[], int]
    """About how many nodes there are that lose a peer when this one does."""


DetourFinder = Callable[[PeerKey], Awaitable[bool]]
"""Tries to connect to a peer through a third node; tells whether it did."""


async def no_detour(_peer: PeerKey) -> bool:
    """There is no way through a third node."""
    await trio.lowlevel.checkpoint()
    return False


class ReachService:
    """Dials peers and says hello."""

    def __init__(
        self,
        *,
        network: Network,
        registry: PeerRegistry,
        entropy: Entropy,
        sources: Sources,
        greet: Callable[[PeerKey], Awaitable[PeerClass]],
        peers_wanted: int,
        peers_max: Callable[[], int] | None = None,
        detour: DetourFinder = no_detour,
    ) -> None:
        """Wires the service.

        Args:
            network: dials.
            registry: classes and bans of peers.
            entropy: jitter of the pauses.
            sources: whom to reach, and where.
            greet: says hello to a connected peer and tells what it is.
            peers_wanted: members to be connected to; with fewer, found ones are dialed.
            peers_max: so many at present, and no more, also of the configured ones; None: all of
                those.
            detour: the way through a third node, when no direct one leads to a peer.
        """
        self._network = network
        self._registry = registry
        self._greet = greet
        self._sources = sources
        self._peers_wanted = peers_wanted
        self._peers_max = peers_max
        self._detour = detour
        self.plan: Final = DialPlan(uint=entropy.uint)
        """How addresses behave."""
        self._reached: dict[PeerKey, PeerKey] = {}
        self._busy: dict[PeerKey, None] = {}
        self._direct_at: dict[PeerKey, float] = {}
        self._wake = trio.Event()

    # -- being told ----------------------------------------------------------------------------

    def peer_disconnected(self, peer: PeerKey) -> None:
        """A connection ended; a peer that is wanted is dialed again soon."""
        self._direct_at.pop(peer, None)
        nodes = self._sources.member_count()
        for key in {peer: None, **dict.fromkeys(self._names_of(peer))}:
            self.plan.lost(key, trio.current_time(), nodes=nodes)
        self.wake()

    def _names_of(self, peer: PeerKey) -> tuple[PeerKey, ...]:
        return tuple(key for key, proven in self._reached.items() if proven == peer)

    def has_news(self, peer: PeerKey) -> None:
        """There are other addresses or forwarders of a peer than before."""
        self.plan.welcomed(peer)
        self.wake()

    def wake(self) -> None:
        """Something is known that was not: addresses, names, members."""
        self._wake.set()

    # -- whom ----------------------------------------------------------------------------------

    def configured_peers(self) -> tuple[PeerKey, ...]:
        """Peers this node always wants, by the keys they were configured with."""
        listed = dict.fromkeys(item.peer for item in self._sources.configured())
        return tuple(key for key in listed if key != self._network.peer)

    def candidates(self, configured: PeerKey) -> tuple[Candidate, ...]:
        """Every address that may lead to a peer, under the key it has by now."""
        peer = self._sources.current_key(configured)
        named = [
            Candidate(dataclasses.replace(item, peer=peer), Origin.CONFIGURED)
            for item in self._sources.configured()
            if item.peer == configured
        ]
        by_address = {item.address: item for item in (*self._sources.found(peer), *named)}
        return tuple(by_address.values())

    def _targets(self) -> tuple[PeerKey, ...]:
        """Whom to reach now: the configured ones, and found ones as far as members are lacking."""
        targets = dict.fromkeys(self.configured_peers())
        members = len(self._registry.at_least(PeerClass.MEMBER))
        if self._peers_max is not None:
            room = max(0, self._peers_max() - members - len(self._busy))
            return tuple(islice(filter(self._is_worth_a_dial, targets), room))
        lacking = self._peers_wanted - members - len([k for k in self._busy if k not in targets])
        if lacking > 0:
            for peer in islice(self._sources.wanted(), LOOKED_AT_MAX):
                if lacking <= 0:
                    break
                if peer not in targets and self._is_worth_a_dial(peer):
                    targets[peer] = None
                    lacking -= 1
        return tuple(targets)

    def _is_worth_a_dial(self, peer: PeerKey) -> bool:
        if peer == self._network.peer or self._network.is_connected(peer) or peer in self._busy:
            return False
        now = trio.current_time()
        return not self._registry.is_banned(peer) and self._due_at(peer, now) <= now

    def _due_at(self, target: PeerKey, now: float) -> float:
        """When an attempt is due; resting addresses do not matter where there is a detour."""
        has_detour = self._sources.has_detour(self._sources.current_key(target))
        return self.plan.due_at(target, () if has_detour else self.candidates(target), now)

    # -- when ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keeps dialing until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                now = trio.current_time()
                next_at = max(self._start_due(nursery, now), now + TURN_S_MIN)
                with trio.move_on_at(next_at):
                    await self._wake.wait()

    def _start_due(self, nursery: trio.Nursery, now: float) -> float:
        """Starts the dials that are due; returns when the next ones may be."""
        next_at = now + CHECK_S
        if self._peers_max is not None:
            for peer in self._registry.at_least(PeerClass.MEMBER)[self._peers_max() :]:
                nursery.start_soon(self._network.disconnect, peer.key)
        for target in self._targets():
            if target in self._busy or self._is_reached_now(target, now):
                continue
            if len(self._busy) >= DIALS_MAX:
                break
            due = self._due_at(target, now)
            if due > now:
                next_at = min(next_at, due)
                continue
            self._busy[target] = None
            nursery.start_soon(self._attempt, target)
        return next_at

    def _is_reached_now(self, target: PeerKey, now: float) -> bool:
        """Whether a peer is connected, and directly or not to be tried directly yet."""
        peer = self._reached.get(target, target)
        if not self._is_known(peer):
            return False
        route = self._network.route(peer)
        if route is None or route.via is None:
            return True
        return now < self._direct_at.setdefault(peer, now + DETOUR_S)

    async def _attempt(self, target: PeerKey) -> None:
        try:
            is_reached = await self._is_reached(target)
            now = trio.current_time()
            peer = self._reached.get(target, target)
            if is_reached:
                self.plan.welcomed(target)
                self._direct_at[peer] = now + DETOUR_S
            else:
                is_configured = any(item.peer == target for item in self._sources.configured())
                longest_s = REST_S_MAX if is_configured else FOUND_REST_S
                self.plan.refused(target, now, longest_s=longest_s)
        finally:
            del self._busy[target]
            self.wake()

    # -- how -----------------------------------------------------------------------------------

    def _is_known(self, peer: PeerKey) -> bool:
        is_member = self._registry.peer_class(peer) > PeerClass.STRANGER
        return is_member and self._network.is_connected(peer)

    async def _is_reached(self, configured: PeerKey) -> bool:
        """Whether the peer is connected and knows us; makes it so if it can."""
        peer = self._sources.current_key(configured)
        if peer == self._network.peer:
            return True
        try:
            return await self._meet(configured, peer)
        except OtherPeerError as error:
            logger.debug("peer %s: %s", short_peer(configured), error)
            other = error.proven
            if self._sources.is_current() and other.peer != self._sources.current_key(configured):
                return False
            return await self._meet_other(configured, other)
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("peer %s not reached: %s", short_peer(configured), error)
            return False

    async def _meet(self, configured: PeerKey, peer: PeerKey) -> bool:
        """Dials the addresses that are due, then looks for a way through a third node."""
        if self._registry.is_banned(peer):
            return False
        failure: TransportError | None = None
        route = self._network.route(peer)
        if route is None or route.via is not None:
            try:
                await self._dial(configured, peer)
            except TransportError as error:
                failure = error
        if not self._network.is_connected(peer) and not await self._detour(peer):
            raise failure or TransportError("no address is due")
        return await self._is_welcome(configured, peer)

    async def _dial(self, configured: PeerKey, peer: PeerKey) -> None:
        candidates = self.candidates(configured)
        now = trio.current_time()
        chosen = self.plan.choose(peer, candidates, now)
        if not chosen:
            raise TransportError(f"no address of {short_peer(peer)} is due")
        origins = {item.address: item.origin for item in candidates}

        def report(address: PeerAddress, error: Exception | None) -> None:
            if error is None:
                self.plan.succeeded(address, trio.current_time())
                self._sources.proved(address)
            else:
                reason = str(error) or "does not answer in time"
                self.plan.failed(address, origins[address], reason, trio.current_time())

        await self._network.connect(chosen, report, replaces_forwarded=True)

    async def bring_up(self, peer: PeerKey) -> bool:
        """Connects to a member directly, or not at all; tells whether it takes us for one."""
        try:
            if not self._network.is_connected(peer):
                await self._dial(peer, peer)
            return await self._is_welcome(peer, peer)
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("peer %s not reached: %s", short_peer(peer), error)
            return False

    async def _meet_other(self, configured: PeerKey, address: PeerAddress) -> bool:
        """Says hello to somebody whose key my copy of the ledger does not know."""
        try:
            if not self._is_known(address.peer):
                if self._registry.is_banned(address.peer):
                    return False
                await self._network.connect([address])
            return await self._is_welcome(configured, address.peer)
        except (TransportError, RemoteProtocolError) as error:
            logger.debug("peer %s not reached: %s", short_peer(address.peer), error)
            return False

    async def _is_welcome(self, configured: PeerKey, peer: PeerKey) -> bool:
        """Whether a connected peer takes us for a member, and is whom we look for."""
        if not self._is_known(peer) and await self._greet(peer) <= PeerClass.STRANGER:
            return False
        known, owner = self._registry.get(peer), self._sources.owner_of(configured)
        if known is None or owner not in (None, known.did):
            return False  # another member; welcome, but the one we look for is still to be found
        self._reached[configured] = peer
        return True
