"""The catalogue of adversaries: each alone against honest validators, and more than f of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from protocol.errors import ConfigError
from swarmd.simulation.byzantine.catalogue import (
    ADVERSARIES,
    Plane,
    adversary,
    draw_adversary,
    of_plane,
)
from swarmd.simulation.consensus_campaign import Plan, run_seed
from swarmd.simulation.consensus_cluster import Epochs

SEATS = [item.name for item in of_plane(Plane.CONSENSUS)]
FOLDER = Path(__file__).resolve().parents[2] / "swarmd" / "simulation" / "byzantine"


def test_every_adversary_has_a_name_a_plane_a_line_and_exactly_one_way_into_a_world() -> None:
    for name, item in ADVERSARIES.items():
        assert name == item.name
        assert name.replace("_", "").isalnum()
        assert 0 < len(item.summary) <= 60
        assert "\n" not in item.summary
        ways = [item.seat, item.peer, item.member, item.forger]
        assert sum(way is not None for way in ways) == 1, name
        assert item.weight > 0


def test_every_module_is_in_the_catalogue() -> None:
    text = (FOLDER / "catalogue.py").read_text("utf-8")
    for path in FOLDER.glob("*.py"):
        if path.stem not in ("__init__", "catalogue", "rogue"):
            assert f"byzantine.{path.stem} import" in text, path.stem


def test_an_unknown_name_is_told_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"no adversary 'tiwn'; there are: .*twin"):
        adversary("tiwn")
    with pytest.raises(ConfigError, match="does not attack the validators"):
        run_seed(1, Plan(byzantine="chunk_corrupter"))


def test_drawing_follows_the_weights_and_the_generator() -> None:
    drawn = [draw_adversary(random.Random(seed)).name for seed in range(400)]
    assert drawn == [draw_adversary(random.Random(seed)).name for seed in range(400)]
    assert set(drawn) == set(SEATS)
    assert drawn.count("twin") > drawn.count("nullifier")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEATS)
def test_one_of_four_harms_nobody_and_leaves_the_trace_it_must(name: str) -> None:
    epochs = Epochs(length_ms=3000, reserves=1) if name in ("stale_epoch", "retired_keys") else None
    plan = Plan(byzantine=name, duration_s=20.0, block_interval_s=0.5, epochs=epochs)
    outcomes = [run_seed(seed, plan) for seed in range(2)]
    assert [outcome for outcome in outcomes if outcome.is_broken] == []
    item = adversary(name)
    if item.is_refused:
        assert sum(outcome.refused for outcome in outcomes) > 0
    if item.is_convicted:
        assert any(outcome.convicted for outcome in outcomes)
    for outcome in outcomes:
        assert set(outcome.convicted) <= set(outcome.faulty)


@pytest.mark.slow
def test_two_different_liars_among_seven() -> None:
    outcomes = [
        run_seed(seed, Plan(count=7, duration_s=16.0, block_interval_s=0.5)) for seed in range(4)
    ]
    assert [outcome for outcome in outcomes if outcome.is_broken] == []
    assert any(len(set(outcome.adversaries)) == 2 for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.untraced
def test_two_twins_among_four_are_expected_to_break_agreement_and_do() -> None:
    plan = Plan(byzantine="twin", faulty=2, duration_s=16.0, power_failures=False)
    assert plan.is_expected_to_break
    outcomes = [run_seed(seed, plan) for seed in range(12)]
    assert any(outcome.is_forked for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mute_validator", "clock_ahead"])
def test_two_silent_or_drifted_clocks_among_four_stop_the_chain(name: str) -> None:
    plan = Plan(byzantine=name, faulty=2, duration_s=20.0, power_failures=False)
    assert plan.is_expected_to_break
    assert not Plan(byzantine=name, faulty=1).is_expected_to_break
    outcome = run_seed(1, plan)
    assert outcome.is_stuck
    assert not outcome.is_forked


@pytest.mark.slow
def test_two_holders_of_retired_keys_cannot_lead_each_other_astray() -> None:
    """A regression: a process still at genesis took a run that did not begin there."""
    plan = Plan(
        count=7,
        byzantine="retired_keys",
        duration_s=20.0,
        block_interval_s=1.0,
        epochs=Epochs(length_ms=4000, reserves=1),
    )
    assert [seed for seed in range(4) if run_seed(seed, plan).is_broken] == []
