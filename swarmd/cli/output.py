"""The only place of the command line that prints.

Results go to stdout, everything else to stderr. With `--json`, stdout carries exactly one JSON
document, also when the command fails. Texts that came from elsewhere are shown without control
characters, whatever their decoders let through.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON, Failure

_INDENT: Final = "  "
_SIZE_STEP: Final = 1024
OnProgress = Callable[[Mapping[str, object]], None]
"""Told each progress line of the daemon."""


def plain(text: str) -> str:
    """Shows unprintable characters (control, bidi, newline) as escapes, so that they do nothing."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def size_text(size_bytes: int) -> str:
    """Writes a size for people: `512 B`, `1.5 MiB`."""
    if size_bytes < _SIZE_STEP:
        return f"{size_bytes} B"
    value, unit = size_bytes / _SIZE_STEP, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < _SIZE_STEP:
            break
        value, unit = value / _SIZE_STEP, larger
    return f"{value:.1f} {unit}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under their headers."""
    lines = [list(headers), *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _scalar(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str() | int() | float():
            return plain(str(value))
        case list():
            return ", ".join(_scalar(item) for item in value) or "-"
        case _:
            return plain(json.dumps(value, ensure_ascii=False))


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def describe(document: object, indent: str = "") -> str:
    """Shows any result to people: names and values aligned, lists of objects as tables."""
    if _is_rows(document):
        assert isinstance(document, list), "checked by _is_rows"
        headers = list(dict.fromkeys(key for row in document for key in row))
        text = table(headers, [[_scalar(row.get(key)) for key in headers] for row in document])
        return "\n".join(indent + line for line in text.split("\n"))
    if not isinstance(document, dict):
        return indent + _scalar(document)
    width = max((len(key) for key in document), default=0)
    lines: list[str] = []
    for key, value in document.items():
        if _is_rows(value) or (isinstance(value, dict) and value):
            lines += [f"{indent}{plain(key)}:", describe(value, indent + _INDENT)]
        else:
            lines.append(f"{indent}{plain(key).ljust(width)}  {_scalar(value)}")
    return "\n".join(lines)


class Output:
    """How one command line speaks; `json` is set by its `--json` option."""

    def __init__(self) -> None:
        """Speaks to people until told otherwise."""
        self.json = False

    def result(self, document: JSON, text: str | None = None) -> None:
        """Prints the command's result: the document with `--json`, else `text` or a description."""
        if self.json:
            click.echo(json.dumps(document, ensure_ascii=False, indent=2))
        else:
            click.echo(describe(document) if text is None else text)

    def note(self, text: str) -> None:
        """Tells people something beside the result."""
        if not self.json:
            click.echo(text, err=True)

    def failure(self, failure: Failure) -> None:
        """Prints why the command failed: one line on stderr, and the document with `--json`."""
        self.failed_document(failure)
        self.reason(failure.message)

    def failed_document(self, failure: Failure) -> None:
        """With `--json`: prints the document of a command that failed."""
        if self.json:
            error = {
                "code": failure.code.value,
                "rule": failure.rule,
                "message": failure.message,
            }
            click.echo(json.dumps({"error": error}, ensure_ascii=False, indent=2))

    def reason(self, text: str) -> None:
        """Says why the command failed, in one line on stderr."""
        click.echo(f"swarmd: {plain(text)}", err=True)

    @contextlib.contextmanager
    def progress(self, title: str) -> Iterator[OnProgress]:
        """Shows progress lines as a bar while the block runs, if stdout is a terminal."""
        if self.json or not sys.stdout.isatty():
            yield lambda _fields: None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, transient=True) as bars:
            bar = bars.add_task(plain(title), total=None)

            def show(fields: Mapping[str, object]) -> None:
                stage, done, total = (fields.get(key) for key in ("stage", "bytes", "total"))
                bars.update(
                    bar,
                    description=plain(f"{title}: {stage}") if isinstance(stage, str) else None,
                    completed=done if isinstance(done, int) else None,
                    total=total if isinstance(total, int) else None,
                )

            yield show
