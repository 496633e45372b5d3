"""Time until a revocation is final while one tenant sends all it can, beside the time at rest.

    python -m benchmarks.spam [--seeds 8] [--spammers 60]

Four validators with real chains and engines in the deterministic simulation, links of 50 to 150 ms;
processors take the time that was measured for building, checking and judging (see
`tests/support/spam_cluster.py`). The gateways of one group keep all their nonce windows full at
every validator, which is more than their tenant's share of the mempool. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

from tests.support.spam_cluster import revocation_s


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--spammers", type=int, default=60)
    arguments = parser.parse_args()
    idle = [revocation_s(seed, spammers=0) for seed in range(arguments.seeds)]
    loaded = [revocation_s(seed, spammers=arguments.spammers) for seed in range(arguments.seeds)]
    result = {
        "name": f"ledger.revocation/n=4,spammers={arguments.spammers}",
        "idle_p50_s": round(statistics.median(idle), 3),
        "idle_max_s": round(max(idle), 3),
        "spam_p50_s": round(statistics.median(loaded), 3),
        "spam_max_s": round(max(loaded), 3),
        "ratio_p50": round(statistics.median(loaded) / statistics.median(idle), 2),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
