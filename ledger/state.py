"""Ledger state: the tree and the log after a block, and drafts that change them.

`StateReader` turns keys into records; both the immutable `LedgerState` and a `Draft` are one. A
draft collects the writes of a block or of one transaction; that of a failed transaction is dropped.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ledger.log import Log
from ledger.records.account import AccountRecord
from ledger.records.anchor import AnchorRecord
from ledger.records.conviction import ConvictionRecord
from ledger.records.emergency import PausesRecord
from ledger.records.facts import ManifestFacts
from ledger.records.governance import CheckpointRecord, EraRecord
from ledger.records.group import (
    EventsRecord,
    GroupRecord,
    RotationRecord,
    decode_children,
)
from ledger.records.health import HealthRecord, SiteRecord
from ledger.records.manifest import LatestRecord, ManifestRecord
from ledger.records.rollout import RolloutRecord
from ledger.records.seat import SeatRecord
from ledger.records.subject import AttributesRecord, SubjectRecord
from ledger.records.tenant import OpenProposals, TenantRecord
from ledger.records.validators import EpochRecord, ValidatorRecord
from ledger.state_keys import (
    CHECKPOINT_KEY,
    EPOCH_KEY,
    ERA_KEY,
    GOVERNANCE_KEY,
    account_key,
    anchor_key,
    approval_key,
    attributes_key,
    children_key,
    events_key,
    evidence_key,
    facts_key,
    group_key,
    health_key,
    holder_key,
    latest_key,
    manifest_key,
    open_key,
    origin_key,
    pauses_key,
    placement_key,
    policy_key,
    rollout_key,
    rotation_key,
    seat_key,
    site_health_key,
    subject_key,
    tenant_key,
    validator_key,
    validators_key,
)
from ledger.state_tree import VALUE_BYTES_MAX, StateTree
from ledger.validators import ValidatorSet, decode_validator_set
from protocol.approval import Action
from protocol.digest import DidId, Digest, ManifestId, PolicyId
from protocol.encoding import decode_canonical
from protocol.group import OwnerRoot, Placement, Policy, decode_placement, decode_policy
from protocol.keys import PublicKey

RECORDS_REMEMBERED: Final = 4096
"""Records of subjects, accounts and tenants that are kept decoded, each, by their bytes; together
about 6 MiB: each transaction reads its signer's and tenant's several times."""
_read_subject: Final = lru_cache(maxsize=RECORDS_REMEMBERED)(SubjectRecord.decode)
_read_account: Final = lru_cache(maxsize=RECORDS_REMEMBERED)(AccountRecord.decode)
_read_tenant: Final = lru_cache(maxsize=RECORDS_REMEMBERED)(TenantRecord.decode)


POLICIES_REMEMBERED: Final = 256
"""Decoded groups and policies kept at hand, by their bytes: few, immutable, and asked for at each
chunk that a device takes; decoding one costs half a millisecond."""
_read_group: Final = lru_cache(maxsize=POLICIES_REMEMBERED)(GroupRecord.decode)
_read_policy: Final = lru_cache(maxsize=POLICIES_REMEMBERED)(decode_policy)


PLACEMENTS_REMEMBERED: Final = 1024
"""Decoded places of groups kept at hand: whom a selector takes is asked for in many transactions,
and decoding a full one costs several milliseconds."""
_read_placement: Final = lru_cache(maxsize=PLACEMENTS_REMEMBERED)(decode_placement)


class StateReader:
    """Reads records by name; None where there is none."""

    __slots__ = ()

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """The value of a state key, or None."""

    def subject(self, did: DidId) -> SubjectRecord | None:
        """A subject's current record."""
        raw = self.get(subject_key(did))
        return None if raw is None else _read_subject(raw)

    def certification(self, did: DidId, group: str) -> AttributesRecord | None:
        """What a group's owners certify of a subject; None: never anything."""
        raw = self.get(attributes_key(did, group))
        return None if raw is None else AttributesRecord.decode(raw)

    def attributes(self, did: DidId, group: str) -> Mapping[str, str]:
        """A subject's certified attributes in one group; none: empty."""
        record = self.certification(did, group)
        return {} if record is None else dict(record.attributes)

    def seat(self, seat: Digest) -> SeatRecord | None:
        """Who took a seat; None: nobody yet."""
        raw = self.get(seat_key(seat))
        return None if raw is None else SeatRecord.decode(raw)

    def account(self, did: DidId) -> AccountRecord:
        """What a signer has used up; zero for one that never signed."""
        raw = self.get(account_key(did))
        return AccountRecord() if raw is None else _read_account(raw)

    def tenant(self, group: str) -> TenantRecord:
        """What the gateways of a group have used up; zero for one that never signed."""
        raw = self.get(tenant_key(group))
        return TenantRecord() if raw is None else _read_tenant(raw)

    def open_proposals(self, publisher: DidId, group: str) -> OpenProposals:
        """A publisher's manifests in a group that may still wait for owners."""
        raw = self.get(open_key(publisher, group))
        return OpenProposals() if raw is None else OpenProposals.decode(raw)

    def holder(self, key: PublicKey) -> DidId | None:
        """The subject that holds, or once held, a key."""
        raw = self.get(holder_key(key))
        return None if raw is None else DidId(raw)

    def subject_by_key(self, key: PublicKey) -> tuple[DidId, SubjectRecord] | None:
        """The subject that holds a key now."""
        did = self.holder(key)
        record = None if did is None else self.subject(did)
        if did is None or record is None or all(key != held for _, held in record.keys):
            return None
        return did, record

    def group(self, name: str) -> GroupRecord | None:
        """A group's record."""
        raw = self.get(group_key(name))
        return None if raw is None else _read_group(raw)

    def origin(self, group: str) -> bytes | None:
        """A group's original bytes."""
        return self.get(origin_key(group))

    def placement(self, group: str) -> Placement:
        """A group's parent and selector."""
        raw = self.get(placement_key(group))
        return Placement() if raw is None else _read_placement(raw)

    def children(self, parent: str | None) -> tuple[str, ...]:
        """A group's child groups; None: groups without parent that have a selector."""
        raw = self.get(children_key(parent))
        return () if raw is None else decode_children(raw)

    def rotation(self, group: str, version: int) -> RotationRecord | None:
        """How a group came to an owner root."""
        raw = self.get(rotation_key(group, version))
        return None if raw is None else RotationRecord.decode(raw)

    def events(self, group: str) -> EventsRecord:
        """When a group lately proposed, authorised and revoked manifests."""
        raw = self.get(events_key(group))
        return EventsRecord() if raw is None else EventsRecord.decode(raw)

    def facts(self, manifest: ManifestId) -> ManifestFacts | None:
        """What rules may ask of a manifest's content."""
        raw = self.get(facts_key(manifest))
        return None if raw is None else ManifestFacts.decode(raw)

    def policy(self, policy: PolicyId) -> Policy:
        """A policy that a record of this state names."""
        raw = self.get(policy_key(policy))
        assert raw is not None, "a policy is written before anything names it"
        return _read_policy(raw)

    def manifest(self, manifest: ManifestId, group: str) -> ManifestRecord | None:
        """A manifest's standing in one group."""
        raw = self.get(manifest_key(manifest, group))
        return None if raw is None else ManifestRecord.decode(raw)

    def latest(self, group: str, product: str) -> LatestRecord | None:
        """The newest authorised release of a product in a group."""
        raw = self.get(latest_key(group, product))
        return None if raw is None else LatestRecord.decode(raw)

    def approval(self, subject: Digest, action: Action, key_id: Digest, group: str) -> bytes | None:
        """One owner's signed approval."""
        return self.get(approval_key(subject, action, key_id, group))

    def approvals(self, manifest: ManifestId, group: str, action: Action) -> tuple[bytes, ...]:
        """What was signed about a manifest, ascending by key id: approvals (AUTHORISE),
        revocations (REVOKE) or builders' attestations (ATTEST).
        """
        record = self.manifest(manifest, group)
        if record is None:
            return ()
        lists = {
            Action.AUTHORISE: record.approvers,
            Action.REVOKE: record.revokers,
            Action.ATTEST: record.attesters,
        }
        key_ids = lists[action]
        found = (self.approval(Digest(manifest), action, key_id, group) for key_id in key_ids)
        return tuple(raw for raw in found if raw is not None)

    def anchor(self, did: DidId) -> AnchorRecord | None:
        """The newest anchor of a node's receipt log."""
        raw = self.get(anchor_key(did))
        return None if raw is None else AnchorRecord.decode(raw)

    def conviction(self, epoch: int, signer: int) -> ConvictionRecord | None:
        """A validator's conviction in an epoch."""
        raw = self.get(evidence_key(epoch, signer))
        return None if raw is None else ConvictionRecord.decode(raw)

    def epoch(self) -> EpochRecord:
        """The current epoch and what is decided for the next one."""
        raw = self.get(EPOCH_KEY)
        assert raw is not None, "genesis writes the first epoch"
        return EpochRecord.decode(raw)

    def checkpoint(self) -> CheckpointRecord | None:
        """The newest checkpoint, or None."""
        raw = self.get(CHECKPOINT_KEY)
        return None if raw is None else CheckpointRecord.decode(raw)

    def era(self) -> EraRecord | None:
        """How the current era began; None in the first."""
        raw = self.get(ERA_KEY)
        return None if raw is None else EraRecord.decode(raw)

    def validator(self, did: DidId) -> ValidatorRecord:
        """A validator's certified keys; empty for one that never certified any."""
        raw = self.get(validator_key(did))
        return ValidatorRecord() if raw is None else ValidatorRecord.decode(raw)

    def validators(self, epoch: int) -> ValidatorSet | None:
        """The validator set of an epoch up to the next one, or None."""
        raw = self.get(validators_key(epoch))
        return None if raw is None else decode_validator_set(raw)

    def rollout(self, manifest: ManifestId, group: str) -> RolloutRecord | None:
        """How far a release has come in a group; None: it is offered to all at once."""
        raw = self.get(rollout_key(manifest, group))
        return None if raw is None else RolloutRecord.decode(raw)

    def health(self, manifest: ManifestId, did: DidId, group: str) -> HealthRecord | None:
        """What one gateway reported of a release."""
        raw = self.get(health_key(manifest, did, group))
        return None if raw is None else HealthRecord.decode(raw)

    def site_health(self, manifest: ManifestId, site: Digest, group: str) -> SiteRecord | None:
        """What the gateways of one site reported of a release."""
        raw = self.get(site_health_key(manifest, site, group))
        return None if raw is None else SiteRecord.decode(raw)

    def pauses(self, group: str | None) -> PausesRecord:
        """Emergency pauses of a group, or (None) of the whole chain."""
        raw = self.get(pauses_key(group))
        return PausesRecord() if raw is None else PausesRecord.decode(raw)

    def governance_root(self) -> OwnerRoot:
        """The governance root."""
        raw = self.get(GOVERNANCE_KEY)
        assert raw is not None, "genesis writes the governance root"
        return OwnerRoot.from_value(decode_canonical(raw, bytes_max=VALUE_BYTES_MAX))


@dataclass(frozen=True, slots=True)
class LedgerState(StateReader):
    """State and log after one block; never changes."""

    tree: StateTree
    """Keys and values."""
    log: Log
    """Frontier of the log over all transactions and evidence."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a state key, or None."""
        return self.tree.get(key)

    def scan(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """All keys that start with `prefix`, ascending, without it, and their values."""
        for key, value in self.tree.scan(prefix):
            yield key[len(prefix) :], value


class Draft(StateReader):
    """Writes over another reader that nobody else sees until they are absorbed."""

    __slots__ = ("_base", "_writes")

    def __init__(self, base: StateReader) -> None:
        """Starts without writes over `base`, which must not change while the draft is used."""
        self._base = base
        self._writes: dict[bytes, bytes] = {}

    @property
    def writes(self) -> Mapping[bytes, bytes]:
        """Keys written so far with their last values, in order of first writing."""
        return self._writes

    def get(self, key: bytes) -> bytes | None:
        """The value of a state key, own writes first."""
        value = self._writes.get(key)
        return self._base.get(key) if value is None else value

    def put(self, key: bytes, value: bytes) -> None:
        """Sets a state key."""
        self._writes[key] = value

    def changes(self, prefix: bytes) -> Iterator[tuple[bytes | None, bytes]]:
        """Old and new values of the keys written so far that start with `prefix`."""
        for key, value in tuple(self._writes.items()):
            if key.startswith(prefix):
                yield self._base.get(key), value

    def growth_bytes(self) -> int:
        """Bytes by which these writes lengthen the state; never below 0 for new keys."""
        growth = 0
        for key, value in self._writes.items():
            old = self._base.get(key)
            growth += len(value) + (len(key) if old is None else -len(old))
        return growth

    def absorb(self, writes: Mapping[bytes, bytes]) -> None:
        """Takes over the writes of a draft made over this one."""
        self._writes.update(writes)
