"""DID documents follow from the ledger's facts, and from nothing else."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import base58
import pytest

from protocol.did import KeyPurpose, SubjectKind, did_key_text, did_text, parse_did_key
from protocol.did_document import (
    SubjectFacts,
    did_document,
    did_key_document,
    multibase,
    resolution_result,
)
from protocol.digest import BlockId, ChainId, sha256
from tests.support.ledger import FLEET, Member

CHAIN = ChainId(sha256(b"chain"))


def facts_of(kind: SubjectKind, **changes: Any) -> SubjectFacts:
    member = Member(label="someone", kind=kind, groups=(FLEET,))
    facts = SubjectFacts(
        chain=CHAIN,
        did=member.did,
        keys=member.record.keys,
        status="active",
        rotations=3,
        height=7,
        block_id=BlockId(sha256(b"block")),
        time_ms=1_700_000_000_000,
    )
    return replace(facts, **changes)


def relationships(document: dict[str, Any]) -> dict[str, list[str]]:
    names = ("authentication", "assertionMethod", "capabilityInvocation")
    return {
        name: [item.rpartition("#")[2] for item in document[name]]
        for name in names
        if name in document
    }


@pytest.mark.parametrize("kind", list(SubjectKind))
def test_each_key_is_a_multikey_that_may_do_what_its_purpose_says(kind: SubjectKind) -> None:
    facts = facts_of(kind)
    document: Any = did_document(facts)
    name = did_text(CHAIN, facts.did)
    assert document["id"] == name
    assert document["@context"][0] == "https://www.w3.org/ns/did/v1"
    for (_, key), method in zip(facts.keys, document["verificationMethod"], strict=True):
        assert method == {
            "id": f"{name}#{multibase(key)}",
            "type": "Multikey",
            "controller": name,
            "publicKeyMultibase": multibase(key),
        }
        # Multikey: base58btc ('z') of the multicodec ed25519-pub (0xed01) and the key.
        assert base58.b58decode(method["publicKeyMultibase"][1:]) == b"\xed\x01" + key.raw
    keys = {purpose: multibase(key) for purpose, key in facts.keys}
    wanted = {
        "authentication": [keys[p] for p in (KeyPurpose.TRANSPORT,) if p in keys],
        "assertionMethod": [
            keys[p] for p in (KeyPurpose.NODE, KeyPurpose.VALIDATOR, KeyPurpose.PERSON) if p in keys
        ],
        "capabilityInvocation": [
            keys[p] for p in (KeyPurpose.NODE, KeyPurpose.PERSON) if p in keys
        ],
    }
    assert relationships(document) == {name: keys for name, keys in wanted.items() if keys}


def test_the_transport_key_is_an_alias() -> None:
    facts = facts_of(SubjectKind.GATEWAY)
    assert did_document(facts)["alsoKnownAs"] == [did_key_text(facts.keys[0][1])]
    assert "alsoKnownAs" not in did_document(facts_of(SubjectKind.PERSON))


def test_a_suspended_subject_may_only_say_who_it_is() -> None:
    document: Any = did_document(facts_of(SubjectKind.PUBLISHER, status="suspended"))
    assert list(relationships(document)) == ["authentication"]
    assert len(document["verificationMethod"]) == 3


def test_a_revoked_subject_has_no_keys() -> None:
    facts = facts_of(SubjectKind.GATEWAY, status="revoked")
    assert sorted(did_document(facts)) == ["@context", "id"]
    metadata: Any = resolution_result(facts)["didDocumentMetadata"]
    assert metadata["deactivated"] is True


def test_the_answer_of_a_resolver_says_as_of_when() -> None:
    facts = facts_of(SubjectKind.GATEWAY)
    answer: Any = resolution_result(facts)
    assert answer["didDocument"] == did_document(facts)
    assert answer["didDocumentMetadata"] == {
        "versionId": "3",
        "deactivated": False,
        "status": "active",
        "anchor": {
            "chain": CHAIN.hex(),
            "height": 7,
            "block": sha256(b"block").hex(),
            "timeMs": 1_700_000_000_000,
        },
    }
    assert answer["didResolutionMetadata"] == {"contentType": "application/did+ld+json"}
    assert json.loads(json.dumps(answer)) == answer


def test_methods_are_named_by_their_key_so_that_no_name_changes_its_meaning() -> None:
    before: Any = did_document(facts_of(SubjectKind.GATEWAY))
    member = Member(label="someone", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    after: Any = did_document(
        facts_of(SubjectKind.GATEWAY, keys=member.public_keys(1), rotations=4)
    )
    assert before["id"] == after["id"]
    old = {method["id"] for method in before["verificationMethod"]}
    assert not old & {method["id"] for method in after["verificationMethod"]}


def test_the_w3c_vectors_of_did_key_give_the_same_names_and_keys() -> None:
    root = os.environ.get("SWARMD_VECTORS")
    if root is None:
        pytest.skip("needs SWARMD_VECTORS")
    vectors = json.loads((Path(root) / "did" / "did-key-ed25519-x25519.json").read_text())
    assert vectors
    for text, vector in vectors.items():
        document: Any = did_key_document(parse_did_key(text))
        theirs = vector["didDocument"]
        assert document["id"] == theirs["id"]
        (method,) = document["verificationMethod"]
        known = theirs["verificationMethod"][0]
        assert (method["id"], method["controller"]) == (known["id"], known["controller"])
        raw = base58.b58decode(method["publicKeyMultibase"][1:])[2:]
        assert raw == base58.b58decode(vector["verificationKeyPair"]["publicKeyBase58"])
        for name in ("authentication", "assertionMethod", "capabilityInvocation"):
            assert document[name] == theirs[name]
