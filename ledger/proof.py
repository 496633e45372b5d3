"""Proof files: one file and the genesis show offline what a ledger says.

The core is a header, its certificate, and one record with its path to the header's state root: for
a manifest, its status, the policy it was judged under and who approved. Sections add to it what a
checker may want: owners' consent, manifests, further facts, log entries, receipts, epochs. Every
byte of a proof counts: an altered one is refused. This module holds the file;
`ledger.proof_make` writes and `ledger.proof_verify` believes it. Format: docs/spec/proofs.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ledger.certificate import CERTIFICATE_BYTES_MAX
from ledger.header import HEADER_BYTES_MAX
from ledger.light import EPOCH_STEPS_MAX, EpochStep
from ledger.proof_facts import FACTS_MAX, StateFacts
from ledger.proof_path import RECOVERIES_MAX, TrustPath
from ledger.proof_statements import Consent, LogInclusion, ReceiptInclusion
from protocol.digest import sha256
from protocol.encoding import (
    Fields,
    Value,
    as_bytes,
    check_sorted_unique,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError
from protocol.governance import CHECKPOINT_BYTES_MAX, RECOVERY_BYTES_MAX
from protocol.limits import KIB, MANIFEST_BYTES_MAX

PROOF_SCHEMA: Final = 2
"""Schema number of proof files."""
PROOF_FILE_BYTES_MAX: Final = 512 * KIB
"""64 epoch steps of 32 validators take 350 KiB; the rest holds eight of the largest manifests."""
STATEMENTS_MAX: Final = 32
"""Consents, manifests, log entries and receipts of one file, each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofFile:
    """The content of a proof file, not yet verified."""

    header: bytes
    """The final header it rests on, encoded."""
    certificate: bytes
    """That header's finalize certificate, encoded."""
    facts: StateFacts | None = None
    """What stands under state keys; None: the file is about the log alone."""
    epochs: tuple[EpochStep, ...] = ()
    """Hand-overs from the first epoch to the header's."""
    consents: tuple[Consent, ...] = ()
    """Owners' consent to manifests among the facts, ascending by fact."""
    manifests: tuple[bytes, ...] = ()
    """Signed manifests among the facts, original bytes, ascending by id."""
    entries: tuple[LogInclusion, ...] = ()
    """Entries of the log, ascending by position."""
    receipts: tuple[ReceiptInclusion, ...] = ()
    """Entries of receipt logs whose anchors are among the facts, ascending by (fact, position)."""
    recoveries: tuple[bytes, ...] = ()
    """Recovery files on the way to the header's era, encoded, oldest first."""
    checkpoint: bytes | None = None
    """Encoded checkpoint that the hand-overs begin at; None: at genesis."""

    @property
    def path(self) -> TrustPath:
        """The way from genesis to the set of the header's epoch."""
        return TrustPath(checkpoint=self.checkpoint, epochs=self.epochs, recoveries=self.recoveries)

    def encode(self) -> bytes:
        """The canonical bytes; empty sections are left out."""
        sections: dict[int, list[Value]] = {
            4: [step.to_value() for step in self.epochs],
            5: [consent.to_value() for consent in self.consents],
            6: list(self.manifests),
            7: [entry.to_value() for entry in self.entries],
            8: [receipt.to_value() for receipt in self.receipts],
            9: list(self.recoveries),
        }
        value: dict[int | str, Value] = {0: PROOF_SCHEMA, 1: self.header, 2: self.certificate}
        if self.facts is not None:
            value[3] = self.facts.to_value()
        value.update({key: section for key, section in sections.items() if section})
        if self.checkpoint is not None:
            value[10] = self.checkpoint
        return encode_canonical(value)


def decode_proof(data: bytes) -> ProofFile:
    """Reads a proof file without verifying it.

    Raises:
        EncodingError: malformed, out of bounds or order, or with fields this version does not know.
    """
    fields = Fields(decode_canonical(data, bytes_max=PROOF_FILE_BYTES_MAX), "proof file")
    fields.constant(0, PROOF_SCHEMA)

    def section(key: int) -> tuple[Value, ...]:
        read = fields.optional(
            key, lambda k: fields.array(k, minimum=1, maximum=max(EPOCH_STEPS_MAX, STATEMENTS_MAX))
        )
        return tuple(read or ())

    proof = ProofFile(
        header=fields.bytes(1, maximum=HEADER_BYTES_MAX),
        certificate=fields.bytes(2, maximum=CERTIFICATE_BYTES_MAX),
        facts=fields.optional(3, lambda key: StateFacts.from_value(fields.value(key))),
        epochs=tuple(EpochStep.from_value(item) for item in section(4)),
        consents=tuple(Consent.from_value(item) for item in section(5)),
        manifests=tuple(
            as_bytes(item, "manifest", maximum=MANIFEST_BYTES_MAX) for item in section(6)
        ),
        entries=tuple(LogInclusion.from_value(item) for item in section(7)),
        receipts=tuple(ReceiptInclusion.from_value(item) for item in section(8)),
        recoveries=tuple(
            as_bytes(item, "recovery", maximum=RECOVERY_BYTES_MAX) for item in section(9)
        ),
        checkpoint=fields.optional(10, lambda key: fields.bytes(key, maximum=CHECKPOINT_BYTES_MAX)),
    )
    if fields.finish():
        raise EncodingError("proof file: extensions are not allowed")
    _check_order(proof)
    return proof


def _check_order(proof: ProofFile) -> None:
    """Every set of statements has one order, and the file is about something."""
    if len(proof.recoveries) > RECOVERIES_MAX:
        raise EncodingError(f"proof file: over {RECOVERIES_MAX} recoveries")
    if proof.facts is None and not proof.entries:
        raise EncodingError("proof file: it states nothing")
    _require_ascending([(consent.fact,) for consent in proof.consents], "consents")
    check_sorted_unique([sha256(raw) for raw in proof.manifests], "manifests")
    _require_ascending([(entry.index,) for entry in proof.entries], "log entries")
    _require_ascending([(item.fact, item.index) for item in proof.receipts], "receipts")
    count = 0 if proof.facts is None else len(proof.facts.facts)
    named = [*(item.fact for item in proof.consents), *(item.fact for item in proof.receipts)]
    if any(fact >= count for fact in named):
        raise EncodingError(f"proof file: a statement names a fact beyond the {count} there are")
    assert count <= FACTS_MAX, "the facts were read within their bound"


def _require_ascending(items: Sequence[tuple[int, ...]], what: str) -> None:
    if any(first >= second for first, second in itertools.pairwise(items)):
        raise EncodingError(f"proof file: {what} are not strictly ascending")
