"""Swarms that relay: one seeder gives each unit out once, and members that lie are in between.

Production machines on the link model of `swarmd.simulation.links`: 16 leechers with links of
20 Mbit/s, three in ten of them dishonest. What honest ones take is compared with the fluid bound
that counts the uplinks of the honest alone and the needs of all, and that with a swarm without
liars.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from protocol.exchange_events import Offence
from protocol.limits import KIB, MIB
from protocol.relay_events import RelaySettings
from protocol.relay_receiving import PENDING_BYTES_MAX, PENDING_BYTES_PEER_MAX
from swarmd.simulation.attacks.attack import AttackResult, at_least, at_most, never
from swarmd.simulation.attacks.tally import Tally, tallied
from swarmd.simulation.byzantine.free_rider import FreeRider
from swarmd.simulation.byzantine.greedy_peer import GreedyPeer
from swarmd.simulation.byzantine.push_flooder import PushFlooder
from swarmd.simulation.links import NodeLink
from swarmd.simulation.transfer import Transfer, fluid_bound_s, link
from swarmd.simulation.transfer_host import Disk, TransferHost, join

LEECHERS: Final = 16
"""Nodes that fetch the image, liars included."""
SHARE: Final = 0.3
"""Part of them that lies."""
SMALL_BYTES: Final = 4 * MIB
"""Image where liars cost no waiting."""
LARGE_BYTES: Final = 16 * MIB
"""Image where silence must be noticed first: 6.7 s over one link."""
SLOWER_MAX: Final = 1.25
"""Longest time in bounds of the honest, in those of a swarm without liars."""
UNTIL_S: Final = 300.0
_CHUNK_BYTES: Final = 16 * KIB


class ForgivingHost(TransferHost):
    """Takes up again at once with whom it has just cut off: the control."""

    def cut(self, peer: int, offence: Offence) -> None:
        """Notes the offence, and forgets it."""
        self.offences.append((peer, offence))
        if peer in self.peers:
            self.disconnect(peer)
            self.connect(peer)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySwarm:
    """What ran."""

    honest: list[TransferHost]
    """Leechers that keep the rules."""
    liars: list[TransferHost]
    """Those that do not."""
    seeder: TransferHost
    """Holds the image from the start."""
    bound_s: float
    """Least time by the uplinks of the honest."""
    misdeeds: int
    """What the liars did."""

    @property
    def slowest(self) -> float:
        """When the last honest leecher was complete, in bounds; infinite: never."""
        times = [host.parts[0].figures.finished_at for host in self.honest]
        return max(float("inf") if time is None else time for time in times) / self.bound_s

    @property
    def mean(self) -> float:
        """When honest leechers were complete on average, in bounds; infinite: some never."""
        times = [host.parts[0].figures.finished_at for host in self.honest]
        known = [float("inf") if time is None else time for time in times]
        return sum(known) / len(known) / self.bound_s

    @property
    def complete_share(self) -> float:
        """Part of the honest leechers that finished."""
        return sum(host.is_done for host in self.honest) / len(self.honest)

    @property
    def wrongly_cut(self) -> int:
        """How often honest nodes cut each other off."""
        keepers = [self.seeder, *self.honest]
        numbers = {host.number: None for host in keepers}
        return sum(peer in numbers for host in keepers for peer, _ in host.offences)

    @property
    def cuts_max(self) -> int:
        """How often one node cut one liar off, at most: the bad answers that it took from it."""
        return max(
            (
                sum(peer == liar.number for peer, _ in host.offences)
                for host in self.honest
                for liar in self.liars
            ),
            default=0,
        )

    @property
    def bad_share(self) -> float:
        """Bad chunk bytes that honest leechers received, of those they needed."""
        parts = [host.parts[0].figures for host in self.honest]
        return sum(part.bad_bytes for part in parts) / max(sum(p.gained_bytes for p in parts), 1)


def run_relay(
    seed: int,
    image_bytes: int,
    kinds: Sequence[type[TransferHost]],
    *,
    host: type[TransferHost] = TransferHost,
    share: float = SHARE,
) -> RelaySwarm:
    """Runs a transfer with liars of some kinds, in turns; all know all.

    Args:
        seed: decides the image and all that is random.
        image_bytes: its size.
        kinds: what the liars are; empty: there are none.
        host: what honest leechers are.
        share: part of the leechers that lies.
    """
    transfer, tally = Transfer(seed, image_bytes=image_bytes), Tally()
    seeder = transfer.add_seeder()
    count = round(share * LEECHERS) if kinds else 0
    liars = [
        transfer.add_leecher(kind=tallied(kinds[number % len(kinds)], tally))
        for number in range(count)
    ]
    honest = [transfer.add_leecher(kind=host) for _ in range(LEECHERS - count)]
    transfer.run(UNTIL_S, waits_for=honest)
    return RelaySwarm(
        honest=honest,
        liars=liars,
        seeder=seeder,
        bound_s=_bound_s(image_bytes, len(honest), len(liars)),
        misdeeds=tally.misdeeds,
    )


def _bound_s(image_bytes: int, honest: int, liars: int) -> float:
    """The fluid bound: liars take the image, and their uplinks give nothing."""
    idle = replace(link(), uplink_bytes_per_s=0.0)
    return fluid_bound_s(image_bytes, [link()], [*[idle] * liars, *[link()] * honest])


@cache
def clean(seed: int, image_bytes: int) -> float:
    """What a swarm without liars takes, in its bounds."""
    return run_relay(seed, image_bytes, ()).slowest


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySiege:
    """Liars of some kinds among the leechers of a relayed transfer."""

    kinds: tuple[type[TransferHost], ...]
    """What they are, in turns."""
    image_bytes: int = LARGE_BYTES
    """Size of the image."""
    share: float = SHARE
    """Part of the leechers that lies."""
    cut_max: int | None = None
    """How often one node may cut one liar off; None: nothing it does is an offence."""

    def run(self, seed: int) -> AttackResult:
        """Against production nodes."""
        return self._judged(seed, TransferHost)

    def control(self, seed: int) -> AttackResult:
        """Against nodes that forget offences at once."""
        return self._judged(seed, ForgivingHost)

    def _judged(self, seed: int, host: type[TransferHost]) -> AttackResult:
        swarm = run_relay(seed, self.image_bytes, self.kinds, host=host, share=self.share)
        limit = round(SLOWER_MAX * clean(seed, self.image_bytes), 3)
        verdicts = [
            at_least("honest complete", 1.0, swarm.complete_share),
            at_most("slowest honest", limit, swarm.slowest, "bounds"),
            never("honest cut off", swarm.wrongly_cut),
        ]
        if self.cut_max is not None:
            verdicts.append(at_most("offences of one liar at one node", 1, swarm.cuts_max))
            verdicts.append(at_most("bad bytes, of those needed", 0.1, swarm.bad_share))
        return AttackResult(verdicts=tuple(verdicts), attempts=swarm.misdeeds)


def run_greedy(seed: int) -> AttackResult:
    """Members that ask everybody for everything, for ever: each takes a peer's share, no more."""
    swarm = run_relay(seed, LARGE_BYTES, [GreedyPeer])
    share = LEECHERS / len(swarm.honest)
    limit = round(SLOWER_MAX * share * clean(seed, LARGE_BYTES), 3)
    asked = sum(each.asked for each in swarm.liars if isinstance(each, GreedyPeer))
    return AttackResult(
        verdicts=(
            at_least("honest complete", 1.0, swarm.complete_share),
            at_most("slowest honest", limit, swarm.slowest, "bounds"),
            never("honest cut off", swarm.wrongly_cut),
        ),
        attempts=asked,
    )


# -- free-riders -----------------------------------------------------------------------------------

CROWD: Final = 40
"""Nodes that fetch the image where honest ones do not know all of them."""
VIEW: Final = 24
"""Streams that an honest node opens by itself; free-riders open one to everybody."""
RIDERS: Final = 0.4
"""Part of the leechers that gives nothing: what large-view free-riders needed to win (Sirivianos
and others, "Free-riding in BitTorrent networks with the large view exploit", 2007)."""


def _view_run(seed: int, image_bytes: int, riders: int) -> RelaySwarm:
    """Honest nodes know a few others, free-riders know everybody."""
    transfer, tally = Transfer(seed, image_bytes=image_bytes), Tally()
    chance = random.Random(f"views {seed}")  # noqa: S311 - replayed by seed, guards nothing
    seeder = transfer.add_seeder()
    rider = tallied(FreeRider, tally)
    honest = [_alone(transfer, TransferHost) for _ in range(CROWD - riders)]
    for host in honest:
        others = [seeder, *honest]
        join(transfer.network, host, _unknown(host, chance.sample(others, VIEW)))
    bad = [_alone(transfer, rider) for _ in range(riders)]
    for host in bad:
        join(transfer.network, host, _unknown(host, [seeder, *honest, *bad]))
    transfer.run(UNTIL_S, waits_for=honest)
    return RelaySwarm(
        honest=honest,
        liars=bad,
        seeder=seeder,
        bound_s=_bound_s(image_bytes, len(honest), len(bad)),
        misdeeds=tally.misdeeds,
    )


def _alone(transfer: Transfer, kind: type[TransferHost]) -> TransferHost:
    """A leecher that nobody knows yet."""
    host = kind(transfer.world, transfer.network, link(), disk=Disk(), relays=RelaySettings())
    host.add_image(transfer.release)
    return host


def _unknown(host: TransferHost, others: Sequence[TransferHost]) -> list[TransferHost]:
    return [other for other in others if other is not host and other.number not in host.peers]


def run_free_riders(seed: int) -> AttackResult:
    """Free-riders with a large view must not make honest nodes later than their share does."""
    riders = round(RIDERS * CROWD)
    swarm = _view_run(seed, SMALL_BYTES, riders)
    limit = round(SLOWER_MAX * _view_run(seed, SMALL_BYTES, 0).mean, 3)
    return AttackResult(
        verdicts=(
            at_least("honest complete", 1.0, swarm.complete_share),
            at_most("mean of the honest", limit, swarm.mean, "bounds"),
        ),
        attempts=swarm.misdeeds,
    )


# -- pushes that nobody asked for ------------------------------------------------------------------

_FAST: Final = NodeLink(uplink_bytes_per_s=125e6, downlink_bytes_per_s=125e6)
_SLOW_DISK: Final = Disk(verify_s=0.5)


def run_push_flood(seed: int) -> AttackResult:
    """Genuine pushes, more than anybody can take, to who wants them and to who does not."""
    transfer, tally = Transfer(seed, image_bytes=SMALL_BYTES, disk=_SLOW_DISK), Tally()
    seeder = transfer.add_seeder()
    flooder = transfer.add_leecher(_FAST, kind=tallied(PushFlooder, tally), held=[range(0)])
    honest = [transfer.add_leecher(_FAST) for _ in range(4)]
    pending: list[int] = [0]

    def look() -> None:
        for host in honest:
            relay = host.parts[0].relay
            assert relay is not None, "all nodes relay"
            pending.append(relay.statistics().pending_bytes)

    transfer.run(UNTIL_S, waits_for=honest, check=look)
    # The seeder and the other three may have as much waiting here as the flooder.
    bound = min(PENDING_BYTES_MAX, (len(honest) + 1) * PENDING_BYTES_PEER_MAX)
    caught = (flooder.number, Offence.UNSOLICITED) in seeder.offences
    done = sum(host.is_done for host in honest) / len(honest)
    return AttackResult(
        verdicts=(
            at_most("bytes waiting at one node", bound, max(pending), "B"),
            at_least("honest complete", 1.0, done),
            at_least("cut off by who wants no pushes", 1, float(caught)),
        ),
        attempts=tally.misdeeds,
    )
