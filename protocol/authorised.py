"""`AuthorisedManifest`: the only thing that may be stored, served or offered.

It is built in one place, `swarmd.authority`, from a ledger verdict and the owners' approvals; a
test keeps it that way. Holding one proves that both were checked when it was made; a new final
block makes the authority re-evaluate those that are open.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.digest import BlockId, ManifestId, PolicyId
from protocol.errors import LocalProtocolError
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

    def __post_init__(self) -> None:
        """Refuses a verdict that covers no group, or that lacks a policy or approvers for one.

        Raises:
            LocalProtocolError: the authority is broken.
        """
        if not self.groups or not len(self.groups) == len(self.policies) == len(self.approvers):
            raise LocalProtocolError("every authorised group needs its policy and approvers")
        if not set(self.groups) <= set(self.manifest.groups):
            raise LocalProtocolError("authorised in a group the manifest does not target")
        if not all(self.approvers):
            raise LocalProtocolError("authorised in a group without an approver")

    @property
    def manifest_id(self) -> ManifestId:
        """Digest of the signed manifest."""
        return self.signed.manifest_id

    @property
    def manifest(self) -> Manifest:
        """The manifest's content."""
        return self.signed.manifest
