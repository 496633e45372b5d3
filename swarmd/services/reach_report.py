"""How peers are reached, for people: routes, addresses with their age, and what is wrong."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import trio

from swarmd.net.address import PeerKey, short_peer
from swarmd.net.dial_plan import Candidate
from swarmd.own_addresses import Reachability
from swarmd.peers import Peer, PeerClass

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.reach_plane import ReachPlane


class ReachReport:
    """Answers what operators ask about reaching peers."""

    def __init__(self, plane: ReachPlane) -> None:
        """Looks at `plane`."""
        self._plane = plane

    @property
    def reachability(self) -> str:
        """Whether the world can reach this node, in one word."""
        return self._plane.exchange.reachability().value

    # -- connected peers -----------------------------------------------------------------------

    def route_text(self, peer: Peer) -> str:
        """How a connected peer is reached: `direct`, `lan` or `forwarded`; `-`: not any more."""
        route = self._plane.network.route(peer.key)
        if route is None:
            return "-"
        if route.via is not None:
            return "forwarded"
        return "lan" if peer.is_lan else "direct"

    def place_text(self, peer: Peer) -> str:
        """The other end of the connection, or the member that passes it on."""
        route = self._plane.network.route(peer.key)
        if route is None:
            return "-"
        if route.via is not None:
            between = self._plane.registry.get(route.via)
            return f"via {short_peer(route.via) if between is None else between.name}"
        if not route.host:
            return "-"
        return f"[{route.host}]:{route.port}" if ":" in route.host else f"{route.host}:{route.port}"

    # -- everything that is known --------------------------------------------------------------

    def document(self) -> dict[str, JSON]:
        """Whether others reach this node, and every address this node may dial."""
        plane = self._plane
        known = dict.fromkeys(
            (*plane.reach.configured_peers(), *plane.book.members(), *plane.book.proven_peers())
        )
        own = plane.network.listen_addresses
        return {
            "reachability": plane.exchange.reachability().value,
            "own": [f"{item.host} port {item.port}" for item in own],
            "stated": [f"{host} port {port}" for host, port in plane.stated()],
            "forwarders": [peer.hex() for peer in plane.detours.forwarders],
            "forwarding": asdict(plane.forwarder.statistics()),
            "site": plane.site().hex(),
            "names": dict(plane.names.errors),
            "peers": [self._peer(peer) for peer in known if peer != plane.network.peer],
        }

    def _peer(self, configured: PeerKey) -> JSON:
        plane = self._plane
        current = plane.keys.current_key(configured)
        member = plane.keys.member(current)
        return {
            "peer": current.hex(),
            "name": None if member is None else member[1].name,
            "connected": plane.network.is_connected(current),
            "forwarders": [peer.hex() for peer in plane.book.forwarders(current)],
            "addresses": [self._address(item) for item in plane.reach.candidates(configured)],
        }

    def _address(self, item: Candidate) -> JSON:
        record = self._plane.reach.plan.record(item.address)
        now = trio.current_time()
        good = None if record is None or record.good_at is None else round(now - record.good_at)
        tried = None if record is None or record.tried_at is None else round(now - record.tried_at)
        return {
            "address": item.address.multiaddr,
            "origin": item.origin.value,
            "good_s_ago": good,
            "tried_s_ago": tried,
            "failures": 0 if record is None else record.failures,
            "error": (record.error if record is not None else "") or None,
        }

    # -- what is wrong -------------------------------------------------------------------------

    def check(self) -> tuple[bool, str]:
        """Whether members are within reach, and in one line why not."""
        plane = self._plane
        members = plane.registry.at_least(PeerClass.MEMBER)
        inbound = plane.exchange.reachability()
        if members:
            routes = [self.route_text(peer) for peer in members]
            counts = ", ".join(
                f"{routes.count(kind)} {kind}"
                for kind in ("direct", "lan", "forwarded")
                if kind in routes
            )
            text = f"{counts}; the world finds this node {inbound.value}"
            if inbound is Reachability.UNREACHABLE and not plane.detours.forwarders:
                return True, f"{text}, and no member passes connections on to it"
            return True, text
        return False, self._why_nobody()

    def _why_nobody(self) -> str:
        """The reason that stands first: names, then addresses, then that there are none."""
        plane = self._plane
        reasons = [f"name {host}: {error}" for host, error in plane.names.errors.items()]
        known = False
        for configured in plane.reach.configured_peers():
            for item in plane.reach.candidates(configured):
                known = True
                record = plane.reach.plan.record(item.address)
                if record is not None and record.error:
                    reasons.append(f"{item.address.host} port {item.address.port}: {record.error}")
        if not known and not reasons and not len(plane.book):
            return "no address is known: set network.bootstrap or network.lan_interface"
        shown = "; ".join(reasons[:3]) or "no address has been tried yet"
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        return f"no member is reached: {shown}{more}"
