"""Swarms that pull: every node asks its peers for chunks, some of the peers lie.

The production machines on the model of `swarmd.simulation.exchange_host`: one honest seeder, whom
everybody meets last, honest leechers, and three adversaries in ten that claim the whole image.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from chunks.recipe_page import decode_recipe_page
from protocol.download_board import IN_FLIGHT_BYTES_MAX
from protocol.errors import VerificationError
from protocol.exchange_events import (
    ChunkRefused,
    ChunksStored,
    PageRefused,
    PageVerified,
    VerifyPage,
)
from protocol.exchange_messages import ExchangeMessage, RejectReason
from swarmd.simulation.attacks.attack import AttackResult, at_least, at_most, never
from swarmd.simulation.attacks.tally import Tally, tallied
from swarmd.simulation.byzantine.chunk_corrupter import ChunkCorrupter
from swarmd.simulation.byzantine.claiming_peer import ClaimingPeer
from swarmd.simulation.byzantine.endless_peer import REPETITIONS, EndlessPeer
from swarmd.simulation.byzantine.misdealing_peer import Misdeal, MisdealingPeer
from swarmd.simulation.byzantine.page_forger import PageForger
from swarmd.simulation.byzantine.rotting_peer import RottingPeer
from swarmd.simulation.byzantine.stalling_peer import StallingPeer
from swarmd.simulation.exchange_host import (
    ExchangeHost,
    SimulatedRelease,
    connect_all,
    is_banned_by,
    peer_id,
)
from swarmd.simulation.world import Link, World

HONEST: Final = 7
"""Leechers that keep the rules."""
LIARS: Final = 3
"""Nodes that do not: three in ten."""
CHUNKS: Final = 150
"""Of the image."""
CHUNKS_LARGE: Final = 320
"""Where liars answer with spoilt chunks: each costs every node one answer, whatever the size."""
CHUNK_BYTES: Final = 8_000
"""Each; all of one length, so that an exchanged chunk is a digest's matter."""
UPLINK_BYTES_PER_S: Final = 500_000.0
"""Of every node: the image alone takes 2.4 s to send once."""
SLOWER_MAX: Final = 1.25
"""Mean time with liars, in times without them and without their uplinks."""
PATIENCE_S: Final = 6.0
"""What silent peers may cost besides: 5 s until a request to a peer of unknown rate is overdue
(exchange.md, X41), and one more to ask and be answered."""
SPOILT_S: Final = HONEST * 65_536 / UPLINK_BYTES_PER_S
"""What a first answer costs that is thrown away: the window of an unknown peer (exchange.md, X40),
for every honest node over one uplink."""
CLEAN_RUNS: Final = 3
"""Runs without liars that those with them are compared with."""
_UNTIL_S: Final = 120.0
_LINK: Final = Link(latency_s=0.02)


class TrustingHost(ExchangeHost):
    """Keeps whatever it is sent, without comparing digests: the control."""

    def _write(self, component: int, index: int, data: bytes) -> ChunksStored | ChunkRefused:
        super()._write(component, index, self._release.components[component][index])
        self._data[component][index] = data
        return ChunksStored(component=component, indices=(index,))

    def _verify(self, effect: VerifyPage) -> PageVerified | PageRefused:
        try:
            page = decode_recipe_page(effect.body)
        except VerificationError as error:
            return PageRefused(component=effect.component, page=effect.page, detail=str(error))
        recipe = self._release.recipes[effect.component]
        start = effect.page * len(page.lengths)
        count = len(page.lengths)
        own = b"".join(recipe.digest(index) for index in range(start, start + count))
        if page.digests != own:
            self._data[effect.component][-1] = b"a recipe of another image"
        return PageVerified(component=effect.component, page=effect.page, lengths=page.lengths)


@dataclass(slots=True)
class PullSwarm:
    """What ran."""

    seeder: ExchangeHost
    """Holds everything, met last."""
    honest: list[ExchangeHost]
    """Leechers that keep the rules."""
    liars: list[ExchangeHost]
    """Those that do not."""
    release: SimulatedRelease
    """The image."""
    tally: Tally = field(default_factory=Tally)
    """What the liars did."""

    @property
    def mean_s(self) -> float:
        """When honest leechers were complete on average, simulated seconds; infinite: some never.

        The slowest of so few depends on the seed more than on the liars.
        """
        times = [
            float("inf") if each.finished_at is None else each.finished_at for each in self.honest
        ]
        return sum(times) / len(times)

    @property
    def complete_share(self) -> float:
        """Part of the honest leechers that finished with the right bytes."""
        whole = tuple(b"".join(chunks) for chunks in self.release.components)
        done = [host for host in self.honest if host.finished_at is not None]
        return sum(host.content == whole for host in done) / len(self.honest)

    @property
    def wrong_bytes(self) -> int:
        """Chunks kept by honest leechers that are not the image's."""
        truth = self.release.components[0]
        return sum(
            data != (truth[index] if index >= 0 else None)
            for host in self.honest
            for index, data in host._data[0].items()  # noqa: SLF001 - looks at its disk
        )

    @property
    def wrongly_blamed(self) -> int:
        """Pairs of honest nodes of which one banned the other."""
        honest = [self.seeder, *self.honest]
        return sum(is_banned_by(one, other.number) for one in honest for other in honest)

    @property
    def bad_chunks_max(self) -> int:
        """Most bad chunks or pages for which one liar was blamed by one node."""
        names = [peer_id(liar.number) for liar in self.liars]
        return max(
            (
                sum(blame.peer == name for blame in host.blames)
                + sum(peer_id(peer) == name for peer, _ in host.offences)
                for host in self.honest
                for name in names
            ),
            default=0,
        )

    @property
    def banned_share(self) -> float:
        """Part of the pairs (honest leecher, liar that answered it) that ended in a ban."""
        met = [
            (host, liar)
            for host in self.honest
            for liar in self.liars
            if liar.number in host.received_bytes
        ]
        banned = sum(is_banned_by(host, liar.number) for host, liar in met)
        return banned / len(met) if met else 1.0


def run_pull(
    seed: int,
    kinds: Sequence[type[ExchangeHost]],
    *,
    host: type[ExchangeHost] = ExchangeHost,
    holds: bool = True,
    uplink_bytes_per_s: float = UPLINK_BYTES_PER_S,
    chunks: int = CHUNKS,
) -> PullSwarm:
    """Runs a swarm with liars of some kinds, in turns.

    Args:
        seed: decides the image and all that is random.
        kinds: what the liars are; empty: there are none.
        host: what honest nodes are.
        holds: whether liars really hold the image.
        uplink_bytes_per_s: of the liars.
        chunks: of the image.
    """
    world, chance = World(seed, _LINK), random.Random(f"image {seed}")  # noqa: S311 - replayed
    release = SimulatedRelease.of([[chance.randbytes(CHUNK_BYTES) for _ in range(chunks)]])
    whole = [range(chunks)]
    tally = Tally()
    liars = [
        tallied(kinds[number % len(kinds)], tally)(
            world,
            release,
            held=whole if holds else None,
            wants=False,
            uplink_bytes_per_s=uplink_bytes_per_s,
        )
        for number in range(LIARS if kinds else 0)
    ]
    honest = [
        host(
            world,
            release,
            entropy=chance.getrandbits(64),
            uplink_bytes_per_s=UPLINK_BYTES_PER_S,
        )
        for _ in range(HONEST)
    ]
    seeder = ExchangeHost(
        world, release, held=whole, wants=False, uplink_bytes_per_s=UPLINK_BYTES_PER_S
    )
    connect_all([*liars, *honest, seeder])
    while world.now < _UNTIL_S and any(each.finished_at is None for each in honest):
        world.run_until(world.now + 0.5)
    return PullSwarm(seeder, honest, liars, release, tally)


@cache
def clean_s(seed: int, chunks: int) -> float:
    """How long the honest ones take alone for an image of so many chunks, the mean of a few runs.

    Single runs differ by a fifth: whose chunks are rare is chance.
    """
    times = [run_pull(seed + more, (), chunks=chunks).mean_s for more in range(CLEAN_RUNS)]
    return sum(times) / len(times)


def judged(seed: int, swarm: PullSwarm, *, extra_s: float = 0.0, provable: bool) -> AttackResult:
    """What holds whoever lies.

    Args:
        seed: of the run.
        swarm: that ran.
        extra_s: what the liars may cost besides, seconds.
        provable: whether each liar must be banned by whom it answered, for one offence.
    """
    limit_s = round(SLOWER_MAX * clean_s(seed, swarm.release.recipes[0].chunk_count) + extra_s, 2)
    verdicts = [
        at_least("honest complete", 1.0, swarm.complete_share),
        never("wrong chunks kept", swarm.wrong_bytes),
        never("honest banned", swarm.wrongly_blamed),
        at_most("mean of the honest", limit_s, swarm.mean_s, "s"),
    ]
    if provable:
        verdicts.append(at_most("offences of one liar at one node", 1, swarm.bad_chunks_max))
        verdicts.append(at_least("liars banned", 1.0, swarm.banned_share))
    return AttackResult(verdicts=tuple(verdicts), attempts=swarm.tally.misdeeds)


def run_corrupters(seed: int, host: type[ExchangeHost] = ExchangeHost) -> AttackResult:
    """Every chunk has one wrong bit."""
    swarm = run_pull(seed, [ChunkCorrupter], host=host, chunks=CHUNKS_LARGE)
    return judged(seed, swarm, extra_s=SPOILT_S, provable=True)


def run_page_forgers(seed: int, host: type[ExchangeHost] = ExchangeHost) -> AttackResult:
    """Recipe pages describe another image."""
    swarm = run_pull(seed, [PageForger], host=host)
    return judged(seed, swarm, extra_s=SPOILT_S, provable=True)


def run_misdealers(seed: int, host: type[ExchangeHost] = ExchangeHost) -> AttackResult:
    """Genuine bytes, cut short, made long, or under another index or request."""
    kinds = [
        type(f"Misdealing{each.name}", (MisdealingPeer,), {"misdeal": each})
        for each in (Misdeal.SWAPPED, Misdeal.SHORT, Misdeal.WRONG_REQUEST)
    ]
    swarm = run_pull(seed, kinds, host=host)
    return judged(seed, swarm, extra_s=SPOILT_S, provable=True)


def run_endless(seed: int) -> AttackResult:
    """Each answer is sent again and again."""
    swarm = run_pull(seed, [EndlessPeer])
    used = max(each.in_flight_bytes_max for each in swarm.honest)
    result = judged(seed, swarm, extra_s=PATIENCE_S, provable=True)
    bound = IN_FLIGHT_BYTES_MAX + CHUNK_BYTES
    verdicts = (*result.verdicts, at_most("bytes buffered", bound, used, "B"))
    return AttackResult(verdicts=verdicts, attempts=swarm.tally.misdeeds // REPETITIONS)


def run_claimers(seed: int) -> AttackResult:
    """Nothing is held, everything claimed: rejects at once, busy for ever, or no word at all."""
    kinds = [
        ClaimingPeer,
        type("SilentClaimer", (ClaimingPeer,), {"is_silent": True}),
        type("BusyClaimer", (ClaimingPeer,), {"reason": RejectReason.BUSY}),
    ]
    swarm = run_pull(seed, kinds, holds=False)
    return judged(seed, swarm, extra_s=PATIENCE_S, provable=False)


def run_stallers(seed: int) -> AttackResult:
    """Requests are taken and never answered."""
    swarm = run_pull(seed, [StallingPeer])
    return judged(seed, swarm, extra_s=PATIENCE_S, provable=False)


def run_drips(seed: int) -> AttackResult:
    """Everything is right, at a thousand bytes a second."""
    swarm = run_pull(seed, [_Dripping], uplink_bytes_per_s=1_000.0)
    result = judged(seed, swarm, extra_s=PATIENCE_S, provable=False)
    sent = sum(liar.sent_bytes for liar in swarm.liars) // CHUNK_BYTES
    return AttackResult(verdicts=result.verdicts, attempts=sent)


class _Dripping(ExchangeHost):
    """Honest but for its uplink."""


def run_rot(seed: int, *, is_checked: bool = True) -> AttackResult:
    """Honest peers whose disks rot.

    Args:
        seed: of the run.
        is_checked: whether their stores compare digests when they read.
    """
    reads = Tally()
    kind = type("Rotting", (RottingPeer,), {"is_checked": is_checked})
    swarm = run_pull(seed, [_counting_rejects(kind, reads)])
    banned = sum(is_banned_by(one, other.number) for one in swarm.honest for other in swarm.liars)
    verdicts = (
        at_least("honest complete", 1.0, swarm.complete_share),
        never("honest nodes with bad disks banned", banned),
        never("wrong chunks kept", swarm.wrong_bytes),
    )
    return AttackResult(verdicts=verdicts, attempts=max(reads.misdeeds, banned))


def _counting_rejects(kind: type[ExchangeHost], reads: Tally) -> type[ExchangeHost]:
    def outgoing(
        _self: ExchangeHost, _target: int, message: ExchangeMessage
    ) -> tuple[ExchangeMessage, ...]:
        reads.misdeeds += type(message).__name__ == "Reject"
        return (message,)

    return type(kind.__name__, (kind,), {"outgoing": outgoing})


# -- outsiders -------------------------------------------------------------------------------------


class _Choosy(ExchangeHost):
    """Serves members, as an authority says."""

    strangers: Sequence[int] = ()
    """Whom it does not serve."""
    told: Tally | None = None
    """Counts what it tells them besides that it knows nothing."""

    def may_serve(self, peer: int) -> bool:
        """Members only."""
        return peer not in self.strangers

    def outgoing(self, target: int, message: ExchangeMessage) -> tuple[ExchangeMessage, ...]:
        """Sends, and counts what strangers learn."""
        is_refusal = type(message).__name__ == "Unknown" or (
            getattr(message, "reason", None) is RejectReason.UNKNOWN
        )
        if self.told is not None and target == 1 and not is_refusal:
            self.told.misdeeds += 1
        return (message,)


def run_outsider(seed: int, *, is_asked: bool = True) -> AttackResult:
    """A member of another group asks for an image it may not know.

    Args:
        seed: of the run.
        is_asked: whether holders ask their authority who may know.
    """
    world, chance = World(seed, _LINK), random.Random(f"image {seed}")  # noqa: S311 - replayed
    release = SimulatedRelease.of([[chance.randbytes(CHUNK_BYTES) for _ in range(CHUNKS)]])
    told = Tally()
    seeder = _Choosy(world, release, held=[range(CHUNKS)], wants=False)
    seeder.told = told
    asked = Tally()
    kind = tallied(_counting_questions(asked), Tally())
    outsider = kind(world, release)
    member = ExchangeHost(world, release)
    if is_asked:
        seeder.strangers = (outsider.number,)
    for leecher in (outsider, member):
        seeder.connect(leecher.number)
        leecher.connect(seeder.number)
    world.run_until(30.0)
    verdicts = (
        never("chunks for the outsider", len(outsider.content[0])),
        never("answers that tell anything", told.misdeeds),
        at_least("members complete", 1.0, float(member.finished_at is not None)),
    )
    return AttackResult(verdicts=verdicts, attempts=asked.misdeeds)


def _counting_questions(asked: Tally) -> type[ExchangeHost]:
    def outgoing(
        _self: ExchangeHost, _target: int, message: ExchangeMessage
    ) -> tuple[ExchangeMessage, ...]:
        asked.misdeeds += 1
        return (message,)

    return type("Outsider", (ExchangeHost,), {"outgoing": outgoing})
