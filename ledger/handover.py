"""How an epoch ended: the fillers after its closing block, and the certificate that made it final.

Fillers are no part of the chain: the next epoch begins on the closing block. They are kept because
its finality may rest on them (E15).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.block import Block, decode_block
from ledger.certificate import CERTIFICATE_BYTES_MAX, Certificate, decode_certificate
from ledger.light import FILLERS_MAX
from protocol.encoding import Value, as_array, as_bytes, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.limits import BLOCK_BYTES_MAX, MIB

HANDOVER_BYTES_MAX: Final = 16 * MIB
"""Fillers hold skip proofs only: 256 of them with 1,024 each take 10 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """What a store keeps of the end of an epoch."""

    fillers: tuple[Block, ...]
    """Blocks after the closing one up to the certified one, oldest first; usually none."""
    certificate: Certificate
    """Finalizes the last filler, or the closing block where there is none."""

    def encode(self) -> bytes:
        """The canonical bytes: [fillers, certificate]."""
        fillers: list[Value] = [block.encoded for block in self.fillers]
        return encode_canonical([fillers, self.certificate.encode()])


def decode_handover(data: bytes) -> Handover:
    """Reads a stored hand-over.

    Raises:
        VerificationError: it is not what `encode` wrote.
    """
    fillers, certificate = as_array(
        decode_canonical(data, bytes_max=HANDOVER_BYTES_MAX), "handover", size=2
    )
    if not isinstance(fillers, (list, tuple)) or len(fillers) > FILLERS_MAX:
        raise EncodingError(f"handover: fillers are not a list of at most {FILLERS_MAX}")
    raw = as_bytes(certificate, "handover certificate", maximum=CERTIFICATE_BYTES_MAX)
    return Handover(
        fillers=tuple(
            decode_block(as_bytes(item, "filler", maximum=BLOCK_BYTES_MAX)) for item in fillers
        ),
        certificate=decode_certificate(raw),
    )
