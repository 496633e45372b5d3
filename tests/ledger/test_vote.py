"""Votes and evidence: which pairs convict, and whom."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.vote import Evidence, Vote, VoteKind, decode_evidence, decode_vote, is_conflict
from protocol.digest import BlockId, ChainId, sha256
from protocol.encoding import encode_canonical
from protocol.errors import EncodingError, SignatureError, VerificationError
from tests.support.consensus import CHAIN, ERA, Network

A, B = BlockId(sha256(b"a")), BlockId(sha256(b"b"))
N, U, F = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE
NETWORK = Network(4)
REAL = Network(4, real=True)


@pytest.mark.parametrize("network", [NETWORK, REAL], ids=["oracle", "ed25519"])
@pytest.mark.parametrize(("kind", "block_id"), [(N, A), (U, None), (F, A)])
def test_valid_vote(network: Network, kind: VoteKind, block_id: BlockId | None) -> None:
    vote = network.vote(kind, 3, 2, block_id)
    assert decode_vote(vote.encode()) == vote
    assert vote.is_valid(network.validators, CHAIN, ERA, network.verifier)


@pytest.mark.parametrize("network", [NETWORK, REAL], ids=["oracle", "ed25519"])
@pytest.mark.parametrize(
    "change",
    [
        {"kind": F},
        {"view": 4},
        {"epoch": 2},
        {"block_id": B},
        {"signer": 1},
        {"signer": 4},
        {"signature": bytes(64)},
    ],
)
def test_any_change_breaks_the_signature(network: Network, change: dict[str, object]) -> None:
    vote = replace(network.vote(N, 3, 2, A), **change)  # type: ignore[arg-type]
    assert not vote.is_valid(network.validators, CHAIN, ERA, network.verifier)


@pytest.mark.parametrize("network", [NETWORK, REAL], ids=["oracle", "ed25519"])
def test_signature_covers_chain_and_era(network: Network) -> None:
    vote = network.vote(N, 3, 2, A)
    other = ChainId(sha256(b"other"))
    assert not vote.is_valid(network.validators, other, ERA, network.verifier)
    assert not vote.is_valid(network.validators, CHAIN, ERA + 1, network.verifier)


@pytest.mark.parametrize(
    ("one", "two", "convicts"),
    [
        ((N, A), (N, B), True),
        ((F, A), (F, B), True),
        ((U, None), (F, A), True),
        ((N, A), (N, A), False),
        ((F, A), (F, A), False),
        ((U, None), (U, None), False),
        ((N, A), (U, None), False),
        ((N, A), (F, A), False),
        ((N, A), (F, B), False),
    ],
)
def test_which_pairs_convict(
    one: tuple[VoteKind, BlockId | None], two: tuple[VoteKind, BlockId | None], convicts: bool
) -> None:
    first, second = NETWORK.vote(one[0], 3, 1, one[1]), NETWORK.vote(two[0], 3, 1, two[1])
    assert is_conflict(first, second) is convicts
    assert is_conflict(second, first) is convicts
    if not convicts:
        with pytest.raises(VerificationError):
            Evidence(first, second)
        return
    evidence = Evidence.of(first, second)
    assert evidence == Evidence.of(second, first)
    assert (evidence.epoch, evidence.signer) == (1, 1)
    evidence.verify(NETWORK.validators, CHAIN, ERA, NETWORK.verifier)
    assert decode_evidence(evidence.encode()) == evidence


@pytest.mark.parametrize("change", [{"signer": 2}, {"view": 4}, {"epoch": 2}])
def test_votes_of_different_signer_view_or_epoch_convict_nobody(change: dict[str, object]) -> None:
    first = NETWORK.vote(N, 3, 1, A)
    second = replace(NETWORK.vote(N, 3, 1, B), **change)  # type: ignore[arg-type]
    assert not is_conflict(first, second)


def test_forged_evidence_convicts_nobody() -> None:
    true, forged = REAL.vote(N, 3, 1, A), replace(REAL.vote(N, 3, 1, B), signature=bytes(64))
    with pytest.raises(SignatureError):
        Evidence.of(true, forged).verify(REAL.validators, CHAIN, ERA, REAL.verifier)


def test_evidence_has_one_order() -> None:
    evidence = Evidence.of(NETWORK.vote(N, 3, 1, A), NETWORK.vote(N, 3, 1, B))
    with pytest.raises(EncodingError, match="order"):
        decode_evidence(encode_canonical([evidence.second.to_value(), evidence.first.to_value()]))


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, 0), (0, 4), (1, -1), (2, "3"), (3, None), (3, b"short"), (4, 32), (5, bytes(63))],
)
def test_vote_decoding_is_strict(position: int, value: object) -> None:
    fields = NETWORK.vote(N, 3, 1, A).to_value()
    assert isinstance(fields, list)
    fields[position] = value
    with pytest.raises(EncodingError):
        decode_vote(encode_canonical(fields))


def test_nullify_names_no_block() -> None:
    fields = Vote(U, 1, 3, A, 1, bytes(64)).to_value()
    with pytest.raises(EncodingError, match="must not name"):
        decode_vote(encode_canonical(fields))
