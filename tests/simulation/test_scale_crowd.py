"""Crowds: the production machines at the cost of thousands, small enough for a test."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.errors import ConfigError
from protocol.exchange_events import UploadEffect, UploadInput
from protocol.limits import CHUNK_BYTES_MAX, KIB, MIB
from swarmd.simulation.crowd import Crowd, CrowdScenario
from swarmd.simulation.crowd_host import CrowdHost, make_shared_release
from swarmd.simulation.links import NodeLink
from swarmd.simulation.transfer_host import join
from tests.support.crowds import ONE, small_crowd


def scenario(**options: Any) -> CrowdScenario:
    return small_crowd(**{"tick_s": 0.05, **options})


def finished(**options: Any) -> Crowd:
    crowd = Crowd(scenario(**options))
    crowd.run(60.0)
    return crowd


@pytest.mark.slow
@pytest.mark.parametrize("is_relayed", [True, False])
def test_everybody_completes_and_one_seed_gives_one_run(is_relayed: bool) -> None:
    runs = [finished(seed=seed, is_relayed=is_relayed).figures() for seed in (1, 1, 2)]
    assert all(run.is_complete for run in runs)
    assert runs[0].trace_hash == runs[1].trace_hash != runs[2].trace_hash
    assert runs[0].deliveries == 24 * 32
    assert runs[0].finished_s[0] >= runs[0].bound_s
    assert runs[0].ratio(0.5) <= runs[0].ratio(0.99)
    assert runs[0].duplicate_share < 0.2


def test_everybody_has_as_many_peers_and_the_seeder_its_own() -> None:
    crowd = Crowd(scenario(nodes=40, seeder_peers=5))
    assert len(crowd.seeder.peers) == 5
    for host in crowd.nodes:
        others = [peer for peer in host.peers if peer != crowd.seeder.number]
        # Two rings may share an edge.
        assert 5 <= len(others) <= 8
    # A message from anybody can reach anybody: rings see to that.
    seen, edge = {crowd.seeder.number}, [crowd.seeder]
    by_number = {host.number: host for host in crowd.nodes}
    while edge:
        fresh = {peer for host in edge for peer in host.peers} - seen
        seen |= fresh
        edge = [by_number[number] for number in sorted(fresh)]
    assert len(seen) == 41


def test_nodes_share_one_copy_and_still_refuse_other_bytes() -> None:
    release = make_shared_release(1_000_000, 256 * KIB)
    chunks = release.components[0]
    assert [len(chunk) for chunk in chunks] == [262_144] * 3 + [213_568]
    assert chunks[0] is chunks[1]
    part = Crowd(scenario(image_bytes=256 * KIB, nodes=2)).nodes[0].parts[0]
    own = part.release.components[0][1]
    assert not part.store(0, 1, b"\x01" * len(own))
    assert not part.store(0, 1, memoryview(own)[:-1])
    assert part.figures.bad_bytes == 2 * len(own) - 1
    assert part.store(0, 1, bytes(len(own)))
    assert part.store(0, 2, memoryview(own))
    assert part.figures.gained_bytes == 2 * len(own)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"nodes": 0}, "nodes: 0, expected 1"),
        ({"image_bytes": 0}, "image_bytes"),
        ({"unit_bytes": CHUNK_BYTES_MAX + 1}, "unit_bytes"),
        ({"peers": 1}, "peers"),
        ({"seeder_peers": 0}, "seeder_peers"),
        (
            {"links": (NodeLink(uplink_bytes_per_s=0.0, downlink_bytes_per_s=1.0),)},
            "every rate must be above 0",
        ),
    ],
)
def test_a_crowd_that_makes_no_sense_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        scenario(**change)


@pytest.mark.slow
@pytest.mark.untraced
def test_a_pulling_crowd_takes_little_more_than_one_copy_of_its_seeder() -> None:
    figures = finished(nodes=60, image_bytes=16 * MIB, seeder_peers=32, is_relayed=False).figures()
    assert figures.is_complete
    # With everything told to everybody 2.4 copies left the seeder, and with picks that go on where
    # they ended 4.
    assert figures.seeder_share < 1.7
    assert figures.ratio(0.5) < 1.8


@pytest.mark.slow
def test_who_holds_most_of_it_finds_the_rest_though_parts_are_told() -> None:
    crowd = Crowd(scenario(nodes=1, is_relayed=False))
    late = [CrowdHost(crowd.world, crowd.network, ONE, tick_s=0.05) for _ in range(6)]
    for host in late:
        host.add_image(crowd.release, held=[range(31)])
        join(crowd.network, host, [crowd.seeder])
    crowd.run(60.0)
    crowd.world.run_until(crowd.world.now + 3.0)
    assert all(host.is_done for host in late)


class MuteHost(CrowdHost):
    """Takes whatever it is told of and gives nothing."""

    def _effects_of(self, peer: int, event: UploadInput) -> list[UploadEffect]:
        return []


@pytest.mark.slow
@pytest.mark.untraced
def test_who_takes_its_part_and_passes_nothing_on_costs_the_seeder_that_part_again() -> None:
    crowd = Crowd(scenario(nodes=24, seeder_peers=24, image_bytes=8 * MIB, is_relayed=False))
    honest_only = crowd.seeder.parts[0].figures
    crowd.run(60.0)
    alone, alone_s = honest_only.sent_bytes, crowd.figures().quantile_s(1.0)

    crowd = Crowd(scenario(nodes=24, seeder_peers=24, image_bytes=8 * MIB, is_relayed=False))
    for _ in range(8):
        mute = MuteHost(crowd.world, crowd.network, ONE, tick_s=0.05)
        mute.add_image(crowd.release)
        join(crowd.network, mute, [crowd.seeder, *crowd.nodes[:8]])
    crowd.run(60.0)
    figures = crowd.figures()
    assert figures.is_complete
    assert figures.quantile_s(1.0) < 2 * alone_s + 2.0
    assert crowd.seeder.parts[0].figures.sent_bytes < 3 * alone
