"""Runs a package client (pip, apt-get, dpkg-deb) with a hard end, together with its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from protocol.errors import TransportError

_MESSAGE_CHARACTERS_MAX: Final = 200
"""How much of a client's last error line goes into ours."""


def run_client(arguments: list[str], *, timeout_s: float, folder: Path | None = None) -> bytes:
    """Runs a client to its end and returns its standard output.

    Args:
        arguments: program and arguments; no shell is involved.
        timeout_s: after this many seconds the client and its children are killed.
        folder: working directory; ours if absent.

    Raises:
        TransportError: the program is missing, failed, or took too long.
    """
    program = Path(arguments[0]).name
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PIP_NO_COLOR": "1"}
    try:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise TransportError(f"cannot start {program}: {error}") from error
    with process:
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TransportError(f"{program} did not finish within {timeout_s:.0f} s") from error
        finally:
            # pip runs builds as children; the session ends as one, also on an interrupt.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise TransportError(
            f"{program} failed with status {process.returncode}: "
            f"{lines[-1][:_MESSAGE_CHARACTERS_MAX]}"
        )
    return output
