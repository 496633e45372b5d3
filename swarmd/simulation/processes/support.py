"""What scenarios may ask of real processes; what they may not is refused by name.

| | machines | daemons | processes | namespaces |
|---|---|---|---|---|
| crash, churn | yes | yes | SIGKILL | SIGKILL |
| partition, one-way, loss | yes | yes | no | yes |
| links: rates, latency, sites | yes | yes | not kept, noted | yes |
| links: jitter, losses, duplicates, reordering, NAT | yes | yes | no | yes |
| links: queues | yes | no | no | yes |
| adversaries | all | none | see `rogues` | see `rogues` |
| clocks of validators | yes | yes | yes | yes |
| clocks of gateways | no | yes | yes | yes |
| full disks | yes | yes | file calls | a small tmpfs; what was promised is kept |
| slow disks | yes | yes | file calls | file calls |
| pipes, several seeders, releases without approvals | yes | no | no | no |
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from protocol.errors import ConfigError
from swarmd.simulation.daemons.checks import check_outside
from swarmd.simulation.processes.grounds import node_names
from swarmd.simulation.processes.namespaces import why_not
from swarmd.simulation.processes.rogues import check_rogues, count_processes
from swarmd.simulation.scenario import FaultKind, Nat, Scenario, Takes

PROCESSES_MAX: Final = 24
"""Nodes of one run; each takes about 1.5 s of processor time to start, and 90 MiB."""
_NETWORK_FLAWS: Final = ("loss", "duplication", "segment_loss")
"""Zero unless a scenario says otherwise."""
_LINK_FLAWS: Final = ("jitter_ms", "loss", "duplication", "reorder", "queue_ms", "nat")
"""Likewise zero, unset or open."""
_LINK_FAULTS: Final = (FaultKind.PARTITION, FaultKind.ONE_WAY, FaultKind.LOSS)


class Isolation(StrEnum):
    """How processes are kept apart."""

    LOOPBACK = "processes"
    """Not at all: they share the loopback address."""
    NAMESPACES = "namespaces"
    """Each in a network namespace of its own."""


def check_processes(scenario: Scenario, isolation: Isolation) -> None:
    """Refuses scenarios that processes cannot run here.

    Raises:
        ConfigError: names the key, or what this machine lacks.
    """
    check_outside(scenario)
    check_rogues(scenario)
    _check_count(scenario)
    if isolation is Isolation.NAMESPACES:
        if reason := why_not():
            raise ConfigError(f"level namespaces: {reason}")
        _check_promises(scenario)
        return
    _check_flawless(scenario)
    for number, fault in enumerate(scenario.faults):
        if fault.kind in _LINK_FAULTS:
            raise ConfigError(
                f"faults[{number}].kind: {fault.kind.value}: loopback has no links to disturb; "
                "use level namespaces, daemons or machines"
            )


def _check_promises(scenario: Scenario) -> None:
    for number, fault in enumerate(scenario.faults):
        if fault.takes is Takes.PROMISED:
            raise ConfigError(
                f"faults[{number}].takes: disks of level namespaces keep what they promised; "
                "use level processes, daemons or machines"
            )


def _check_flawless(scenario: Scenario) -> None:
    """Refuses what only links can have."""
    keys = [f"network.{key}" for key in _NETWORK_FLAWS if getattr(scenario.network, key)]
    keys += [
        f"links.{name}.{key}"
        for name, each in scenario.links.items()
        for key in _LINK_FLAWS
        if getattr(each, key) not in (0, None, Nat.OPEN)
    ]
    if keys:
        raise ConfigError(
            f"{keys[0]}: loopback has no links that could have it; "
            "use level namespaces, daemons or machines"
        )


def _check_count(scenario: Scenario) -> None:
    count = len(node_names(scenario)) + count_processes(scenario)
    if count > PROCESSES_MAX:
        most = PROCESSES_MAX - count + scenario.gateways.count
        raise ConfigError(
            f"gateways.count: {count} processes with validators and publisher, at most "
            f"{PROCESSES_MAX}: {max(most, 0)} gateways here"
        )
