from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.records.account import AccountRecord
from ledger.records.anchor import AnchorRecord
from ledger.records.capability import CapabilitiesRecord, IssueRecord
from ledger.records.conviction import ConvictionRecord
from ledger.records.defence import (
    Cause,
    CensusRecord,
    OpinionRecord,
    QuarantineRecord,
    SelfConvictionRecord,
    TallyRecord,
    Voice,
)
from ledger.records.emergency import PauseEntry, PausesRecord
from ledger.records.facts import ManifestFacts
from ledger.records.group import EventsRecord, GroupRecord, RotationRecord
from ledger.records.health import HealthRecord, SiteRecord
from ledger.records.manifest import LatestRecord, ManifestRecord, ManifestStatus
from ledger.records.rollout import HaltCause, RolloutRecord, RolloutStatus
from ledger.records.subject import SubjectRecord, SubjectStatus
from ledger.state_keys import (
    account_key,
    anchor_key,
    approval_key,
    evidence_key,
    group_key,
    holder_key,
    latest_key,
    manifest_key,
    policy_key,
    split_evidence_key,
    split_manifest_key,
    subject_key,
    validators_key,
)
from protocol.approval import Action
from protocol.capability import Capability, Verb
from protocol.contradiction import Offence
from protocol.defence import QuarantineLevel
from protocol.did import KeyPurpose
from protocol.digest import sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import NONCE_WINDOW
from tests.support.ledger import make_key, make_lab, make_root, owner_keys

ONE, TWO = sorted((sha256(b"1"), sha256(b"2")))
LAB = make_lab()
MANIFEST = ManifestRecord(
    status=ManifestStatus.AUTHORISED,
    publisher=LAB.publisher.did,
    product="pump",
    sequence=3,
    policy=LAB.policy_id(),
    expires_ms=5000,
    proposed_height=1,
    proposed_ms=1000,
    authorised_height=2,
    approvers=(ONE, TWO),
    authorised_ms=2000,
    root_version=3,
    attesters=(TWO,),
    is_override=True,
)
GROUP = GroupRecord(
    owner_root=make_root(owner_keys("fleet")),
    policy=LAB.policy_id(),
    scheduled=(TWO, 5000),
    creators=(ONE,),
)
RECORDS = [
    SubjectRecord.of(LAB.publisher.record),
    replace(SubjectRecord.of(LAB.gateways[0].record), status=SubjectStatus.REVOKED, next_keys=None),
    QuarantineRecord(
        level=QuarantineLevel.NO_SERVING,
        cause=Cause.OPINION,
        since_ms=1,
        until_ms=2,
        trusted_until_ms=0,
        sequence=1,
        height=3,
    ),
    OpinionRecord((Voice((ONE, TWO), 900, 5),)),
    TallyRecord(day=1, count=2, before=3),
    CensusRecord(4),
    SelfConvictionRecord(offence=Offence.FALSE_ANNOUNCEMENT, evidence=ONE, rotations=1, height=2),
    CapabilitiesRecord(
        (Capability(subject=LAB.publisher.did, group="fleet", verbs=(Verb.FETCH,), expires_ms=9),)
    ),
    IssueRecord(
        subject=LAB.publisher.did,
        group="fleet",
        granted_height=1,
        granters=(ONE,),
        root_version=1,
        withdrawn_height=4,
    ),
    AccountRecord(nonce=4, used=6, hour=1, hour_count=2, ledger_bytes=3, guarded_count=5),
    GROUP,
    replace(GROUP, scheduled=None, creators=()),
    MANIFEST,
    replace(MANIFEST, expires_ms=None, authorised_height=None, revoked_height=9, revokers=(ONE,)),
    LatestRecord(manifest=ONE, sequence=3),
    ManifestFacts.of(LAB.manifest().manifest),
    RotationRecord(
        owner_root=make_root(owner_keys("fleet")),
        signers=(ONE, TWO),
        policy=TWO,
        era=1,
        height=7,
    ),
    EventsRecord(proposed=(1, 2, 2), authorised=(5,), revoked=()),
    AnchorRecord(size=3, root=ONE, height=2),
    ConvictionRecord(evidence=ONE, height=2),
    RolloutRecord(
        status=RolloutStatus.HALTED,
        stage=2,
        started_ms=5000,
        priority=9,
        sequence=4,
        sequence_floor=3,
        period=2,
        success_sites=5,
        failure_sites=3,
        successes=50,
        failures=7,
        cause=HaltCause.FAILING_SITES,
    ),
    HealthRecord(successes=3, failures=2, devices=3, time_ms=5000),
    SiteRecord(period=2, successes=3, failures=2),
    PausesRecord(),
    PausesRecord(
        entries=(
            PauseEntry(key_id=ONE, product=None, manifest=None, sequence=1, began_ms=1, until_ms=2),
            PauseEntry(
                key_id=TWO,
                product="pump",
                manifest=ONE,
                sequence=2,
                began_ms=1,
                until_ms=2,
                is_confirmed=True,
                is_lifted=True,
            ),
        )
    ),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_survive_encoding_and_refuse_strangers_and_extensions(record):
    raw = record.encode()
    assert type(record).decode(raw) == record
    value = decode_canonical(raw, bytes_max=len(raw))
    for altered in ({**value, 99: 0}, {**value, -1: 0}, {**value, 0: 2}, {0: 1}, []):
        with pytest.raises(EncodingError):
            type(record).decode(encode_canonical(altered))
    for cut in range(len(raw)):
        with pytest.raises(EncodingError):
            type(record).decode(raw[:cut])


def test_unsorted_key_ids_are_refused():
    raw = replace(MANIFEST, approvers=(TWO, ONE)).encode()
    with pytest.raises(EncodingError, match="ascending"):
        ManifestRecord.decode(raw)


def test_expiry_follows_header_time():
    assert MANIFEST.is_authorised(5000)
    assert not MANIFEST.is_authorised(5001)
    assert not replace(MANIFEST, status=ManifestStatus.PROPOSED).is_authorised(0)
    assert replace(MANIFEST, expires_ms=None).is_authorised(10**15)


def test_scheduled_policy_holds_from_its_time_on():
    assert GROUP.policy_at(4999) == LAB.policy_id()
    assert GROUP.policy_at(5000) == TWO


def test_key_of_a_purpose():
    record = SubjectRecord.of(LAB.gateways[0].record)
    assert record.key(KeyPurpose.NODE) == LAB.gateways[0].key(KeyPurpose.NODE).public
    assert record.key(KeyPurpose.PERSON) is None


@given(st.permutations(range(NONCE_WINDOW)))
def test_each_nonce_of_the_window_serves_once_in_any_order(order):
    account, used = AccountRecord(), []
    for nonce in order:
        assert not account.is_used(nonce)
        lowest, bits = account.with_nonce(nonce)
        account = replace(account, nonce=lowest, used=bits)
        used.append(nonce)
        assert AccountRecord.decode(account.encode()) == account
        assert [n for n in range(NONCE_WINDOW) if account.is_used(n)] == sorted(used)
    assert (account.nonce, account.used) == (NONCE_WINDOW, 0)


def test_state_keys_are_unambiguous():
    public = make_key("holder").public
    keys = [
        subject_key(ONE),
        account_key(ONE),
        holder_key(public),
        group_key("a"),
        policy_key(ONE),
        manifest_key(ONE, "a"),
        manifest_key(ONE, "a.b"),
        latest_key("a", "b/c"),
        latest_key("a.b", "c"),
        approval_key(ONE, Action.AUTHORISE, TWO, "a"),
        approval_key(ONE, Action.REVOKE, TWO, "a"),
        anchor_key(ONE),
        evidence_key(1, 2),
        validators_key(1),
    ]
    assert len(dict.fromkeys(keys)) == len(keys)
    prefixes = [key.split(b"/")[0] for key in keys]
    assert len(dict.fromkeys(prefixes)) == 11
    assert split_manifest_key(manifest_key(ONE, "a.b")) == (ONE, "a.b")
    assert split_evidence_key(evidence_key(7, 31)) == (7, 31)
