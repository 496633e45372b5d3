"""`swarmd run`: the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from swarmd.cli.key_options import passphrase_options
from swarmd.cli.options import directory_option, examples


@click.command(epilog=examples("swarmd run -C lab/gateway-1"))
@directory_option
@passphrase_options
def run(directory: Path, passphrase_file: Path | None, passphrase_fd: int | None) -> None:
    """Run a node until it is told to stop (Ctrl-C or SIGTERM).

    Prints "READY" and the node's address on stdout once peers and commands are served, and "CODE"
    with six digits if an owner must confirm the node before it is a member; the log goes to stderr.
    Encrypted keys are opened by --passphrase-file, --passphrase-fd, or the systemd
    credential "swarmd-passphrase"; nobody is asked.
    """
    from swarmd.daemon import run_daemon
    from swarmd.keys.passphrase import choose_source, no_passphrase

    passphrases = choose_source(
        file=passphrase_file, descriptor=passphrase_fd, otherwise=no_passphrase
    )
    run_daemon(directory, passphrases)
