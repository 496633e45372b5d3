"""`swarmd run`: the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from swarmd.cli.options import directory_option, examples


@click.command(epilog=examples("swarmd run -C lab/gateway-1"))
@directory_option
def run(directory: Path) -> None:
    """Run a node until it is told to stop (Ctrl-C or SIGTERM).

    Prints "READY" and the node's address on stdout once peers and commands are served; the log goes
    to stderr.
    """
    from swarmd.daemon import run_daemon

    run_daemon(directory)
