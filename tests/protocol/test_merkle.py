"""Merkle trees against RFC 6962's recursive definition, foreign vectors and forged proofs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, VerificationError
from protocol.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    merkle_root,
    node_hash,
    verify_consistency,
    verify_inclusion,
)

SIZES = range(1, 34)
LEAVES = [leaf_hash(bytes((number,))) for number in range(64)]


def root_by_definition(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = root_by_definition(leaves[:split]), root_by_definition(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_hashes_of_leaves_and_nodes_are_separated() -> None:
    assert leaf_hash(b"ab") == hashlib.sha256(b"\x00ab").digest()
    assert node_hash(b"a", b"b") == hashlib.sha256(b"\x01ab").digest()
    assert EMPTY_ROOT.hex().startswith("e3b0c442")


@pytest.mark.parametrize("size", [0, *SIZES, 64])
def test_root_follows_the_definition(size: int) -> None:
    assert merkle_root(LEAVES[:size]) == root_by_definition(LEAVES[:size])


@pytest.mark.parametrize("size", SIZES)
def test_every_leaf_has_a_proof_and_only_for_its_place(size: int) -> None:
    leaves = LEAVES[:size]
    root = merkle_root(leaves)
    for index in range(size):
        proof = inclusion_proof(leaves, index)
        verify_inclusion(leaves[index], index=index, size=size, proof=proof, root=root)
        for other in range(size):
            if other != index:
                with pytest.raises(VerificationError):
                    verify_inclusion(leaves[index], index=other, size=size, proof=proof, root=root)


@pytest.mark.parametrize("size", SIZES)
def test_every_prefix_has_a_consistency_proof(size: int) -> None:
    leaves = LEAVES[:size]
    for old in range(size + 1):
        verify_consistency(
            old_size=old,
            old_root=merkle_root(leaves[:old]),
            new_size=size,
            new_root=merkle_root(leaves),
            proof=consistency_proof(leaves, old),
        )


def deformed(proof: Sequence[bytes]) -> list[list[bytes]]:
    """Proofs with one thing wrong."""
    proof = list(proof)
    forms = [[*proof, bytes(32)], [bytes(32), *proof]]
    for position, item in enumerate(proof):
        flipped = bytes((item[0] ^ 1,)) + item[1:]
        forms.append([*proof[:position], *proof[position + 1 :]])
        forms += [
            [*proof[:position], wrong, *proof[position + 1 :]]
            for wrong in (flipped, item[:-1], item + b"\0", b"")
        ]
    return forms


@pytest.mark.slow
@given(size=st.integers(1, 64), data=st.data())
def test_a_deformed_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    leaves = LEAVES[:size]
    index = data.draw(st.integers(0, size - 1))
    wrong = data.draw(st.sampled_from(deformed(inclusion_proof(leaves, index))))
    with pytest.raises(VerificationError):
        verify_inclusion(
            leaves[index], index=index, size=size, proof=wrong, root=merkle_root(leaves)
        )


@pytest.mark.slow
@given(size=st.integers(2, 64), data=st.data())
def test_a_rewritten_history_has_no_consistency_proof(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size - 1))
    changed = data.draw(st.integers(0, old - 1))
    new = [*LEAVES[:changed], leaf_hash(b"forged"), *LEAVES[changed + 1 : size]]
    honest = consistency_proof(LEAVES[:size], old)
    forged = consistency_proof(new, old)
    for proof in (honest, forged, *deformed(forged)):
        with pytest.raises(VerificationError):
            verify_consistency(
                old_size=old,
                old_root=merkle_root(LEAVES[:old]),
                new_size=size,
                new_root=merkle_root(new),
                proof=proof,
            )


@given(size=st.integers(2, 64), data=st.data())
def test_a_deformed_consistency_proof_is_refused(size: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, size - 1))
    wrong = data.draw(st.sampled_from(deformed(consistency_proof(LEAVES[:size], old))))
    with pytest.raises(VerificationError):
        verify_consistency(
            old_size=old,
            old_root=merkle_root(LEAVES[:old]),
            new_size=size,
            new_root=merkle_root(LEAVES[:size]),
            proof=wrong,
        )


def test_a_node_is_no_leaf() -> None:
    """The second preimage that a tree without domain separation would have."""
    root = merkle_root(LEAVES[:2])
    assert leaf_hash(LEAVES[0] + LEAVES[1]) != root


@pytest.mark.parametrize("index", [-1, 3, 2**64])
def test_no_proof_for_a_leaf_that_does_not_exist(index: int) -> None:
    with pytest.raises(LocalProtocolError):
        inclusion_proof(LEAVES[:3], index)
    with pytest.raises(VerificationError):
        verify_inclusion(
            LEAVES[0], index=index, size=3, proof=[bytes(32)] * 2, root=merkle_root(LEAVES[:3])
        )


@pytest.mark.parametrize("old", [-1, 4])
def test_no_consistency_with_what_is_no_prefix(old: int) -> None:
    with pytest.raises(LocalProtocolError):
        consistency_proof(LEAVES[:3], old)
    with pytest.raises(VerificationError):
        verify_consistency(
            old_size=old, old_root=EMPTY_ROOT, new_size=3, new_root=EMPTY_ROOT, proof=[]
        )


@pytest.mark.parametrize(
    ("old", "old_root", "new", "new_root", "proof"),
    [
        (0, LEAVES[0], 1, LEAVES[0], []),
        (0, EMPTY_ROOT, 1, LEAVES[0], [LEAVES[0]]),
        (0, LEAVES[0], 0, LEAVES[0], []),
        (1, LEAVES[0], 1, LEAVES[1], []),
        (1, LEAVES[0], 1, LEAVES[0], [LEAVES[0]]),
    ],
)
def test_trivial_sizes_prove_nothing_else(
    old: int, old_root: bytes, new: int, new_root: bytes, proof: list[bytes]
) -> None:
    with pytest.raises(VerificationError):
        verify_consistency(
            old_size=old, old_root=old_root, new_size=new, new_root=new_root, proof=proof
        )


def cases(path: Path, name: str) -> list[dict[str, Any]]:
    found = json.loads((path / "rfc6962" / name).read_text(encoding="utf-8"))
    assert len(found) >= 90, "the vectors are not complete"
    return list(found)


def raw(text: str) -> bytes:
    return base64.b64decode(text)


def test_foreign_inclusion_vectors(vectors_path: Path) -> None:
    for case in cases(vectors_path, "inclusion.json"):
        refused = False
        try:
            verify_inclusion(
                raw(case["leafHash"] or ""),
                index=case["leafIdx"],
                size=case["treeSize"],
                proof=[raw(item) for item in case["proof"] or ()],
                root=raw(case["root"] or ""),
            )
        except VerificationError:
            refused = True
        assert refused == case["wantErr"], case["group"] + "/" + case["name"]


STRICTER = "additional/sizes-are-equal-one-and-proof-is-empty"
"""Its roots are text of 11 bytes; here, whatever is not 32 bytes long is no root."""


def test_foreign_consistency_vectors(vectors_path: Path) -> None:
    for case in cases(vectors_path, "consistency.json"):
        refused = False
        try:
            verify_consistency(
                old_size=case["size1"],
                old_root=raw(case["root1"] or ""),
                new_size=case["size2"],
                new_root=raw(case["root2"] or ""),
                proof=[raw(item) for item in case["proof"] or ()],
            )
        except VerificationError:
            refused = True
        name = case["group"] + "/" + case["name"]
        assert refused == (case["wantErr"] or name == STRICTER), name
