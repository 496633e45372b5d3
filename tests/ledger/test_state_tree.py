from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.state_tree import (
    EMPTY_HASH,
    PROOF_BYTES_MAX,
    StateProof,
    StateTree,
    decode_state_proof,
)
from protocol.digest import sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, VerificationError

# Few distinct keys, so that updates often replace.
KEYS = st.binary(min_size=0, max_size=2)
CONTENTS = st.dictionaries(KEYS, st.binary(max_size=4), max_size=24)


def naive_root(leaves: dict[bytes, bytes], prefix: str = "") -> bytes:
    """The root by the definition: split by bits until at most one key is left."""
    if not leaves:
        return b"SPARSE_MERKLE_PLACEHOLDER_HASH__"
    if len(leaves) == 1:
        ((path, value),) = leaves.items()
        value_hash = hashlib.sha256(value).digest()
        return hashlib.sha256(b"JMT::LeafNode" + path + value_hash).digest()
    depth = len(prefix)

    def bit(path: bytes) -> str:
        return format(int.from_bytes(path, "big"), "0256b")[depth]

    halves = [
        naive_root({p: v for p, v in leaves.items() if bit(p) == digit}, prefix + digit)
        for digit in "01"
    ]
    return hashlib.sha256(b"JMT::IntrnalNode" + halves[0] + halves[1]).digest()


def paths(contents: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {sha256(key): value for key, value in contents.items()}


def test_third_party_vectors_give_their_roots():
    folder = os.environ.get("SWARMD_VECTORS")
    if not folder:
        pytest.skip("needs SWARMD_VECTORS")
    document = json.loads((Path(folder) / "jmt" / "sha2_256_vectors.json").read_text())
    assert document["vectors"], "an empty file proves nothing"
    for vector in document["vectors"]:
        contents = {
            bytes.fromhex(pair["key"]): bytes.fromhex(pair["value"]) for pair in vector["data"]
        }
        assert StateTree().update(contents).root.hex() == vector["expected_root"]


@given(CONTENTS)
@settings(max_examples=60)
def test_root_equals_naive_recomputation(contents):
    assert StateTree().update(contents).root == naive_root(paths(contents))


@given(CONTENTS, CONTENTS)
@settings(max_examples=60)
def test_updates_leave_older_versions_valid(first, second):
    old = StateTree().update(first)
    new = old.update(second)
    assert new.root == naive_root(paths({**first, **second}))
    assert old.root == naive_root(paths(first))
    assert dict(new.items()) == {**first, **second}
    assert all(old.get(key) == value for key, value in first.items())


@given(CONTENTS)
def test_order_and_grouping_of_writes_do_not_matter(contents):
    one_by_one = StateTree()
    for key in sorted(contents, reverse=True):
        one_by_one = one_by_one.update({key: contents[key]})
    assert one_by_one.root == StateTree().update(contents).root


@given(CONTENTS, KEYS)
def test_proofs_show_value_or_absence_and_survive_encoding(contents, key):
    tree = StateTree().update(contents)
    proof = decode_state_proof(tree.prove(key).encode())
    assert proof == tree.prove(key)
    assert proof.verify(tree.root) == contents.get(key)


@given(CONTENTS.filter(bool), st.data())
def test_a_value_cannot_be_shown_as_absent_nor_another_one(contents, data):
    tree = StateTree().update(contents)
    key = data.draw(st.sampled_from(sorted(contents)))
    proof = tree.prove(key)
    for value in (None, contents[key] + b"x"):
        forged = StateProof(key=key, value=value, siblings=proof.siblings)
        with pytest.raises(VerificationError):
            forged.verify(tree.root)


@given(CONTENTS, CONTENTS, KEYS)
@settings(max_examples=40)
def test_a_proof_of_another_version_is_refused(first, second, key):
    old, new = StateTree().update(first), StateTree().update(first).update(second)
    proof = old.prove(key)
    if old.root != new.root:
        with pytest.raises(VerificationError, match="expected root"):
            proof.verify(new.root)


@given(CONTENTS.filter(bool), KEYS, st.data())
@settings(max_examples=60)
def test_an_altered_proof_is_refused_or_states_a_truth_about_another_key(contents, key, data):
    tree = StateTree().update(contents)
    raw = bytearray(tree.prove(key).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        altered = decode_state_proof(bytes(raw))
        value = altered.verify(tree.root)
    except VerificationError:
        return
    assert altered.key != key
    assert value == contents.get(altered.key)


def colliding_key(prefix_bits: int) -> tuple[bytes, bytes]:
    """Two keys whose paths share at least `prefix_bits` bits, found by search."""
    seen: dict[int, bytes] = {}
    for number in range(1 << 20):
        key = number.to_bytes(4, "big")
        head = int.from_bytes(sha256(key), "big") >> (256 - prefix_bits)
        if head in seen:
            return seen[head], key
        seen[head] = key
    raise AssertionError("no collision found")


def test_absence_is_shown_by_the_leaf_that_stands_in_the_way():
    known, absent = colliding_key(16)
    tree = StateTree().update({known: b"v", b"other": b"w"})
    proof = tree.prove(absent)
    assert proof.other is not None
    assert decode_state_proof(proof.encode()).verify(tree.root) is None
    both = tree.update({absent: b"u"})
    deep = both.prove(absent)
    assert deep.siblings.count(EMPTY_HASH) >= 10, "keys that share 16 bits have empty siblings"
    assert decode_state_proof(deep.encode()).verify(both.root) == b"u"
    with pytest.raises(VerificationError):
        proof.verify(both.root)


def test_absence_by_a_leaf_from_elsewhere_is_refused():
    tree = StateTree().update({bytes((number,)): b"v" for number in range(8)})
    for key in (b"a", b"b", b"c", b"d"):
        honest = tree.prove(key)
        stranger = next(tree.prove(bytes((n,))) for n in range(8))
        forged = StateProof(
            key=key,
            value=None,
            siblings=honest.siblings,
            other=(sha256(stranger.key), sha256(b"v")),
        )
        if honest.other != forged.other:
            with pytest.raises(VerificationError):
                forged.verify(tree.root)


def test_a_leaf_does_not_prove_its_own_absence():
    tree = StateTree().update({b"a": b"v"})
    forged = StateProof(key=b"a", value=None, siblings=(), other=(sha256(b"a"), sha256(b"v")))
    with pytest.raises(VerificationError, match="from elsewhere"):
        forged.verify(tree.root)
    both = StateProof(key=b"a", value=b"v", siblings=(), other=(sha256(b"b"), sha256(b"v")))
    with pytest.raises(VerificationError, match="another leaf"):
        both.verify(tree.root)


def test_proofs_are_bounded_in_depth():
    deep = StateProof(key=b"a", value=b"v", siblings=(EMPTY_HASH,) * 257)
    with pytest.raises(VerificationError, match="257 levels"):
        deep.root()


def alter(proof: bytes, **changes: object) -> bytes:
    value = decode_canonical(proof, bytes_max=PROOF_BYTES_MAX)
    assert isinstance(value, dict)
    value.update({int(key[1:]): item for key, item in changes.items()})
    return encode_canonical(value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_2": 3}, "differ in number"),
        ({"_2": 257}, "between 0 and 256"),
        ({"_3": b""}, "bitmap of 0 bytes"),
        ({"_3": b"\x01"}, "beyond the depth"),
        ({"_3": b"\x80"}, "differ in number"),
        ({"_4": [bytes(EMPTY_HASH), bytes(32)]}, "spelled out"),
        ({"_4": [b"short", bytes(32)]}, "32 bytes"),
        ({"_6": 1}, "unknown critical field 6"),
        ({"_5": [bytes(32)]}, "array of 2"),
        ({"_1": 7}, "byte string"),
        ({"_0": bytes(257)}, "at most 256"),
    ],
)
def test_each_proof_has_one_encoding(changes, message):
    siblings = (sha256(b"1"), sha256(b"2"))
    raw = StateProof(key=b"a", value=b"v", siblings=siblings).encode()
    assert decode_state_proof(raw).siblings == siblings
    with pytest.raises(EncodingError, match=message):
        decode_state_proof(alter(raw, **changes))


def test_extensions_of_a_proof_are_refused():
    raw = StateProof(key=b"a", value=b"v", siblings=()).encode()
    value = decode_canonical(raw, bytes_max=PROOF_BYTES_MAX)
    with pytest.raises(EncodingError, match="extensions"):
        decode_state_proof(encode_canonical({**value, -1: 0}))


@pytest.mark.slow
def test_ten_thousand_keys_cost_logarithmic_updates():
    tree = StateTree().update({number.to_bytes(4, "big"): b"v" * 40 for number in range(10_000)})
    before = {id(node) for node in nodes(tree)}
    after = tree.update({b"one more": b"v"})
    fresh = [node for node in nodes(after) if id(node) not in before]
    assert len(fresh) <= 40, "an update must share what it does not change"
    assert len(tree.prove(b"one more").encode()) < 700


def nodes(tree: StateTree) -> list[object]:
    found: list[object] = []
    pending = [tree._root]
    while pending:
        node = pending.pop()
        if node is not None:
            found.append(node)
            pending += [getattr(node, "left", None), getattr(node, "right", None)]
    return found
