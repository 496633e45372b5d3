"""`swarmd gov status|validators|parameters|upgrade|checkpoint`: what to decide, as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from protocol.errors import ConfigError, NotYetError
from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    output_option,
    pass_output,
)
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from ledger.transition.kind import Body

DAYS_VALID: Final = 30
"""Default life of approvals in a draft, days: holders of offline keys need time to meet."""
_F = TypeVar("_F", bound=Callable[..., Any])


def _draft_options(command: _F) -> _F:
    decorators: tuple[Callable[[Any], Any], ...] = (
        pass_output,
        json_option,
        click.option(
            "--valid-days",
            type=click.IntRange(1, 365),
            default=DAYS_VALID,
            show_default=True,
            help="How long signatures under it may be used.",
        ),
        output_option("The decision file to write."),
        directory_option,
    )
    for decorate in decorators:
        command = decorate(command)
    return command


def _write(
    output: Output, body: Body, facts: dict[str, Any], target: Path, valid_days: int
) -> None:
    from protocol.digest import ChainId
    from protocol.group import DAY_MS
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic
    from swarmd.decision import draft_decision

    decision = draft_decision(
        body,
        chain=ChainId(bytes.fromhex(facts["chain"])),
        era=facts["era"],
        epoch=facts["epoch"],
        valid_until_ms=facts["now_ms"] + valid_days * DAY_MS,
    )
    write_atomic(target.absolute(), decision.encode(), mode=PUBLIC_FILE_MODE)
    output.result(
        {"file": str(target.absolute()), "kind": decision.kind, "epoch": decision.epoch},
        f"{target}: {decision.kind}, not signed yet; next: swarmd gov sign {target} --key FILE",
    )


@click.command(epilog=examples("swarmd gov status -C lab/gateway-1"))
@directory_option
@json_option
@pass_output
def status(output: Output, directory: Path) -> None:
    """Show the epoch, its validators and the last checkpoint."""
    from ledger.header import decode_header

    facts = call(directory, "epoch", {})
    shown = {name: value for name, value in facts.items() if name != "closing_header"}
    if shown["checkpoint"] is not None:
        header = decode_header(bytes.fromhex(shown["checkpoint"]))
        shown["checkpoint"] = {"epoch": header.epoch, "height": header.height}
    output.result(facts, describe(shown))


@click.command(
    epilog=examples(
        "swarmd gov validators --keep validator-1 --keep validator-2 --keep validator-3 \\",
        "       --join new/join.cbor -C lab/gateway-1 -o set.decision",
    )
)
@click.option(
    "--keep",
    "kept",
    multiple=True,
    metavar="DID|NAME",
    help="A sitting validator that stays, by DID or by its unique name.",
)
@click.option(
    "--join",
    "joins",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Join file of a newcomer, from swarmd init --role validator.",
)
@_draft_options
def validators(
    output: Output,
    kept: tuple[str, ...],
    joins: tuple[Path, ...],
    directory: Path,
    target: Path,
    valid_days: int,
) -> None:
    """Draft another set of validators; it takes over when the next epoch begins.

    At most f of n seats can be replaced at once. Name everybody who stays.
    """
    from ledger.bodies.validators import SetValidators
    from protocol.did import parse_did_text
    from protocol.digest import ChainId
    from swarmd.enrolment import load_join

    facts = call(directory, "epoch", {})
    chain = ChainId(bytes.fromhex(facts["chain"]))
    members = [parse_did_text(_find(facts["validators"], text), chain) for text in kept]
    files = [load_join(path) for path in joins]
    members += [file.record.did for file in files]
    body = SetValidators(
        members=tuple(members),
        joins=tuple(file.statement for file in files),
        approvals=(),
    )
    _write(output, body, facts, target, valid_days)


def _find(sitting: list[dict[str, Any]], text: str) -> str:
    """The DID of a sitting validator by DID or unique name."""
    found = [entry["did"] for entry in sitting if text in (entry["did"], entry["name"])]
    if len(found) != 1:
        raise ConfigError(f"{text!r} names {len(found)} sitting validators, not one")
    return str(found[0])


@click.command(
    epilog=examples("swarmd gov parameters --epoch-hours 168 -C lab/gateway-1 -o p.decision")
)
@click.option("--epoch-hours", type=click.FloatRange(min=0), help="Length of an epoch.")
@click.option("--heartbeat-s", type=click.IntRange(min=1), help="Seconds between idle blocks.")
@_draft_options
def parameters(
    output: Output,
    epoch_hours: float | None,
    heartbeat_s: int | None,
    directory: Path,
    target: Path,
    valid_days: int,
) -> None:
    """Draft other numbers of the chain; they hold from the next epoch on."""
    from ledger.bodies.validators import SetParameters
    from protocol.genesis import Parameters

    if epoch_hours is None and heartbeat_s is None:
        raise ConfigError("nothing to change: give --epoch-hours or --heartbeat-s")
    facts = call(directory, "epoch", {})
    epoch_ms = facts["epoch_ms"] if epoch_hours is None else round(epoch_hours * 3_600_000)
    heartbeat_ms = facts["heartbeat_ms"] if heartbeat_s is None else heartbeat_s * 1000
    numbers = Parameters(heartbeat_ms=heartbeat_ms, epoch_ms=epoch_ms)
    body = SetParameters(parameters=numbers, approvals=())
    _write(output, body, facts, target, valid_days)


@click.command(
    epilog=examples("swarmd gov upgrade --to 2 --epoch 40 -C lab/gateway-1 -o v2.decision")
)
@click.option(
    "--to",
    "version",
    type=click.IntRange(0, 65_535),
    required=True,
    help="Protocol version; 0 takes a planned upgrade back.",
)
@click.option("--epoch", type=click.IntRange(0), default=0, help="First epoch with it.")
@_draft_options
def upgrade(
    output: Output, version: int, epoch: int, directory: Path, target: Path, valid_days: int
) -> None:
    """Draft a protocol version from an epoch on; nodes that lack it stop there."""
    from ledger.bodies.validators import Upgrade

    facts = call(directory, "epoch", {})
    body = Upgrade(version=version, epoch=epoch, approvals=())
    _write(output, body, facts, target, valid_days)


@click.command(epilog=examples("swarmd gov checkpoint -C lab/gateway-1 -o c.decision"))
@_draft_options
def checkpoint(output: Output, directory: Path, target: Path, valid_days: int) -> None:
    """Draft a checkpoint of the newest closed epoch.

    Sign one at least every 26 epochs: a node that was away for longer accepts nothing without it.
    """
    from ledger.bodies.governance import SetCheckpoint

    facts = call(directory, "epoch", {})
    if facts["closing_header"] is None:
        raise NotYetError("checkpoint.epoch", "no epoch has ended yet")
    body = SetCheckpoint(header=bytes.fromhex(facts["closing_header"]), approvals=())
    _write(output, body, facts, target, valid_days)
