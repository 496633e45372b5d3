"""Rows as JSON Lines, as CSV, and as one HTML page that needs nothing beside itself.

What the ledger holds was written by others: names may hold markup, formulas or quotes. The page
escapes everything and carries a policy that forbids scripts; cells of a table that a spreadsheet
would run are disarmed with an apostrophe.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Final

from swarmd.export.rows import Row

COLUMNS: Final = ("height", "time", "type", "kind", "id", "signer", "details")
"""Columns of tables."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters by which spreadsheets know what to run."""
_HEAD: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body{{font:14px/1.4 system-ui,sans-serif;margin:2rem}}
table{{border-collapse:collapse;width:100%}}
th,td{{border:1px solid #ccc;padding:.25rem .5rem;text-align:left;vertical-align:top}}
td{{font-family:ui-monospace,monospace;overflow-wrap:anywhere}}
</style></head><body>
<h1>{title}</h1><p>{about}</p>
<table><thead><tr>{columns}</tr></thead><tbody>
"""


def to_jsonl(rows: Iterable[Row]) -> Iterator[str]:
    """One JSON object a line, keys sorted, ASCII only."""
    for row in rows:
        yield json.dumps(row.to_json(), sort_keys=True) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    time = datetime.fromtimestamp(row.time_ms / 1000, UTC).isoformat(timespec="milliseconds")
    details = json.dumps(dict(row.details), sort_keys=True)
    return (str(row.height), time, row.type, row.kind, row.id, row.signer, details)


def _disarm(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def to_csv(rows: Iterable[Row]) -> Iterator[str]:
    """RFC 4180 with a heading; no cell begins like a formula."""
    yield _csv_line(COLUMNS)
    for row in rows:
        yield _csv_line(tuple(map(_disarm, _cells(row))))


def _csv_line(cells: tuple[str, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue()


def to_html(rows: Iterable[Row], *, title: str, about: str) -> Iterator[str]:
    """An audit report: one table, no script, nothing fetched.

    Args:
        rows: what it lists.
        title: heading, any text.
        about: where the rows come from and which were picked, any text.
    """
    columns = "".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS)
    yield _HEAD.format(title=html.escape(title), about=html.escape(about), columns=columns)
    count = 0
    for row in rows:
        count += 1
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row)) + "</tr>\n"
    yield f"</tbody></table><p>{count} rows</p></body></html>\n"
