"""Options of commands that sign or read keys: `--key`, `--passphrase-file`, `--passphrase-fd`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from protocol.keys import Signer
    from swarmd.keys.passphrase import PassphraseSource

_F = TypeVar("_F", bound=Callable[..., Any])


def passphrase_options(command: _F) -> _F:
    """Adds `--passphrase-file` and `--passphrase-fd`; without either, the terminal is asked."""
    for decorate in (
        click.option(
            "--passphrase-fd",
            type=click.IntRange(0),
            metavar="N",
            help="Read the passphrase from this open file descriptor.",
        ),
        click.option(
            "--passphrase-file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Read the passphrase from the first line of FILE.",
        ),
    ):
        command = decorate(command)
    return command


def key_options(command: _F) -> _F:
    """Adds `--key` and the passphrase options; read them by `open_key`."""
    return click.option(
        "--key",
        required=True,
        metavar="FILE|fd:N|pkcs11:...",
        help="Your private key: a file from swarmd keys new, a file descriptor, or a device.",
    )(passphrase_options(command))


def chosen_passphrases(passphrase_file: Path | None, passphrase_fd: int | None) -> PassphraseSource:
    """The source that the options name, or a prompt.

    Raises:
        ConfigError: both options were given.
    """
    from swarmd.keys.passphrase import choose_source, from_prompt

    return choose_source(file=passphrase_file, descriptor=passphrase_fd, otherwise=from_prompt)


def open_key(key: str, passphrase_file: Path | None, passphrase_fd: int | None) -> Signer:
    """Opens what `--key` names.

    Raises:
        ConfigError: a malformed option, or no passphrase for an encrypted key.
        StorageError: no readable key there, or a wrong passphrase.
    """
    from swarmd.keys.signer import open_signer

    return open_signer(key, chosen_passphrases(passphrase_file, passphrase_fd))
