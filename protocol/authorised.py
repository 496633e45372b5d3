"""`AuthorisedManifest`: the only thing that may be stored, served or offered.

It is built in one place, `swarmd.authority`, from a ledger verdict and the owners' approvals; a test
keeps it that way. Holding one proves that both were checked when it was made; a new final block makes
the authority re-evaluate those that are open.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.digest import BlockId, ManifestId, PolicyId
from protocol.manifest import Manifest, SignedManifest


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorisedManifest:
    """A manifest that the ledger and the owners of a group this node knows have authorised."""

    signed: SignedManifest
    """The manifest with its original bytes."""
    groups: tuple[str, ...]
    """Target groups in which it is authorised and unrevoked, ascending, at least one."""
    policies: tuple[PolicyId, ...]
    """For each group, the policy it was judged under."""
    approvers: tuple[tuple[str, ...], ...]
    """For each group, the owners whose approvals were verified."""
    height: int
    """Height of the final header the verdict rests on."""
    block_id: BlockId
    """That header."""

    @property
    def manifest_id(self) -> ManifestId:
        """Digest of the signed manifest."""
        return self.signed.manifest_id

    @property
    def manifest(self) -> Manifest:
        """The manifest's content."""
        return self.signed.manifest
