"""Genesis: what makes a chain id, and every way a document contradicts itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.did import DidRecord, JoinStatement, KeyPurpose, SubjectKind, sign_join
from protocol.digest import DidId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, SignatureError, VerificationError
from protocol.genesis import GENESIS_BYTES_MAX, Genesis, Parameters, decode_genesis
from protocol.group import DAY_MS, Group, OwnerRoot, Policy
from tests.support.strategies import key, subject

ROOT = OwnerRoot(version=1, threshold=1, owners=((key(900).public, "governor"),))
POLICY = Policy(approve_threshold=1, revoke_threshold=1, amend_threshold=1, enrol_threshold=1)
EDGE = Group(name="edge", owner_root=ROOT, policy=POLICY)
LAB = Group(name="lab", owner_root=ROOT, policy=POLICY)
VALIDATORS = [subject(SubjectKind.VALIDATOR, 100 + 10 * index) for index in range(4)]
GATEWAY = subject(SubjectKind.GATEWAY, 500, groups=("edge",))


def ordered(*joins: JoinStatement) -> tuple[JoinStatement, ...]:
    return tuple(sorted(joins, key=lambda join: join.record.did))


def genesis(**changes: Any) -> Genesis:
    values = {
        "name": "test chain",
        "era": 0,
        "time_ms": 1_700_000_000_000,
        "parameters": Parameters(),
        "validators": tuple(join.record.did for join in VALIDATORS),
        "joins": ordered(*VALIDATORS, GATEWAY),
        "groups": (EDGE, LAB),
        "governance_root": ROOT,
    }
    return Genesis(**{**values, **changes})


def test_the_chain_id_is_the_digest_of_the_document() -> None:
    made = genesis()
    assert made.chain == sha256(made.encode())
    assert decode_genesis(made.encode()).chain == made.chain


@pytest.mark.slow
def test_every_part_is_under_the_chain_id() -> None:
    made = [
        genesis(),
        genesis(name="other"),
        genesis(time_ms=1),
        genesis(parameters=Parameters(heartbeat_ms=2000)),
        genesis(parameters=Parameters(extensions={-1: 1})),
        genesis(validators=tuple(join.record.did for join in VALIDATORS[::-1])),
        genesis(joins=ordered(*VALIDATORS)),
        genesis(groups=(EDGE,)),
        genesis(groups=(EDGE, dataclasses.replace(LAB, extensions={-1: 1}))),
        genesis(governance_root=dataclasses.replace(ROOT, version=2)),
        genesis(governance_root=dataclasses.replace(ROOT, extensions={-1: 1})),
        genesis(extensions={-1: 1}),
    ]
    assert len({one.chain for one in made}) == len(made)
    for one in made:
        assert decode_genesis(one.encode()) == one


def test_lookups() -> None:
    made = genesis()
    assert made.record(GATEWAY.record.did) == GATEWAY.record
    assert made.record(DidId(bytes(32))) is None
    assert made.group("lab") == LAB
    assert made.group("none") is None
    assert len(made.records) == 5
    keys = dict(made.validator_keys())
    assert list(keys) == list(made.validators)
    for join in VALIDATORS:
        assert keys[join.record.did] == join.record.key(KeyPurpose.VALIDATOR)


SHARING = subject(SubjectKind.PERSON, 501)  # its key is the gateway's node key
HOMELESS = subject(SubjectKind.GATEWAY, 600, groups=("nowhere",))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": ""}, "empty"),
        ({"name": "a\u202eb"}, "bidi"),
        ({"era": 1}, "era"),
        ({"era": -1}, "era"),
        ({"time_ms": -1}, "time"),
        ({"time_ms": 2**63}, "time"),
        ({"extensions": {9: 1}}, "negative"),
        ({"validators": ()}, "validators"),
        ({"validators": tuple(join.record.did for join in VALIDATORS[:3])}, "validators"),
        ({"validators": (VALIDATORS[0].record.did,) * 4}, "named twice"),
        (
            {"validators": (*(join.record.did for join in VALIDATORS), GATEWAY.record.did)},
            "no validator record",
        ),
        (
            {"validators": (*(join.record.did for join in VALIDATORS), DidId(bytes(32)))},
            "no validator record",
        ),
        ({"joins": ordered(*VALIDATORS)[::-1]}, "ascending"),
        ({"joins": ordered(*VALIDATORS, GATEWAY, GATEWAY)}, "ascending"),
        ({"joins": ordered(*VALIDATORS, GATEWAY, SHARING)}, "share a key"),
        ({"joins": ordered(*VALIDATORS, HOMELESS)}, "unknown group 'nowhere'"),
        ({"groups": (LAB, EDGE)}, "ascending"),
        ({"groups": (EDGE, EDGE)}, "ascending"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(EncodingError, match=match):
        genesis(**changes)


def test_a_subject_must_hold_its_keys() -> None:
    record = GATEWAY.record
    forged = sign_join(record, [key(1), key(2)])
    with pytest.raises(SignatureError):
        genesis(joins=ordered(*VALIDATORS, forged))


def test_the_same_record_in_other_words_is_another_subject() -> None:
    record = dataclasses.replace(GATEWAY.record, extensions={-1: 1})
    assert isinstance(record, DidRecord)
    twin = sign_join(record, [key(500), key(501)])
    with pytest.raises(EncodingError, match="share a key"):
        genesis(joins=ordered(*VALIDATORS, GATEWAY, twin))


@pytest.mark.parametrize("heartbeat_ms", [0, 999, DAY_MS + 1])
def test_the_heartbeat_is_between_a_second_and_a_day(heartbeat_ms: int) -> None:
    with pytest.raises(EncodingError, match="heartbeat"):
        Parameters(heartbeat_ms=heartbeat_ms)


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (0, 2),
        (2, 1),
        (3, -1),
        (4, {}),
        (4, {0: 2000, 1: 1}),
        (5, []),
        (7, [{}]),
        (7, [bytes(9000)]),
    ],
)
def test_malformed_documents_are_refused(number: int, value: Any) -> None:
    fields: Any = decode_canonical(genesis().encode(), bytes_max=GENESIS_BYTES_MAX)
    with pytest.raises(VerificationError):
        decode_genesis(encode_canonical({**fields, number: value}))


@pytest.mark.slow
def test_a_document_beyond_its_bound_is_refused() -> None:
    with pytest.raises(EncodingError, match="at most"):
        genesis(extensions={-1: bytes(GENESIS_BYTES_MAX)})
    with pytest.raises(EncodingError, match="at most"):
        decode_genesis(bytes(GENESIS_BYTES_MAX + 1))
