"""Kills a downloading gateway at random moments and measures what it fetches again.

    PYTHONPATH=. python benchmarks/store_kills.py [--kills 200] [--mib 64] [--seed 1]

Prints one JSON line; the exit code is 1 if an image is not right, a counted chunk is rotten, or a
kill costs more than 8 MiB. The same seed kills at the same received bytes; what the scheduler makes
of them differs from run to run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocol.limits import MIB
from tests.support.store_kills import KillCampaign

REFETCHED_BYTES_MAX = 8 * MIB


def main() -> int:
    """Runs the campaign."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mib", type=int, default=64, help="of each image")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dir", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        campaign = KillCampaign(Path(name), arguments.seed, mib=arguments.mib)
        report = campaign.run(arguments.kills)
    refetched = sorted(report.refetched_bytes)
    result = {
        "name": f"store.kills/mib={arguments.mib}",
        "seed": arguments.seed,
        "kills": report.kills,
        "images": report.images,
        "refetched_mib_median": round(statistics.median(refetched) / MIB, 2),
        "refetched_mib_max": round(refetched[-1] / MIB, 2),
        "wrong": report.wrong,
    }
    print(json.dumps(result))
    return bool(report.wrong) or refetched[-1] > REFETCHED_BYTES_MAX


if __name__ == "__main__":
    sys.exit(main())
