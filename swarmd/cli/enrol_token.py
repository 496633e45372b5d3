"""`swarmd enrol new-token` and `sign-token`: owners give a seat away."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from protocol.errors import ConfigError, EncodingError, PolicyError
from swarmd.cli.approval import confirm_signing
from swarmd.cli.key_options import key_options, open_key
from swarmd.cli.options import call, directory_option, examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from protocol.enrolment_token import EnrolmentClaims
    from protocol.keys import PrivateKey, PublicKey
    from swarmd.control.protocol import JSON
    from swarmd.enrolment_request import TokenFile

_DAYS_MAX: Final = 366
_DAY_S: Final = 24 * 3600


@click.command(
    "new-token",
    epilog=examples(
        "swarmd enrol new-token gw9.token -C lab/gateway-1 --key ada.key --group fleet --days 3"
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@directory_option
@key_options
@click.option(
    "--group", "groups", multiple=True, required=True, metavar="GROUP", help="Its groups."
)
@click.option(
    "--role",
    type=click.Choice(["gateway", "publisher", "person"]),
    default="gateway",
    show_default=True,
    help="What the newcomer shall be.",
)
@click.option(
    "--days",
    type=click.IntRange(1, _DAYS_MAX),
    default=7,
    show_default=True,
    help="How long the seat waits, in days of ledger time.",
)
@click.option(
    "--holder",
    metavar="DID:KEY",
    help="Bind the seat to this node key of the newcomer [default: to a key in FILE].",
)
@click.option("--confirm", is_flag=True, help="An owner must also confirm the newcomer's code.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="MULTIADDR",
    help="Where members may be reached, three at least [default: those the node starts from].",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def new_token(
    output: Output,
    /,
    file: Path,
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    **options: Any,
) -> None:
    """Give a seat in your groups away; FILE is for the newcomer.

    Unless --holder names a key, who has FILE has the seat: send it as you would a password. As many
    owners of each group must sign it (sign-token) as its policy asks for enrolments.
    """
    from protocol.enrolment_token import sign_token
    from swarmd.enrolment import new_key
    from swarmd.enrolment_request import TokenFile
    from swarmd.entropy import SystemEntropy

    signer = open_key(key, passphrase_file, passphrase_fd)
    entropy = SystemEntropy()
    seat_key: PrivateKey | None = None if options["holder"] else new_key(entropy)
    status = call(directory, "status", {})
    claims = _make_claims(
        status,
        directory,
        options,
        seat_id=entropy.token(16),
        issuer=signer.public,
        seat_key=seat_key,
    )
    output.note(_summary(claims))
    confirm_signing("give this seat away?", yes=options["yes"])
    _write(output, file, TokenFile.of([sign_token(claims, signer)], seat_key))


def _make_claims(
    status: Any,
    directory: Path,
    options: dict[str, Any],
    *,
    seat_id: bytes,
    issuer: PublicKey,
    seat_key: PrivateKey | None,
) -> EnrolmentClaims:
    from protocol.did import SubjectKind, parse_did_key
    from protocol.digest import BlockId
    from protocol.enrolment_token import EnrolmentClaims
    from swarmd.datadir import open_data_dir

    data = open_data_dir(directory)
    try:
        return EnrolmentClaims(
            issuer=issuer,
            expiry_s=int(status["ledger_time_ms"]) // 1000 + options["days"] * _DAY_S,
            seat_id=seat_id,
            holder=parse_did_key(options["holder"]) if seat_key is None else seat_key.public,
            chain=data.load_genesis().chain,
            era=int(status["era"]),
            checkpoint=(int(status["height"]), BlockId(bytes.fromhex(status["block"]))),
            addresses=_addresses(data, options["addresses"]),
            groups=tuple(sorted(set(options["groups"]), key=str.encode)),
            kind=SubjectKind[options["role"].upper()],
            confirmed=options["confirm"],
        )
    except EncodingError as error:
        raise ConfigError(str(error)) from None


def _addresses(data: Any, given: tuple[str, ...]) -> tuple[str, ...]:
    """Addresses for the token: one for each peer, those given first."""
    from protocol.enrolment_token import ADDRESSES_MAX, ADDRESSES_MIN
    from swarmd.enrolment import load_join
    from swarmd.net.address import PeerAddress, bootstrap_peers

    if given:
        known = [PeerAddress.parse(text) for text in given]
    else:
        configured = bootstrap_peers(data.load_config().network.bootstrap)
        known = [*load_join(data.join).addresses, *configured]
    by_peer = {address.peer: address.multiaddr for address in reversed(known)}
    chosen = tuple(dict.fromkeys(by_peer[address.peer] for address in known))[:ADDRESSES_MAX]
    if len(chosen) < ADDRESSES_MIN:
        raise ConfigError(
            f"addresses of {len(chosen)} peers, at least {ADDRESSES_MIN} needed: give --address"
        )
    return chosen


def _summary(claims: EnrolmentClaims) -> str:
    until = datetime.fromtimestamp(claims.expiry_s, UTC)
    bound = "an owner must confirm the newcomer" if claims.confirmed else "no confirmation"
    return "\n".join(
        [
            f"seat     {claims.seat.hex()}",
            f"role     {claims.kind.name.lower()}",
            f"groups   {', '.join(map(plain, claims.groups))}",
            f"until    {until:%Y-%m-%d %H:%M:%S} UTC, ledger time",
            f"rules    {bound}",
            *(f"address  {plain(address)}" for address in claims.addresses),
        ]
    )


def _write(output: Output, path: Path, file: TokenFile) -> None:
    file.write(path)
    document: JSON = {
        "file": str(path.absolute()),
        "seat": file.claims.seat.hex(),
        "groups": list(file.claims.groups),
        "owners": len(file.tokens),
        "bearer": file.seat_key is not None,
    }
    output.result(document, f"{path}: signed by {len(file.tokens)} owners")


@click.command("sign-token", epilog=examples("swarmd enrol sign-token gw9.token --key bob.key"))
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE"
)
@key_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def sign_token(
    output: Output,
    file: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    yes: bool,
) -> None:
    """Agree to a seat that another owner gives away: adds your signature to FILE."""
    from protocol.enrolment_token import sign_token as sign
    from swarmd.enrolment_request import TokenFile, load_token_file

    signer = open_key(key, passphrase_file, passphrase_fd)
    content = load_token_file(file)
    if any(token.claims.issuer == signer.public for token in content.tokens):
        raise PolicyError("seat.duplicate", "this key has signed the token already")
    output.note(_summary(content.claims))
    confirm_signing("give this seat away?", yes=yes)
    token = sign(content.claims, signer)
    _write(output, file, TokenFile.of([*content.tokens, token], content.seat_key))
