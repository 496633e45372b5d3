"""The flow model alone: bounds, conservation, stages, sites, refusals, repeatability."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import ConfigError
from protocol.limits import KIB, MIB
from swarmd.simulation.flow import THIN, FlowScenario, FlowStage, LinkClass, scenario_hash
from swarmd.simulation.flow_run import run_flow

MIXED = (
    LinkClass(share=0.1, uplink_bytes_per_s=THIN / 4, downlink_bytes_per_s=THIN / 4),
    LinkClass(share=0.1, uplink_bytes_per_s=THIN * 10, downlink_bytes_per_s=THIN * 10),
    LinkClass(share=0.8),
)


def scenario(**options: Any) -> FlowScenario:
    return FlowScenario(**{"gateways": 1000, "image_bytes": 16 * MIB, "peers": 1000, **options})


def test_equal_sites_finish_together_near_the_bound_for_one_copy_of_the_origin() -> None:
    figures = run_flow(scenario())
    assert 1.04 < figures.makespan < 1.4
    assert figures.p50_s == pytest.approx(figures.makespan_s, rel=0.02)
    assert figures.origin_bytes == pytest.approx(16 * MIB, rel=0.01)
    assert figures.origin_share <= 0.01
    assert figures.site_bytes == pytest.approx(1000 * 16 * MIB, rel=1e-6)


def test_sites_that_give_nothing_leave_everything_to_the_origin() -> None:
    figures = run_flow(scenario(gateways=50, classes=(LinkClass(uploads=False),)))
    assert figures.bound_s == pytest.approx(50 * 16 * MIB / THIN)
    assert figures.makespan == pytest.approx(1.046 * 1.02, rel=0.03)
    assert figures.origin_share == pytest.approx(1.0, abs=0.01)


def test_slow_sites_hold_nobody_else_up() -> None:
    figures = run_flow(scenario(classes=MIXED))
    assert figures.p50_s < 1.6 * 16 * MIB / THIN
    assert figures.makespan == pytest.approx(1.046, rel=0.2)
    assert figures.bound_s == pytest.approx(4 * 16 * MIB / THIN)


def test_a_later_stage_waits_for_soak_and_successes_and_costs_the_origin_little() -> None:
    stages = (FlowStage(share=0.1, soak_s=100.0), FlowStage(share=1.0))
    figures = run_flow(scenario(stages=stages))
    assert figures.stage_starts_s[1] == pytest.approx(100.0, abs=1.0)
    assert figures.makespan_s > 100.0
    # By then 100 sites hold the image: the origin is one of many.
    assert figures.origin_bytes < 3 * 16 * MIB
    impatient = (FlowStage(share=0.1, success_share=1.0), FlowStage(share=1.0))
    figures = run_flow(scenario(stages=impatient))
    assert figures.stage_starts_s[1] >= 16 * MIB / THIN


def test_gateways_behind_one_link_share_one_copy() -> None:
    figures = run_flow(scenario(gateways_per_site=5.0))
    assert 150 <= figures.sites <= 250
    assert figures.site_bytes == pytest.approx(figures.sites * 16 * MIB, rel=1e-6)
    narrow = run_flow(scenario(gateways_per_site=5.0, lan_bytes_per_s=THIN / 2))
    assert narrow.makespan_s > 1.8 * figures.makespan_s


def test_gateways_that_poll_come_within_one_and_a_half_heartbeats() -> None:
    classes = (LinkClass(), LinkClass(is_polling=True, uploads=False))
    figures = run_flow(scenario(classes=classes, heartbeat_s=60.0))
    assert 80.0 < figures.makespan_s < 110.0
    assert figures.fetch_p99_s < 12.0


def test_half_speed_takes_twice_as_long() -> None:
    slow = LinkClass(uplink_bytes_per_s=THIN / 2, downlink_bytes_per_s=THIN / 2)
    one = run_flow(scenario(image_bytes=256 * MIB))
    half = run_flow(
        scenario(image_bytes=256 * MIB, classes=(slow,), origin_uplink_bytes_per_s=THIN / 2)
    )
    assert half.makespan_s == pytest.approx(2 * one.makespan_s, rel=0.01)


def test_who_knows_a_few_only_takes_longer_and_some_much_longer() -> None:
    dense, sparse = run_flow(scenario()), run_flow(scenario(peers=16))
    assert 1.2 * dense.p50_s < sparse.p50_s < 1.5 * dense.p50_s
    assert sparse.p99_s > 1.05 * sparse.p50_s
    assert dense.origin_bytes < sparse.origin_bytes < 2 * dense.origin_bytes


def test_curves_rise_to_everybody() -> None:
    figures = run_flow(scenario(classes=MIXED, gossip_hop_s=0.5))
    for curve in (figures.curve, figures.origin_curve):
        assert len(curve) <= 256
        assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(curve))
    assert figures.curve[-1] == (figures.makespan_s, 1.0)
    assert figures.origin_curve[-1][1] == figures.origin_bytes
    assert figures.as_dict()["sites"] == 1000


def test_one_seed_gives_one_result() -> None:
    options = {"classes": MIXED, "gossip_hop_s": 0.5, "gateways_per_site": 2.0}
    hashes = [run_flow(scenario(seed=seed, **options)).result_hash for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert scenario_hash(scenario(seed=1)) != scenario_hash(scenario(seed=2))


@pytest.mark.slow
@given(
    gateways=st.integers(1, 300),
    seed=st.integers(0, 5),
    rates=st.lists(st.floats(THIN / 20, THIN * 20), min_size=1, max_size=4),
    per_site=st.sampled_from((1.0, 3.0)),
    hop_s=st.sampled_from((0.0, 2.0)),
    peers=st.sampled_from((8, 300)),
    stages=st.sampled_from(((1.0,), (0.05, 1.0), (0.01, 0.2, 1.0))),
)
@settings(max_examples=25, deadline=None)
def test_nobody_is_faster_than_physics_and_no_byte_is_lost(
    gateways: int,
    seed: int,
    rates: list[float],
    per_site: float,
    hop_s: float,
    peers: int,
    stages: tuple[float, ...],
) -> None:
    figures = run_flow(
        scenario(
            gateways=gateways,
            seed=seed,
            image_bytes=MIB,
            classes=tuple(LinkClass(uplink_bytes_per_s=r, downlink_bytes_per_s=r) for r in rates),
            gateways_per_site=per_site,
            peers=peers,
            gossip_hop_s=hop_s,
            stages=tuple(FlowStage(share=share) for share in stages),
        )
    )
    assert math.isfinite(figures.makespan_s)
    assert figures.p50_s <= figures.p99_s <= figures.makespan_s
    assert figures.makespan_s >= MIB / min(max(rates), THIN)
    assert figures.site_bytes == pytest.approx(figures.sites * MIB, rel=1e-5)
    assert 0.99 * MIB <= figures.origin_bytes <= 1.34 * figures.site_bytes


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"gateways": 0}, "gateways: 0"),
        ({"gateways": 2_000_001}, "gateways"),
        ({"image_bytes": 0}, "image_bytes"),
        ({"unit_bytes": KIB - 1}, "unit_bytes"),
        ({"delay_s": -0.001}, "delay_s: -0.001, expected 0 or more"),
        ({"gossip_hop_s": math.inf}, "gossip_hop_s"),
        ({"heartbeat_s": 0.0}, "heartbeat_s"),
        ({"origin_uplink_bytes_per_s": 0.0}, "origin_uplink_bytes_per_s"),
        ({"gateways_per_site": 0.5}, "gateways_per_site"),
        ({"classes": ()}, "classes: 0"),
        ({"classes": (LinkClass(downlink_bytes_per_s=0.0),)}, r"classes\[0\]\.downlink"),
        ({"classes": (LinkClass(uplink_bytes_per_s=0.0),)}, r"classes\[0\]\.uplink"),
        ({"classes": (LinkClass(share=math.nan),)}, r"classes\[0\]\.share"),
        ({"stages": ()}, "stages: 0"),
        ({"stages": (FlowStage(share=0.5),)}, "the last share is 0.5"),
        ({"stages": (FlowStage(share=0.5), FlowStage(share=0.5))}, r"stages\[1\]\.share"),
        ({"stages": (FlowStage(share=1.0, soak_s=-1.0),)}, r"stages\[0\]\.soak_s"),
        ({"stages": (FlowStage(share=1.0, success_share=2.0),)}, r"stages\[0\]\.success_share"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(change: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        replace(scenario(), **change)


@pytest.mark.slow
def test_the_daemon_and_the_command_line_do_not_load_numpy() -> None:
    code = (
        "import sys, swarmd.__main__, swarmd.daemon, swarmd.simulation.flow;"
        "sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
