"""Certificates: exactly q, canonical, signed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.certificate import (
    CERTIFICATE_BYTES_MAX,
    Certificate,
    contradictions,
    decode_certificate,
)
from ledger.vote import VoteKind
from protocol.digest import BlockId, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, SignatureError, VerificationError
from tests.support.consensus import CHAIN, ERA, Network

A = BlockId(sha256(b"a"))
NETWORK = Network(4)


def verify(certificate: Certificate, network: Network = NETWORK) -> None:
    certificate.verify(network.validators, CHAIN, ERA, network.verifier)


@pytest.mark.parametrize("count", [4, 5, 7, 8, 9, 16, 32])
@pytest.mark.parametrize("real", [False, True], ids=["oracle", "ed25519"])
def test_round_trip(count: int, real: bool) -> None:
    network = Network(count, real=real)
    certificate = network.certificate(VoteKind.FINALIZE, 5, A)
    verify(certificate, network)
    assert decode_certificate(certificate.encode()) == certificate
    assert len(certificate.encode()) <= CERTIFICATE_BYTES_MAX
    assert len(certificate.signers) == network.validators.quorum
    assert all(
        vote.is_valid(network.validators, CHAIN, ERA, network.verifier)
        for vote in certificate.votes()
    )


def test_size_for_four_validators() -> None:
    assert len(NETWORK.certificate(VoteKind.FINALIZE, 5, A).encode()) <= 240


def test_order_of_votes_does_not_matter() -> None:
    votes = [NETWORK.vote(VoteKind.NULLIFY, 5, signer) for signer in (3, 0, 2)]
    certificate = Certificate.of(votes, NETWORK.validators)
    assert certificate == Certificate.of(votes[::-1], NETWORK.validators)
    assert certificate.signers == (0, 2, 3)


@pytest.mark.parametrize("signers", [(0, 1), (0, 1, 2, 3)])
def test_not_exactly_q_is_refused(signers: tuple[int, ...]) -> None:
    """Signatures beyond q would be carried around unchecked, or cost for nothing."""
    votes = [NETWORK.vote(VoteKind.FINALIZE, 5, signer, A) for signer in signers]
    bitmap = bytes((sum(1 << signer for signer in signers),))
    certificate = Certificate(
        VoteKind.FINALIZE, 1, 5, A, bitmap, tuple(vote.signature for vote in votes)
    )
    with pytest.raises(VerificationError, match="expected 3"):
        verify(decode_certificate(certificate.encode()))


def test_duplicate_and_swapped_signatures_are_refused() -> None:
    good = NETWORK.certificate(VoteKind.FINALIZE, 5, A, (0, 1, 2))
    one, two, three = good.signatures
    for signatures in [(one, one, three), (two, one, three), (one, two, bytes(64))]:
        with pytest.raises(SignatureError):
            verify(replace(good, signatures=signatures))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": VoteKind.NOTARIZE},
        {"view": 6},
        {"epoch": 2},
        {"block_id": BlockId(sha256(b"b"))},
        {"bitmap": b"\x0d"},
        {"bitmap": b"\x70"},
        {"bitmap": b"\x07\x00"},
        {"bitmap": b""},
    ],
)
def test_any_change_is_refused(change: dict[str, object]) -> None:
    good = NETWORK.certificate(VoteKind.FINALIZE, 5, A, (0, 1, 2))
    with pytest.raises(VerificationError):
        verify(replace(good, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 0),
        (0, 2),
        (3, None),
        (4, bytes(5)),
        (4, b"\x0f"),
        (5, bytes(63)),
        (5, bytes(33 * 64)),
        (5, b""),
    ],
)
def test_decoding_is_strict(position: int, value: object) -> None:
    raw = NETWORK.certificate(VoteKind.FINALIZE, 5, A, (0, 1, 2)).encode()
    fields = list(decode_canonical(raw, bytes_max=CERTIFICATE_BYTES_MAX))  # type: ignore[arg-type]
    fields[position] = value  # type: ignore[call-overload]
    with pytest.raises(EncodingError):
        decode_certificate(encode_canonical(fields))


def test_digest_names_one_certificate() -> None:
    one = NETWORK.certificate(VoteKind.NULLIFY, 5, None, (0, 1, 2))
    two = NETWORK.certificate(VoteKind.NULLIFY, 5, None, (1, 2, 3))
    assert one.digest != two.digest
    assert one.digest == decode_certificate(one.encode()).digest


B = BlockId(sha256(b"b"))


@pytest.mark.parametrize("count", [4, 5, 7, 16])
@pytest.mark.parametrize(
    ("one", "two", "convicts"),
    [
        ((VoteKind.NOTARIZE, A), (VoteKind.NOTARIZE, B), True),
        ((VoteKind.FINALIZE, A), (VoteKind.FINALIZE, B), True),
        ((VoteKind.NULLIFY, None), (VoteKind.FINALIZE, A), True),
        ((VoteKind.NOTARIZE, A), (VoteKind.FINALIZE, A), False),
        ((VoteKind.NOTARIZE, A), (VoteKind.NULLIFY, None), False),
    ],
)
def test_contradicting_certificates_convict_more_than_f(
    count: int,
    one: tuple[VoteKind, BlockId | None],
    two: tuple[VoteKind, BlockId | None],
    convicts: bool,
) -> None:
    network = Network(count)
    quorum, limit = network.validators.quorum, network.validators.fault_limit
    first = network.certificate(one[0], 5, one[1], range(quorum))
    second = network.certificate(two[0], 5, two[1], range(count - quorum, count))
    found = contradictions(first, second)
    for evidence in found:
        evidence.verify(network.validators, CHAIN, ERA, network.verifier)
    signers = [evidence.signer for evidence in found]
    assert signers == (list(range(count - quorum, quorum)) if convicts else [])
    assert not convicts or len(signers) > limit
    assert contradictions(first, replace(second, view=6)) == ()
