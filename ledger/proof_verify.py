"""Checks proof files, offline: what a genesis holder may believe of one (V1 to V50).

The validators' certificate says which header was final; facts, log entries and receipts follow from
what it commits to. Who authorised is another question: owners' consent is checked against the owner
root of the genesis, or of a group that the governance root of the genesis created, so that not even
all validators together make a manifest pass for authorised (promise G2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ledger.header import Header
from ledger.light import TrustAnchor, verify_header
from ledger.proof import ProofFile, decode_proof
from ledger.proof_facts import StateFact
from ledger.proof_statements import (
    Consent,
    GroupOrigin,
    LogInclusion,
    ReceiptInclusion,
    RootChange,
)
from ledger.records.anchor import AnchorRecord
from ledger.records.manifest import LatestRecord, ManifestRecord
from ledger.state_keys import latest_key, split_manifest_key
from ledger.vote import Ed25519Verifier, Verifier
from protocol.approval import APPROVAL_BYTES_MAX, Action, verify_threshold
from protocol.cose import parse_signed
from protocol.digest import DidId, Digest, ManifestId, PolicyId, sha256
from protocol.encoding import check_sorted_unique, decode_canonical
from protocol.errors import EncodingError, VerificationError
from protocol.genesis import Genesis
from protocol.group import GROUP_BYTES_MAX, Policy, check_group_name, decode_group, decode_policy
from protocol.manifest import Manifest, SignedManifest, parse_manifest
from protocol.merkle import leaf_hash, verify_inclusion
from protocol.owner_root import OwnerRoot
from protocol.rotation import root_digest

MANIFEST_PREFIX = b"m/"
"""Keys of manifest records: prefix, 32 bytes of id, group."""
ANCHOR_PREFIX = b"a/"
"""Keys of anchor records: prefix, 32 bytes of DID."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedConsent:
    """What the owners of a group agreed to, checked against their owner root."""

    approvers: tuple[str, ...]
    """Names of the owners whose approvals were verified, in the order of their key ids."""
    policy: Policy
    """The policy it was judged under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestStatement:
    """Where a manifest stands in one group, as the validators certified it."""

    manifest_id: ManifestId
    """Which manifest."""
    group: str
    """Which group."""
    record: ManifestRecord
    """Status, policy digest, approvers and heights."""
    consent: VerifiedConsent | None = None
    """What its owners signed; None: the file does not show it."""
    signed: SignedManifest | None = None
    """The manifest; None: the file does not hold it."""
    latest: LatestRecord | None = None
    """The newest release of its product in the group; None: the file does not show it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatement:
    """An entry of the ledger's log."""

    index: int
    """Position in the log."""
    leaf: Digest
    """RFC 6962 leaf hash of the entry."""
    entry: bytes | None
    """Its bytes, if the file holds them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptStatement:
    """An entry of a node's receipt log."""

    did: DidId
    """Whose log."""
    anchor: AnchorRecord
    """The root it was found under, and when that was anchored."""
    index: int
    """Position in the receipt log."""
    entry: bytes
    """Its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedProof:
    """What a proof file shows, as of its header."""

    header: Header
    """The final header all this rests on."""
    facts: Mapping[bytes, bytes | None]
    """Values by state key; None: shown to be absent."""
    manifests: tuple[ManifestStatement, ...]
    """Manifests on record among the facts."""
    entries: tuple[LogStatement, ...]
    """Entries of the log."""
    receipts: tuple[ReceiptStatement, ...]
    """Entries of receipt logs."""

    @property
    def height(self) -> int:
        """Height of the header."""
        return self.header.height

    @property
    def time_ms(self) -> int:
        """Time of the header, milliseconds since 1970."""
        return self.header.time_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedAuthorisation:
    """A manifest that its owners authorised and nobody had revoked (promise G3)."""

    signed: SignedManifest
    """The manifest with its original bytes."""
    group: str
    """The group it is authorised in."""
    record: ManifestRecord
    """Its record: authorised and, as of the header, neither revoked nor expired."""
    approvers: tuple[str, ...]
    """Names of the owners whose approvals were verified."""
    policy: Policy
    """The policy it was judged under."""
    latest_sequence: int | None
    """Sequence of the newest authorised release of the product, where the file shows it."""
    header: Header
    """The final header all this rests on."""
    component: str | None
    """Name of the component whose digest was asked for; None: none was."""

    @property
    def manifest_id(self) -> ManifestId:
        """Which manifest."""
        return self.signed.manifest_id

    @property
    def height(self) -> int:
        """Height of the header."""
        return self.header.height

    @property
    def time_ms(self) -> int:
        """Time of the header, milliseconds since 1970."""
        return self.header.time_ms


def verify_proof(
    data: bytes,
    genesis: Genesis,
    *,
    anchor: TrustAnchor | None = None,
    verifier: Verifier | None = None,
) -> VerifiedProof:
    """Checks a proof file, offline.

    Args:
        data: the file, untrusted.
        genesis: the document that the checker trusts.
        anchor: `TrustAnchor.of_genesis(genesis)`, from who checks many files under one genesis.
        verifier: checks votes; Ed25519 unless a simulation injects another.

    Raises:
        VerificationError: something in it does not follow from a final header of this chain.
    """
    proof = decode_proof(data)
    verifier = verifier or Ed25519Verifier()
    anchor = proof.path.follow(genesis, anchor or TrustAnchor.of_genesis(genesis), verifier)
    header = verify_header(proof.header, proof.certificate, anchor, verifier)
    facts = {} if proof.facts is None else proof.facts.verify(header.state_root)
    return VerifiedProof(
        header=header,
        facts=facts,
        manifests=_manifests(proof, facts, header, genesis),
        entries=tuple(_verify_entry(item, header) for item in proof.entries),
        receipts=tuple(_verify_receipt(item, proof) for item in proof.receipts),
    )


def verify_authorisation(
    data: bytes,
    genesis: Genesis,
    image_digest: bytes | None = None,
    *,
    anchor: TrustAnchor | None = None,
    verifier: Verifier | None = None,
) -> VerifiedAuthorisation:
    """Checks that a proof file shows an authorised image or, without a digest, manifest.

    Args:
        data: the file, untrusted.
        genesis: the document that the checker trusts.
        image_digest: SHA-256 of an image that the manifest must contain, stored or plain form.
        anchor: as for `verify_proof`.
        verifier: checks votes; Ed25519 unless a simulation injects another.

    Raises:
        VerificationError: it does not show a manifest, its owners' consent, and that it was
            authorised and unrevoked as of the header.
    """
    shown = verify_proof(data, genesis, anchor=anchor, verifier=verifier)
    refusal: VerificationError | None = None
    for statement in shown.manifests:
        try:
            return _authorisation(statement, shown.header, image_digest)
        except VerificationError as error:
            refusal = refusal or error
    raise refusal or VerificationError("the proof is not about a manifest on record")


def _authorisation(
    statement: ManifestStatement, header: Header, image_digest: bytes | None
) -> VerifiedAuthorisation:
    record, signed, consent = statement.record, statement.signed, statement.consent
    if not record.is_authorised(header.time_ms):
        raise VerificationError(
            f"the manifest is {record.status.name.lower()}, expires at {record.expires_ms}: "
            f"not authorised at {header.time_ms}"
        )
    if signed is None or consent is None:
        raise VerificationError("the proof lacks the manifest or its owners' consent")
    latest = statement.latest
    return VerifiedAuthorisation(
        signed=signed,
        group=statement.group,
        record=record,
        approvers=consent.approvers,
        policy=consent.policy,
        latest_sequence=None if latest is None else latest.sequence,
        header=header,
        component=None if image_digest is None else _find_image(signed.manifest, image_digest),
    )


def _find_image(manifest: Manifest, digest: bytes) -> str:
    for component in manifest.components:
        if digest in (component.digest, component.plain_digest):
            return component.name
    raise VerificationError(f"image {digest.hex()} is no component of the manifest")


def _manifests(
    proof: ProofFile,
    facts: Mapping[bytes, bytes | None],
    header: Header,
    genesis: Genesis,
) -> tuple[ManifestStatement, ...]:
    """The manifests among the facts, each with what other sections say about it."""
    listed = () if proof.facts is None else proof.facts.facts
    statements = {
        place: _read_manifest(fact)
        for place, fact in enumerate(listed)
        if fact.key.startswith(MANIFEST_PREFIX) and fact.value is not None
    }
    for consent in proof.consents:
        about = statements.get(consent.fact)
        if about is None:
            raise VerificationError("a consent is not about a manifest on record")
        verified = _verify_consent(consent, about, header, genesis)
        statements[consent.fact] = replace(about, consent=verified)
    for raw in proof.manifests:
        signed = parse_manifest(raw)
        places = [
            place for place, item in statements.items() if item.manifest_id == signed.manifest_id
        ]
        if not places:
            raise VerificationError("a manifest in the file is not among its facts")
        for place in places:
            _check_agreement(statements[place], signed.manifest)
            statements[place] = replace(statements[place], signed=signed)
    return tuple(_with_latest(item, facts, header) for item in statements.values())


def _read_manifest(fact: StateFact) -> ManifestStatement:
    assert fact.value is not None, "the caller passes facts with a value"
    try:
        manifest_id, group = split_manifest_key(fact.key)
    except UnicodeDecodeError as error:
        raise EncodingError("a manifest's key names no group") from error
    if len(manifest_id) != len(fact.path):
        raise EncodingError("a manifest's key is too short")
    return ManifestStatement(
        manifest_id=manifest_id,
        group=check_group_name(group),
        record=ManifestRecord.decode(fact.value),
    )


def _check_agreement(statement: ManifestStatement, manifest: Manifest) -> None:
    """The record in a group is that of this manifest (V32)."""
    record = statement.record
    if statement.group not in manifest.groups:
        raise VerificationError(f"the manifest does not target group {statement.group!r}")
    stated = (record.publisher, record.product, record.sequence, record.expires_ms)
    if stated != (manifest.publisher, manifest.product, manifest.sequence, manifest.expires_ms):
        raise VerificationError("the manifest's record contradicts the manifest")


def _with_latest(
    statement: ManifestStatement, facts: Mapping[bytes, bytes | None], header: Header
) -> ManifestStatement:
    """Adds the newest release, which no authorised manifest is above (V33)."""
    record = statement.record
    key = latest_key(statement.group, record.product)
    if key not in facts:
        return statement
    value = facts[key]
    latest = None if value is None else LatestRecord.decode(value)
    if record.is_authorised(header.time_ms):
        if latest is None:
            raise VerificationError("an authorised manifest, but no latest release")
        if latest.sequence < record.sequence:
            raise VerificationError("the latest release is older than the manifest")
    return replace(statement, latest=latest)


def _verify_consent(
    consent: Consent, statement: ManifestStatement, header: Header, genesis: Genesis
) -> VerifiedConsent:
    """Checks all that owners signed against the root whose keys counted (V24 to V29)."""
    record = statement.record
    policy = _verify_policy(consent.policy, record.policy)
    root = _owner_root(consent.origin, statement.group, genesis, header)
    for change in consent.rotations:
        root = _follow_rotation(change, root, statement.group, header)
    if root.version != record.root_version:
        raise VerificationError(
            f"owner root {root.version} is shown, the record names {record.root_version}"
        )
    expected = [key_id for key_id in record.approvers if root.owner(key_id) is not None]
    actual = _key_ids(consent.approvals)
    if actual != expected:
        raise VerificationError(
            f"the proof shows {len(actual)} approvals, other than the {len(expected)} on record"
        )
    verified = _verify_all(
        consent.approvals,
        root,
        header,
        threshold=policy.approve_threshold,
        about=_About(Action.AUTHORISE, statement.manifest_id, statement.group, record.policy),
    )
    return VerifiedConsent(approvers=verified, policy=policy)


@dataclass(frozen=True, slots=True)
class _About:
    """What approvals must be about."""

    action: Action
    subject: bytes
    group: str
    policy: PolicyId


def _verify_all(
    approvals: Sequence[bytes], root: OwnerRoot, header: Header, *, threshold: int, about: _About
) -> tuple[str, ...]:
    """Checks that enough owners agreed, and that every approval shown is one of theirs."""
    verified = verify_threshold(
        approvals,
        root=root,
        threshold=threshold,
        chain=header.chain,
        era=header.era,
        action=about.action,
        subject=about.subject,
        group=about.group,
        policy=about.policy,
    )
    if len(verified) != len(approvals):
        raise VerificationError(f"{len(verified)} of {len(approvals)} approvals are valid")
    return verified


def _verify_policy(raw: bytes, expected: PolicyId) -> Policy:
    policy = decode_policy(raw)
    if policy.policy_id != expected:
        raise VerificationError("the policy is not the one the manifest was judged under")
    return policy


def _owner_root(
    origin: GroupOrigin | None, name: str, genesis: Genesis, header: Header
) -> OwnerRoot:
    """A group's first owner root: of genesis, or of the group that governance created (V27)."""
    known = genesis.group(name)
    if (known is None) != (origin is not None):
        raise VerificationError("a group's origin is shown exactly if genesis does not name it")
    if origin is None:
        assert known is not None, "one of the two is there"
        return known.owner_root
    group = decode_group(origin.group)
    if group.name != name:
        raise VerificationError(f"the origin is not that of group {name!r}")
    check_sorted_unique(_key_ids(origin.approvals), "approvals of the group's creation")
    governance = genesis.governance_root
    _verify_all(
        origin.approvals,
        governance,
        header,
        threshold=governance.threshold,
        about=_About(Action.CREATE_GROUP, sha256(origin.group), name, group.policy.policy_id),
    )
    return group.owner_root


def _follow_rotation(change: RootChange, old: OwnerRoot, name: str, header: Header) -> OwnerRoot:
    """Checks one rotation and returns the next root; old and new owners agreed (V29)."""
    new = OwnerRoot.from_value(decode_canonical(change.root, bytes_max=GROUP_BYTES_MAX))
    if new.version != old.version + 1:
        raise VerificationError(f"owner root {new.version} does not follow {old.version}")
    key_ids = _key_ids(change.approvals)
    check_sorted_unique(key_ids, "approvals of a rotation")
    if any(old.owner(key_id) is None and new.owner(key_id) is None for key_id in key_ids):
        raise VerificationError("a rotation shows an approval by no owner")
    about = _About(Action.ROTATE_ROOT, root_digest(new), name, change.policy)
    for root in (old, new):
        own = [
            raw
            for raw, key_id in zip(change.approvals, key_ids, strict=True)
            if root.owner(key_id) is not None
        ]
        _verify_all(own, root, header, threshold=root.threshold, about=about)
    return new


def _key_ids(approvals: Sequence[bytes]) -> list[Digest]:
    return [parse_signed(raw, bytes_max=APPROVAL_BYTES_MAX).key_id for raw in approvals]


def _verify_entry(item: LogInclusion, header: Header) -> LogStatement:
    """Checks an audit path against the header's log (V40)."""
    leaf = item.leaf if item.entry is None else leaf_hash(item.entry)
    assert leaf is not None, "a decoded entry has its bytes or its leaf"
    verify_inclusion(
        leaf, index=item.index, size=header.log_size, proof=item.siblings, root=header.log_root
    )
    return LogStatement(index=item.index, leaf=leaf, entry=item.entry)


def _verify_receipt(item: ReceiptInclusion, proof: ProofFile) -> ReceiptStatement:
    """Checks an audit path against the root that a node anchored (V42)."""
    assert proof.facts is not None, "a decoded receipt names one of the facts"
    fact = proof.facts.facts[item.fact]
    did = fact.key[len(ANCHOR_PREFIX) :]
    if not fact.key.startswith(ANCHOR_PREFIX) or len(did) != len(fact.path) or fact.value is None:
        raise VerificationError("a receipt does not rest on an anchor on record")
    anchor = AnchorRecord.decode(fact.value)
    verify_inclusion(
        leaf_hash(item.entry),
        index=item.index,
        size=anchor.size,
        proof=item.siblings,
        root=anchor.root,
    )
    return ReceiptStatement(did=DidId(did), anchor=anchor, index=item.index, entry=item.entry)
