"""Writes proof files from a node's copy of the chain, all statements as of one final header.

Nothing here needs block bodies, apart from the bytes of a log entry: state, manifests, approvals
and log leaves outlive them, so that a node that prunes still proves its own manifests and receipts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ledger.chain_queries import ChainQueries, Tip
from ledger.errors import LedgerError, LedgerNotYetError
from ledger.proof import ProofFile
from ledger.proof_facts import StateFacts
from ledger.proof_path import path_to
from ledger.proof_statements import (
    Consent,
    GroupOrigin,
    LogInclusion,
    ReceiptInclusion,
    RootChange,
)
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.state_keys import anchor_key, latest_key, manifest_key, subject_key
from ledger.state_tree import StateProof
from protocol.approval import Action
from protocol.digest import DidId, Digest, ManifestId, TransactionId, sha256
from protocol.encoding import encode_canonical
from protocol.group import decode_group
from protocol.owner_root import OwnerRoot
from protocol.rotation import root_digest


class ProofBuilder:
    """Collects statements about one final header; `encode` writes the file.

    It reads the chain's store: use it where the chain may be read, in one go.
    """

    def __init__(self, chain: ChainQueries) -> None:
        """Begins a proof as of the newest final header.

        Raises:
            LedgerNotYetError: `proof.genesis`: no block is final so far, or the newest one closes
                an epoch and became final by a filler.
                Or `proof.checkpoint`: too many hand-overs since the governance root last spoke.
            LedgerError: `proof.epochs`: this copy does not hold all hand-overs, or too many.
        """
        self._chain: Final = chain
        self._tip: Final[Tip] = chain.tip
        if self._tip.certificate is None:
            height = self._tip.header.height
            raise LedgerNotYetError(
                "proof.genesis", f"block {height} has no certificate of its own; wait for the next"
            )
        self._path: Final = path_to(chain)
        self._proofs: dict[bytes, StateProof] = {}
        self._consents: dict[bytes, Consent] = {}
        self._manifests: dict[ManifestId, bytes] = {}
        self._entries: dict[int, LogInclusion] = {}
        self._receipts: dict[tuple[bytes, int], ReceiptInclusion] = {}

    def add_key(self, key: bytes) -> bytes | None:
        """Adds what stands under a state key, or that nothing does; returns it."""
        if key not in self._proofs:
            self._proofs[key] = self._tip.state.tree.prove(key)
        return self._proofs[key].value

    def add_subject(self, did: DidId) -> None:
        """Adds a subject's record, from which its DID document follows.

        Raises:
            LedgerNotYetError: `proof.unknown`: no such subject.
        """
        if self.add_key(subject_key(did)) is None:
            raise LedgerNotYetError("proof.unknown", f"subject {did.hex()[:8]} is not on record")

    def add_manifest(self, manifest_id: ManifestId, group: str) -> ManifestRecord:
        """Adds the core of a manifest's proof: its record, whatever its status.

        Raises:
            LedgerNotYetError: `proof.unknown`: it was never proposed in the group.
        """
        value = self.add_key(manifest_key(manifest_id, group))
        if value is None:
            raise LedgerNotYetError("proof.unknown", f"manifest is not known in group {group!r}")
        return ManifestRecord.decode(value)

    def add_consent(self, manifest_id: ManifestId, group: str) -> None:
        """Adds what the owners signed, the policy, and where the group comes from.

        Raises:
            LedgerNotYetError: `proof.unknown`, `proof.proposed`: it was not authorised so far.
        """
        record, state = self.add_manifest(manifest_id, group), self._tip.state
        if record.root_version is None:
            raise LedgerNotYetError("proof.proposed", f"manifest waits for approvals in {group!r}")
        named = self._chain.genesis.group(group)
        origin = self._origin(group) if named is None else None
        first = named if origin is None else decode_group(origin.group)
        assert first is not None, "a group is of genesis or of governance"
        root = first.owner_root
        rotations = []
        while root.version < record.root_version:
            root, change = self._rotation(group, root.version + 1)
            rotations.append(change)
        signed = (
            state.approval(Digest(manifest_id), Action.AUTHORISE, key_id, group)
            for key_id in record.approvers
            if root.owner(key_id) is not None
        )
        self._consents[manifest_key(manifest_id, group)] = Consent(
            fact=0,  # set by `encode`, once all facts are known
            approvals=tuple(raw for raw in signed if raw is not None),
            policy=state.policy(record.policy).encode(),
            origin=origin,
            rotations=tuple(rotations),
        )

    def _origin(self, name: str) -> GroupOrigin:
        """The governance root's consent to a group that genesis does not name."""
        state = self._tip.state
        record, raw = state.group(name), state.origin(name)
        assert record is not None, "a manifest is on record in existing groups only"
        assert raw is not None, "a group is written together with its original bytes"
        subject = sha256(raw)
        found = (
            state.approval(subject, Action.CREATE_GROUP, key_id, name) for key_id in record.creators
        )
        return GroupOrigin(group=raw, approvals=tuple(item for item in found if item is not None))

    def _rotation(self, group: str, version: int) -> tuple[OwnerRoot, RootChange]:
        """How a group came to one version of its owner root."""
        state = self._tip.state
        record = state.rotation(group, version)
        assert record is not None, "every version of an owner root is on record"
        subject = root_digest(record.owner_root)
        found = (
            state.approval(subject, Action.ROTATE_ROOT, key_id, group) for key_id in record.signers
        )
        return record.owner_root, RootChange(
            root=encode_canonical(record.owner_root.to_value()),
            policy=record.policy,
            approvals=tuple(item for item in found if item is not None),
        )

    def add_latest(self, group: str, product: str) -> None:
        """Adds the newest release of a product in a group, or that there is none."""
        self.add_key(latest_key(group, product))

    def add_manifest_bytes(self, manifest_id: ManifestId) -> None:
        """Adds the signed manifest itself; its record must be added too.

        Raises:
            LedgerNotYetError: `proof.unknown`: it was never proposed.
        """
        raw = self._chain.manifest_bytes(manifest_id)
        if raw is None:
            raise LedgerNotYetError("proof.unknown", "manifest was never proposed")
        self._manifests[manifest_id] = raw

    def add_transaction(self, transaction_id: TransactionId, *, with_bytes: bool = True) -> None:
        """Adds that a transaction stands in the log.

        Args:
            transaction_id: which one.
            with_bytes: put the transaction into the file; otherwise whoever checks must have it.

        Raises:
            LedgerNotYetError: `proof.pending`, `proof.unknown`: it is not final here.
            LedgerError: `proof.pruned`: the body of its block is gone.
        """
        status = self._chain.transaction_status(transaction_id)
        if status.height is None:
            rule = "proof.pending" if status.is_pending else "proof.unknown"
            raise LedgerNotYetError(rule, f"transaction {transaction_id.hex()[:8]} is not final")
        header = self._chain.header_at(status.height)
        before = self._chain.header_at(status.height - 1)
        assert header is not None, "headers of final blocks are kept"
        assert before is not None, "genesis holds no transactions"
        block = self._chain.block(header.block_id)
        if block is None:
            raise LedgerError("proof.pruned", f"the body of block {status.height} was dropped")
        names = [sha256(raw) for raw in block.transactions]
        place = names.index(Digest(transaction_id))
        entry = block.transactions[place] if with_bytes else None
        self._add_entry(before.log_size + place, entry)

    def _add_entry(self, index: int, entry: bytes | None) -> None:
        leaf, siblings = self._chain.log_proof(index)
        self._entries[index] = LogInclusion(
            index=index,
            siblings=siblings,
            entry=entry,
            leaf=leaf if entry is None else None,
        )

    def anchored_size(self, did: DidId) -> int:
        """Entries of a node's receipt log that its newest anchor covers.

        Raises:
            LedgerNotYetError: `proof.unanchored`: it has anchored nothing so far.
        """
        anchor = self._tip.state.anchor(did)
        if anchor is None:
            raise LedgerNotYetError("proof.unanchored", "no receipts of this node are anchored")
        return anchor.size

    def add_receipt(
        self, did: DidId, *, index: int, entry: bytes, siblings: Sequence[Digest]
    ) -> None:
        """Adds an entry of a node's receipt log.

        Args:
            did: whose log.
            index: position in it.
            entry: its bytes.
            siblings: audit path in the log of `anchored_size(did)` entries, leaf side first.
        """
        self.add_key(anchor_key(did))
        self._receipts[anchor_key(did), index] = ReceiptInclusion(
            fact=0, index=index, entry=entry, siblings=tuple(siblings)
        )

    def encode(self) -> bytes:
        """The file's bytes."""
        certificate = self._tip.certificate
        assert certificate is not None, "checked when the proof was begun"
        facts = StateFacts.of(self._proofs.values()) if self._proofs else None
        listed = () if facts is None else facts.facts
        places = {fact.key: place for place, fact in enumerate(listed)}
        consents = [replace(item, fact=places[key]) for key, item in self._consents.items()]
        receipts = [replace(item, fact=places[key]) for (key, _), item in self._receipts.items()]
        return ProofFile(
            header=self._tip.header.encoded,
            certificate=certificate.encode(),
            facts=facts,
            epochs=self._path.epochs,
            consents=tuple(sorted(consents, key=lambda item: item.fact)),
            manifests=tuple(self._manifests[name] for name in sorted(self._manifests)),
            entries=tuple(self._entries[index] for index in sorted(self._entries)),
            receipts=tuple(sorted(receipts, key=lambda item: (item.fact, item.index))),
            recoveries=self._path.recoveries,
            checkpoint=self._path.checkpoint,
        ).encode()


def make_core_proof(chain: ChainQueries, manifest_id: ManifestId, group: str) -> bytes:
    """Writes the smallest proof of a manifest's standing: header, certificate and record.

    Raises:
        LedgerNotYetError: `proof.unknown`, `proof.genesis`.
    """
    builder = ProofBuilder(chain)
    builder.add_manifest(manifest_id, group)
    return builder.encode()


def make_proof(chain: ChainQueries, manifest_id: ManifestId, group: str) -> bytes:
    """Writes all that shows an image's authorisation, as of the newest final header.

    Raises:
        LedgerNotYetError: `proof.unknown` or `proof.proposed`: not authorised so far.
        LedgerError: `proof.revoked` or `proof.expired`: not authorised any more.
    """
    builder = ProofBuilder(chain)
    record = builder.add_manifest(manifest_id, group)
    if record.status is ManifestStatus.PROPOSED:
        raise LedgerNotYetError("proof.proposed", f"manifest waits for approvals in {group!r}")
    if record.status is ManifestStatus.REVOKED:
        raise LedgerError("proof.revoked", f"manifest is revoked in group {group!r}")
    if record.is_expired(chain.tip.header.time_ms):
        raise LedgerError("proof.expired", f"manifest expired at {record.expires_ms}")
    builder.add_consent(manifest_id, group)
    builder.add_latest(group, record.product)
    builder.add_manifest_bytes(manifest_id)
    return builder.encode()
