"""The proof file: a ledger proof with the genesis it starts from, in one file.

Whoever checks it needs the file and one digest they trust, the chain id: the genesis travels along
and must hash to it. Form: canonical CBOR {0: 1, 1: genesis bytes, 2: proof bytes}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.proof import PROOF_FILE_BYTES_MAX as LEDGER_PROOF_BYTES_MAX
from protocol.digest import ChainId, verify_digest
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.genesis import GENESIS_BYTES_MAX, Genesis, decode_genesis
from protocol.limits import KIB

PROOF_SCHEMA: Final = 1
"""Schema number of the file."""
PROOF_FILE_BYTES_MAX: Final = GENESIS_BYTES_MAX + LEDGER_PROOF_BYTES_MAX + 1 * KIB
"""The whole file, bytes."""


@dataclass(frozen=True, slots=True)
class ProofFile:
    """The content of a proof file; nothing in it is verified yet."""

    genesis: bytes
    """The genesis document, as its author says."""
    proof: bytes
    """What `ledger.proof.verify_proof` reads."""

    def encode(self) -> bytes:
        """Canonical bytes."""
        return encode_canonical({0: PROOF_SCHEMA, 1: self.genesis, 2: self.proof})

    def genesis_of(self, chain: ChainId) -> Genesis:
        """The genesis inside, if it is that of `chain`.

        Raises:
            DigestMismatchError: it is another chain's.
            EncodingError: it is no genesis document.
        """
        verify_digest("genesis in the proof file", self.genesis, chain)
        return decode_genesis(self.genesis)


def decode_proof_file(data: bytes) -> ProofFile:
    """Reads a proof file.

    Raises:
        EncodingError: malformed or over its bounds.
    """
    value = decode_canonical(data, bytes_max=PROOF_FILE_BYTES_MAX)
    fields = Fields(value, "proof file")
    fields.constant(0, PROOF_SCHEMA)
    file = ProofFile(
        genesis=fields.bytes(1, maximum=GENESIS_BYTES_MAX),
        proof=fields.bytes(2, maximum=LEDGER_PROOF_BYTES_MAX),
    )
    if fields.finish():
        raise EncodingError("proof file: unknown extensions")
    return file
