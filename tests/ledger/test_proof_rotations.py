"""Consent under owner roots that were rotated: followed by signatures from the first one."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from ledger.bodies.group import RotateRoot
from ledger.bodies.manifest import ApproveManifest
from ledger.proof import ProofFile, decode_proof
from ledger.proof_make import make_proof
from ledger.proof_verify import verify_authorisation
from protocol.approval import Action
from protocol.digest import Digest
from protocol.encoding import encode_canonical
from protocol.errors import VerificationError
from protocol.keys import PrivateKey
from protocol.owner_root import OwnerRoot
from protocol.rotation import root_digest
from swarmd.proof_file import ProofFile as Container
from tests.support.ledger import FLEET, Lab, advance, make_key, make_lab, owner_keys

EXAMPLE = Path(__file__).parents[2] / "examples" / "verify_proof.py"


def second_owners() -> list[PrivateKey]:
    """One of the first owners and two others."""
    keys = [owner_keys(FLEET)[0], make_key("owner/second/1"), make_key("owner/second/2")]
    return sorted(keys, key=lambda key: key.public.raw)


def second_root(version: int = 2) -> OwnerRoot:
    owners = tuple((key.public, f"second-{n}") for n, key in enumerate(second_owners()))
    return OwnerRoot(version=version, threshold=2, owners=owners)


def rotation_approvals(lab: Lab, root: OwnerRoot, keys: list[PrivateKey]) -> tuple[bytes, ...]:
    return tuple(lab.approval(Action.ROTATE_ROOT, root_digest(root), key) for key in keys)


class Rotated:
    """A manifest that the second owners authorised, with its proof."""

    def __init__(self) -> None:
        self.lab = make_lab()
        self.chain = self.lab.open_chain()
        root = second_root()
        every = sorted(
            {
                key.public.raw: key for key in (*owner_keys(FLEET)[:2], *second_owners()[:2])
            }.values(),
            key=lambda key: key.public.key_id,
        )
        self.signers = every
        body = RotateRoot(
            group=FLEET,
            root=encode_canonical(root.to_value()),
            approvals=rotation_approvals(self.lab, root, every),
        )
        advance(self.lab, self.chain, [self.lab.transaction(self.lab.gateways[0], body)])
        self.manifest = self.lab.manifest()
        advance(self.lab, self.chain, [self.lab.propose(self.manifest)])
        approvals = tuple(
            self.lab.approval(Action.AUTHORISE, self.manifest.manifest_id, key)
            for key in second_owners()[:2]
        )
        body = ApproveManifest(manifest=self.manifest.manifest_id, group=FLEET, approvals=approvals)
        advance(self.lab, self.chain, [self.lab.transaction(self.lab.gateways[0], body)])
        self.proof = decode_proof(make_proof(self.chain, self.manifest.manifest_id, FLEET))

    def altered(self, **changes: object) -> bytes:
        """The proof with another rotation."""
        (consent,) = self.proof.consents
        (change,) = consent.rotations
        rotations = (replace(change, **changes),)  # type: ignore[arg-type]
        consents = (replace(consent, rotations=rotations),)
        return replace(self.proof, consents=consents).encode()


@pytest.fixture(scope="module")
def rotated() -> Rotated:
    return Rotated()


def second_reader(rotated: Rotated, proof: bytes) -> bool:
    example = runpy.run_path(str(EXAMPLE))
    data = Container(rotated.lab.genesis.encode(), proof).encode()
    try:
        example["verify"](data, rotated.lab.chain_id)
    except example["REFUSALS"]:
        return False
    return True


def test_new_owners_are_believed_because_the_old_ones_signed(rotated: Rotated) -> None:
    shown = verify_authorisation(rotated.proof.encode(), rotated.lab.genesis)
    assert set(shown.approvers) <= {"second-0", "second-1", "second-2"}
    assert shown.record.root_version == 2
    assert second_reader(rotated, rotated.proof.encode())


def test_no_rotation_is_believed_without_both_sides(rotated: Rotated) -> None:
    lab, root = rotated.lab, second_root()
    (consent,) = rotated.proof.consents
    (change,) = consent.rotations
    old = rotation_approvals(lab, root, owner_keys(FLEET)[:2])
    stranger = lab.approval(Action.ROTATE_ROOT, root_digest(root), make_key("stranger"))
    leap = second_root(version=3)
    forged = [
        rotated.altered(approvals=change.approvals[:-2]),
        rotated.altered(approvals=change.approvals[::-1]),
        rotated.altered(approvals=(*change.approvals, stranger)),
        rotated.altered(approvals=tuple(sorted(old))[:1]),
        rotated.altered(root=encode_canonical(leap.to_value())),
        rotated.altered(policy=Digest(bytes(32))),
    ]
    without = replace(rotated.proof, consents=(replace(consent, rotations=()),))
    twice = replace(rotated.proof, consents=(replace(consent, rotations=(change, change)),))
    forged += [without.encode(), twice.encode()]
    for data in forged:
        with pytest.raises(VerificationError):
            verify_authorisation(data, lab.genesis)
        assert not second_reader(rotated, data)


def test_a_bad_signature_among_enough_good_ones_is_refused(rotated: Rotated) -> None:
    """What does not count must not be there: every byte of a proof counts."""
    (consent,) = rotated.proof.consents
    (change,) = consent.rotations
    for place, raw in enumerate(change.approvals):
        spoilt = raw[:-1] + bytes([raw[-1] ^ 1])
        approvals = (*change.approvals[:place], spoilt, *change.approvals[place + 1 :])
        data = rotated.altered(approvals=approvals)
        with pytest.raises(VerificationError):
            verify_authorisation(data, rotated.lab.genesis)
        assert not second_reader(rotated, data)
    assert isinstance(rotated.proof, ProofFile)
