"""Runs a scenario with real processes, and judges it by the same names as every other level.

Times are real. Whatever happens (an error, Ctrl-C, SIGTERM), the processes are ended by their ids
and the namespaces removed before this returns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import trio

from swarmd.simulation.daemons.judgement import judge
from swarmd.simulation.daemons.timeline import Timeline
from swarmd.simulation.processes.disks import SmallDisks, ToldDisks
from swarmd.simulation.processes.grounds import Islands, Loopback, node_names
from swarmd.simulation.processes.interruption import terminable
from swarmd.simulation.processes.support import Isolation, check_processes
from swarmd.simulation.processes.swarm import ProcessSwarm
from swarmd.simulation.scenario import Scenario
from swarmd.simulation.swarm import OnStep
from swarmd.simulation.swarm_outcome import Outcome


def run_processes(
    scenario: Scenario,
    seed: int,
    folder: Path,
    isolation: Isolation,
    *,
    on_step: OnStep | None = None,
) -> Outcome:
    """Runs a scenario once, in an empty folder.

    Args:
        scenario: what happens.
        seed: decides who and what, but not how long things take.
        folder: for the daemons' data and logs; stays behind.
        isolation: where the processes stand.
        on_step: told real seconds and the part of the duration.

    Raises:
        ConfigError: the scenario asks for what processes cannot do; names the key.
        StorageError: the folder is not empty or cannot be written.
        TransportError: a node did not start, or ended by itself; the message quotes its log.
    """
    check_processes(scenario, isolation)
    with terminable(), contextlib.ExitStack() as stack:
        grounds: Loopback | Islands = Loopback()
        disks: ToldDisks
        if isolation is Isolation.NAMESPACES:
            grounds = Islands(scenario, seed, node_names(scenario))
            stack.enter_context(grounds.context)
            disks = stack.enter_context(SmallDisks(scenario, folder))
        else:
            disks = ToldDisks(scenario, folder)
        swarm = ProcessSwarm(scenario, seed, folder, grounds, disks)
        with _ending(swarm):
            try:
                return trio.run(partial(_run, scenario, seed, swarm, isolation, on_step=on_step))
            except BaseExceptionGroup as group:
                raise _cause(group) from group


async def _run(
    scenario: Scenario,
    seed: int,
    swarm: ProcessSwarm,
    isolation: Isolation,
    *,
    on_step: OnStep | None,
) -> Outcome:
    await swarm.start()
    await swarm.settle()
    record = await Timeline(scenario, seed, swarm, on_step=on_step).run()
    return judge(record, swarm, await swarm.find(), level=isolation.value)


def _cause(group: BaseExceptionGroup) -> BaseException:
    """The one error that a caller can act on: an interruption, else the first."""
    interruption, _ = group.split(KeyboardInterrupt)
    error: BaseException = interruption or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def _ending(swarm: ProcessSwarm) -> Iterator[None]:
    """Ends the processes: in order after a run, at once after anything else."""
    try:
        yield
        swarm.end(is_orderly=True)
    except BaseException:
        swarm.end(is_orderly=False)
        raise
