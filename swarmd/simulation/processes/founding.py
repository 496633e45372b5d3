"""Makes the folders of processes, and tells them where they stand and whom to call."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Final

from protocol.did import SubjectKind
from swarmd.clock import SystemClock
from swarmd.config import Config
from swarmd.config_template import render_config
from swarmd.datadir import KeyName, write_atomic
from swarmd.demo.processes import free_ports
from swarmd.entropy import SystemEntropy
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.network_creation import Lab, LabOptions, create_lab
from swarmd.simulation.daemons.outside import HEARTBEAT_MS
from swarmd.simulation.processes.grounds import Grounds
from swarmd.simulation.processes.rogues import rogues
from swarmd.simulation.scenario import Scenario

CALM_HEARTBEAT_MS: Final = 10_000
"""Of the chain where nothing goes wrong: with blocks every 2 s, 21 nodes that do nothing else take
22 % of two processors, and 5 % of links of 5 Mbit/s."""


def create(folder: Path, scenario: Scenario) -> Lab:
    """Makes the folders.

    Raises:
        ConfigError: the scenario's numbers cannot be.
        StorageError: the folder is not empty or cannot be written.
    """
    validators, gateways = scenario.validators.count, scenario.gateways.count
    is_eventful = bool(scenario.faults) or any(each.is_validator for each in rogues(scenario))
    options = LabOptions(
        validators=validators,
        gateways=gateways,
        base_port=free_ports(validators + 2 * gateways + 1),
        heartbeat_ms=HEARTBEAT_MS if is_eventful else CALM_HEARTBEAT_MS,
    )
    return create_lab(folder, options, SystemEntropy(), SystemClock())


def introduce(lab: Lab, grounds: Grounds, peers: int, seed: int) -> None:
    """Tells nodes where they listen and whom to call: validators, the publisher, and some of the
    gateways before them, so that no two call each other at once.
    """
    chance = random.Random(f"addresses {seed}")  # noqa: S311 - replayed by seed
    known: list[PeerAddress] = []
    gateways: list[PeerAddress] = []
    for node in sorted(lab.nodes, key=lambda node: node.join.record.kind is SubjectKind.GATEWAY):
        listen = grounds.place(node.name) or node.config.network.listen[0]
        chosen = chance.sample(gateways, min(peers, len(gateways)))
        network = dataclasses.replace(
            node.config.network,
            listen=(listen,),
            bootstrap=(*known, *chosen),
            # Whoever is on one machine is not thereby near in the network that is modelled.
            lan_networks=(),
        )
        config: Config = dataclasses.replace(node.config, network=network)
        write_atomic(node.directory.config, render_config(config).encode())
        key = PeerKey(node.directory.load_key(KeyName.TRANSPORT).public.raw)
        is_gateway = node.join.record.kind is SubjectKind.GATEWAY
        (gateways if is_gateway else known).append(PeerAddress(key, listen.host, listen.port))
