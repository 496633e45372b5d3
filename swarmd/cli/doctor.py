"""`swarmd doctor`: what is wrong with a node, and how to mend it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protocol.errors import TransportError
from swarmd.cli.options import connection, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from swarmd.cli.checks import Finding
    from swarmd.control.protocol import JSON


@click.command(epilog=examples("swarmd doctor -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def doctor(output: Output, directory: Path) -> None:
    """Check a node's folder and say how to mend what is wrong.

    Works with or without a running daemon; a running one is asked as well. The exit code is 1 if
    anything is wrong.
    """
    from swarmd.cli.checks import examine
    from swarmd.clock import SystemClock
    from swarmd.datadir import open_data_dir

    data = open_data_dir(directory)
    findings = examine(data, SystemClock())
    if data.lock_holder() is not None:
        findings += _ask_daemon(directory)
    wrong = [finding for finding in findings if not finding.ok]
    checks: list[JSON] = [finding.to_json() for finding in findings]
    output.result({"ok": not wrong, "checks": checks}, "\n".join(map(_line, findings)))
    if wrong:
        names = ", ".join(finding.check for finding in wrong)
        output.reason(f"{len(wrong)} of {len(findings)} checks failed: {names}")
        click.get_current_context().exit(1)


def _ask_daemon(directory: Path) -> list[Finding]:
    from swarmd.cli.checks import Finding

    mend = "read the daemon's log; docs/operations.md explains alarms"
    try:
        with connection(directory) as client:
            answers = client.call("doctor", {})
    except TransportError as error:
        return [Finding(check="daemon", ok=False, detail=str(error), mend="restart the daemon")]
    return [
        Finding(
            check=f"daemon: {answer['check']}",
            ok=answer["ok"] is True,
            detail=str(answer["detail"]),
            mend="" if answer["ok"] is True else mend,
        )
        for answer in answers
    ]


def _line(finding: Finding) -> str:
    mark = "ok   " if finding.ok else "WRONG"
    text = f"{mark} {plain(finding.check)}: {plain(finding.detail)}"
    return text if finding.ok else f"{text}\n      mend: {plain(finding.mend)}"
