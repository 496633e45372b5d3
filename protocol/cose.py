"""COSE_Sign1 (RFC 9052, section 4.2) with EdDSA over Ed25519: a thin layer over `cryptography`.

The form is narrower than the RFC so that a signed object has one encoding: untagged array of four,
protected header {1: -8, 4: key id}, empty unprotected header, attached payload. The external_aad is
`signing_context(tag, chain, era)`. The original bytes are the object; nobody re-encodes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.digest import ChainId, Digest
from protocol.encoding import (
    as_array,
    as_bytes,
    decode_canonical,
    encode_canonical,
)
from protocol.errors import EncodingError, SignatureError
from protocol.keys import SIGNATURE_BYTES, PublicKey, Signer, signing_context

ALGORITHM_EDDSA: Final = -8
"""COSE algorithm id of EdDSA (RFC 9053, section 2.2)."""
_HEADER_ALGORITHM: Final = 1
_HEADER_KEY_ID: Final = 4


def signature_input(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    """The Sig_structure of RFC 9052, section 4.4, for COSE_Sign1."""
    return encode_canonical(["Signature1", protected, external_aad, payload])


@dataclass(frozen=True, slots=True)
class Signed:
    """A parsed, not yet verified COSE_Sign1."""

    raw: bytes
    """The original bytes."""
    protected: bytes
    """Encoded protected header."""
    key_id: Digest
    """Which key claims to have signed: `PublicKey.key_id`."""
    payload: bytes
    """Signed content, canonical CBOR of some schema."""
    signature: bytes
    """64 bytes."""

    def verify(self, key: PublicKey, *, tag: str, chain: ChainId, era: int) -> None:
        """Checks the signature under `key` for one purpose, chain and era.

        Raises:
            SignatureError: another key, purpose, chain or era, or an altered object.
        """
        if key.key_id != self.key_id:
            raise SignatureError(f"{tag}: signed by another key than the one expected")
        key.verify(
            self.signature,
            signature_input(self.protected, signing_context(tag, chain, era), self.payload),
        )


def sign(payload: bytes, key: Signer, *, tag: str, chain: ChainId, era: int) -> bytes:
    """Signs `payload` and returns the encoded COSE_Sign1.

    Args:
        payload: canonical CBOR of the object.
        key: who signs.
        tag: domain such as `swarmd/manifest/1`; never shared by two kinds of object.
        chain: chain id the statement belongs to.
        era: era the statement belongs to.
    """
    protected = encode_canonical(
        {_HEADER_ALGORITHM: ALGORITHM_EDDSA, _HEADER_KEY_ID: key.public.key_id}
    )
    message = signature_input(protected, signing_context(tag, chain, era), payload)
    return encode_canonical([protected, {}, payload, key.sign(message)])


def parse_signed(data: bytes, *, bytes_max: int) -> Signed:
    """Parses untrusted bytes as a COSE_Sign1 of the narrow form.

    Raises:
        EncodingError: malformed, over `bytes_max`, or any header beyond algorithm and key id.
    """
    protected, unprotected, payload, signature = as_array(
        decode_canonical(data, bytes_max=bytes_max), "COSE_Sign1", size=4
    )
    if unprotected != {}:
        raise EncodingError("COSE_Sign1: unprotected header must be empty")
    header_bytes = as_bytes(protected, "COSE_Sign1 protected header", maximum=64)
    header = decode_canonical(header_bytes, bytes_max=64)
    if not isinstance(header, dict) or list(header) != [_HEADER_ALGORITHM, _HEADER_KEY_ID]:
        raise EncodingError("COSE_Sign1: protected header must hold algorithm and key id only")
    if header[_HEADER_ALGORITHM] != ALGORITHM_EDDSA:
        raise EncodingError(f"COSE_Sign1: algorithm {header[_HEADER_ALGORITHM]} is not EdDSA")
    key_id = as_bytes(header[_HEADER_KEY_ID], "COSE_Sign1 key id", size=32)
    return Signed(
        raw=data,
        protected=header_bytes,
        key_id=Digest(key_id),
        payload=as_bytes(payload, "COSE_Sign1 payload", maximum=bytes_max),
        signature=as_bytes(signature, "COSE_Sign1 signature", size=SIGNATURE_BYTES),
    )
