"""A node that breaks the rules, or has a wrong clock or a bad disk, as a process:
`python -m swarmd.simulation.processes.rogue_node DIR [--adversary NAME] [--skew-ms N] [--seed S]
[--disk ORDERS]`.

It is the daemon (same stores, network, services, control socket, READY line), with one part
replaced as `rogues` says. SIGTERM stops it as it stops the daemon. What a rogue does besides,
unasked, begins with SIGUSR1, since nobody would let it in who was flooded before.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final

import trio

from chunks.store import ChunkStore
from swarmd.clock import SystemClock
from swarmd.daemon import handle_signals
from swarmd.datadir import DataDir, open_data_dir
from swarmd.entropy import SystemEntropy
from swarmd.logs import configure_logging
from swarmd.net.address import bootstrap_peers
from swarmd.node import Node
from swarmd.running_node import RunningNode
from swarmd.simulation.byzantine.chunk_corrupter import corrupting
from swarmd.simulation.processes import rogue_consensus, rogue_exchange, rogue_gossip, twins
from swarmd.simulation.processes.disks import WatchedDisk
from swarmd.simulation.processes.rogues import ROGUES, Part

LOOSE: Final = signal.SIGUSR1
"""Lets a rogue loose."""


class SkewedClock(SystemClock):
    """The operating system's clocks, of which the wall clock is wrong."""

    def __init__(self, skew_ms: int) -> None:
        """Is ahead by so many milliseconds."""
        self._skew_ms = skew_ms

    def wall_ms(self) -> int:
        """Milliseconds since 1970 as this node believes."""
        return super().wall_ms() + self._skew_ms


def main() -> None:
    """Runs the node until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--adversary", choices=sorted(ROGUES))
    parser.add_argument("--skew-ms", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--disk", type=Path)
    options = parser.parse_args()
    data = open_data_dir(options.directory)
    configure_logging(data.load_config().node.log_level)
    data.check_usable()
    wrap = prepare(options.adversary)
    clock = SkewedClock(options.skew_ms)
    reserve_bytes = data.load_config().storage.reserve_bytes
    disk = None if options.disk is None else WatchedDisk(reserve_bytes, options.disk)
    with data.lock():
        run = partial(_run, clock=clock, wrap=wrap, disk=disk)
        trio.run(partial(run, data, name=options.adversary, seed=options.seed))


def prepare(name: str | None) -> Callable[[ChunkStore], ChunkStore]:
    """Replaces what a rogue replaces before its node is made; returns what wraps its store."""
    match None if name is None else ROGUES[name]:
        case Part.CONSENSUS:
            rogue_consensus.rebel(str(name))
        case Part.TWIN:
            twins.rebel()
        case Part.EXCHANGE:
            rogue_exchange.rebel(str(name))
        case Part.STORE:
            return corrupting
    return lambda store: store


async def _await_signal(act: Callable[[], Awaitable[None]]) -> None:
    with trio.open_signal_receiver(LOOSE) as signals:
        async for _number in signals:
            await act()


async def misbehave(data: DataDir, services: RunningNode, name: str | None, seed: int) -> None:
    """Does what a rogue does beside running its node; most do nothing."""
    match name:
        case "gossip_mob":
            rogue_gossip.withhold(services)
        case "gossip_flooder":
            await rogue_gossip.flood_gossip(services, seed)
        case "stranger_flooder":
            targets = bootstrap_peers(data.load_config().network.bootstrap)
            await rogue_gossip.flood_strangers(services, targets, seed)


async def _run(
    data: DataDir,
    *,
    clock: SkewedClock,
    wrap: Callable[[ChunkStore], ChunkStore],
    disk: WatchedDisk | None,
    name: str | None,
    seed: int,
) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(handle_signals, stop))
        node = Node(
            data,
            clock=clock,
            entropy=SystemEntropy(),
            stop=stop.set,
            wrap_store=wrap,
            files=disk,
        )
        async with node.running() as addresses:
            services = node.services
            assert services is not None, "it runs"
            for address in addresses:
                print(f"READY {address}", flush=True)  # noqa: T201  (what the run waits for)
            nursery.start_soon(_await_signal, partial(misbehave, data, services, name, seed))
            await stop.wait()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    main()
