"""Decision files about subjects: what is shown is what is signed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.bodies.subject_decisions import attributes_digest, resume_digest
from protocol.approval import Action, parse_approval
from protocol.digest import ChainId, DidId, Digest, PolicyId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, PolicyError
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY
from swarmd.subject_decision import (
    ACTIONS,
    SUBJECT_DECISION_BYTES_MAX,
    SubjectDecision,
    decode_subject_decision,
)
from tests.support.ledger import make_key

DID = DidId(sha256(b"did"))
POLICY = PolicyId(sha256(b"policy"))


def decision(kind: str = "did.suspend", **changes: Any) -> SubjectDecision:
    made = SubjectDecision(
        chain=ChainId(sha256(b"chain")),
        era=1,
        valid_until_ms=5000,
        kind=kind,
        did=DID,
        group="fleet",
        policy=POLICY,
        number=3,
    )
    return replace(made, **changes)


@pytest.mark.parametrize("kind", list(ACTIONS))
def test_a_file_comes_back_with_its_signatures(kind: str) -> None:
    signed = decision(kind).signed_by(make_key("a")).signed_by(make_key("b"))
    again = decode_subject_decision(signed.encode())
    assert again == signed
    assert again.body() == signed.body()
    for raw, name in zip(again.approvals, ("a", "b"), strict=True):
        parsed = parse_approval(raw)
        assert parsed.approval == decision(kind).approval()
        parsed.signed.verify(
            make_key(name).public, tag="swarmd/approval/1", chain=again.chain, era=1
        )


def test_what_is_signed_is_computed_from_what_is_shown() -> None:
    attributes = (("class", "pump"),)
    assert decision().approval().subject == Digest(DID)
    assert decision("did.resume").approval().subject == resume_digest(DID, 3)
    certify = decision("did.certify", attributes=attributes).approval()
    assert certify.subject == attributes_digest(DID, "fleet", 3, attributes)
    revoke = decision("did.revoke", group=None, policy=GOVERNANCE_POLICY).approval()
    assert (revoke.group, revoke.action) == (GOVERNANCE_GROUP, Action.RETIRE)


def test_a_file_whose_text_was_changed_is_refused() -> None:
    raw = decision().signed_by(make_key("a")).encode()
    value = decode_canonical(raw, bytes_max=SUBJECT_DECISION_BYTES_MAX)
    assert isinstance(value, dict)
    changes: list[dict[int, Any]] = [
        {0: 2}, {2: 2}, {3: 1}, {4: "did.revoke"}, {4: "group.create"}, {5: bytes(32)},
        {6: "pumps"}, {6: None}, {6: "No Group"}, {7: bytes(32)}, {9: [["a", "b"]]},
        {10: [b"\x80"]}, {10: [b"x"] * 33}, {11: 0}, {-1: 0},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(EncodingError):
            decode_subject_decision(encode_canonical({**value, **change}))
    assert decode_subject_decision(raw).approvals


def test_nobody_signs_twice_and_governance_only_revokes() -> None:
    with pytest.raises(PolicyError, match="signed the decision before"):
        decision().signed_by(make_key("a")).signed_by(make_key("a"))
    for kind in ("did.suspend", "did.resume", "did.certify"):
        with pytest.raises(EncodingError, match="revocations only"):
            decision(kind, group=None, policy=GOVERNANCE_POLICY)
