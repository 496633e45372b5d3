"""Publisher thief: holds every key of a publisher that is in force, but not the next ones."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy

from ledger.bodies.manifest import ApproveManifest, ProposeManifest
from ledger.bodies.subject import RotateKeys, rotation_message
from protocol.approval import Action
from protocol.did import KeyPurpose, next_keys_digest
from protocol.digest import ManifestId
from protocol.manifest import SignedManifest
from protocol.transaction import SignedTransaction
from swarmd.simulation.lab import FLEET, Lab, Member, make_key

PROPOSALS = 70
"""More than a publisher may have open in a group (Q20)."""


class PublisherThief:
    """Publishes what it likes, as far as it gets."""

    def __init__(self, lab: Lab) -> None:
        """Takes the keys as they are now."""
        self._lab = lab
        self._stolen: Member = copy(lab.publisher)
        self._releases = [self._release(number) for number in range(PROPOSALS)]

    def _release(self, number: int) -> SignedManifest:
        products = ("pump", "Pump", "pump-1", "valve")
        return self._lab.manifest(
            sequence=2 + number,
            image=b"evil %d" % number,
            product=products[number % len(products)],
        )

    @property
    def manifests(self) -> list[ManifestId]:
        """What it would like to have authorised."""
        return [release.manifest_id for release in self._releases]

    def proposals(self) -> Iterator[SignedTransaction]:
        """Its releases, as fast as it can."""
        for release in self._releases:
            yield self._lab.transaction(self._stolen, ProposeManifest(manifest=release.signed.raw))

    def consents(self, manifest: ManifestId) -> Iterator[SignedTransaction]:
        """Approvals by the publisher's own keys, in its name and in that of its thief."""
        keys = [self._stolen.key(purpose) for purpose in (KeyPurpose.PERSON, KeyPurpose.NODE)]
        own = tuple(self._lab.approval(Action.AUTHORISE, manifest, key) for key in keys)
        for approvals in (own, own[:1], own[:1] * 2):
            body = ApproveManifest(manifest=manifest, group=FLEET, approvals=approvals)
            yield self._lab.transaction(self._stolen, body)

    def rotation(self) -> SignedTransaction:
        """New keys of its own for the publisher, which would lock the publisher out."""
        keys = {purpose: make_key(f"thief/{purpose.name}") for purpose in self._stolen.keys_of(0)}
        public = tuple((purpose, key.public) for purpose, key in keys.items())
        following = next_keys_digest(public)
        message = rotation_message(
            self._lab.chain_id, 0, self._stolen.did, sequence=1, keys=public, next_keys=following
        )
        body = RotateKeys(
            did=self._stolen.did,
            keys=public,
            next_keys=following,
            signatures=tuple(key.sign(message) for key in keys.values()),
        )
        return self._lab.transaction(self._stolen, body)
