"""Proof files of every kind over one small chain, for tests of whoever checks them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

from ledger.bodies.group import CreateGroup
from ledger.bodies.manifest import ApproveManifest
from ledger.bodies.receipt import AnchorReceipts
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.header import Header
from ledger.light import EpochStep
from ledger.log import Log
from ledger.proof import decode_proof
from ledger.proof_make import ProofBuilder, make_core_proof, make_proof
from ledger.state_keys import group_key, manifest_key, subject_key
from ledger.validators import ValidatorSet
from ledger.vote import Vote, VoteKind, vote_message
from protocol.approval import Action
from protocol.did import KeyPurpose
from protocol.digest import DidId, ManifestId, TransactionId, sha256
from protocol.manifest import SignedManifest
from protocol.merkle import inclusion_proof, leaf_hash
from protocol.transaction import SignedTransaction
from swarmd.receipts import Receipt, ReceiptKind
from tests.support.ledger import (
    FLEET,
    GENESIS_MS,
    PRODUCT,
    Lab,
    advance,
    make_group,
    make_lab,
    make_policy,
    owner_keys,
)

IMAGE = b"image 1"
"""The image of the corpus' first manifest."""
PUMPS = "pumps"
"""A group that governance creates after genesis."""


@dataclass(kw_only=True)
class ProofWorld:
    """A chain with something of everything on record."""

    lab: Lab
    chain: Chain
    manifest: SignedManifest
    """Authorised in the fleet."""
    governed: SignedManifest
    """Authorised in a group that genesis does not name."""
    revoked: SignedManifest
    """Authorised and revoked."""
    anchored: SignedTransaction
    """The transaction that anchored the first gateway's receipts."""
    receipts: list[bytes] = field(default_factory=list)
    """That gateway's receipt log."""

    @property
    def did(self) -> DidId:
        """Whose receipts they are."""
        return self.lab.gateways[0].did

    def add_receipt(self, builder: ProofBuilder, index: int) -> None:
        """Adds a receipt as a node does."""
        size = builder.anchored_size(self.did)
        leaves = [leaf_hash(entry) for entry in self.receipts[:size]]
        siblings = inclusion_proof(leaves, index)
        builder.add_receipt(self.did, index=index, entry=self.receipts[index], siblings=siblings)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Ledger proofs by kind."""
        everything = ProofBuilder(self.chain)
        for manifest, group in ((self.manifest, FLEET), (self.governed, PUMPS)):
            everything.add_consent(manifest.manifest_id, group)
            everything.add_latest(group, PRODUCT)
            everything.add_manifest_bytes(manifest.manifest_id)
        everything.add_subject(self.did)
        everything.add_key(b"x/nothing")
        everything.add_transaction(TransactionId(self.anchored.transaction_id))
        for index in (0, 3):
            self.add_receipt(everything, index)
        builders = {"everything": everything}
        for name in ("receipt", "transaction", "leaf", "absent", "subject", "latest"):
            builders[name] = ProofBuilder(self.chain)
        self.add_receipt(builders["receipt"], 2)
        builders["transaction"].add_transaction(self.anchored.transaction_id)
        builders["leaf"].add_transaction(self.anchored.transaction_id, with_bytes=False)
        for number in range(6):  # other leaves and empty subtrees both end a path
            builders["absent"].add_key(subject_key(DidId(sha256(b"%d" % number))))
        builders["absent"].add_key(manifest_key(ManifestId(sha256(b"no such")), FLEET))
        builders["subject"].add_subject(self.lab.publisher.did)
        builders["latest"].add_manifest(self.manifest.manifest_id, FLEET)
        builders["latest"].add_latest(FLEET, PRODUCT)
        builders["latest"].add_key(group_key(FLEET))
        return {
            "image": make_proof(self.chain, self.manifest.manifest_id, FLEET),
            "governed": make_proof(self.chain, self.governed.manifest_id, PUMPS),
            "core": make_core_proof(self.chain, self.manifest.manifest_id, FLEET),
            "revoked": make_core_proof(self.chain, self.revoked.manifest_id, FLEET),
            **{name: builder.encode() for name, builder in builders.items()},
        }


def receipt_log(count: int) -> list[bytes]:
    """Entries of a receipt log."""
    return [
        Receipt(
            kind=ReceiptKind.OFFERED,
            time_ms=GENESIS_MS + number,
            height=1,
            manifest=sha256(b"manifest"),
            subject=f"device-{number}",
            detail="",
        ).encode()
        for number in range(count)
    ]


def create_pumps(lab: Lab, chain: Chain) -> None:
    """Lets governance create a second group."""
    group = make_group(PUMPS, make_policy(publishers=(lab.publisher.did,)))
    approvals = tuple(
        lab.approval(
            Action.CREATE_GROUP,
            sha256(group.encode()),
            key,
            group=PUMPS,
            policy=group.policy.policy_id,
        )
        for key in lab.governance[:2]
    )
    body = CreateGroup(group=group.encode(), approvals=approvals)
    advance(lab, chain, [lab.transaction(lab.gateways[0], body)])


def approve_in_pumps(lab: Lab, chain: Chain, manifest: SignedManifest) -> None:
    """Two owners of the second group approve."""
    policy = make_policy(publishers=(lab.publisher.did,)).policy_id
    signed = tuple(
        lab.approval(Action.AUTHORISE, manifest.manifest_id, key, group=PUMPS, policy=policy)
        for key in owner_keys(PUMPS)[:2]
    )
    body = ApproveManifest(manifest=manifest.manifest_id, group=PUMPS, approvals=signed)
    advance(lab, chain, [lab.transaction(lab.gateways[0], body)])


@lru_cache(maxsize=4)
def make_world(validators: int = 4) -> ProofWorld:
    """Builds the chain; equal arguments share one, which tests must not advance."""
    lab = make_lab(validators=validators)
    chain = lab.open_chain()
    create_pumps(lab, chain)
    revoked = lab.manifest(sequence=1, image=b"image 0")
    manifest = lab.manifest(sequence=2, image=IMAGE)
    governed = lab.manifest(groups=(PUMPS,))
    advance(lab, chain, [lab.propose(item) for item in (revoked, manifest, governed)])
    advance(lab, chain, [lab.approve(revoked.manifest_id)])
    advance(lab, chain, [lab.approve(manifest.manifest_id), lab.revoke(revoked.manifest_id)])
    approve_in_pumps(lab, chain, governed)
    receipts = receipt_log(5)
    log = Log().extend(leaf_hash(entry) for entry in receipts)
    anchored = lab.transaction(lab.gateways[0], AnchorReceipts(size=log.size, root=log.root))
    advance(lab, chain, [anchored])
    advance(lab, chain)
    return ProofWorld(
        lab=lab,
        chain=chain,
        manifest=manifest,
        governed=governed,
        revoked=revoked,
        anchored=anchored,
        receipts=receipts,
    )


def certify(lab: Lab, header: Header, validators: ValidatorSet) -> bytes:
    """A finalize certificate by the first members of any set of this lab's validators."""
    kind, epoch, view = VoteKind.FINALIZE, validators.epoch, header.view
    keys = {member.did: member.key(KeyPurpose.VALIDATOR) for member in lab.validators}
    message = vote_message(
        lab.chain_id, header.era, kind, epoch=epoch, view=view, block_id=header.block_id
    )
    votes = [
        Vote(kind, epoch, view, header.block_id, index, keys[member.did].sign(message))
        for index, member in enumerate(validators.members)
        if member.key is not None
    ]
    return Certificate.of(votes[: validators.quorum], validators).encode()


def make_epoch_proof(world: ProofWorld) -> bytes:
    """The image proof two epochs later, the first of which ended by a filler."""
    lab, head = world.lab, world.chain.head
    first = lab.validator_set
    second = ValidatorSet(2, first.members[::-1])
    third = ValidatorSet(
        3, (replace(first.members[1], key=None), *first.members[2:], first.members[0])
    )
    closing = replace(head, next_validators=second.digest)
    filler = replace(
        closing,
        height=closing.height + 1,
        parent=closing.block_id,
        parent_view=closing.view,
        view=closing.view + 1,
        time_ms=closing.time_ms + 1,
    )
    later = replace(head, epoch=2, validators=second.digest, next_validators=third.digest)
    final = replace(head, epoch=3, validators=third.digest, next_validators=third.digest)
    steps = (
        EpochStep(
            header=closing.encoded,
            fillers=(filler.encoded,),
            certificate=certify(lab, filler, first),
            validators=second.encode(),
        ),
        EpochStep(
            header=later.encoded,
            certificate=certify(lab, later, second),
            validators=third.encode(),
        ),
    )
    return replace(
        decode_proof(world.files["image"]),
        header=final.encoded,
        certificate=certify(lab, final, third),
        epochs=steps,
    ).encode()
