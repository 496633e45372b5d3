"""The daemon: opens a data directory, wires the services and runs them until it is told to stop.

Order of a start: lock, configuration, chain binding, keys, ledger, images, receipts, control
socket, network, services, READY. A stop ends them in reverse: nothing new is begun, what was
acknowledged is durable, the age of knowledge is saved, connections are closed. SIGTERM and SIGINT
are orderly stops; a SIGKILL at any moment loses nothing that was acknowledged.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import trio

from protocol.errors import SwarmError
from swarmd.clock import SystemClock
from swarmd.control.server import Started
from swarmd.datadir import DataDir, open_data_dir
from swarmd.entropy import SystemEntropy
from swarmd.keys.passphrase import PassphraseSource, no_passphrase
from swarmd.logs import configure_logging
from swarmd.node import Node

logger = logging.getLogger(__name__)


def run_daemon(directory: Path, passphrases: PassphraseSource = no_passphrase) -> None:
    """Runs the node of a data directory until SIGTERM or SIGINT.

    Args:
        directory: the data directory.
        passphrases: asked if the node's keys are encrypted.

    Raises:
        ConfigError: the configuration is wrong.
        StorageError: the directory is in use, of another chain, damaged or not writable.
        TransportError: an address cannot be listened on.
    """
    data = open_data_dir(directory)
    config = data.load_config()
    configure_logging(config.node.log_level)
    data.check_usable()
    with data.lock():
        try:
            trio.run(_main, data, passphrases, strict_exception_groups=True)
        except BaseExceptionGroup as group:
            raise _first_cause(group) from None


def _first_cause(group: BaseExceptionGroup) -> BaseException:
    """The error an operator should see of several that ended the daemon together."""
    swarm, other = group.split(SwarmError)
    if other is not None:
        return other
    assert swarm is not None, "a group holds an error"
    error: BaseException = swarm
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _main(data: DataDir, passphrases: PassphraseSource) -> None:
    """Runs the node beside the signal handler."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(handle_signals, stop))
        node = Node(
            data,
            clock=SystemClock(),
            entropy=SystemEntropy(),
            stop=stop.set,
            passphrases=passphrases,
        )
        async with node.running() as addresses:
            for address in addresses or ("(no listen address)",):
                print(f"READY {address}", flush=True)  # noqa: T201  (CLI contract)
            assert node.services is not None, "it runs"
            if (code := node.services.joining.code) is not None:
                print(f"CODE {code}", flush=True)  # noqa: T201  (CLI contract)
            _notify("READY=1")
            await stop.wait()
            _notify("STOPPING=1")
            logger.info("stopping")
        nursery.cancel_scope.cancel()
    sys.stdout.flush()


async def handle_signals(
    stop: trio.Event, *, task_status: Started = trio.TASK_STATUS_IGNORED
) -> None:
    """Sets `stop` at SIGTERM or SIGINT; ready once it listens for them."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _number in signals:
            stop.set()


def _notify(state: str) -> None:
    """Tells systemd about readiness (sd_notify(3)); silent where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.sendto(state.encode(), address)
        except OSError as error:
            logger.warning("service manager was not told %s: %s", state, error)
