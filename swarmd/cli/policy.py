"""`swarmd policy check|set|veto`: a group's rules, before and while they hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError
from swarmd.cli.contract_draft import ask_group, draft_options, finish, group_option
from swarmd.cli.options import call, examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from protocol.digest import ChainId
    from protocol.owner_root import OwnerRoot
    from protocol.policy import Policy
    from swarmd.control.protocol import JSON

_FILE: Final = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)


@click.group(
    epilog=examples(
        "swarmd policy check fleet.toml --group fleet -C lab/gateway-1",
        "swarmd policy set fleet.toml --group fleet -C lab/gateway-1 --key lab/keys/owner-1.key",
    )
)
def policy() -> None:
    """Check, change and veto the rules of a device group."""


def read_policy(path: Path, chain: ChainId | None) -> Policy:
    """Reads a policy file; raises ConfigError."""
    from swarmd.datadir import read_bounded
    from swarmd.policy_text import POLICY_FILE_BYTES_MAX, parse_policy

    data = read_bounded(path, bytes_max=POLICY_FILE_BYTES_MAX)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    return parse_policy(text, chain, str(path))


@policy.command(
    epilog=examples(
        "swarmd policy check fleet.toml",
        "swarmd policy check fleet.toml --group fleet -C lab/gateway-1",
    )
)
@_FILE
@click.option("--group", metavar="GROUP", help="Compare with this group's rules; needs -C.")
@click.option(
    "-C",
    "--directory",
    type=click.Path(path_type=Path),
    envvar="SWARMD_DIR",
    metavar="DIR",
    help="The node to ask [or environment variable SWARMD_DIR].",
)
@json_option
@pass_output
def check(output: Output, file: Path, group: str | None, directory: Path | None) -> None:
    """Say what a policy file means, before anybody signs it.

    Refuses what no ledger would take. With a group and a node it also says what would change, what
    the policy would have said about the newest releases, and what its owners should fear.
    """
    if group is None:
        document = _report(read_policy(file, None), None)
    else:
        if directory is None:
            raise ConfigError("which node? give its folder with -C DIR")
        document = _compared(file, group, directory)
    output.result(document, _text(document))


def _compared(file: Path, group: str, directory: Path) -> dict[str, JSON]:
    from protocol.digest import ChainId
    from protocol.errors import EncodingError
    from protocol.policy import check_policy_fits, decode_policy
    from swarmd.policy_words import policy_changes

    facts = ask_group(directory, group)
    proposed = read_policy(file, ChainId(bytes.fromhex(facts["chain"])))
    root = _root(facts)
    document = _report(proposed, root)
    try:
        check_policy_fits(proposed, root)
    except EncodingError as error:
        document["unfit"] = str(error)
    document["changes"] = [*policy_changes(decode_policy(bytes.fromhex(facts["policy"])), proposed)]
    tried = call(directory, "try_policy", {"group": group, "policy": [proposed.encode().hex()]})
    document["releases"] = tried["manifests"]
    return document


def _root(facts: dict[str, Any]) -> OwnerRoot:
    from protocol.encoding import decode_canonical
    from protocol.group import GROUP_BYTES_MAX
    from protocol.owner_root import OwnerRoot

    raw = bytes.fromhex(facts["owner_root"])
    return OwnerRoot.from_value(decode_canonical(raw, bytes_max=GROUP_BYTES_MAX))


def _report(proposed: Policy, root: OwnerRoot | None) -> dict[str, JSON]:
    from swarmd.policy_words import policy_sentences, policy_warnings, rule_size

    rule: JSON = None if proposed.rule is None else {**rule_size(proposed.rule)}
    return {
        "policy": proposed.policy_id.hex(),
        "bytes": len(proposed.encode()),
        "rule": rule,
        "means": [*policy_sentences(proposed, root)],
        "warnings": [*policy_warnings(proposed, root)],
    }


def _text(document: dict[str, Any]) -> str:
    lines = [f"policy {document['policy']}, {document['bytes']} bytes"]
    if (rule := document["rule"]) is not None:
        lines.append(f"rule: {rule['nodes']} nodes, depth {rule['depth']}, cost {rule['cost']}")
    if "unfit" in document:
        lines += ["", f"REFUSED by this group: {document['unfit']}"]
    lines += ["", *document["means"]]
    for heading, name in (("what changes:", "changes"), ("beware:", "warnings")):
        if document.get(name):
            lines += ["", heading, *(f"  {one}" for one in document[name])]
    if document.get("releases"):
        lines += ["", "what it would say now about the newest releases:"]
        lines += [_release_line(release) for release in document["releases"]]
    return "\n".join(plain(line) for line in "\n".join(lines).split("\n"))


def _release_line(release: dict[str, Any]) -> str:
    verdict = "yes" if release["would_be_authorised"] else f"no: {release['missing'][0]}"
    return (
        f"  {release['manifest'][:8]} {release['product']} {release['sequence']} "
        f"({release['status']}): {verdict}"
    )


@policy.command(
    name="set",
    epilog=examples(
        "swarmd policy set fleet.toml --group fleet -C lab/gateway-1 \\",
        "       --key lab/keys/owner-1.key --key lab/keys/owner-2.key",
    ),
)
@_FILE
@group_option
@draft_options
def set_(output: Output, file: Path, group: str, directory: Path, **options: Any) -> None:
    """Schedule another policy for a group, if enough owners sign."""
    from ledger.bodies.group import SetPolicy
    from protocol.digest import ChainId

    facts = ask_group(directory, group)
    proposed = read_policy(file, ChainId(bytes.fromhex(facts["chain"])))
    body = SetPolicy(group=group, policy=proposed.encode(), approvals=())
    finish(output, body, facts, directory=directory, **options)


@policy.command(
    epilog=examples("swarmd policy veto --group fleet -C lab/gateway-1 --key lab/keys/owner-3.key")
)
@group_option
@draft_options
def veto(output: Output, group: str, directory: Path, **options: Any) -> None:
    """Stop the policy that is scheduled for a group, within its delay."""
    from ledger.bodies.group import VetoPolicy
    from protocol.policy import decode_policy

    facts = ask_group(directory, group)
    if facts["scheduled"] is None:
        raise ConfigError(f"group {group!r} has no policy that waits to take effect")
    waiting = decode_policy(bytes.fromhex(facts["scheduled"]["policy"]))
    body = VetoPolicy(group=group, policy=waiting.policy_id, approvals=())
    finish(output, body, facts, directory=directory, **options)
