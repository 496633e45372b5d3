"""Simulates four validators, one of them running twice with the same key, on lossy links.

The production engine runs on a seeded event heap: the same seed gives the same story, event by
event.

Run: python examples/03_simulate_consensus.py [SEED]
"""

from __future__ import annotations

import sys

from swarmd.simulation.consensus_campaign import Plan, run_seed


def main() -> None:
    """Runs the example."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    outcome = run_seed(seed, Plan(duration_s=20.0))
    again = run_seed(seed, Plan(duration_s=20.0))
    print(f"seed {seed}: {outcome.height} blocks final in {outcome.simulated_s:.0f} simulated s")
    print(f"{outcome.event_count} events, {outcome.restarts} power failures")
    print(f"broken invariants: {len(outcome.violations)}; stuck: {outcome.is_stuck}")
    print(f"run twice, same trace: {outcome.trace_hash == again.trace_hash}")


if __name__ == "__main__":
    main()
