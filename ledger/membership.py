"""Membership proofs: a header, its certificate, and what its state says about a subject.

They let two nodes meet whose copies of the ledger differ: what counts is not what my copy says
about your key but what a header at least as new as mine says.
"""

from __future__ import annotations

from dataclasses import dataclass

from ledger.certificate import CERTIFICATE_BYTES_MAX
from ledger.chain import Chain
from ledger.errors import LedgerNotYetError
from ledger.header import HEADER_BYTES_MAX, Header, decode_header
from ledger.light import TrustAnchor, verify_header
from ledger.records.subject import SubjectRecord
from ledger.state_keys import subject_key
from ledger.state_tree import StateProof
from ledger.vote import Ed25519Verifier, Verifier
from protocol.did import KeyPurpose
from protocol.digest import DidId
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.errors import EncodingError, NotYetError, VerificationError
from protocol.hello import MEMBERSHIP_BYTES_MAX
from protocol.keys import PublicKey

_SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What a membership proof shows."""

    did: DidId
    """Who."""
    record: SubjectRecord
    """Its record as of the header; its status says whether it is in good standing."""
    header: Header
    """The final header this rests on."""

    @property
    def height(self) -> int:
        """Height of the header."""
        return self.header.height


def make_membership_proof(chain: Chain, did: DidId) -> bytes:
    """Writes the proof of a subject's record as of the newest final header.

    Returns:
        At most 8 KiB: {0: schema, 1: header, 2: certificate, 3: state proof}; the certificate is
        empty for the first header of the chain or of its era, which needs none.

    Raises:
        LedgerNotYetError: `membership.unknown`: this copy does not know the subject;
            `membership.uncertified`: the newest block has no certificate of its own, as after a
            closing block that a filler made final and after a state was fetched.
    """
    tip = chain.tip
    if tip.state.subject(did) is None:
        raise LedgerNotYetError("membership.unknown", f"subject {did.hex()[:8]} is not known")
    if tip.certificate is None and tip.header.view:
        raise LedgerNotYetError(
            "membership.uncertified", "the head is final by a filler's or a descendant's votes only"
        )
    proof = encode_canonical(
        {
            0: _SCHEMA,
            1: tip.header.encoded,
            2: b"" if tip.certificate is None else tip.certificate.encode(),
            3: tip.state.tree.prove(subject_key(did)).to_value(),
        }
    )
    assert len(proof) <= MEMBERSHIP_BYTES_MAX, f"membership proof of {len(proof)} bytes"
    return proof


def membership_epoch(data: bytes) -> int:
    """The epoch of the header that a proof rests on, to choose whom to believe.

    Raises:
        EncodingError: malformed.
    """
    fields = Fields(decode_canonical(data, bytes_max=MEMBERSHIP_BYTES_MAX), "membership proof")
    return decode_header(fields.bytes(1, maximum=HEADER_BYTES_MAX)).epoch


def verify_membership_proof(
    data: bytes,
    anchor: TrustAnchor,
    transport_key: PublicKey,
    *,
    height_min: int,
    verifier: Verifier | None = None,
) -> Membership:
    """Checks that a transport key belongs to a subject, whatever its status (L90).

    Args:
        data: the proof, untrusted.
        anchor: the validator set to believe, with the genesis header's id.
        transport_key: key that the peer proved to hold in its handshake.
        height_min: height of the checker's own newest final header.
        verifier: checks votes; Ed25519 unless a simulation injects another.

    Raises:
        NotYetError: `membership.old`: valid, but of a header below `height_min`.
        VerificationError: it does not show what it should.
    """
    fields = Fields(decode_canonical(data, bytes_max=MEMBERSHIP_BYTES_MAX), "membership proof")
    fields.constant(0, _SCHEMA)
    raw_header = fields.bytes(1, maximum=HEADER_BYTES_MAX)
    certificate = fields.bytes(2, maximum=CERTIFICATE_BYTES_MAX)
    statement = StateProof.from_value(fields.value(3))
    if fields.finish():
        raise EncodingError("membership proof: extensions are not allowed")
    header = verify_header(raw_header, certificate, anchor, verifier or Ed25519Verifier())
    value = statement.verify(header.state_root)
    did = DidId(statement.key[2:])
    if value is None or statement.key != subject_key(did) or len(did) != len(header.block_id):
        raise VerificationError("membership proof: it shows no subject")
    record = SubjectRecord.decode(value)
    if record.key(KeyPurpose.TRANSPORT) != transport_key:
        raise VerificationError(f"subject {did.hex()[:8]} holds another transport key")
    if header.height < height_min:
        raise NotYetError(
            "membership.old", f"proof at height {header.height}, expected {height_min} or above"
        )
    return Membership(did=did, record=record, header=header)
