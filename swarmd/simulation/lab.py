"""A laboratory: a genesis with every private key in one hand, its transactions, its certificates.

For simulations and tests, which play every part themselves. Everything is derived from labels, so
that equal labs are equal to the byte. Nothing here is secret.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from ledger.block import Block
from ledger.block_store import BlockStore
from ledger.bodies.manifest import ApproveManifest, ProposeManifest, RevokeManifest
from ledger.bodies.subject import RotateKeys, rotation_message
from ledger.certificate import Certificate
from ledger.chain import Chain
from ledger.database import Durability
from ledger.transition.context import BlockContext
from ledger.transition.genesis import genesis_validators
from ledger.transition.kind import Body
from ledger.transition.kinds import kind_of
from ledger.validators import ValidatorSet
from ledger.vote import Vote, VoteKind, vote_message
from protocol.approval import Action, Approval, sign_approval
from protocol.did import (
    DidRecord,
    JoinStatement,
    KeyPurpose,
    SubjectKind,
    next_keys_digest,
    sign_join,
)
from protocol.digest import BlockId, ChainId, DidId, Digest, ManifestId, PolicyId, sha256
from protocol.genesis import Genesis, Parameters
from protocol.group import Group, OwnerRoot, Policy
from protocol.keys import PrivateKey, PublicKey
from protocol.manifest import DEFAULT_CHUNKER, Component, Manifest, SignedManifest, sign_manifest
from protocol.transaction import SignedTransaction, Transaction, sign_transaction

GENESIS_MS: Final = 1_700_000_000_000
"""Header time of every lab's genesis."""
HOUR_MS: Final = 3_600_000
"""One hour, milliseconds."""
FLEET: Final = "fleet"
"""The group that every lab has."""
PRODUCT: Final = "pump"
"""Product of lab manifests."""
PURPOSES: Final = {
    SubjectKind.VALIDATOR: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.VALIDATOR),
    SubjectKind.GATEWAY: (KeyPurpose.TRANSPORT, KeyPurpose.NODE),
    SubjectKind.PUBLISHER: (KeyPurpose.TRANSPORT, KeyPurpose.NODE, KeyPurpose.PERSON),
    SubjectKind.PERSON: (KeyPurpose.PERSON,),
}
"""Keys of each kind of subject."""


PublicKeys = tuple[tuple[KeyPurpose, PublicKey], ...]
"""A subject's public keys by purpose."""


@lru_cache(maxsize=1024)
def make_key(label: str) -> PrivateKey:
    """A private key that depends on its label only."""
    return PrivateKey(hashlib.sha256(b"swarmd lab key " + label.encode()).digest())


@dataclass(kw_only=True)
class Member:
    """A subject with its private keys; `rotation` counts its key lists."""

    label: str
    """Its name; all its keys follow from it."""
    kind: SubjectKind
    """What it is."""
    groups: tuple[str, ...]
    """Where it is a member."""
    rotation: int = 0
    """How often its keys were rotated."""

    def keys_of(self, rotation: int) -> dict[KeyPurpose, PrivateKey]:
        """Private keys of one generation; a validator keeps its vote key."""
        return {
            purpose: make_key(
                f"{self.label}/{purpose.name}/{0 if purpose is KeyPurpose.VALIDATOR else rotation}"
            )
            for purpose in PURPOSES[self.kind]
        }

    def key(self, purpose: KeyPurpose) -> PrivateKey:
        """The current private key of one purpose."""
        return self.keys_of(self.rotation)[purpose]

    def public_keys(self, rotation: int) -> PublicKeys:
        """Public keys of one generation."""
        return tuple((purpose, key.public) for purpose, key in self.keys_of(rotation).items())

    def commitment(self, rotation: int) -> Digest:
        """What the generation before promises of this one."""
        return next_keys_digest(self.rotated_keys(rotation))

    def rotated_keys(self, rotation: int) -> PublicKeys:
        """What a rotation puts in force: all but the vote key."""
        keys = self.public_keys(rotation)
        return tuple(pair for pair in keys if pair[0] is not KeyPurpose.VALIDATOR)

    @cached_property
    def record(self) -> DidRecord:
        """The inception record."""
        return DidRecord(
            kind=self.kind,
            name=self.label,
            keys=self.public_keys(0),
            next_keys=self.commitment(1),
            groups=self.groups,
        )

    @property
    def join(self) -> JoinStatement:
        """Its record, signed by every key in it."""
        return sign_join(self.record, list(self.keys_of(0).values()))

    @property
    def did(self) -> DidId:
        """Its id."""
        return self.record.did


def make_policy(**changes: Any) -> Policy:
    """2 approvals of everything, unless changed."""
    values: dict[str, Any] = {
        "approve_threshold": 2,
        "revoke_threshold": 2,
        "amend_threshold": 2,
        "enrol_threshold": 2,
    }
    return Policy(**{**values, **changes})


def owner_keys(group: str, count: int = 3) -> list[PrivateKey]:
    """Owners of a group, ascending by public key as in its owner root."""
    keys = [make_key(f"owner/{group}/{index}") for index in range(count)]
    return sorted(keys, key=lambda key: key.public.raw)


def make_root(keys: Sequence[PrivateKey], threshold: int = 2, name: str = "owner") -> OwnerRoot:
    """An owner root over keys in ascending order."""
    owners = tuple((key.public, f"{name}-{index}") for index, key in enumerate(keys))
    return OwnerRoot(version=1, threshold=threshold, owners=owners)


def make_group(name: str, policy: Policy | None = None) -> Group:
    """A group of three owners, two of whom decide."""
    return Group(name=name, owner_root=make_root(owner_keys(name)), policy=policy or make_policy())


@dataclass(kw_only=True)
class Lab:
    """A genesis with every private key in one hand."""

    genesis: Genesis
    """The genesis document."""
    validators: list[Member]
    """By seat."""
    gateways: list[Member]
    """In the order of their labels."""
    publisher: Member
    """The only one."""
    governance: list[PrivateKey]
    """The three keys of the governance root, ascending by public key."""
    nonces: dict[DidId, int] = field(default_factory=dict)
    """The next nonce of each signer."""

    @property
    def chain_id(self) -> ChainId:
        """The chain."""
        return self.genesis.chain

    @property
    def validator_set(self) -> ValidatorSet:
        """The validators of the first epoch."""
        return genesis_validators(self.genesis)

    def context(self, *, height: int = 1, time_ms: int = GENESIS_MS + 1000) -> BlockContext:
        """What a block of this height and time is executed in."""
        return BlockContext(
            chain=self.chain_id,
            era=0,
            height=height,
            time_ms=time_ms,
            validators=self.validator_set,
        )

    def policy_id(self, group: str = FLEET) -> PolicyId:
        """The policy that genesis gave a group."""
        known = self.genesis.group(group)
        assert known is not None
        return known.policy.policy_id

    def transaction(
        self,
        signer: Member,
        body: Body,
        *,
        nonce: int | None = None,
        valid_until_ms: int = GENESIS_MS + 20 * HOUR_MS,
    ) -> SignedTransaction:
        """Signs a transaction; nonces count up unless given."""
        if nonce is None:
            nonce = self.nonces.get(signer.did, 0)
            self.nonces[signer.did] = nonce + 1
        transaction = Transaction(
            era=0,
            signer=signer.did,
            nonce=nonce,
            valid_until_ms=valid_until_ms,
            kind=kind_of(body),
            body=body.to_value(),
        )
        return sign_transaction(transaction, signer.key(KeyPurpose.NODE), self.chain_id)

    def approval(
        self,
        action: Action,
        subject: bytes,
        owner: PrivateKey,
        *,
        group: str = FLEET,
        policy: PolicyId | None = None,
        valid_until_ms: int = GENESIS_MS + 1000 * HOUR_MS,
        era: int = 0,
        chain: ChainId | None = None,
    ) -> bytes:
        """One owner's approval."""
        approval = Approval(
            era=era,
            action=action,
            subject=Digest(subject),
            group=group,
            policy=policy or self.policy_id(group),
            valid_until_ms=valid_until_ms,
        )
        return sign_approval(approval, owner, chain or self.chain_id).signed.raw

    def approvals(
        self, action: Action, subject: bytes, *, count: int = 2, group: str = FLEET
    ) -> tuple[bytes, ...]:
        """Approvals by the first `count` owners of a group."""
        keys = owner_keys(group)[:count]
        return tuple(self.approval(action, subject, key, group=group) for key in keys)

    def manifest(
        self, *, sequence: int = 1, image: bytes | None = None, **changes: Any
    ) -> SignedManifest:
        """A signed manifest of one small component."""
        image = b"image %d" % sequence if image is None else image
        component = Component(
            name="firmware",
            size=len(image),
            digest=sha256(image),
            chunker=DEFAULT_CHUNKER,
            chunk_count=1,
            recipe_root=sha256(b"recipe" + image),
        )
        manifest = Manifest(
            era=0,
            publisher=self.publisher.did,
            product=PRODUCT,
            version=f"1.{sequence}",
            sequence=sequence,
            groups=(FLEET,),
            components=(component,),
        )
        manifest = replace(manifest, **changes)
        return sign_manifest(manifest, self.publisher.key(KeyPurpose.PERSON), self.chain_id)

    def propose(self, manifest: SignedManifest) -> SignedTransaction:
        """`manifest.propose` by the publisher."""
        return self.transaction(self.publisher, ProposeManifest(manifest=manifest.signed.raw))

    def approve(
        self, manifest_id: ManifestId, *, count: int = 2, group: str = FLEET
    ) -> SignedTransaction:
        """`manifest.approve` by the first `count` owners."""
        approvals = self.approvals(Action.AUTHORISE, manifest_id, count=count, group=group)
        body = ApproveManifest(manifest=manifest_id, group=group, approvals=approvals)
        return self.transaction(self.gateways[0], body)

    def revoke(
        self, manifest_id: ManifestId, *, count: int = 2, group: str = FLEET
    ) -> SignedTransaction:
        """`manifest.revoke` by the first `count` owners."""
        approvals = self.approvals(Action.REVOKE, manifest_id, count=count, group=group)
        body = RevokeManifest(manifest=manifest_id, group=group, approvals=approvals)
        return self.transaction(self.gateways[0], body)

    def rotation(self, member: Member) -> RotateKeys:
        """The body that gives a member its next generation of keys."""
        following = member.rotation + 1
        keys = member.rotated_keys(following)
        next_keys = member.commitment(following + 1)
        message = rotation_message(
            self.chain_id,
            0,
            member.did,
            sequence=following,
            keys=keys,
            next_keys=next_keys,
        )
        return RotateKeys(
            did=member.did,
            keys=keys,
            next_keys=next_keys,
            signatures=tuple(
                member.keys_of(following)[purpose].sign(message) for purpose, _ in keys
            ),
        )

    def vote(self, kind: VoteKind, index: int, *, view: int, block_id: BlockId | None) -> Vote:
        """One validator's vote."""
        message = vote_message(self.chain_id, 0, kind, epoch=1, view=view, block_id=block_id)
        key = self.validators[index].key(KeyPurpose.VALIDATOR)
        return Vote(kind, 1, view, block_id, index, key.sign(message))

    def certificate(self, block: Block, kind: VoteKind = VoteKind.FINALIZE) -> Certificate:
        """A quorum's certificate of a block."""
        header = block.header
        votes = [
            self.vote(kind, index, view=header.view, block_id=header.block_id)
            for index in range(self.validator_set.quorum)
        ]
        return Certificate.of(votes, self.validator_set)

    def open_chain(
        self, path: Path | str = ":memory:", durability: Durability = Durability.BATCHED
    ) -> Chain:
        """Opens this lab's chain in a database."""
        store = BlockStore(Path(path), durability)
        chain = Chain.open(store, self.genesis)
        # Newer Pythons warn about databases that are left open.
        weakref.finalize(chain, store.close)
        return chain


def make_members(validators: int, gateways: int) -> tuple[list[Member], list[Member], Member]:
    """Validators, gateways and the publisher of a lab."""
    return (
        [
            Member(label=f"validator-{index}", kind=SubjectKind.VALIDATOR, groups=(FLEET,))
            for index in range(validators)
        ],
        [
            Member(label=f"gateway-{index}", kind=SubjectKind.GATEWAY, groups=(FLEET,))
            for index in range(gateways)
        ],
        Member(label="publisher", kind=SubjectKind.PUBLISHER, groups=(FLEET,)),
    )


def governance_keys() -> list[PrivateKey]:
    """The three governance keys, ascending by public key."""
    keys = [make_key(f"governance/{index}") for index in range(3)]
    return sorted(keys, key=lambda key: key.public.raw)


@lru_cache(maxsize=32)
def make_genesis(
    validators: int, gateways: int, groups: tuple[Group, ...], policy: Policy | None
) -> Genesis:
    """A genesis document; equal arguments share one, since making it checks every signature."""
    voters, boxes, publisher = make_members(validators, gateways)
    members = sorted((*voters, *boxes, publisher), key=lambda member: member.did)
    every_group = sorted(
        (make_group(FLEET, policy), *groups), key=lambda group: group.name.encode()
    )
    return Genesis(
        name="lab",
        era=0,
        time_ms=GENESIS_MS,
        parameters=Parameters(),
        validators=tuple(member.did for member in voters),
        joins=tuple(member.join for member in members),
        groups=tuple(every_group),
        governance_root=make_root(governance_keys(), name="governor"),
    )


def make_lab(
    *,
    validators: int = 4,
    gateways: int = 2,
    groups: Iterable[Group] = (),
    policy: Policy | None = None,
) -> Lab:
    """Makes a lab with the group `fleet` and any others."""
    voters, boxes, publisher = make_members(validators, gateways)
    return Lab(
        genesis=make_genesis(validators, gateways, tuple(groups), policy),
        validators=voters,
        gateways=boxes,
        publisher=publisher,
        governance=governance_keys(),
    )
