"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from swarmd.cli.output import Output

if TYPE_CHECKING:
    from swarmd.cli.output import OnProgress
    from swarmd.control.protocol import JSON

_DIGEST_DIGITS: Final = 64
_F = TypeVar("_F", bound=Callable[..., Any])


def examples(*lines: str) -> str:
    """The end of a help text: command lines to copy, which click must not wrap."""
    return "\b\nExamples:\n" + "".join(f"  {line}\n" for line in lines)


pass_output = click.make_pass_decorator(Output)
"""Gives the command the `Output` to print by, as first argument."""


def _set_json(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        ctx.ensure_object(Output).json = True


def json_option(command: _F) -> _F:
    """Adds `--json`."""
    return click.option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_json,
        help="Print one JSON document on stdout.",
    )(command)


def directory_option(command: _F) -> _F:
    """Adds `-C DIR`, the node's data directory."""
    return click.option(
        "-C",
        "--directory",
        type=click.Path(path_type=Path),
        required=True,
        envvar="SWARMD_DIR",
        metavar="DIR",
        help="The node's folder [or environment variable SWARMD_DIR].",
    )(command)


def output_option(help_text: str, *, required: bool = True) -> Callable[[_F], _F]:
    """Adds `-o FILE`, passed as `target`."""
    return click.option(
        "-o",
        "--output",
        "target",
        type=click.Path(dir_okay=False, path_type=Path),
        required=required,
        metavar="FILE",
        help=help_text,
    )


class HexDigest(click.ParamType[str]):
    """A SHA-256 identifier of 64 hex digits."""

    name = "hex"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks the digits; returns them in lower case."""
        text = value.lower()
        if len(text) != _DIGEST_DIGITS or not all(char in "0123456789abcdef" for char in text):
            self.fail(f"{value[:80]!r} is not an identifier of 64 hex digits", param, ctx)
        return text


def manifest_argument(command: _F) -> _F:
    """Adds the argument MANIFEST, as `swarmd publish` printed it."""
    return click.argument("manifest", type=HexDigest(), metavar="MANIFEST")(command)


def call(
    directory: Path,
    method: str,
    params: Mapping[str, JSON],
    on_progress: OnProgress | None = None,
) -> Any:
    """Asks the daemon of `directory` one thing.

    Raises:
        ConfigError: no data directory there.
        TransportError: no daemon runs on it.
        ControlError: the daemon refused or failed.
    """
    with connection(directory) as client:
        return client.call(method, params, on_progress)


@contextmanager
def connection(directory: Path) -> Iterator[Any]:
    """A control connection to the daemon of `directory`; see `ControlClient`."""
    from swarmd.control.client import ControlClient
    from swarmd.datadir import open_data_dir

    with ControlClient(open_data_dir(directory).control_socket) as client:
        yield client
