"""Many real machines in the simulated world: whoever lies, stalls or leaves, honest ones finish."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.download_board import IN_FLIGHT_BYTES_MAX
from protocol.exchange_events import Offence
from protocol.exchange_messages import RejectReason
from swarmd.simulation.byzantine.chunk_corrupter import ChunkCorrupter
from swarmd.simulation.byzantine.claiming_peer import ClaimingPeer
from swarmd.simulation.byzantine.endless_peer import EndlessPeer
from swarmd.simulation.byzantine.misdealing_peer import Misdeal, MisdealingPeer
from swarmd.simulation.byzantine.page_forger import PageForger
from swarmd.simulation.byzantine.stalling_peer import StallingPeer
from swarmd.simulation.exchange_host import (
    ExchangeHost,
    Leave,
    SimulatedRelease,
    connect_all,
    is_banned_by,
    peer_id,
)
from swarmd.simulation.world import Link, World

LINK = Link(latency_s=0.02)


def make_release(seed: int, *counts: int, chunk_bytes: int = 500) -> SimulatedRelease:
    generator = random.Random(seed)
    return SimulatedRelease.of(
        [[generator.randbytes(generator.randint(1, chunk_bytes)) for _ in range(c)] for c in counts]
    )


def everything(release: SimulatedRelease) -> list[range]:
    return [range(len(chunks)) for chunks in release.components]


def assert_finished(hosts: list[ExchangeHost], release: SimulatedRelease) -> None:
    whole = tuple(b"".join(chunks) for chunks in release.components)
    for host in hosts:
        assert host.finished_at is not None
        assert host.content == whole


def assert_no_honest_blamed(honest: list[ExchangeHost]) -> None:
    for host in honest:
        for other in honest:
            assert not is_banned_by(host, other.number)


@pytest.mark.slow
def test_one_seeder_serves_many_who_serve_each_other() -> None:
    world = World(1, LINK)
    release = make_release(1, 400, chunk_bytes=20_000)
    seeder = ExchangeHost(world, release, held=everything(release), wants=False)
    leechers = [ExchangeHost(world, release, entropy=i << 60) for i in range(6)]
    connect_all([seeder, *leechers])
    world.run_until(60)
    assert_finished(leechers, release)
    assert_no_honest_blamed([seeder, *leechers])
    size = sum(len(chunk) for chunk in release.components[0])
    assert seeder.sent_bytes < 0.6 * len(leechers) * size  # the others carry the rest
    for leecher in leechers:
        assert sum(leecher.received_bytes.values()) < 1.1 * size


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> str:
        world = World(5, LINK)
        release = make_release(5, 60, 30)
        seeder = ExchangeHost(world, release, held=everything(release), wants=False)
        connect_all([seeder, *(ExchangeHost(world, release, entropy=i) for i in range(3))])
        world.run_until(30)
        return world.trace_hash

    assert run() == run()


BYZANTINE = [
    ChunkCorrupter,
    StallingPeer,
    ClaimingPeer,
    type("SilentClaimer", (ClaimingPeer,), {"is_silent": True}),
    type("BusyClaimer", (ClaimingPeer,), {"reason": RejectReason.BUSY}),
    type("CoyClaimer", (ClaimingPeer,), {"reason": RejectReason.UNKNOWN}),
    EndlessPeer,
    PageForger,
    *(type(f"Misdeal{kind.name}", (MisdealingPeer,), {"misdeal": kind}) for kind in Misdeal),
]
PROVABLE = {"ChunkCorrupter", "EndlessPeer", "PageForger", "MisdealSHORT", "MisdealLONG"}
PROVABLE |= {"MisdealSWAPPED", "MisdealWRONG_REQUEST"}


@pytest.mark.parametrize("kind", BYZANTINE, ids=lambda kind: kind.__name__)
def test_each_misbehaviour_is_survived_and_pinned_on_its_author(kind: type[ExchangeHost]) -> None:
    world = World(2, LINK)
    release = make_release(2, 120)
    # All the same length: a swapped chunk is then a digest's matter, not a length's.
    release = SimulatedRelease.of([[c.ljust(500, b"x") for c in release.components[0]]])
    seeder = ExchangeHost(world, release, held=everything(release), wants=False)
    culprit = kind(world, release, held=everything(release), wants=False)
    if isinstance(culprit, ClaimingPeer):
        culprit = kind(world, release, wants=False)
    leechers = [ExchangeHost(world, release, entropy=i << 61) for i in range(3)]
    # The culprit is met first, the honest seeder second.
    for leecher in leechers:
        for other in (culprit, seeder):
            leecher.connect(other.number)
            other.connect(leecher.number)
    world.run_until(120)
    assert_finished(leechers, release)
    assert_no_honest_blamed([seeder, *leechers])
    if kind.__name__ in PROVABLE:
        for leecher in leechers:
            assert is_banned_by(leecher, culprit.number)
            assert len([b for b in leecher.blames if b.peer == peer_id(culprit.number)]) <= 1


def test_one_bad_frame_is_all_a_corrupter_gets_to_send() -> None:
    world = World(3, LINK)
    release = make_release(3, 300)
    seeder = ExchangeHost(world, release, held=everything(release), wants=False)
    culprit = ChunkCorrupter(world, release, held=everything(release), wants=False)
    leecher = ExchangeHost(world, release)
    for other in (culprit, seeder):
        leecher.connect(other.number)
        other.connect(leecher.number)
    world.run_until(60)
    assert_finished([leecher], release)
    (blame,) = leecher.blames
    assert blame.peer == peer_id(culprit.number)
    assert blame.offence is Offence.CORRUPT_CHUNK
    assert blame.manifest_id == release.manifest_id
    assert blame.position < 300


def test_a_drip_feeder_does_not_slow_the_swarm() -> None:
    def finish_time(*, with_dripper: bool) -> float:
        world = World(4, LINK)
        release = make_release(4, 200, chunk_bytes=8_000)
        seeder = ExchangeHost(
            world, release, held=everything(release), wants=False, uplink_bytes_per_s=200_000
        )
        leecher = ExchangeHost(world, release)
        others = [seeder]
        if with_dripper:
            dripper = ExchangeHost(
                world, release, held=everything(release), wants=False, uplink_bytes_per_s=1
            )
            others.insert(0, dripper)
        for other in others:
            leecher.connect(other.number)
            other.connect(leecher.number)
        world.run_until(600)
        assert_finished([leecher], release)
        assert_no_honest_blamed([leecher, *others])
        assert leecher.finished_at is not None
        return leecher.finished_at

    assert finish_time(with_dripper=True) < finish_time(with_dripper=False) + 5.5


def test_a_seeder_that_leaves_is_replaced_by_one_that_comes() -> None:
    world = World(6, LINK)
    release = make_release(6, 200, chunk_bytes=4_000)
    first = ExchangeHost(world, release, held=everything(release), wants=False)
    leecher = ExchangeHost(world, release)
    second = ExchangeHost(world, release, held=everything(release), wants=False)
    connect_all([first, leecher])
    world.post(first.number, 0.15, Leave())
    world.run_until(5)
    assert leecher.finished_at is None
    for one, other in ((second, leecher), (leecher, second)):
        one.connect(other.number)
    world.run_until(30)
    assert_finished([leecher], release)
    assert not leecher.blames


@pytest.mark.slow
def test_bytes_in_flight_stay_bounded_with_many_fast_peers() -> None:
    world = World(7, Link(latency_s=0.001))
    release = make_release(7, 300, chunk_bytes=200_000)
    seeders = [
        ExchangeHost(world, release, held=everything(release), wants=False, uplink_bytes_per_s=1e9)
        for _ in range(8)
    ]
    leecher = ExchangeHost(world, release)
    for seeder in seeders:
        seeder.connect(leecher.number)
        leecher.connect(seeder.number)
    world.run_until(60)
    assert_finished([leecher], release)
    assert leecher.in_flight_bytes_max <= IN_FLIGHT_BYTES_MAX + 200_000


def test_an_outsider_learns_nothing() -> None:
    class Choosy(ExchangeHost):
        def may_serve(self, peer: int) -> bool:
            return peer != outsider.number

    world = World(8, LINK)
    release = make_release(8, 50)
    seeder = Choosy(world, release, held=everything(release), wants=False)
    member = ExchangeHost(world, release)
    outsider = ExchangeHost(world, release)
    said: list[str] = []
    original = seeder.outgoing

    def listen(target: int, message: object) -> object:
        if target == outsider.number:
            said.append(type(message).__name__)
        return original(target, message)  # type: ignore[arg-type]

    seeder.outgoing = listen  # type: ignore[method-assign,assignment]
    for leecher in (member, outsider):
        seeder.connect(leecher.number)
        leecher.connect(seeder.number)
    world.run_until(30)
    assert_finished([member], release)
    assert outsider.finished_at is None
    assert set(said) == {"Unknown"}
    assert outsider.content == (b"",)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.data())
def test_any_mix_completes_if_honest_peers_hold_everything(data: st.DataObject) -> None:
    """G6: every chunk is with some honest, staying node; all others do as they like."""
    seed = data.draw(st.integers(0, 2**32))
    generator = random.Random(seed)
    world = World(seed, Link(latency_s=generator.uniform(0.001, 0.2)))
    counts = [generator.randint(1, 60) for _ in range(generator.randint(1, 3))]
    release = make_release(seed, *counts, chunk_bytes=generator.choice([10, 500, 20_000]))
    honest_count = data.draw(st.integers(1, 4))
    share: list[list[list[int]]] = [[[] for _ in counts] for _ in range(honest_count)]
    for component, count in enumerate(counts):
        for index in range(count):
            for owner in generator.sample(range(honest_count), generator.randint(1, honest_count)):
                share[owner][component].append(index)
    honest = [
        ExchangeHost(world, release, held=held, entropy=generator.getrandbits(64)) for held in share
    ]
    honest.append(ExchangeHost(world, release, entropy=generator.getrandbits(64)))
    kinds = data.draw(st.lists(st.sampled_from(BYZANTINE), max_size=4))
    culprits = [kind(world, release, held=everything(release), wants=False) for kind in kinds]
    leavers = [
        ExchangeHost(world, release, held=everything(release), wants=False)
        for _ in range(data.draw(st.integers(0, 2)))
    ]
    everyone = [*culprits, *leavers, *honest]
    generator.shuffle(everyone)
    connect_all(everyone)
    for leaver in leavers:
        world.post(leaver.number, generator.uniform(0.0, 2.0), Leave())
    world.run_until(400)
    assert_finished(honest, release)
    assert_no_honest_blamed([*honest, *leavers])
