"""Makes a simulated swarm from a scenario and a seed: who is who, on which links, with what images.

Validators come first in the world, since they know each other by number. All that is drawn here
comes from a generator of its own, so that another scenario of the same seed keeps its choices.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from ledger.simplex.interface import Parameters
from protocol.digest import ManifestId
from protocol.errors import ConfigError
from protocol.limits import KIB
from swarmd.simulation.byzantine.catalogue import adversary as find_adversary
from swarmd.simulation.consensus_cluster import Cluster
from swarmd.simulation.consensus_events import fingerprint
from swarmd.simulation.exchange_host import SimulatedRelease
from swarmd.simulation.links import LinkModel
from swarmd.simulation.scenario import DISK_FAULTS, Nat, ReleasePlan, Scenario, Target
from swarmd.simulation.swarm_gateway import Gateway, GatewayPlan, SwarmHost
from swarmd.simulation.swarm_ledger import THRESHOLD, Follower, LedgerBook, Owners, ReleaseHost
from swarmd.simulation.swarm_world import Flaws, SwarmLink, SwarmNetwork, SwarmWorld
from swarmd.simulation.transfer_host import Disk, TransferHost, join
from swarmd.simulation.world import Link

_MBIT: Final = 125_000.0
"""Bytes a second of one Mbit/s."""
_RETRY_S: Final = 0.5
"""How often validators repeat what may have been lost, seconds."""


@dataclass(frozen=True, slots=True)
class Cast:
    """Who breaks the rules: kinds by validator's seat and by gateway's number."""

    seats: dict[int, str]
    """Validators."""
    members: dict[int, type[TransferHost]]
    """Gateways."""
    counts: tuple[tuple[str, int], ...]
    """Number of each kind."""


def breaking_reasons(scenario: Scenario) -> tuple[str, ...]:
    """Why a scenario must break; empty: it may be survived.

    Raises:
        ConfigError: an adversary that does not exist, or that fits no swarm.
    """
    count = scenario.validators.count
    limit = (count - 1) // 3
    bad = sum(number for _, number, is_seat in _numbers(scenario) if is_seat)
    gone = max(
        (
            round(fault.share * count)
            for fault in scenario.faults
            if fault.target is not Target.GATEWAYS and fault.end_s is None
        ),
        default=0,
    )
    reasons: list[str] = []
    if bad + gone > limit:
        reasons.append(
            f"{bad} validators break the rules and {gone} are lost for good; "
            f"{count} survive {limit}"
        )
    return tuple(reasons)


def _numbers(scenario: Scenario) -> list[tuple[str, int, bool]]:
    """Name of each adversary, how many there are, and whether they are validators."""
    found: list[tuple[str, int, bool]] = []
    for number, each in enumerate(scenario.adversaries):
        what = f"adversaries[{number}]"
        try:
            kind = find_adversary(each.name)
        except ConfigError as error:
            raise ConfigError(f"{what}.name: {error}") from None
        if kind.seat is None and kind.member is None:
            raise ConfigError(f"{what}.name: {each.name!r} has no place in a swarm; see --list")
        is_seat = kind.seat is not None
        total = scenario.validators.count if is_seat else scenario.gateways.count
        count = round((each.share or 0.0) * total) if each.count is None else each.count
        if count > total:
            raise ConfigError(f"{what}.count: {count}, but there are {total} such nodes")
        found.append((each.name, count, is_seat))
    return found


def draw_cast(scenario: Scenario, chance: random.Random) -> Cast:
    """Draws which nodes break the rules.

    Raises:
        ConfigError: more adversaries than nodes, or nobody honest is left.
    """
    seats = chance.sample(range(scenario.validators.count), scenario.validators.count)
    members = chance.sample(range(scenario.gateways.count), scenario.gateways.count)
    cast = Cast({}, {}, tuple((name, count) for name, count, _ in _numbers(scenario) if count))
    for name, count, is_seat in _numbers(scenario):
        places = seats if is_seat else members
        if count >= len(places):
            raise ConfigError(f"adversaries: no honest {'validator' if is_seat else 'gateway'}")
        for _ in range(count):
            kind = find_adversary(name)
            if is_seat:
                cast.seats[places.pop()] = name
            elif kind.member is not None:
                cast.members[places.pop()] = kind.member
    return cast


class SwarmParts:
    """A swarm that stands ready at time 0."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        """Makes world, validators, images and gateways.

        Raises:
            ConfigError: the scenario cannot be built; names the key.
        """
        if scenario.gateways.skew_ms:
            raise ConfigError(
                "gateways.skew_ms: gateways of level machines have no wall clock; "
                "use level daemons, processes or namespaces"
            )
        self.scenario: Final = scenario
        self.chance: Final = random.Random(f"swarm {seed}")  # noqa: S311 - replayed by seed
        self.cast: Final = draw_cast(scenario, self.chance)
        network = scenario.network
        self.world: Final = SwarmWorld(
            seed,
            Link(
                latency_s=network.latency_ms / 1000,
                jitter_s=network.jitter_ms / 1000,
                loss=network.loss,
                duplication=network.duplication,
            ),
            fingerprint,
        )
        self.cluster: Final = self._make_cluster()
        self.owners: Final = Owners(self.cluster)
        self.book: Final = LedgerBook(self.owners)
        self._add_validators()
        pipe = network.pipe_mbit
        self.network: Final = SwarmNetwork(
            self.world,
            LinkModel(
                delay_s=network.latency_ms / 1000,
                pipe_bytes_per_s=None if pipe is None else pipe * _MBIT,
                loss=network.segment_loss,
            ),
        )
        self.releases: Final = self._make_releases()
        self.library: Final[dict[ManifestId, SimulatedRelease]] = {
            release.manifest_id: release for release in self.releases
        }
        self.gateways: Final[list[Gateway]] = []
        """Seeders first, then the others."""
        self._attached: Final[list[SwarmLink]] = []
        self._add_gateways()
        self.neighbours: Final = self._draw_graph()
        """For each gateway by position, with whom it opens streams."""
        self.connect_all()

    # Validators ----------------------------------------------------------------------------------

    def _make_cluster(self) -> Cluster:
        validators = self.scenario.validators
        parameters = Parameters(delta_s=validators.delta_ms / 1000, retry_s=_RETRY_S)
        return Cluster(self.world, validators.count, parameters=parameters)

    def _add_validators(self) -> None:
        skew_ms = self.scenario.validators.skew_ms
        for seat in range(self.scenario.validators.count):
            name = self.cast.seats.get(seat)
            if name is None:
                skew = self.chance.randint(-skew_ms, skew_ms)
                ReleaseHost(self.cluster, seat, book=self.book, skew_ms=skew)
            else:
                add = find_adversary(name).seat
                assert add is not None, "draw_cast seats nobody else"
                add(self.cluster, seat)
        for host in self.cluster.hosts:
            host.set_pending(True)
            host.start()

    # Images --------------------------------------------------------------------------------------

    def _make_releases(self) -> tuple[SimulatedRelease, ...]:
        image, releases = self.scenario.image, list[SimulatedRelease]()
        chunks: list[bytes] = []
        for plan in self.scenario.releases:
            chunks = self._next_chunks(chunks, plan, image.size_kib * KIB, image.chunk_kib * KIB)
            releases.append(SimulatedRelease.of([chunks]))
        return tuple(releases)

    def _next_chunks(
        self, before: list[bytes], plan: ReleasePlan, size_bytes: int, chunk_bytes: int
    ) -> list[bytes]:
        chance = self.chance
        if before and plan.changed < 1:
            count = max(1, round(plan.changed * len(before)))
            changed = dict.fromkeys(chance.sample(range(len(before)), count))
            return [
                chance.randbytes(len(chunk)) if index in changed else chunk
                for index, chunk in enumerate(before)
            ]
        data, position, chunks = chance.randbytes(size_bytes), 0, list[bytes]()
        while position < size_bytes:
            length = chance.randint(max(chunk_bytes // 2, 1), chunk_bytes * 3 // 2)
            chunks.append(data[position : position + length])
            position += length
        return chunks

    # Gateways ------------------------------------------------------------------------------------

    def _links(self) -> dict[str, SwarmLink]:
        classes = self.scenario.links
        sites = list(dict.fromkeys(each.site for each in classes.values() if each.site))
        return {
            name: SwarmLink(
                uplink_bytes_per_s=each.up_mbit * _MBIT,
                downlink_bytes_per_s=each.down_mbit * _MBIT,
                latency_s=each.latency_ms / 1000,
                site=sites.index(each.site) if each.site else None,
                flaws=Flaws(
                    jitter_s=each.jitter_ms / 1000,
                    loss=each.loss,
                    duplication=each.duplication,
                    reorder=each.reorder,
                    reorder_s=each.reorder_ms / 1000,
                ),
                is_closed=each.nat is Nat.CLOSED,
                **_queue(each.queue_ms),
            )
            for name, each in classes.items()
        }

    def _draw_links(self, links: dict[str, SwarmLink]) -> list[SwarmLink]:
        """The link of each gateway: shares rounded, in random order, the rest of the first."""
        count, classes = self.scenario.gateways.count, self.scenario.links
        drawn: list[SwarmLink] = []
        for name in list(classes)[1:]:
            drawn += [links[name]] * min(round(classes[name].share * count), count - len(drawn))
        first = next(iter(links.values()))
        drawn += [first] * (count - len(drawn))
        self.chance.shuffle(drawn)
        return drawn

    def _add_gateways(self) -> None:
        scenario, links = self.scenario, self._links()
        origin = links[scenario.seeders.link or next(iter(links))]
        for _ in range(scenario.seeders.count):
            self._add(SwarmHost, origin, is_seeder=True)
        for number, link in enumerate(self._draw_links(links)):
            self._add(self.cast.members.get(number, SwarmHost), link)

    def _add(self, kind: type[TransferHost], link: SwarmLink, *, is_seeder: bool = False) -> None:
        scenario = self.scenario
        plan = GatewayPlan(
            kind=kind,
            link=link,
            poll_s=scenario.gateways.poll_s,
            disk=Disk(verify_s=scenario.gateways.verify_ms / 1000),
        )
        gateway = Gateway(
            self.world,
            self.network,
            Follower(self.cluster, self.owners),
            self.book,
            plan,
            library=self.library,
            validators=len(self.cluster.hosts),
            is_seeder=is_seeder,
        )
        self.world.spoil(gateway.number, link.flaws)
        self._attached.append(link)
        self.gateways.append(gateway)

    # Streams -------------------------------------------------------------------------------------

    def _draw_graph(self) -> list[list[int]]:
        """A ring with random chords, every node with about as many streams as it may have.

        Streams between nodes of which neither can call the other do not exist. Who would be left
        alone by that knows one that it can reach.
        """
        total, wanted = len(self.gateways), self.scenario.gateways.peers
        if total - 1 <= wanted:
            edges = [
                dict.fromkeys(other for other in range(total) if other != one)
                for one in range(total)
            ]
        else:
            edges = self._draw_edges(total, wanted)
        return self._without_closed(edges)

    def _without_closed(self, edges: list[dict[int, None]]) -> list[list[int]]:
        if not any(link.is_closed for link in self._attached):
            return [list(each) for each in edges]
        everybody = range(len(edges))
        for one in everybody:
            edges[one] = {other: None for other in edges[one] if self._can_reach(one, other)}
        for one in everybody:
            among = [other for other in everybody if other != one and self._can_reach(one, other)]
            if not edges[one] and among:
                other = self.chance.choice(among)
                edges[one][other] = edges[other][one] = None
        return [list(each) for each in edges]

    def _draw_edges(self, total: int, wanted: int) -> list[dict[int, None]]:
        edges: list[dict[int, None]] = [{} for _ in range(total)]
        order = self.chance.sample(range(total), total)
        for position, one in enumerate(order):
            other = order[position - 1]
            edges[one][other] = edges[other][one] = None
        for one in range(total):
            for other in self.chance.sample(range(total), min(total, wanted)):
                if len(edges[one]) >= wanted:
                    break
                if other != one and len(edges[other]) < wanted:
                    edges[one][other] = edges[other][one] = None
        return edges

    def connect_all(self) -> None:
        """Opens the streams of the graph that are not open and may be."""
        for position in range(len(self.gateways)):
            self.connect(position)

    def connect(self, position: int) -> None:
        """Opens a gateway's streams that are not open and may be."""
        one = self.gateways[position]
        if not one.is_up:
            return
        banned = {peer for peer, _ in one.node.offences}
        peers: list[TransferHost] = []
        for neighbour in self.neighbours[position]:
            other = self.gateways[neighbour]
            number = other.node.number
            has_banned = any(peer == one.node.number for peer, _ in other.node.offences)
            is_open = number in one.node.peers
            is_welcome = number not in banned and not has_banned
            if other.is_up and not is_open and is_welcome and self._can_talk(one, other):
                peers.append(other.node)
        join(self.network, one.node, peers)

    def _can_reach(self, one: int, other: int) -> bool:
        """Whether one of two gateways, by position, can call the other."""
        return self._attached[one].can_reach(self._attached[other])

    def _can_talk(self, one: Gateway, other: Gateway) -> bool:
        """Whether messages pass in both directions, as a stream needs."""
        there = self.world.is_connected(one.number, other.number)
        return there and self.world.is_connected(other.number, one.number)

    def cut_streams(self) -> None:
        """Breaks the streams between nodes that cannot reach each other any more."""
        by_number = {gateway.node.number: gateway for gateway in self.gateways}
        for one in self.gateways:
            for peer in one.node.peers:
                other = by_number.get(peer)
                if other is None:
                    continue
                if not self._can_talk(one, other):
                    self.network.disconnect(one.node.number, peer)
                    one.node.disconnect(peer)
                    other.node.disconnect(one.node.number)


def _queue(queue_ms: float | None) -> dict[str, float]:
    """What a router's buffer means for a link: it stands half full on average (CUBIC)."""
    if queue_ms is None:
        return {}
    return {"bloat_s": queue_ms / 2000, "queue_s_max": queue_ms / 1000}


def is_authorised(plan: ReleasePlan) -> bool:
    """Whether enough owners of a release agreed."""
    return plan.approvals >= THRESHOLD


def healed_s(scenario: Scenario) -> float | None:
    """When the last fault ends that does; None: there is none."""
    ends = [fault.end_s for fault in scenario.faults if fault.kind not in DISK_FAULTS]
    return max((end for end in ends if end is not None), default=None)
