"""Whole daemons that keep news to themselves, on simulated time.

Production daemons over the links of `swarmd.simulation.daemons`. All of them run everything but the
part of gossip that tells: the worst that withholders can do.
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import trio

from swarmd.simulation.attacks.attack import AttackResult, at_least, at_most, never
from swarmd.simulation.attacks.tally import Tally
from swarmd.simulation.daemons.runtime import run_simulated
from swarmd.simulation.daemons.swarm import DaemonPlan, DaemonSwarm, daemon_swarm

IMAGE: Final = hashlib.shake_256(b"news").digest(150_000)
"""What is released."""
GATEWAYS: Final = 3
"""Honest, all of them."""
TOLD_S: Final = 30.0
"""Within which gateways hold a release of which no gossip tells them: they look around by
themselves."""


def _withhold(swarm: DaemonSwarm, name: str, kept: Tally) -> None:
    """Has a daemon tell nobody anything by gossip."""

    async def keep(_topic: str, _data: bytes) -> None:
        kept.misdeeds += 1
        await trio.lowlevel.checkpoint()

    vars(swarm[name].network)["publish"] = keep


async def _play(folder: Path, seed: int) -> AttackResult:
    plan, kept = DaemonPlan(gateways=GATEWAYS), Tally()
    async with daemon_swarm(plan, folder, seed=seed) as swarm:
        await swarm.start()
        for name in swarm.names:
            _withhold(swarm, name, kept)
        release = await swarm.release(IMAGE)
        everybody = set(swarm.gateways)
        took_s = await swarm.until(
            lambda: set(swarm.holders(release)) == everybody, "all hold it", limit_s=300.0
        )
        return AttackResult(
            verdicts=(
                at_most("all gateways hold it after", TOLD_S, took_s, "s"),
                at_least("gateways that hold it", GATEWAYS, len(swarm.holders(release))),
                never("disagreements", len(swarm.disagreements())),
            ),
            attempts=kept.misdeeds,
        )


def run_withholders(seed: int) -> AttackResult:
    """No daemon at all publishes: what is new is found by looking around."""
    with TemporaryDirectory(prefix="swarmd-attack-") as folder:
        return run_simulated(partial(_play, Path(folder) / "lab", seed), seed=seed)
