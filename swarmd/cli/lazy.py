"""Groups of commands whose modules are imported only when one of their commands runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Entry(NamedTuple):
    """Where a command lives and what `--help` says about it."""

    module: str
    """Module below `swarmd.cli`; its attribute is the command's name, `-` written `_`."""
    summary: str
    """One line."""
    attribute: str = ""
    """The attribute, if it is not the command's name."""


def load(name: str, entry: Entry) -> click.Command:
    """Imports one command."""
    module = importlib.import_module(f"swarmd.cli.{entry.module}")
    command = getattr(module, entry.attribute or name.replace("-", "_"))
    assert isinstance(command, click.Command), f"{entry.module}.{name}"
    return command


class LazySubgroup(click.Group):
    """A group below the top level, such as `swarmd ledger`; its summaries stand in a table."""

    def __init__(self, *arguments: Any, entries: Mapping[str, Entry], **options: Any) -> None:
        """Makes a group of the commands in `entries`, in their order."""
        super().__init__(*arguments, **options)
        self._entries = entries

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return list(self._entries)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of one command."""
        entry = self._entries.get(cmd_name)
        return None if entry is None else load(cmd_name, entry)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the summaries from the table, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self._entries.items()])
