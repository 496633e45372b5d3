"""`swarmd verify`: checks an image against a proof file, offline."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from protocol.errors import ConfigError, PolicyError
from swarmd.cli.options import examples, json_option, pass_output
from swarmd.cli.output import Output, plain

if TYPE_CHECKING:
    from ledger.header import Header
    from ledger.proof_verify import VerifiedAuthorisation, VerifiedProof
    from protocol.genesis import Genesis
    from swarmd.control.protocol import JSON
    from swarmd.proof_file import ProofFile

_DIGEST_DIGITS: Final = 64
_MS_PER_S: Final = 1000
_S_PER_H: Final = 3600
_CLOCK_SKEW_S: Final = 300
"""How far in the future a proof may seem before `--max-age` refuses it, seconds."""
_AGE_UNITS: Final = (("days", 86_400), ("hours", 3600), ("minutes", 60))


@click.command(
    epilog=examples(
        "swarmd verify rootfs.img --proof rootfs.proof --genesis lab/genesis.cbor",
        "swarmd verify rootfs.img --proof rootfs.proof --genesis 0ce67565...",
    )
)
@click.argument(
    "image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="IMAGE",
    required=False,
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
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    metavar="HOURS",
    help="Refuse a proof older than this, or from the future.",
)
@click.option(
    "--salt",
    metavar="HEX",
    help="IMAGE is the plain file of a sealed component with this salt (swarmd sealing salt).",
)
@json_option
@pass_output
def verify(
    output: Output,
    image: Path | None,
    proof_path: Path,
    trusted: str,
    max_age: float | None,
    salt: str | None,
) -> None:
    """Check offline that an image was authorised, by whom, and as of when.

    Without IMAGE it checks any proof file, and shows what it states.

    Trust comes from --genesis alone: take it from a source you believe, not from whoever gave you
    the proof. With a digest, the genesis document inside the proof file is used if it has that
    digest. A proof says "not revoked as of its block": mind the age that is printed.
    """
    from ledger.proof_verify import verify_authorisation, verify_proof
    from protocol.digest import verify_digest
    from protocol.sealing import plain_prefix
    from swarmd.cli.judgement import hash_file
    from swarmd.cli.salts import parse_salt
    from swarmd.datadir import read_bounded
    from swarmd.proof_file import PROOF_FILE_BYTES_MAX, decode_proof_file

    file = decode_proof_file(read_bounded(proof_path, bytes_max=PROOF_FILE_BYTES_MAX))
    genesis = trusted_genesis(trusted, file)
    verify_digest("genesis in the proof file", file.genesis, genesis.chain)
    if image is None:
        shown = verify_proof(file.proof, genesis)
        age_s = _checked_age(shown.time_ms, max_age)
        stated = {**describe_proof(shown), **_anchor(genesis, shown.header, age_s)}
        output.result({"verified": True, **stated})
        return
    digest = hash_file(image, b"" if salt is None else plain_prefix(parse_salt(salt)))
    proof = verify_authorisation(file.proof, genesis, digest)
    age_s = _checked_age(proof.time_ms, max_age)
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
        **_anchor(genesis, proof.header, age_s),
    }
    output.result(document, _report(image, genesis, proof, age_s))


def _anchor(genesis: Genesis, header: Header, age_s: int) -> dict[str, JSON]:
    """What all of it rests on."""
    return {
        "anchor": {"chain": genesis.chain.hex(), "name": genesis.name},
        "height": header.height,
        "block": header.block_id.hex(),
        "time_ms": header.time_ms,
        "age_s": age_s,
    }


def _checked_age(time_ms: int, max_age_h: float | None) -> int:
    """Age of a proof, seconds.

    Raises:
        PolicyError: `proof.age`: older than allowed, or of a time that has not come yet.
    """
    from swarmd.clock import SystemClock

    age_s = (SystemClock().wall_ms() - time_ms) // _MS_PER_S
    if max_age_h is not None and not -_CLOCK_SKEW_S <= age_s <= max_age_h * _S_PER_H:
        raise PolicyError("proof.age", f"the proof is {age_text(age_s)}, asked for {max_age_h:g} h")
    return age_s


def describe_proof(shown: VerifiedProof) -> dict[str, JSON]:
    """What a verified proof states, as JSON."""
    manifests: list[JSON] = [
        {
            "manifest": item.manifest_id.hex(),
            "group": item.group,
            "status": item.record.status.name.lower(),
            "policy": item.record.policy.hex(),
            "approvers": None if item.consent is None else list(item.consent.approvers),
            "is_authorised": item.record.is_authorised(shown.time_ms),
            "latest_sequence": None if item.latest is None else item.latest.sequence,
        }
        for item in shown.manifests
    ]
    entries: list[JSON] = [
        {
            "index": item.index,
            "leaf": item.leaf.hex(),
            "entry": None if item.entry is None else item.entry.hex(),
        }
        for item in shown.entries
    ]
    receipts: list[JSON] = [
        {
            "did": item.did.hex(),
            "index": item.index,
            "entry": item.entry.hex(),
            "anchored_size": item.anchor.size,
            "anchored_height": item.anchor.height,
        }
        for item in shown.receipts
    ]
    facts = {
        key.hex(): None if value is None else value.hex() for key, value in shown.facts.items()
    }
    return {"facts": facts, "manifests": manifests, "entries": entries, "receipts": receipts}


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
