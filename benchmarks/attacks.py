"""All attacks with their controls, several seeds each; writes `docs/attacks.md`.

    python benchmarks/attacks.py                    as `make attacks` runs it
    python benchmarks/attacks.py --seeds 50         more seeds; the page shows the first
    python benchmarks/attacks.py --only NAME...     some attacks; other rows stay
    python benchmarks/attacks.py --jobs 1           in one process; as many as processors otherwise

Prints one JSON line for each attack: seeds held, tries, measured, processor seconds. Exit code 1: a
bound was broken, an attack never tried, or a control did not lose. Long attacks run with the first
seed only.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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


def run_seeds(name: str, *, seeds: int) -> tuple[str, AttackRecord, float]:
    """Runs an attack and its control with seeds from `SHOWN_SEED` on; names those that failed.

    Returns:
        Its name, what it came to, and the processor seconds that it took.
    """
    # Alarms that an attack is meant to raise are its verdicts' matter.
    logging.getLogger("swarmd").addHandler(logging.NullHandler())
    before_s, item = time.process_time(), attack(name)
    outcomes = []
    for seed in range(SHOWN_SEED, SHOWN_SEED + (1 if item.is_long else seeds)):
        result = item.run(seed)
        control = item.control(seed) if item.control is not None else None
        went = went_as_it_must(result, control)
        outcomes.append((result, control, went))
        if not went:
            print(f"seed {seed}: {measured_text(result)}", file=sys.stderr)
            print(f"replay: {replay_command(name, seed)}", file=sys.stderr)
    shown, control, _ = outcomes[0]
    held = sum(went for _, _, went in outcomes)
    record = AttackRecord(result=shown, control=control, seeds_held=held, seeds_run=len(outcomes))
    return name, record, time.process_time() - before_s


def main() -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5, help="seeds of each attack (5)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these, keep other rows")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    chosen = [attack(name).name for name in options.only or ATTACKS]
    # Long ones first, so that none of them is left alone in the end.
    chosen.sort(key=lambda name: not ATTACKS[name].is_long)
    records: dict[str, AttackRecord] = {}
    with multiprocessing.Pool(max(1, options.jobs)) as pool:
        run = partial(run_seeds, seeds=max(1, options.seeds))
        for name, record, cpu_s in pool.imap_unordered(run, chosen):
            records[name] = record
            line = {
                "attack": name,
                "held": f"{record.seeds_held}/{record.seeds_run}",
                "attempts": record.result.attempts,
                "measured": measured_text(record.result),
                "cpu_s": round(cpu_s, 2),
            }
            print(json.dumps(line, ensure_ascii=False), flush=True)
    is_new = not options.only or not options.out.exists()
    page = "" if is_new else options.out.read_text("utf-8")
    options.out.write_text(render(records, page), "utf-8")
    return 0 if all(record.passed for record in records.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
