"""`swarmd attest`: an independent builder says that its own build is the image of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from swarmd.cli.approval import confirm_signing
from swarmd.cli.key_options import key_options, open_key
from swarmd.cli.options import (
    call,
    directory_option,
    examples,
    json_option,
    manifest_argument,
    pass_output,
)
from swarmd.cli.output import Output, describe, plain
from swarmd.cli.salts import find_component, find_salts, salt_option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from protocol.digest import Digest
    from protocol.keys import Signer
    from protocol.manifest import Manifest
    from swarmd.cli.judgement import GroupView, ManifestView
    from swarmd.control.protocol import JSON


@click.command(
    epilog=examples(
        "swarmd attest 3f2a... --image build/rootfs.img -C lab/gateway-1 --key builder-1.key",
    )
)
@manifest_argument
@click.option(
    "--image",
    "images",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE",
    help="What your own build made; one for each component.",
)
@salt_option
@click.option(
    "--group",
    "wanted",
    multiple=True,
    metavar="GROUP",
    help="Attest in this group only [default: every target group that names you a builder].",
)
@directory_option
@key_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_output
def attest(
    output: Output,
    manifest: str,
    images: tuple[Path, ...],
    salt_texts: tuple[str, ...],
    wanted: tuple[str, ...],
    directory: Path,
    key: str,
    passphrase_file: Path | None,
    passphrase_fd: int | None,
    yes: bool,
) -> None:
    """Say that your own build is the image, as a builder.

    Build from the source yourself and give the files. Their digests are computed here and compared
    with those in the signed manifest; if one component differs or is missing, nothing is signed.
    """
    from protocol.digest import ManifestId
    from swarmd.cli.judgement import read_view
    from swarmd.datadir import open_data_dir

    secret = open_key(key, passphrase_file, passphrase_fd)
    chain = open_data_dir(directory).load_genesis().chain
    reply = call(directory, "manifest", {"manifest": manifest})
    view = read_view(reply, ManifestId(bytes.fromhex(manifest)), chain)
    groups = _building_groups(view, secret, wanted)
    salts = find_salts(directory, view.manifest_id, view.manifest, salt_texts)
    digest = check_build(view.manifest, images, salts)
    names = ", ".join(plain(group.name) for group in groups)
    output.note(describe(_shown(view, groups, digest)))
    confirm_signing(f"\nattest in {names}?", yes=yes)
    approvals: list[JSON] = [raw.hex() for raw in _sign(view, groups, digest, secret)]
    params: dict[str, JSON] = {"manifest": manifest, "action": "attest", "approvals": approvals}
    result = call(directory, "submit_approvals", params)
    document: JSON = {
        "manifest": manifest,
        "image": digest.hex(),
        "groups": [group.name for group in groups],
        **result,
    }
    output.result(document, f"attested by you in {names}")


def check_build(
    manifest: Manifest, paths: Sequence[Path], salts: Mapping[str, bytes] | None = None
) -> Digest:
    """Hashes an own build and compares it with a manifest.

    Args:
        manifest: what was built.
        paths: one file for each component.
        salts: of sealed components, by name.

    Returns:
        The image digest, which follows from the files and salts alone (K45).

    Raises:
        VerificationError: a file is no component, or a component has no file.
        StorageError: a file cannot be read.
    """
    from protocol.errors import VerificationError
    from protocol.image import image_digest

    built: dict[str, None] = {}
    names = [one.name for one in manifest.components]
    for path in paths:
        component, digest = find_component(manifest, path, salts or {}, stored_too=False)
        if component is None:
            known = ", ".join(map(plain, names))
            raise VerificationError(f"{path}: sha256 {digest.hex()} is not that of {known}")
        same = [one for one in manifest.components if one.digest == component.digest]
        built.update({one.name: None for one in same})
    missing = [plain(name) for name in names if name not in built]
    if missing:
        raise VerificationError(f"no file is {', '.join(missing)}: give one for each component")
    return image_digest(manifest)


def _building_groups(
    view: ManifestView, key: Signer, wanted: Sequence[str]
) -> tuple[GroupView, ...]:
    from protocol.did import did_key_text
    from protocol.errors import PolicyError

    did = did_key_text(key.public)
    found = tuple(
        group
        for group in view.groups
        if did in group.builders and (not wanted or group.name in wanted)
    )
    if not found:
        names = ", ".join(wanted or [group.name for group in view.groups])
        raise PolicyError("approval.owner", f"this key is not a builder of {names}")
    return found


def _shown(view: ManifestView, groups: Sequence[GroupView], digest: Digest) -> dict[str, JSON]:
    """What the builder reads before it signs."""
    return {
        "product": view.manifest.product,
        "version": view.manifest.version,
        "publisher": view.publisher,
        "image": digest.hex(),
        "your build": "the same, component by component",
        "groups": [
            f"{group.name}: {group.attestations_needed} builders must attest, so far "
            f"{', '.join(group.attestations) or 'nobody'}"
            for group in groups
        ],
    }


def _sign(
    view: ManifestView, groups: Sequence[GroupView], digest: Digest, key: Signer
) -> tuple[bytes, ...]:
    """Signs one attestation for each group, valid for a day of ledger time."""
    from protocol.approval import Action
    from swarmd.cli.judgement import sign_judgement

    return sign_judgement(view, groups, Action.ATTEST, key, subject=digest)
