"""What no scenario may ask of daemons, however they run."""

from __future__ import annotations

from protocol.errors import ConfigError
from swarmd.simulation.scenario import FaultKind, Scenario
from swarmd.simulation.swarm_build import is_authorised


def check_outside(scenario: Scenario) -> None:
    """Refuses what no daemons can do, however they run.

    Raises:
        ConfigError: names the key.
    """
    if scenario.seeders.count != 1:
        raise ConfigError("seeders.count: among whole daemons the publisher is the only seeder")
    if scenario.network.pipe_mbit is not None:
        raise ConfigError("network.pipe_mbit: whole daemons have no pipes between sites")
    for number, fault in enumerate(scenario.faults):
        if fault.kind is FaultKind.SLOW_DISK:
            raise ConfigError(f"faults[{number}].kind: whole daemons have no slow disks")
    for number, plan in enumerate(scenario.releases):
        if not is_authorised(plan):
            raise ConfigError(f"releases[{number}].approvals: whole daemons publish by the rules")
