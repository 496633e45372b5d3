"""Proof files: one file and the genesis show offline that an image was authorised.

A checker needs the genesis document, whose SHA-256 it knows, and nothing else: the validators'
certificate says which state was final when, the state proof what it says about the manifest, and
the owners' approvals, checked against the owner root of the genesis, that validators did not invent
it. Format: docs/spec/ledger.md. Every byte of a proof counts: an altered one is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.certificate import CERTIFICATE_BYTES_MAX
from ledger.chain import Chain
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.header import HEADER_BYTES_MAX, Header
from ledger.light import (
    EPOCH_STEPS_MAX,
    EpochStep,
    TrustAnchor,
    advance_anchor,
    verify_header,
)
from ledger.records.manifest import LatestRecord, ManifestRecord, ManifestStatus
from ledger.state import LedgerState
from ledger.state_keys import latest_key, manifest_key
from ledger.state_tree import StateProof
from ledger.vote import Ed25519Verifier, Verifier
from protocol.approval import APPROVAL_BYTES_MAX, Action, parse_approval, verify_threshold
from protocol.digest import ChainId, Digest, ManifestId, PolicyId, sha256
from protocol.encoding import (
    Fields,
    Value,
    as_array,
    as_bytes,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, VerificationError
from protocol.genesis import Genesis
from protocol.group import (
    GROUP_BYTES_MAX,
    OWNERS_MAX,
    OwnerRoot,
    Policy,
    decode_group,
    decode_policy,
)
from protocol.limits import KIB, MANIFEST_BYTES_MAX
from protocol.manifest import Manifest, SignedManifest, parse_manifest

PROOF_SCHEMA: Final = 1
"""Schema number of proof files."""
PROOF_FILE_BYTES_MAX: Final = 512 * KIB
"""The largest manifest, 64 approvals, a new group and 64 epoch steps of 32 validators fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOrigin:
    """How a group that genesis does not name came to be."""

    group: bytes
    """`Group.encode()` as it was created."""
    approvals: tuple[bytes, ...]
    """The governance root's CREATE_GROUP approvals, ascending by key id."""

    def to_value(self) -> Value:
        """The wire form: [group, approvals]."""
        return [self.group, list(self.approvals)]

    @classmethod
    def from_value(cls, value: Value) -> GroupOrigin:
        """Reads the wire form; raises EncodingError."""
        group, approvals = as_array(value, "group origin", size=2)
        if not isinstance(approvals, (list, tuple)) or not 1 <= len(approvals) <= OWNERS_MAX:
            raise EncodingError(f"group origin: approvals are not a list of 1 to {OWNERS_MAX}")
        return cls(
            group=as_bytes(group, "group", maximum=GROUP_BYTES_MAX),
            approvals=tuple(_read_approval(item) for item in approvals),
        )


def _read_approval(value: Value) -> bytes:
    return as_bytes(value, "approval", maximum=APPROVAL_BYTES_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofFile:
    """The content of a proof file, not yet verified."""

    chain: ChainId
    """Chain id."""
    header: bytes
    """The final header it rests on, encoded."""
    certificate: bytes
    """That header's finalize certificate, encoded."""
    statement: StateProof
    """The manifest's record in one group."""
    latest: StateProof
    """The newest authorised release of that product in that group."""
    approvals: tuple[bytes, ...]
    """The owners' AUTHORISE approvals, ascending by key id, one for each approver on record."""
    policy: bytes
    """The policy it was judged under, encoded."""
    manifest: bytes
    """The signed manifest, original bytes."""
    epochs: tuple[EpochStep, ...] = ()
    """Hand-overs from the first epoch to the header's."""
    origin: GroupOrigin | None = None
    """Present exactly if genesis does not name the group."""

    def encode(self) -> bytes:
        """The canonical bytes."""
        value: dict[int | str, Value] = {
            0: PROOF_SCHEMA,
            1: self.chain,
            2: self.header,
            3: self.certificate,
            4: [self.statement.to_value(), self.latest.to_value()],
            5: list(self.approvals),
            6: self.policy,
            7: self.manifest,
            8: [step.to_value() for step in self.epochs],
        }
        if self.origin is not None:
            value[9] = self.origin.to_value()
        return encode_canonical(value)


def decode_proof(data: bytes) -> ProofFile:
    """Reads a proof file without verifying it.

    Raises:
        EncodingError: malformed, out of bounds, or with fields this version does not know.
    """
    fields = Fields(decode_canonical(data, bytes_max=PROOF_FILE_BYTES_MAX), "proof file")
    fields.constant(0, PROOF_SCHEMA)
    statement, latest = fields.items(4, StateProof.from_value, minimum=2, maximum=2)
    proof = ProofFile(
        chain=ChainId(fields.digest(1)),
        header=fields.bytes(2, maximum=HEADER_BYTES_MAX),
        certificate=fields.bytes(3, maximum=CERTIFICATE_BYTES_MAX),
        statement=statement,
        latest=latest,
        approvals=fields.items(5, _read_approval, minimum=1, maximum=OWNERS_MAX),
        policy=fields.bytes(6, maximum=GROUP_BYTES_MAX),
        manifest=fields.bytes(7, maximum=MANIFEST_BYTES_MAX),
        epochs=fields.items(8, EpochStep.from_value, maximum=EPOCH_STEPS_MAX),
        origin=fields.optional(9, lambda key: GroupOrigin.from_value(fields.value(key))),
    )
    if fields.finish():
        raise EncodingError("proof file: extensions are not allowed")
    return proof


def make_proof(chain: Chain, manifest_id: ManifestId, group: str) -> bytes:
    """Writes the proof file of an authorised manifest, as of the newest final header.

    Raises:
        LedgerNotYetError: `proof.unknown` or `proof.proposed`: not authorised so far.
        LedgerError: `proof.revoked` or `proof.expired`: not authorised any more.
    """
    tip = chain.tip
    header, state, certificate = tip.header, tip.state, tip.certificate
    record = state.manifest(manifest_id, group)
    raw = chain.manifest_bytes(manifest_id)
    if record is None or raw is None or certificate is None:
        raise LedgerNotYetError("proof.unknown", f"manifest is not known in group {group!r}")
    if record.status is ManifestStatus.PROPOSED:
        raise LedgerNotYetError("proof.proposed", f"manifest waits for approvals in {group!r}")
    if record.status is ManifestStatus.REVOKED:
        raise LedgerError("proof.revoked", f"manifest is revoked in group {group!r}")
    if record.is_expired(header.time_ms):
        raise LedgerError("proof.expired", f"manifest expired at {record.expires_ms}")
    return ProofFile(
        chain=header.chain,
        header=header.encoded,
        certificate=certificate.encode(),
        statement=state.tree.prove(manifest_key(manifest_id, group)),
        latest=state.tree.prove(latest_key(group, record.product)),
        approvals=state.approvals(manifest_id, group, Action.AUTHORISE),
        policy=state.policy(record.policy).encode(),
        manifest=raw,
        origin=None if chain.genesis.group(group) is not None else _origin(state, group),
    ).encode()


def _origin(state: LedgerState, name: str) -> GroupOrigin:
    """The governance root's consent to a group that genesis does not name."""
    record, raw = state.group(name), state.origin(name)
    assert record is not None, "a manifest is on record in existing groups only"
    assert raw is not None, "a group is written together with its original bytes"
    subject = sha256(raw)
    found = (
        state.approval(subject, Action.CREATE_GROUP, key_id, name) for key_id in record.creators
    )
    return GroupOrigin(group=raw, approvals=tuple(item for item in found if item is not None))


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedProof:
    """What a proof file shows."""

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
    latest_sequence: int
    """Sequence of the newest authorised release of the product, at least the manifest's."""
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
    image_digest: bytes | None = None,
    *,
    verifier: Verifier | None = None,
) -> VerifiedProof:
    """Checks a proof file, offline (L80 to L89).

    Args:
        data: the file, untrusted.
        genesis: the document that the checker trusts.
        image_digest: SHA-256 of an image that the manifest must contain, stored or plain form.
        verifier: checks votes; Ed25519 unless a simulation injects another.

    Raises:
        VerificationError: it does not show that the manifest was authorised and unrevoked.
    """
    proof = decode_proof(data)
    verifier = verifier or Ed25519Verifier()
    if proof.chain != genesis.chain:
        raise VerificationError(
            f"proof of chain {proof.chain.hex()[:8]}, expected {genesis.chain.hex()[:8]}"
        )
    anchor = advance_anchor(TrustAnchor.of_genesis(genesis), proof.epochs, verifier)
    header = verify_header(proof.header, proof.certificate, anchor, verifier)
    signed = parse_manifest(proof.manifest)
    group, record = _verify_statement(proof.statement, signed, header)
    policy = _verify_policy(proof.policy, record.policy)
    latest = _verify_latest(proof.latest, group, record, header)
    root = _owner_root(proof.origin, group, genesis, header.era)
    _check_key_ids(proof.approvals, record.approvers)
    verified = verify_threshold(
        proof.approvals,
        root=root,
        threshold=policy.approve_threshold,
        chain=genesis.chain,
        era=header.era,
        action=Action.AUTHORISE,
        subject=signed.manifest_id,
        group=group,
        policy=record.policy,
    )
    if len(verified) != len(proof.approvals):
        raise VerificationError(f"{len(verified)} of {len(proof.approvals)} approvals are valid")
    return VerifiedProof(
        signed=signed,
        group=group,
        record=record,
        approvers=verified,
        policy=policy,
        latest_sequence=latest.sequence,
        header=header,
        component=None if image_digest is None else _find_image(signed.manifest, image_digest),
    )


def _verify_statement(
    statement: StateProof, signed: SignedManifest, header: Header
) -> tuple[str, ManifestRecord]:
    """Checks what the state says about the manifest in the group that the statement names."""
    manifest = signed.manifest
    group = next((name for name in manifest.groups if statement.key == _key_of(signed, name)), None)
    if group is None:
        raise VerificationError("the statement is not about this manifest in a target group of it")
    value = statement.verify(header.state_root)
    if value is None:
        raise VerificationError(f"the manifest is not on record in group {group!r}")
    record = ManifestRecord.decode(value)
    stated = (record.publisher, record.product, record.sequence, record.expires_ms)
    if stated != (manifest.publisher, manifest.product, manifest.sequence, manifest.expires_ms):
        raise VerificationError("the manifest's record contradicts the manifest")
    if not record.is_authorised(header.time_ms):
        raise VerificationError(
            f"the manifest is {record.status.name.lower()}, expires at {record.expires_ms}: "
            f"not authorised at {header.time_ms}"
        )
    return group, record


def _key_of(signed: SignedManifest, group: str) -> bytes:
    return manifest_key(signed.manifest_id, group)


def _verify_policy(raw: bytes, expected: PolicyId) -> Policy:
    policy = decode_policy(raw)
    if policy.policy_id != expected:
        raise VerificationError("the policy is not the one the manifest was judged under")
    return policy


def _verify_latest(
    statement: StateProof, group: str, record: ManifestRecord, header: Header
) -> LatestRecord:
    if statement.key != latest_key(group, record.product):
        raise VerificationError("the second statement is not about the product's latest release")
    value = statement.verify(header.state_root)
    if value is None:
        raise VerificationError("an authorised manifest, but no latest release")
    latest = LatestRecord.decode(value)
    if latest.sequence < record.sequence:
        raise VerificationError("the latest release is older than the manifest")
    return latest


def _owner_root(origin: GroupOrigin | None, name: str, genesis: Genesis, era: int) -> OwnerRoot:
    """The owner root to check approvals against: of genesis, or of a group governance created."""
    known = genesis.group(name)
    if (known is None) != (origin is not None):
        raise VerificationError("a group's origin is shown exactly if genesis does not name it")
    if origin is None:
        assert known is not None, "one of the two is there"
        return known.owner_root
    group = decode_group(origin.group)
    if group.name != name:
        raise VerificationError(f"the origin is not that of group {name!r}")
    verified = verify_threshold(
        origin.approvals,
        root=genesis.governance_root,
        threshold=genesis.governance_root.threshold,
        chain=genesis.chain,
        era=era,
        action=Action.CREATE_GROUP,
        subject=sha256(origin.group),
        group=name,
        policy=group.policy.policy_id,
    )
    if len(verified) != len(origin.approvals):
        raise VerificationError("an approval of the group's creation is not valid")
    return group.owner_root


def _check_key_ids(approvals: Sequence[bytes], expected: Sequence[Digest]) -> None:
    """The file shows the approvals on record, all of them and in their order."""
    actual = [parse_approval(raw).signed.key_id for raw in approvals]
    if actual != list(expected):
        raise VerificationError(
            f"the proof shows {len(actual)} approvals, other than the {len(expected)} on record"
        )


def _find_image(manifest: Manifest, image_digest: bytes) -> str:
    for component in manifest.components:
        if image_digest in (component.digest, component.plain_digest):
            return component.name
    raise VerificationError(f"image {image_digest.hex()} is no component of the manifest")
