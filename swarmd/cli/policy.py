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
    from swarmd.policy_text import parse_policy

    return parse_policy(_read_text(path), chain, str(path))


def _read_text(path: Path) -> str:
    from swarmd.datadir import read_bounded
    from swarmd.policy_text import POLICY_FILE_BYTES_MAX

    try:
        return read_bounded(path, bytes_max=POLICY_FILE_BYTES_MAX).decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None


def _read_contract(path: Path, chain: ChainId | None) -> tuple[Policy, OwnerRoot | None]:
    """Reads a policy file, or a group file, which says who the owners are."""
    from swarmd.group_text import parse_group
    from swarmd.policy_text import parse_document, parse_policy

    text = _read_text(path)
    if "owners" in parse_document(text, str(path)):
        group = parse_group(text, chain, str(path))
        return group.policy, group.owner_root
    return parse_policy(text, chain, str(path)), None


@policy.command(
    epilog=examples(
        "swarmd policy check fleet.toml",
        "swarmd policy check fleet.toml --owners 5",
        "swarmd policy check fleet.toml --root owners.toml",
        "swarmd policy check fleet.toml --group fleet -C lab/gateway-1",
    )
)
@_FILE
@click.option(
    "--owners", type=click.IntRange(1, 32), metavar="N", help="Judge it for a group of N owners."
)
@click.option(
    "--root",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Judge it for these owners and roles; a file as for `swarmd group rotate`.",
)
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
def check(
    output: Output,
    file: Path,
    owners: int | None,
    root: Path | None,
    group: str | None,
    directory: Path | None,
) -> None:
    """Say what a policy file means, before anybody signs it.

    Refuses what no ledger would take; a group file, as for `swarmd group create`, will do too.
    Whoever names owners, by number or by file, hears whether they could live under it and what they
    should fear. With a group and a node it also says what would change, and what the policy would
    have said about the newest releases.
    """
    if sum(given is not None for given in (owners, root, group)) > 1:
        raise ConfigError("one of --owners, --root and --group says whose policy it is")
    if group is None:
        document = _alone(file, owners, root)
    else:
        if directory is None:
            raise ConfigError("which node? give its folder with -C DIR")
        document = _compared(file, group, directory)
    output.result(document, _text(document))


def _alone(file: Path, owners: int | None, root_file: Path | None) -> dict[str, JSON]:
    """Judges a file without any node."""
    from protocol.errors import EncodingError
    from protocol.policy import check_owner_count, check_policy_fits

    proposed, root = _read_contract(file, None)
    if root_file is not None:
        root = _read_root(root_file)
    elif owners is not None:
        root = None
    document = _report(proposed, root, owners)
    try:
        if root is not None:
            check_policy_fits(proposed, root)
        elif owners is not None:
            check_owner_count(proposed, owners)
    except EncodingError as error:
        document["unfit"] = str(error)
    return document


def _read_root(path: Path) -> OwnerRoot:
    from swarmd.group_text import parse_root
    from swarmd.policy_text import parse_document

    return parse_root(parse_document(_read_text(path), str(path)), str(path))


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


def _report(proposed: Policy, root: OwnerRoot | None, owners: int | None = None) -> dict[str, JSON]:
    from swarmd.policy_words import policy_sentences, policy_warnings, rule_size

    rule: JSON = None if proposed.rule is None else {**rule_size(proposed.rule)}
    return {
        "policy": proposed.policy_id.hex(),
        "bytes": len(proposed.encode()),
        "rule": rule,
        "means": [*policy_sentences(proposed, root, owners=owners)],
        "warnings": [*policy_warnings(proposed, root, owners=owners)],
    }


def _text(document: dict[str, Any]) -> str:
    lines = [f"policy {document['policy']}, {document['bytes']} bytes"]
    if (rule := document["rule"]) is not None:
        lines.append(f"rule: {rule['nodes']} nodes, depth {rule['depth']}, cost {rule['cost']}")
    if "unfit" in document:
        lines += ["", f"REFUSED for these owners: {document['unfit']}"]
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
