"""`swarmd verify`: checks an image against a proof file, offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from protocol.errors import ConfigError
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from ledger.proof_verify import VerifiedAuthorisation
    from protocol.genesis import Genesis
    from swarmd.control.protocol import JSON
    from swarmd.proof_file import ProofFile

_DIGEST_DIGITS: Final = 64
_MS_PER_S: Final = 1000
_AGE_UNITS: Final = (("days", 86_400), ("hours", 3600), ("minutes", 60))


@click.command(
    epilog=examples(
        "swarmd verify rootfs.img --proof rootfs.proof --genesis lab/genesis.cbor",
        "swarmd verify rootfs.img --proof rootfs.proof --genesis 0ce67565...",
    )
)
@click.argument(
    "image", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="IMAGE"
)
@click.option(
    "--proof",
    "proof_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The proof file, from swarmd prove.",
)
@click.option(
    "--genesis",
    "trusted",
    required=True,
    metavar="FILE|DIGEST",
    help="What you trust: the chain's genesis.cbor, or its SHA-256 (the chain id).",
)
@json_option
@pass_output
def verify(output: Output, image: Path, proof_path: Path, trusted: str) -> None:
    """Check offline that an image was authorised, by whom, and as of when.

    Trust comes from --genesis alone: take it from a source you believe, not from whoever gave you
    the proof. With a digest, the genesis document inside the proof file is used if it has that
    digest. A proof says "not revoked as of its block": mind the age that is printed.
    """
    from ledger.proof_verify import verify_authorisation
    from swarmd.cli.judgement import hash_file
    from swarmd.clock import SystemClock
    from swarmd.datadir import read_bounded
    from swarmd.proof_file import PROOF_FILE_BYTES_MAX, decode_proof_file

    file = decode_proof_file(read_bounded(proof_path, bytes_max=PROOF_FILE_BYTES_MAX))
    genesis = trusted_genesis(trusted, file)
    digest = hash_file(image)
    proof = verify_authorisation(file.proof, genesis, digest)
    age_s = (SystemClock().wall_ms() - proof.time_ms) // _MS_PER_S
    manifest = proof.signed.manifest
    document: JSON = {
        "verified": True,
        "image": str(image.absolute()),
        "sha256": digest.hex(),
        "component": proof.component,
        "manifest": proof.manifest_id.hex(),
        "product": manifest.product,
        "version": manifest.version,
        "sequence": manifest.sequence,
        "latest_sequence": proof.latest_sequence,
        "group": proof.group,
        "approvers": list(proof.approvers),
        "approve_threshold": proof.policy.approve_threshold,
        "policy": proof.policy.policy_id.hex(),
        "anchor": {"chain": genesis.chain.hex(), "name": genesis.name},
        "height": proof.height,
        "block": proof.header.block_id.hex(),
        "time_ms": proof.time_ms,
        "age_s": age_s,
    }
    output.result(document, _report(image, genesis, proof, age_s))


def trusted_genesis(trusted: str, file: ProofFile) -> Genesis:
    """The genesis to start from: the file named, or the embedded one if it has the digest."""
    from protocol.digest import ChainId
    from protocol.genesis import GENESIS_BYTES_MAX, decode_genesis
    from swarmd.datadir import read_bounded

    path = Path(trusted)
    if path.is_file():
        return decode_genesis(read_bounded(path, bytes_max=GENESIS_BYTES_MAX))
    digits = trusted.lower()
    if len(digits) != _DIGEST_DIGITS or not all(char in "0123456789abcdef" for char in digits):
        raise ConfigError(f"--genesis: {trusted[:80]!r} is neither a file nor 64 hex digits")
    return file.genesis_of(ChainId(bytes.fromhex(digits)))


def _report(image: Path, genesis: Genesis, proof: VerifiedAuthorisation, age_s: int) -> str:
    manifest = proof.signed.manifest
    time = datetime.fromtimestamp(proof.time_ms / _MS_PER_S, UTC)
    release = f"{plain(manifest.product)} {plain(manifest.version)} (sequence {manifest.sequence})"
    owners = ", ".join(map(plain, proof.approvers))
    lines = [
        f"{image}: authorised",
        f"  product    {release}, component {plain(str(proof.component))}",
        f"  group      {plain(proof.group)}",
        f"  approved   by {owners} ({proof.policy.approve_threshold} needed)",
        f"  anchor     chain {genesis.chain.hex()} ({plain(genesis.name)})",
        f"  as of      block {proof.height}, {time:%Y-%m-%d %H:%M:%S} UTC, {age_text(age_s)}",
    ]
    if (proof.latest_sequence or 0) > manifest.sequence:
        lines.append(f"  note       a newer release exists (sequence {proof.latest_sequence})")
    return "\n".join(lines)


def age_text(age_s: int) -> str:
    """How old a proof is, for people."""
    if age_s < 0:
        return "in the future: this machine's clock is behind"
    for unit, seconds in _AGE_UNITS:
        if age_s >= 2 * seconds:
            return f"{age_s // seconds} {unit} ago"
    return f"{age_s} seconds ago"
