"""`swarmd ledger explain`: rule by rule why a release is or is not authorised, and offered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    manifest_argument,
    pass_output,
)
from swarmd.cli.output import Output, plain

_MARKS = {True: "yes", False: "NO ", None: "?  "}


@click.command(epilog=examples("swarmd ledger explain 3f2a... --device pump-7 -C lab/gateway-1"))
@manifest_argument
@click.option("--device", metavar="ID", help="Ask for this device.")
@directory_option
@json_option
@pass_output
def explain(output: Output, manifest: str, device: str | None, directory: Path) -> None:
    """Say rule by rule why a manifest is or is not authorised, and offered to a device."""
    params = {"manifest": manifest} if device is None else {"manifest": manifest, "device": device}
    result = call(directory, "explain", params)
    output.result(result, _text(result, device))


def _text(result: dict[str, Any], device: str | None) -> str:
    lines = [f"{result['product']} sequence {result['sequence']}, {result['manifest']}"]
    for group in result["groups"]:
        lines += ["", f"group {group['group']}: {group['status']}"]
        if group["conditions"]:
            lines.append("  its policy asks that")
        for condition in group["conditions"]:
            lines += _tree(condition, condition["rule"], 2)
        if group["offer"]:
            lines.append("  offered to " + ("any device" if device is None else f"device {device}"))
        for answer in group["offer"]:
            lines += _tree(answer, answer["rule"], 2)
    if result.get("node"):
        lines += ["", "this node, its own reasons included"]
    for answer in result.get("node", ()):
        said = "" if answer["truth"] else f"{answer['rule']}: "
        head = f"  {_MARKS[answer['truth']]} may {answer['question']} it"
        lines.append(f"{head}: {said}{answer['text']}")
    return "\n".join(plain(line) for line in lines)


def _tree(reason: dict[str, Any], rule: str, depth: int) -> list[str]:
    head = f"{'  ' * depth}{_MARKS[reason['truth']]} {rule + ': ' if rule else ''}{reason['text']}"
    return [
        head,
        *(line for part in reason.get("parts", ()) for line in _tree(part, "", depth + 1)),
    ]
