"""What `access` and `quarantine` share: showing a decision, signing it, adding other signatures.

The digest that is signed is computed here, from what is shown. The daemon says which policy is in
force and who owns the group; a wrong answer can only make approvals that do not count.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError, NotYetError, PolicyError, RemoteProtocolError
from swarmd.cli.key_options import open_key, passphrase_options
from swarmd.cli.options import call, directory_option
from swarmd.cli.output import Output, describe

if TYPE_CHECKING:
    from protocol.approval import Action
    from protocol.digest import ChainId, DidId, Digest, PolicyId
    from protocol.keys import Signer
    from swarmd.control.protocol import JSON

_FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the daemon says about a subject and a group."""

    chain: ChainId
    """The chain, as this node's genesis says."""
    era: int
    """Current era."""
    now_ms: int
    """Ledger time, milliseconds."""
    group: str
    """The group."""
    subject: DidId
    """The subject."""
    name: str
    """Its name, as the ledger has it."""
    policy: PolicyId
    """Policy in force."""
    owners: Mapping[str, str]
    """Owner's name by did:key."""
    thresholds: Mapping[str, int]
    """Owners needed, by kind of transaction."""
    level: int
    """The subject's quarantine level now."""
    sequence: int
    """What the next change of its quarantine must name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matter:
    """What owners shall agree to."""

    kind: str
    """Kind of the transaction."""
    action: Action
    """What approvals say."""
    digest: Digest
    """What approvals are about."""
    params: Mapping[str, Any]
    """The rest of what `access_submit` takes."""
    shown: Mapping[str, Any]
    """What the owner reads before saying yes."""


def decision_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `-C`, `--key` (several), `--add`, `-o` and `--yes`."""
    for decorate in (
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option(
            "-o",
            "target",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write the signatures to FILE for other owners and submit nothing.",
        ),
        click.option(
            "--add",
            "added",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Signatures that other owners wrote with -o.",
        ),
        passphrase_options,
        click.option(
            "--key",
            "keys",
            multiple=True,
            metavar="FILE|fd:N|pkcs11:...",
            help="An owner's private key; give several to sign with each.",
        ),
        directory_option,
    ):
        command = decorate(command)
    return command


def view_of(
    directory: Path, subject: str | None = None, group: str = "", *, capability: str | None = None
) -> View:
    """Asks the daemon about a subject (a DID) in a group, or about a capability.

    Raises:
        ConfigError: no DID of this chain.
        RemoteProtocolError: the daemon answers for another chain.
    """
    from protocol.did import parse_did_text
    from protocol.digest import PolicyId
    from protocol.errors import EncodingError
    from swarmd.datadir import open_data_dir

    chain = open_data_dir(directory).load_genesis().chain
    params: dict[str, JSON]
    try:
        if capability is None:
            assert subject is not None, "one of both is given"
            params = {"subject": parse_did_text(subject, chain).hex(), "group": group}
        else:
            params = {"capability": capability}
        reply = call(directory, "access_view", params)
        if bytes.fromhex(reply["chain"]) != chain:
            raise RemoteProtocolError("the daemon answers for another chain than genesis.cbor")
        return View(
            chain=chain,
            era=int(reply["era"]),
            now_ms=int(reply["now_ms"]),
            group=str(reply["group"]),
            subject=parse_did_text(reply["subject"], chain),
            name=str(reply["name"]),
            policy=PolicyId(bytes.fromhex(reply["policy"])),
            owners={owner["key"]: owner["name"] for owner in reply["owners"]},
            thresholds=reply["thresholds"],
            level=int(reply["level"]),
            sequence=int(reply["sequence"]),
        )
    except EncodingError as error:
        raise ConfigError(str(error)) from None


def decide(output: Output, view: View, matter: Matter, options: Mapping[str, Any]) -> None:
    """Shows a matter, asks, signs, and hands it in or writes the signatures to a file.

    Raises:
        PolicyError: a key is no owner's, or the person said no.
        NotYetError: `approval.threshold`: too few owners so far, and no file was asked for.
    """
    signers: list[Signer] = [
        open_key(key, options["passphrase_file"], options["passphrase_fd"])
        for key in options["keys"]
    ]
    needed = view.thresholds[matter.kind]
    output.note(describe({**matter.shown, "rule": f"{needed} of {len(view.owners)} owners"}))
    approvals = [raw for path in options["added"] for raw in _read(path)]
    if signers:
        _confirm(yes=options["yes"])
    approvals += [_sign(view, matter, signer) for signer in signers]
    target: Path | None = options["target"]
    if target is not None:
        _write(output, target, approvals)
        return
    distinct = _distinct(approvals)
    if len(distinct) < needed:
        raise NotYetError(
            "approval.threshold", f"{len(distinct)} signatures of {needed}: pass them on with -o"
        )
    result = call(
        options["directory"],
        "access_submit",
        {"kind": matter.kind, "approvals": [raw.hex() for raw in distinct], **matter.params},
    )
    output.result({**matter.shown, **result}, f"final at height {result['height']}")


def _sign(view: View, matter: Matter, signer: Signer) -> bytes:
    from protocol.approval import Approval, sign_approval
    from protocol.did import did_key_text
    from protocol.limits import TRANSACTION_LIFETIME_MS_MAX

    if did_key_text(signer.public) not in view.owners:
        raise PolicyError("approval.owner", f"this key is not an owner of {view.group!r}")
    approval = Approval(
        era=view.era,
        action=matter.action,
        subject=matter.digest,
        group=view.group,
        policy=view.policy,
        valid_until_ms=view.now_ms + 7 * TRANSACTION_LIFETIME_MS_MAX,
    )
    return sign_approval(approval, signer, view.chain).signed.raw


def _distinct(approvals: list[bytes]) -> list[bytes]:
    """One approval for each owner; the ledger refuses lists with two."""
    from protocol.approval import parse_approval

    by_owner = {parse_approval(raw).signed.key_id: raw for raw in approvals}
    return list(by_owner.values())


def _read(path: Path) -> list[bytes]:
    from swarmd.datadir import read_bounded

    try:
        text = read_bounded(path, bytes_max=_FILE_BYTES_MAX).decode("ascii")
        return [bytes.fromhex(line) for line in text.splitlines() if line]
    except ValueError:
        raise ConfigError(f"{path}: not a file of signatures") from None


def _write(output: Output, path: Path, approvals: list[bytes]) -> None:
    from swarmd.datadir import write_atomic

    distinct = _distinct(approvals)
    write_atomic(path, "".join(raw.hex() + "\n" for raw in distinct).encode())
    output.result({"file": str(path), "signatures": len(distinct)}, f"{path}: {len(distinct)}")


def _confirm(*, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("not a terminal, nobody to ask: add --yes to sign without being asked")
    if not click.confirm("\nsign this?", err=True):
        raise PolicyError("approval.declined", "nothing was signed")
