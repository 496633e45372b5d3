"""Scenarios with whole daemons instead of machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from protocol.errors import ConfigError
from swarmd.simulation.daemons.scenario_run import check_daemons, run_daemons
from swarmd.simulation.scenario import (
    Adversary,
    Expectations,
    Fault,
    FaultKind,
    Gateways,
    Image,
    LinkClass,
    Network,
    ReleasePlan,
    Scenario,
    Seeders,
    Target,
)
from swarmd.simulation.scenario_file import load_scenario, shipped_scenarios

SMALL = Scenario(
    name="small",
    gateways=Gateways(count=3, peers=4),
    image=Image(size_kib=96),
    releases=(ReleasePlan(publish_s=0.5),),
    expect=Expectations(makespan_max=60.0, seeder_images=20.0),
)


@pytest.mark.slow
def test_a_revocation_reaches_whom_it_can_and_the_rest_after_healing(tmp_path: Path) -> None:
    scenario = replace(
        SMALL,
        releases=(
            ReleasePlan(name="recalled", publish_s=0.5, revoke_s=3.0),
            ReleasePlan(name="mended", publish_s=5.0, changed=0.3),
        ),
        faults=(
            Fault(kind=FaultKind.PARTITION, share=0.34, start_s=2.5, end_s=8.0),
            Fault(kind=FaultKind.CRASH, target=Target.VALIDATORS, share=0.25, start_s=1, end_s=9),
        ),
        expect=Expectations(seeder_images=20.0),
    )
    outcome = run_daemons(scenario, 3, tmp_path / "network")
    assert outcome.passed, outcome.explain()
    names = {verdict.name for verdict in outcome.verdicts}
    assert names >= {"agreement", "authorised-only", "blame", "liveness", "revocation", "complete"}
    recalled, mended = outcome.releases
    assert recalled.revoked_s is not None
    assert len(mended.finished_s) == 3
    assert outcome.simulated_s > 9
    assert outcome.samples[-1].seeder_bytes > 96 * 1024


@pytest.mark.slow
def test_a_bound_that_is_too_tight_is_broken_and_nobody_is_ready_without_validators(
    tmp_path: Path,
) -> None:
    lost = Fault(kind=FaultKind.CRASH, target=Target.VALIDATORS, share=0.5, start_s=0.1, end_s=None)
    scenario = replace(SMALL, faults=(lost,), duration_s=20.0)
    outcome = run_daemons(scenario, 1, tmp_path / "network")
    assert not outcome.passed
    assert {verdict.name for verdict in outcome.failures} == {
        "finality",
        "complete",
        "makespan-max",
    }
    assert outcome.verdict("complete").measured == 0
    assert outcome.verdict("finality").measured is None
    assert outcome.height == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"adversaries": (Adversary(name="mute_relayer", count=1),)}, "adversaries"),
        ({"seeders": Seeders(count=2)}, "seeders.count"),
        ({"network": Network(pipe_mbit=1.0)}, "network.pipe_mbit"),
        ({"releases": (ReleasePlan(approvals=1),)}, r"releases\[0\].approvals"),
    ],
)
def test_what_whole_daemons_cannot_do_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{words}: "):
        run_daemons(replace(SMALL, **change), 1, tmp_path / "network")
    assert not (tmp_path / "network").exists()


def test_most_shipped_scenarios_run_with_whole_daemons() -> None:
    runs: list[str] = []
    for name in shipped_scenarios():
        try:
            check_daemons(load_scenario(name))
        except ConfigError:
            continue
        runs.append(name)
    assert {"flash-crowd", "revocation-race", "churn", "lost-validator-majority"} <= set(runs)


def test_links_are_those_of_the_scenario() -> None:
    from swarmd.simulation.daemons.scenario_run import _links

    classes = {
        "fast": LinkClass(up_mbit=80, down_mbit=160, latency_ms=4, share=0.5),
        "thin": LinkClass(up_mbit=8, down_mbit=16, latency_ms=40, share=0.5),
    }
    scenario = replace(SMALL, gateways=Gateways(count=4), links=classes)
    links = _links(scenario, 1)
    rates = sorted(links[f"gateway-{n}"].uplink_bytes_per_s for n in range(1, 5))
    assert rates == [1e6, 1e6, 1e7, 1e7]
    assert links["publisher-1"].downlink_bytes_per_s == 2e7
    assert links["validator-4"].latency_s == scenario.network.latency_ms / 2000
