"""What no scenario may ask of daemons, however they run."""

from __future__ import annotations

from protocol.errors import ConfigError
from swarmd.simulation.scenario import Scenario
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
    for number, plan in enumerate(scenario.releases):
        if not is_authorised(plan):
            raise ConfigError(f"releases[{number}].approvals: whole daemons publish by the rules")
