"""A second process with a validator's keys, as after a copy was restored beside the node.

Both have the same data, keys and identity, and each listens for itself. Nobody is told of the
second one: it calls the others.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ledger.simplex.engine import Simplex
from protocol.did import SubjectKind
from swarmd.config import Endpoint
from swarmd.config_template import render_config
from swarmd.datadir import DataDir, KeyName, write_atomic
from swarmd.demo.processes import free_ports
from swarmd.net.address import PeerAddress, PeerKey
from swarmd.network_creation import Lab, LabNode
from swarmd.simulation.byzantine.twin import TwinEngine
from swarmd.simulation.processes.grounds import Grounds
from swarmd.simulation.processes.replacing import replace_in

_SUFFIX: Final = "-twin"


def twin_name(name: str) -> str:
    """What a validator's second process is called."""
    return name + _SUFFIX


def is_twin(name: str) -> bool:
    """Whether a name is that of a second process."""
    return name.endswith(_SUFFIX)


def make_twin(lab: Lab, node: LabNode, grounds: Grounds) -> Path:
    """Copies a validator that was introduced and does not run; returns the copy's directory."""
    path = node.directory.path.with_name(twin_name(node.name))
    shutil.copytree(node.directory.path, path, symlinks=True)
    copy = DataDir(path)
    config = copy.load_config()
    listen = config.network.listen[0]
    is_placed = grounds.place(node.name) is not None
    network = dataclasses.replace(
        config.network,
        listen=(Endpoint(listen.host, listen.port + 1 if is_placed else free_ports(1)),),
        bootstrap=tuple(_addresses(other for other in lab.nodes if other is not node)),
        lane_port=None,
    )
    http = dataclasses.replace(config.http, listen=None)
    text = render_config(dataclasses.replace(config, network=network, http=http))
    write_atomic(copy.config, text.encode())
    return path


def _addresses(nodes: Iterable[LabNode]) -> Iterable[PeerAddress]:
    """Where validators and the publisher listen."""
    for node in nodes:
        if node.join.record.kind is not SubjectKind.GATEWAY:
            listen = node.directory.load_config().network.listen[0]
            key = PeerKey(node.directory.load_key(KeyName.TRANSPORT).public.raw)
            yield PeerAddress(key, listen.host, listen.port)


def rebel() -> None:
    """Has the consensus service of this process vote without asking who else has its key."""
    engine: type[Simplex] = TwinEngine
    replace_in("swarmd.services.consensus", "Simplex", engine)
