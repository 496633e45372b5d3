"""Proofs of subjects: what a proof file shows about DIDs, and the documents that follow.

The file is `swarmd.proof_file`'s, with the genesis in it; its ledger proof holds the record `d/`
of each subject and what owners certify of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ledger.chain_queries import ChainQueries
from ledger.errors import LedgerNotYetError
from ledger.header import Header
from ledger.proof_make import ProofBuilder
from ledger.proof_verify import VerifiedProof, verify_proof
from ledger.records.subject import AttributesRecord, SubjectRecord
from ledger.state_keys import attributes_key, subject_key
from protocol.did_document import SubjectFacts
from protocol.digest import DIGEST_BYTES, ChainId, DidId
from protocol.errors import VerificationError
from protocol.genesis import Genesis

_SUBJECT_PREFIX: Final = subject_key(DidId(b""))
"""What keys of subjects' records begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSubject:
    """One subject as a proof shows it."""

    facts: SubjectFacts
    """What its document follows from."""
    record: SubjectRecord
    """Its whole record."""
    attributes: dict[str, dict[str, str]]
    """What owners certify of it, by group, as far as the proof shows it."""


def subject_facts(
    chain: ChainId, did: DidId, record: SubjectRecord, header: Header
) -> SubjectFacts:
    """What a document follows from, as of a header."""
    return SubjectFacts(
        chain=chain,
        did=did,
        keys=record.keys,
        status=record.status.name.lower(),
        rotations=record.sequence,
        height=header.height,
        block_id=header.block_id,
        time_ms=header.time_ms,
    )


def make_subject_proof(chain: ChainQueries, did: DidId) -> bytes:
    """Proves a subject's record and certified attributes as of the newest final header.

    Raises:
        LedgerNotYetError: `proof.unknown`, `proof.genesis`.
    """
    builder = ProofBuilder(chain)
    builder.add_subject(did)
    record = chain.tip.state.subject(did)
    if record is None:
        raise LedgerNotYetError("proof.unknown", f"subject {did.hex()[:8]} is not on record")
    for group in record.groups:
        builder.add_key(attributes_key(did, group))
    return builder.encode()


def verify_subject_proof(data: bytes, genesis: Genesis) -> tuple[ShownSubject, ...]:
    """Checks a proof, offline, and reads every subject it shows.

    Raises:
        VerificationError: it does not follow from a final header of this chain, or shows no
            subject.
    """
    proof = verify_proof(data, genesis)
    shown = tuple(_subjects(proof, genesis.chain))
    if not shown:
        raise VerificationError("the proof shows no subject")
    return shown


def _subjects(proof: VerifiedProof, chain: ChainId) -> Iterator[ShownSubject]:
    for key, value in proof.facts.items():
        if not key.startswith(_SUBJECT_PREFIX) or value is None:
            continue
        did = DidId(key[len(_SUBJECT_PREFIX) :])
        if len(did) != DIGEST_BYTES:
            raise VerificationError("the proof holds a subject key of another length")
        record = SubjectRecord.decode(value)
        attributes: dict[str, dict[str, str]] = {}
        for group in record.groups:
            raw = proof.facts.get(attributes_key(did, group))
            if raw is not None:
                attributes[group] = dict(AttributesRecord.decode(raw).attributes)
        facts = subject_facts(chain, did, record, proof.header)
        yield ShownSubject(facts=facts, record=record, attributes=attributes)
