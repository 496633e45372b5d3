"""Simulates a whole swarm from one seed: owners publish, validators decide, gateways distribute.

A quarter of the gateways spoil every chunk they send; then two validators of four stay silent,
which no quorum survives.

Run: python examples/04_simulate_swarm.py [SEED]
"""

from __future__ import annotations

import sys

from swarmd.simulation.scenario import Adversary, Expectations, Gateways, Image, Scenario
from swarmd.simulation.swarm import adapt, run_scenario
from swarmd.simulation.swarm_outcome import Outcome


def show(title: str, outcome: Outcome) -> None:
    """Prints what was measured."""
    print(f"{title}: {'held' if outcome.held else 'broken'}, trace {outcome.trace_hash[:16]}")
    for verdict in outcome.failures:
        limit = "least" if verdict.is_minimum else "most"
        print(f"  {verdict.name} broken: at {limit} {verdict.bound:g} {verdict.unit}".rstrip())
    for reason in outcome.expected_to_break:
        print(f"  as it must: {reason}")


def main() -> None:
    """Runs the example."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    scenario = Scenario(
        name="example",
        duration_s=15.0,
        gateways=Gateways(count=8),
        image=Image(size_kib=256),
        adversaries=(Adversary(name="push_corrupter", share=0.25),),
        expect=Expectations(makespan_max=20.0),
    )
    outcome = run_scenario(scenario, seed)
    show("a quarter of the gateways corrupts", outcome)
    (release,) = outcome.releases
    times = ", ".join(f"{time:.2f}" for time in release.finished_s)
    print(f"  six honest gateways were complete after {times} simulated s")
    again = run_scenario(scenario, seed)
    print(f"run twice, same trace: {outcome.trace_hash == again.trace_hash}")
    silent = adapt(scenario, adversaries=(Adversary(name="mute_validator", count=2),))
    show("two validators of four are silent", run_scenario(silent, seed))


if __name__ == "__main__":
    main()
