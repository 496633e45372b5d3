"""What an owner is asked to agree to, and the signatures that say yes.

The daemon is a messenger here: identifier, product, version, sizes and digests are read from the
signed manifest itself, whose SHA-256 must be the identifier the owner typed. From the daemon alone
come who owns a group, which policy is in force and who approved already; a wrong answer there can
only make an approval that does not count.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol.approval import Action, Approval, sign_approval
from protocol.did import did_key_text
from protocol.digest import ChainId, Digest, ManifestId, PolicyId
from protocol.errors import (
    DigestMismatchError,
    PolicyError,
    RemoteProtocolError,
    StorageError,
    VerificationError,
)
from protocol.keys import Signer
from protocol.limits import TRANSACTION_LIFETIME_MS_MAX
from protocol.manifest import Component, Manifest, parse_manifest
from swarmd.cli.output import plain, size_text, table
from swarmd.cli.salts import find_component


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """One target group as the daemon sees it."""

    name: str
    """The group."""
    status: str
    """Such as `proposed`, `authorised`, `revoked`."""
    policy: PolicyId
    """Policy the manifest is judged under."""
    approve_threshold: int
    """Owners that must approve."""
    revoke_threshold: int
    """Owners that must revoke."""
    owners: Mapping[str, str]
    """Owner's name by did:key."""
    others: Mapping[str, str]
    """Names of those who hold a role without being owners, by did:key; a rule may count them."""
    builders: Mapping[str, str] = field(default_factory=dict)
    """Names of those who may attest the image, by did:key."""
    attestations: tuple[str, ...] = ()
    """Names of builders whose attestations are in the ledger."""
    attestations_needed: int = 0
    """Builders that must attest."""
    approvals: tuple[str, ...]
    """Names of owners whose approvals are in the ledger."""
    revocations: tuple[str, ...]
    """Names of owners whose revocations are in the ledger."""
    latest: Mapping[str, Any] | None
    """Manifest, version, sequence and size of the newest authorised release, if any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestView:
    """A manifest that an owner shall judge."""

    manifest_id: ManifestId
    """Verified: SHA-256 of the signed bytes."""
    manifest: Manifest
    """Decoded from those bytes."""
    chain: ChainId
    """The chain, as this node's genesis says."""
    era: int
    """Current era of the chain."""
    now_ms: int
    """Ledger time, milliseconds since 1970."""
    publisher: str
    """Name of who signed it, as the ledger has it."""
    groups: tuple[GroupView, ...]
    """Its target groups."""


def read_view(reply: Any, manifest_id: ManifestId, chain: ChainId) -> ManifestView:
    """Reads the daemon's answer to `manifest`.

    Raises:
        RemoteProtocolError: the answer lacks something or is of another chain.
        VerificationError: the manifest in it is not the one asked for.
    """
    try:
        raw = bytes.fromhex(reply["raw"])
        answered_chain = bytes.fromhex(reply["chain"])
        signed = parse_manifest(raw)
        view = ManifestView(
            manifest_id=signed.manifest_id,
            manifest=signed.manifest,
            chain=chain,
            era=int(reply["era"]),
            now_ms=int(reply["now_ms"]),
            publisher=str(reply["publisher"]),
            # A group that the ledger does not know yet has nothing to decide on.
            groups=tuple(
                _read_group(group) for group in reply["groups"] if group["status"] != "unknown"
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteProtocolError(f"the daemon's answer is not understood: {error!r}") from None
    if answered_chain != chain:
        raise RemoteProtocolError("the daemon answers for another chain than genesis.cbor names")
    if signed.manifest_id != manifest_id:
        raise DigestMismatchError("manifest", expected=manifest_id, actual=signed.manifest_id)
    if {group.name for group in view.groups} - set(signed.manifest.groups):
        raise VerificationError("the daemon names a group that the manifest does not target")
    return view


def _read_group(value: Any) -> GroupView:
    policy = bytes.fromhex(value["policy"])
    if len(policy) != 32:
        raise ValueError("policy id of wrong length")
    return GroupView(
        name=str(value["group"]),
        status=str(value["status"]),
        policy=PolicyId(policy),
        approve_threshold=int(value["approve_threshold"]),
        revoke_threshold=int(value["revoke_threshold"]),
        owners={str(owner["key"]): str(owner["name"]) for owner in value["owners"]},
        others={str(other["key"]): str(other["name"]) for other in value.get("others", ())},
        builders={str(one["key"]): str(one["name"]) for one in value.get("builders", ())},
        attestations=tuple(str(name) for name in value.get("attestations", ())),
        attestations_needed=int(value.get("attestations_needed", 0)),
        approvals=tuple(str(name) for name in value["approvals"]),
        revocations=tuple(str(name) for name in value["revocations"]),
        latest=None if value["latest"] is None else dict(value["latest"]),
    )


def owned_groups(
    view: ManifestView, key: Signer, wanted: Sequence[str], action: Action
) -> tuple[GroupView, ...]:
    """The target groups in which `key` may decide, restricted to `wanted` unless that is empty.

    Owners decide everything; holders of other roles may approve, where a rule asks for them.

    Raises:
        PolicyError: it may in none of them.
    """
    did = did_key_text(key.public)
    owned = tuple(
        group
        for group in view.groups
        if (did in group.owners or (did in group.others and action is Action.AUTHORISE))
        and (not wanted or group.name in wanted)
    )
    if not owned:
        names = ", ".join(wanted or [group.name for group in view.groups])
        raise PolicyError("approval.owner", f"this key is not an owner of {names}")
    return owned


def summary(view: ManifestView, groups: Sequence[GroupView], action: Action) -> str:
    """What the owner reads before saying yes."""
    manifest = view.manifest
    head = [
        ["manifest", view.manifest_id.hex()],
        ["product", manifest.product],
        ["version", f"{manifest.version} (sequence {manifest.sequence})"],
        ["publisher", view.publisher],
        *([f"metadata {name}", text] for name, text in manifest.metadata.items()),
    ]
    width = max(len(plain(name)) for name, _ in head)
    lines = [f"{plain(name).ljust(width)}  {plain(text)}" for name, text in head]
    rows = [
        [component.name, size_text(component.size), component.digest.hex()]
        for component in manifest.components
    ]
    lines += ["", table(["component", "size", "sha256"], rows)]
    for group in groups:
        lines += ["", *_group_lines(group, view, action)]
    return "\n".join(lines)


def _group_lines(group: GroupView, view: ManifestView, action: Action) -> list[str]:
    revoking = action is Action.REVOKE
    threshold = group.revoke_threshold if revoking else group.approve_threshold
    verb = "revoke" if revoking else "approve"
    names = group.revocations if revoking else group.approvals
    so_far = ", ".join(map(plain, names)) or "nobody"
    return [
        f"group {plain(group.name)}: {plain(group.status)}",
        f"  latest release  {_difference(group.latest, view)}",
        f"  policy          {group.policy.hex()}",
        f"  rule            {threshold} of {len(group.owners)} owners must {verb}",
        f"  so far          {so_far}",
    ]


def _difference(latest: Mapping[str, Any] | None, view: ManifestView) -> str:
    """How a manifest differs from the newest authorised release of its product."""
    if latest is None:
        return "none yet: this is the first"
    if latest.get("manifest") == view.manifest_id.hex():
        return "this one"
    manifest = view.manifest
    text = f"version {plain(str(latest.get('version')))} (sequence {latest.get('sequence')})"
    size = latest.get("size")
    if isinstance(size, int):
        step = manifest.size - size
        text += f", this one is {size_text(abs(step))} {'larger' if step >= 0 else 'smaller'}"
    sequence = latest.get("sequence")
    if isinstance(sequence, int) and manifest.sequence < sequence:
        text += "; THIS ONE IS OLDER"
    return text


def check_image(
    manifest: Manifest, path: Path, salts: Mapping[str, bytes] | None = None
) -> Component:
    """Hashes a file and finds the component it is, plain or as stored.

    Args:
        manifest: what the file shall be part of.
        path: the file.
        salts: of sealed components, by name.

    Raises:
        VerificationError: it is none of the manifest's components.
        StorageError: it cannot be read.
    """
    component, digest = find_component(manifest, path, salts or {}, stored_too=True)
    if component is not None:
        return component
    names = ", ".join(plain(component.name) for component in manifest.components)
    raise VerificationError(f"{path}: sha256 {digest.hex()} is not that of {names}")


def hash_file(path: Path, prefix: bytes = b"") -> Digest:
    """The SHA-256 of a file of any size, `prefix` before its bytes.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return Digest(hashlib.file_digest(file, lambda: hashlib.sha256(prefix)).digest())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error


def sign_judgement(
    view: ManifestView,
    groups: Sequence[GroupView],
    action: Action,
    key: Signer,
    *,
    subject: Digest | None = None,
) -> tuple[bytes, ...]:
    """Signs one approval for each group, valid for a day of ledger time.

    It is about `subject`, or about the manifest if that is None.
    """
    return tuple(
        sign_approval(
            Approval(
                era=view.era,
                action=action,
                subject=subject or Digest(view.manifest_id),
                group=group.name,
                policy=group.policy,
                valid_until_ms=view.now_ms + TRANSACTION_LIFETIME_MS_MAX,
            ),
            key,
            view.chain,
        ).signed.raw
        for group in groups
    )
