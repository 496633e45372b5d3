"""Writes the vectors of docs/spec/identity.md: `python -m tests.support.identity_vectors`.

They pin the token's bytes, what is signed around it, the confirmation code, the documents that
follow from records, and what each transaction about subjects does to state and log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from ledger.bodies.subject import CreateSubject
from ledger.bodies.subject_decisions import Decider
from protocol.approval import Action
from protocol.did import KeyPurpose, SubjectKind, did_key_text
from protocol.did_document import SubjectFacts, did_key_document, resolution_result
from protocol.digest import BlockId, ChainId, sha256
from protocol.enrolment_token import claim_seat, confirmation_code, seat_message
from tests.support.ledger import FLEET, Member, make_bench, make_key, owner_keys
from tests.support.ledger_vectors import Recorder, render
from tests.support.seats import NEWCOMER, SEAT_KEY, entry, make_claims, make_seat, make_tokens
from tests.support.subjects import (
    certification,
    claim,
    recovery,
    resumption,
    revocation,
    submit,
    suspension,
    wait,
)

DIRECTORY: Final = Path(__file__).parents[1] / "vectors" / "identity"
CHAIN: Final = ChainId(sha256(b"identity vectors"))


def tokens_vector() -> dict[str, Any]:
    """Two owners' tokens for one seat, and how a newcomer takes it."""
    claims = make_claims(CHAIN, confirmed=True)
    owners = owner_keys(FLEET)[:2]
    tokens = make_tokens(claims, owners)
    return {
        "chain": CHAIN.hex(),
        "owners": [did_key_text(key.public) for key in owners],
        "seat_key_seed": SEAT_KEY.seed().hex(),
        "payloads": [token.signed.payload.hex() for token in tokens],
        "tokens": [token.signed.raw.hex() for token in tokens],
        "seat": claims.seat.hex(),
        "did": NEWCOMER.did.hex(),
        "seat_message": seat_message(claims, NEWCOMER.did).hex(),
        "proof": claim_seat(tokens, NEWCOMER.did, SEAT_KEY).proof.hex(),
        "code": confirmation_code(claims, NEWCOMER.did),
    }


def documents_vector() -> dict[str, Any]:
    """Resolution results of each kind and status, and of a bare key."""
    cases: list[dict[str, Any]] = []
    for kind in SubjectKind:
        member = Member(label=f"a {kind.name.lower()}", kind=kind, groups=())
        for status in ("active", "suspended", "revoked"):
            facts = SubjectFacts(
                chain=CHAIN,
                did=member.did,
                keys=member.record.keys,
                status=status,
                rotations=2,
                height=9,
                block_id=BlockId(sha256(b"block")),
                time_ms=1_700_000_000_000,
            )
            keys = {purpose.name.lower(): key.raw.hex() for purpose, key in facts.keys}
            cases.append(
                {
                    "did": member.did.hex(),
                    "keys": keys,
                    "status": status,
                    "result": resolution_result(facts),
                }
            )
    key = make_key("bare").public
    return {"cases": cases, "did_key": {"key": key.raw.hex(), "document": did_key_document(key)}}


def transactions_vector() -> dict[str, Any]:
    """The life of two gateways, with what is refused on the way."""
    recorder = Recorder(make_bench(), [])
    bench = recorder.bench
    lab, chain = bench.lab, bench.lab.chain_id
    first, helper = lab.gateways
    recorder.apply(submit(bench, entry(NEWCOMER, make_seat(chain))))
    second = Member(label="second", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    recorder.apply(submit(bench, entry(second, make_seat(chain, second))))
    confirmed = make_seat(chain, second, seat_id=bytes(16), confirmed=True)
    recorder.apply(submit(bench, entry(second, confirmed)))
    agreed = (lab.approvals(Action.ENROL, second.did, count=1),)
    body: CreateSubject = entry(second, confirmed, approvals=agreed)
    recorder.apply(submit(bench, body))
    recorder.apply(certification(bench, first.did))
    recorder.apply(suspension(bench, first.did))
    recorder.apply(suspension(bench, first.did))
    recorder.apply(resumption(bench, first.did))
    recorder.apply(recovery(bench, first))
    recorder.apply(claim(bench, first))
    wait(bench, 24 * 3600 * 1000)
    recorder.apply(claim(bench, first))
    recorder.apply(recovery(bench, lab.publisher, decider=Decider.GOVERNANCE))
    recorder.apply(submit(bench, lab.rotation(lab.publisher)))
    recorder.apply(claim(bench, lab.publisher))
    recorder.apply(revocation(bench, second.did))
    recorder.apply(resumption(bench, second.did))
    recorder.apply(revocation(bench, NEWCOMER.did, governed=True))
    assert helper.key(KeyPurpose.NODE), "the helper signs every transaction"
    return {"genesis": lab.genesis.encode().hex(), "steps": recorder.steps}


def build() -> dict[str, dict[str, Any]]:
    """All files by name."""
    return {
        "tokens.json": tokens_vector(),
        "documents.json": documents_vector(),
        "transactions.json": transactions_vector(),
    }


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for name, document in build().items():
        (DIRECTORY / name).write_text(render(document), encoding="utf-8")
