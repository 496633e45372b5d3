"""All attacks with their controls, several seeds each; writes `docs/attacks.md`.

    python benchmarks/attacks.py                    as `make attacks` runs it
    python benchmarks/attacks.py --seeds 50         more seeds; the page shows the first
    python benchmarks/attacks.py --only NAME...     some attacks; writes no page

Prints one JSON line for each attack: seeds held, tries, measured, processor seconds. Exit code 1: a
bound was broken, an attack never tried, or a control did not lose. Long attacks run with the first
seed only.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmd.simulation.attacks.attack import Attack
from swarmd.simulation.attacks.table import (
    ATTACKS,
    AttackRecord,
    attack,
    measured_text,
    render,
    replay_command,
    went_as_it_must,
)

PAGE = Path(__file__).resolve().parent.parent / "docs" / "attacks.md"
"""What is written."""
SHOWN_SEED = 1
"""The seed whose figures the page shows; others follow it."""


def run_seeds(item: Attack, seeds: int) -> AttackRecord:
    """Runs an attack and its control with seeds from `SHOWN_SEED` on; names those that failed."""
    records = []
    count = 1 if item.is_long else seeds
    for seed in range(SHOWN_SEED, SHOWN_SEED + count):
        result = item.run(seed)
        control = item.control(seed) if item.control is not None else None
        went = went_as_it_must(result, control)
        records.append((result, control, went))
        if not went:
            print(f"seed {seed}: {measured_text(result)}", file=sys.stderr)
            print(f"replay: {replay_command(item.name, seed)}", file=sys.stderr)
    shown, control, _ = records[0]
    held = sum(went for _, _, went in records)
    return AttackRecord(result=shown, control=control, seeds_held=held, seeds_run=count)


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each attack (5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these, write no page")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    chosen = [attack(name) for name in options.only] if options.only else list(ATTACKS.values())
    # Alarms that an attack is meant to raise are its verdicts' matter.
    logging.getLogger("swarmd").addHandler(logging.NullHandler())
    records: dict[str, AttackRecord] = {}
    for item in chosen:
        before_s = time.process_time()
        record = records[item.name] = run_seeds(item, max(1, options.seeds))
        line = {
            "attack": item.name,
            "held": f"{record.seeds_held}/{record.seeds_run}",
            "attempts": record.result.attempts,
            "measured": measured_text(record.result),
            "cpu_s": round(time.process_time() - before_s, 2),
        }
        print(json.dumps(line, ensure_ascii=False), flush=True)
    if not options.only:
        options.out.write_text(render(records), "utf-8")
    return 0 if all(record.passed for record in records.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
