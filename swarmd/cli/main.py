"""The table of commands, and how a command ends.

Exit codes: 0 done; 1 refused or failed, with the reason as one line on stderr; 2 the command line
or the configuration is wrong; 3 not yet, waiting would help. `swarmd --help` imports no command:
their one-line summaries stand here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from protocol.errors import SwarmError
from swarmd.cli.lazy import Entry, load
from swarmd.cli.options import examples
from swarmd.cli.output import Output

EXIT_FAILED: Final = 1
"""Refused or failed."""
EXIT_USAGE: Final = 2
"""The command line or the configuration is wrong."""
EXIT_NOT_YET: Final = 3
"""Waiting would help."""
EXIT_INTERRUPTED: Final = 130
"""Ended by Ctrl-C (128 + SIGINT, as shells report it)."""


COMMANDS: Final[dict[str, dict[str, Entry]]] = {
    "Start here": {
        "demo": Entry("demo", "Run a whole network on this machine and watch it work."),
        "doctor": Entry("doctor", "Check a node's folder and say how to mend what is wrong."),
        "sim": Entry("sim", "Simulate a swarm, with everything that may go wrong in it."),
    },
    "Set up": {
        "init": Entry("init", "Make the folder and the keys of a new node."),
        "keys": Entry("keys", "Make or show keys of people and nodes."),
        "enrol": Entry("enrol", "Let newcomers in by tokens that owners signed."),
        "network": Entry("network", "Create a new network."),
        "run": Entry("run", "Run a node."),
    },
    "Release firmware": {
        "publish": Entry("publish", "Offer an image for approval."),
        "sealing": Entry("sealing", "Encrypt images for the members of a ring."),
        "approve": Entry("approval", "Agree to an image, as an owner of its group."),
        "attest": Entry("attest", "Say that your own build is the image, as a builder."),
        "override": Entry("override", "Let a release pass freezes and pauses, as owners."),
        "settle": Entry("settle", "Have a release judged again that only waited for time."),
        "revoke": Entry("approval", "Take an image back, as an owner of its group."),
        "access": Entry("access", "Let subjects do things in your groups, and take it back."),
        "quarantine": Entry("quarantine", "Look at quarantines, set them, end them."),
        "rollout": Entry("rollout", "Show and steer how a release reaches devices."),
        "pause": Entry("pause", "Hold offers to devices back in an emergency."),
    },
    "Govern": {
        "policy": Entry("policy", "Check, change and veto the rules of a device group."),
        "group": Entry("group", "Show, create and change device groups and who owns them."),
        "gov": Entry("gov", "Decide about the whole chain, as holders of the governance root."),
    },
    "Look and fetch": {
        "status": Entry("query", "Show how a node is doing."),
        "images": Entry("images", "List the images a node knows; pin some, collect others."),
        "traffic": Entry("traffic", "Limit image traffic with peers, or turn it off."),
        "peers": Entry("query", "List the peers of a node."),
        "receipts": Entry("receipts", "List what a node decided and did."),
        "ledger": Entry("ledger", "Show the newest blocks; explain, export, recover the ledger."),
        "fetch": Entry("fetch", "Save an authorised image to a file."),
        "bundle": Entry("bundle", "Carry images to gateways without a network."),
    },
    "Prove": {
        "did": Entry("did", "Show who a DID is, with proof."),
        "prove": Entry("prove", "Write a file that proves an image's authorisation offline."),
        "verify": Entry("verify", "Check an image against a proof file, offline."),
    },
}
"""Commands by heading, in the order of `--help`."""

_EPILOG: Final = examples(
    "swarmd demo",
    "swarmd network create lab --validators 4 --gateways 2",
    "swarmd run -C lab/gateway-1",
    "swarmd status -C lab/gateway-1",
)


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """All names, in the order of `--help`."""
        return [name for entries in COMMANDS.values() for name in entries]

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of one command."""
        for entries in COMMANDS.values():
            if entry := entries.get(cmd_name):
                return load(cmd_name, entry)
        return None

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the summaries from the table, without importing anything."""
        for heading, entries in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])


def _print_version(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib import metadata

        try:
            version = metadata.version("swarmd")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        click.echo(f"swarmd {version}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    options_metavar="",
    subcommand_metavar="COMMAND ...",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def swarmd() -> None:
    """Distributes authorised firmware between gateways.

    Owners approve images, validators put approvals in order, gateways check both and pass verified
    images on to each other. No single server, key or vendor can make a gateway accept an image.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        arguments: without the program's name.

    Returns:
        The exit code.
    """
    output = Output()
    try:
        code = swarmd.main(
            args=list(arguments), prog_name="swarmd", standalone_mode=False, obj=output
        )
        sys.stdout.flush()
    except click.UsageError as error:
        from swarmd.control.protocol import ErrorCode, Failure

        error.show()
        output.json = output.json or "--json" in arguments
        output.failed_document(Failure(ErrorCode.USAGE, "", error.format_message()))
        return EXIT_USAGE
    except click.ClickException as error:
        return _fail(output, SwarmError(error.format_message()))
    except click.Abort:
        sys.stderr.write("swarmd: interrupted\n")
        return EXIT_INTERRUPTED
    except SwarmError as error:
        return _fail(output, error)
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(output, SwarmError(f"{where}{error.strerror or error}"))
    return code if isinstance(code, int) else 0


def _fail(output: Output, error: SwarmError) -> int:
    from swarmd.control.protocol import ErrorCode, failure_of

    failure = failure_of(error)
    output.failure(failure)
    match failure.code:
        case ErrorCode.USAGE:
            return EXIT_USAGE
        case ErrorCode.NOT_YET:
            return EXIT_NOT_YET
        case ErrorCode.REFUSED | ErrorCode.INTERNAL:
            return EXIT_FAILED
