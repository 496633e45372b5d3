"""Where passphrases and PINs come from: a prompt, a file, a file descriptor, a systemd credential.

Never the environment or the command line, which other processes may read. A source is asked only
when something is encrypted, and gives the same answer again, since a descriptor can be read once.
"""

from __future__ import annotations

import getpass
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from protocol.errors import ConfigError, StorageError
from swarmd.keys.pem import PASSPHRASE_BYTES_MAX, check_new_passphrase

PassphraseSource = Callable[[str], bytes]
"""Gives the passphrase of what its argument describes, such as `key ada.key`.

Raises ConfigError or StorageError where there is none.
"""
CREDENTIAL_NAME: Final = "swarmd-passphrase"
"""The systemd credential (LoadCredential=, LoadCredentialEncrypted=) that a daemon reads."""
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def no_passphrase(what: str) -> bytes:
    """The source of a process that was given none.

    Raises:
        ConfigError: always; it names the options that would help.
    """
    raise ConfigError(
        f"{what} is encrypted: give --passphrase-file FILE or --passphrase-fd N, or run as a "
        f"service with the credential {CREDENTIAL_NAME!r}"
    )


def _first_line(data: bytes, where: str) -> bytes:
    line, _, rest = data.partition(b"\n")
    line = line.removesuffix(b"\r")
    if not line or rest.strip() or len(line) > PASSPHRASE_BYTES_MAX:
        raise ConfigError(f"{where}: expected one line of 1 to {PASSPHRASE_BYTES_MAX} bytes")
    return line


def read_descriptor(descriptor: int, *, bytes_max: int) -> bytes:
    """Reads an inherited file descriptor to its end.

    Raises:
        StorageError: it is not open for reading, or there is more than `bytes_max`.
    """
    data = b""
    try:
        while len(data) <= bytes_max:
            piece = os.read(descriptor, bytes_max + 1 - len(data))
            if not piece:
                return data
            data += piece
    except OSError as error:
        raise StorageError(f"file descriptor {descriptor}: {error.strerror}") from None
    raise StorageError(f"file descriptor {descriptor}: over {bytes_max} bytes")


def remembered(source: PassphraseSource) -> PassphraseSource:
    """Asks `source` once and gives that answer for every key: those of one node share theirs."""
    kept: list[bytes] = []

    def remembering(what: str) -> bytes:
        if not kept:
            kept.append(source(what))
        return kept[0]

    return remembering


def from_descriptor(descriptor: int) -> PassphraseSource:
    """A source that reads one line from an inherited file descriptor, when first asked."""

    def source(_what: str) -> bytes:
        data = read_descriptor(descriptor, bytes_max=PASSPHRASE_BYTES_MAX + 2)
        return _first_line(data, f"file descriptor {descriptor}")

    return remembered(source)


def from_file(path: Path) -> PassphraseSource:
    """A source that reads one line from a file that nobody else may read."""

    def source(_what: str) -> bytes:
        data = read_private(path, f"passphrase {path}", bytes_max=PASSPHRASE_BYTES_MAX + 2)
        return _first_line(data, f"passphrase {path}")

    return source


def read_private(path: Path, what: str, *, bytes_max: int) -> bytes:
    """Reads a whole file of which group and others have no rights.

    The mode is that of the file that was opened, so that nobody can swap it in between.

    Args:
        path: the file.
        what: how errors call it, its path included.
        bytes_max: longest content.

    Raises:
        StorageError: missing, unreadable, open to others, or over `bytes_max`.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(bytes_max + 1) if not mode & _OTHERS else b""
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(f"cannot read {what}: {reason}") from error
    if mode & _OTHERS:
        raise StorageError(
            f"{what} may be read by others (mode {stat.S_IMODE(mode):04o}); "
            f"mend it with: chmod 600 {path}"
        )
    if len(data) > bytes_max:
        raise StorageError(f"{what}: over {bytes_max} bytes")
    return data


def from_prompt(what: str) -> bytes:
    """Asks the person at the terminal.

    Raises:
        ConfigError: there is no terminal, or nothing was typed.
    """
    if not sys.stdin.isatty():
        raise ConfigError(
            f"{what} is encrypted and there is no terminal to ask at: give --passphrase-file FILE "
            "or --passphrase-fd N"
        )
    typed = getpass.getpass(f"Passphrase of {what}: ").encode()
    if not typed:
        raise ConfigError("no passphrase was typed")
    return typed


def new_from_prompt(what: str) -> bytes:
    """Asks for a new passphrase, twice.

    Raises:
        ConfigError: no terminal, too short, or typed differently.
    """
    first = check_new_passphrase(from_prompt(what))
    if getpass.getpass("Again: ").encode() != first:
        raise ConfigError("the two passphrases differ")
    return first


def from_credential() -> PassphraseSource | None:
    """The service manager's credential, or None where there is none.

    systemd mounts the directory for this service alone and names it in `CREDENTIALS_DIRECTORY`;
    the credential's own file may be readable by its group, which is the service's.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory or not (path := Path(directory) / CREDENTIAL_NAME).is_file():
        return None

    def source(_what: str) -> bytes:
        try:
            with path.open("rb") as file:
                data = read_descriptor(file.fileno(), bytes_max=PASSPHRASE_BYTES_MAX + 2)
        except OSError as error:
            raise StorageError(f"credential {path}: {error.strerror}") from None
        return _first_line(data, f"credential {path}")

    return source


def choose_source(
    *, file: Path | None, descriptor: int | None, otherwise: PassphraseSource
) -> PassphraseSource:
    """The source that the options `--passphrase-file` and `--passphrase-fd` name.

    Args:
        file: of `--passphrase-file`.
        descriptor: of `--passphrase-fd`.
        otherwise: where neither was given: a prompt for people, `no_passphrase` for services.

    Raises:
        ConfigError: both were given.
    """
    if file is not None and descriptor is not None:
        raise ConfigError("--passphrase-file and --passphrase-fd exclude each other")
    if file is not None:
        return from_file(file)
    if descriptor is not None:
        return from_descriptor(descriptor)
    return from_credential() or otherwise
