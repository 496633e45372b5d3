"""`swarmd did offer-keys`, `sign-keys`, `recover` and `claim`: a node gets new keys."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protocol.errors import ConfigError
from swarmd.cli.approval import confirm_signing
from swarmd.cli.key_options import chosen_passphrases, key_options, open_key, passphrase_options
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.recovery_decision import RecoveryDecision

_FILE = click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)


@click.command(
    "offer-keys",
    epilog=examples("swarmd did offer-keys gw.recovery -C lab/gateway-1 --via lab/gateway-2"),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@directory_option
@click.option(
    "--via",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    metavar="DIR",
    help="A member that knows where the ledger stands.",
)
@click.option("--governance", is_flag=True, help="Governance decides, not the owners of groups.")
@passphrase_options
@json_option
@pass_output
def offer_keys(
    output: Output,
    file: Path,
    directory: Path,
    via: Path,
    governance: bool,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
) -> None:
    """Make new keys in the node's folder and a FILE by which its owners can decide on them.

    The folder needs the node's join.json. Its next keys are replaced: a node that still has the
    ones it committed to should rotate (swarmd did rotate) instead.
    """
    from protocol.digest import PolicyId
    from protocol.limits import TRANSACTION_LIFETIME_MS_MAX
    from swarmd.datadir import PUBLIC_FILE_MODE, open_data_dir, write_atomic
    from swarmd.enrolment import load_join
    from swarmd.entropy import SystemEntropy
    from swarmd.key_rotation import RotationTarget, make_fresh_keys
    from swarmd.keys.passphrase import remembered
    from swarmd.recovery_decision import RecoveryDecision, decide_by_governance, sign_recovery

    data = open_data_dir(directory)
    record = load_join(data.join).record
    chain = data.load_genesis().chain
    known: Any = call(via, "resolve", {"did": record.did.hex(), "proof": False})
    if known["chain"] != chain.hex():
        raise ConfigError("the daemon answers for another chain than genesis.cbor names")
    by_group = tuple(
        (str(name), PolicyId(bytes.fromhex(policy))) for name, policy in known["policies"].items()
    )
    deciders = decide_by_governance() if governance else by_group
    if not deciders:
        raise ConfigError("the node belongs to no group: governance must decide (--governance)")
    target = RotationTarget(
        chain=chain,
        era=int(known["era"]),
        did=record.did,
        sequence=int(known["rotations"]),
        purposes=tuple(purpose for purpose, _ in record.keys),
    )
    passphrases = remembered(chosen_passphrases(passphrase_file, passphrase_fd))
    fresh, next_keys = make_fresh_keys(data, target, passphrases, SystemEntropy())
    draft = RecoveryDecision(
        chain=chain,
        era=target.era,
        valid_until_ms=int(known["now_ms"]) + TRANSACTION_LIFETIME_MS_MAX,
        did=record.did,
        keys=tuple((purpose, key.public) for purpose, key in fresh),
        next_keys=next_keys,
        signatures=(),
        sequence=target.sequence + 1,
        number=int(known["changes"]),
        deciders=deciders,
        approvals=((),) * len(deciders),
    )
    signed = sign_recovery(draft, [key for _, key in fresh])
    write_atomic(file.absolute(), signed.encode(), mode=PUBLIC_FILE_MODE)
    _report(output, file, signed)


def _load(file: Path) -> RecoveryDecision:
    from swarmd.datadir import read_bounded
    from swarmd.recovery_decision import RECOVERY_DECISION_BYTES_MAX, decode_recovery_decision

    return decode_recovery_decision(read_bounded(file, bytes_max=RECOVERY_DECISION_BYTES_MAX))


def _report(output: Output, file: Path, decision: RecoveryDecision) -> None:
    from protocol.did import did_key_text, did_text

    signatures: dict[str, JSON] = {
        name: len(given)
        for (name, _), given in zip(decision.deciders, decision.approvals, strict=True)
    }
    keys: dict[str, JSON] = {
        purpose.name.lower(): did_key_text(key) for purpose, key in decision.keys
    }
    name = did_text(decision.chain, decision.did)
    document: JSON = {
        "file": str(file.absolute()),
        "did": name,
        "keys": keys,
        "signatures": signatures,
    }
    lines = [
        f"new keys for {name}",
        *(f"  {purpose.ljust(10)}{key}" for purpose, key in keys.items()),
        *(f"  signed in {plain(group)}: {count}" for group, count in signatures.items()),
    ]
    output.result(document, "\n".join(lines))


@click.command("sign-keys", epilog=examples("swarmd did sign-keys gw.recovery --key ada.key"))
@_FILE
@key_options
@click.option("--group", "groups", multiple=True, metavar="GROUP", help="As owner of these groups.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def sign_keys(
    output: Output,
    file: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    groups: tuple[str, ...],
    yes: bool,
) -> None:
    """Agree to new keys for a node: adds your signature to FILE.

    Compare the keys with those the node itself shows (swarmd keys show) before you agree.
    """
    from protocol.did import did_key_text, did_text
    from swarmd.datadir import PUBLIC_FILE_MODE, write_atomic

    signer = open_key(key, passphrase_file, passphrase_fd)
    decision = _load(file)
    output.note(f"new keys for {did_text(decision.chain, decision.did)}")
    for purpose, public in decision.keys:
        output.note(f"  {purpose.name.lower().ljust(10)}{did_key_text(public)}")
    confirm_signing("agree to these keys?", yes=yes)
    signed = decision.signed_by(signer, groups)
    write_atomic(file.absolute(), signed.encode(), mode=PUBLIC_FILE_MODE)
    _report(output, file, signed)


@click.command("recover", epilog=examples("swarmd did recover gw.recovery -C lab/gateway-2"))
@_FILE
@directory_option
@json_option
@pass_output
def recover(output: Output, file: Path, directory: Path) -> None:
    """Hand new keys that were agreed to to a node; they can be claimed a day of ledger time later.

    Until then whoever holds the keys the node committed to can object by rotating.
    """
    result = call(directory, "recover_keys", {"decision": [_load(file).encode().hex()]})
    output.result(result, f"decided in block {result['height']}; claim it in 24 h of ledger time")


@click.command("claim", epilog=examples("swarmd did claim gw.recovery -C lab/gateway-2"))
@_FILE
@directory_option
@json_option
@pass_output
def claim(output: Output, file: Path, directory: Path) -> None:
    """Put recovered keys in force once their day is over (exit code 3: it is not).

    Then install them in the node's folder: swarmd did rotate -C DIR --finish.
    """
    result = call(directory, "claim_keys", {"decision": [_load(file).encode().hex()]})
    output.result(result, f"in force since block {result['height']}")
