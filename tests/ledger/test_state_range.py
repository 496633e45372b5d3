"""Pages of the state: complete, in order, of one root; everything else is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.state_range import (
    FIRST_PATH,
    PAGE_BYTES_MAX,
    PAGE_ENCODED_MAX,
    PAGE_LEAVES_MAX,
    StatePage,
    decode_state_page,
    make_page,
)
from ledger.state_tree import EMPTY_HASH, StateTree
from protocol.digest import Digest, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, VerificationError
from tests.support.range_vectors import build_vectors

CONTENTS = st.dictionaries(st.binary(max_size=2), st.binary(max_size=4), max_size=40)
STARTS = st.binary(min_size=32, max_size=32) | st.sampled_from([bytes(32), b"\xff" * 32])
TREE = StateTree().update({b"%d" % number: b"v%d" % number for number in range(300)})
BY_PATH = sorted(dict(TREE.items()), key=sha256)


def pull(tree: StateTree, bytes_max: int, start: bytes = FIRST_PATH) -> list[StatePage]:
    pages = []
    while start is not None:
        page = decode_state_page(make_page(tree, start, bytes_max=bytes_max).encode())
        page.verify(tree.root, start)
        pages.append(page)
        start = page.next_start()
    return pages


@given(CONTENTS, st.integers(1, 200), STARTS)
@settings(max_examples=60, deadline=None)
def test_pages_together_are_the_state_from_any_start(contents, bytes_max, start):
    tree = StateTree().update(contents)
    leaves = [leaf for page in pull(tree, bytes_max, start) for leaf in page.leaves]
    expected = sorted(contents.items(), key=lambda item: sha256(item[0]))
    assert leaves == [item for item in expected if sha256(item[0]) >= start]


@given(CONTENTS, st.integers(1, 200), STARTS, st.data())
@settings(max_examples=80, deadline=None)
def test_a_changed_page_is_refused_or_says_the_same(contents, bytes_max, start, data):
    tree = StateTree().update(contents)
    page = make_page(tree, start, bytes_max=bytes_max)
    raw = bytearray(page.encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        altered = decode_state_page(bytes(raw))
        altered.verify(tree.root, start)
    except VerificationError:
        return
    raise AssertionError(f"accepted {altered} for {page}")


def middle_page(count: int = 20) -> tuple[StatePage, Digest]:
    start = sha256(BY_PATH[100])
    page = make_page(TREE, start, bytes_max=count * 15)
    page.verify(TREE.root, start)
    assert len(page.leaves) > 5
    assert not page.is_last
    return page, start


def refuse(page: StatePage, start: bytes, match: str, root: bytes = TREE.root) -> None:
    with pytest.raises(VerificationError, match=match):
        page.verify(root, start)


def test_every_omitted_key_is_noticed():
    page, start = middle_page()
    for index in range(len(page.leaves)):
        leaves = page.leaves[:index] + page.leaves[index + 1 :]
        refuse(replace(page, leaves=leaves), start, "state page")
        refuse(replace(page, leaves=leaves, is_last=True), start, "state page")


def test_changed_values_and_keys_are_noticed():
    page, start = middle_page()
    for index, (key, value) in enumerate(page.leaves):
        for leaf in ((key, value + b"x"), (key, b""), (b"other", value)):
            leaves = (*page.leaves[:index], leaf, *page.leaves[index + 1 :])
            refuse(replace(page, leaves=leaves), start, "state page")


def test_wrong_order_and_duplicates_are_noticed():
    page, start = middle_page()
    swapped = (page.leaves[1], page.leaves[0], *page.leaves[2:])
    refuse(replace(page, leaves=swapped), start, "not ascending")
    refuse(replace(page, leaves=(page.leaves[0], *page.leaves)), start, "not ascending")


def test_added_keys_are_noticed():
    page, start = middle_page()
    last = sha256(page.leaves[-1][0])
    for number in range(2000):
        key = b"new %d" % number
        if start <= sha256(key) < last:
            leaves = sorted((*page.leaves, (key, b"v")), key=lambda leaf: sha256(leaf[0]))
            refuse(replace(page, leaves=tuple(leaves)), start, "state page leads")
            return
    raise AssertionError("no key within the range found")


def test_a_truncated_run_cannot_pass_for_the_rest():
    page, start = middle_page()
    refuse(replace(page, is_last=True), start, "state page")
    refuse(replace(page, leaves=page.leaves[:-1]), start, "state page")
    empty = StatePage(leaves=(), is_last=True, parts=page.parts)
    refuse(empty, start, "state page")
    refuse(StatePage(leaves=(), is_last=True, parts=(TREE.root,)), start, "state page")


def test_a_page_counts_for_its_own_start_only():
    page, _ = middle_page()
    refuse(page, sha256(BY_PATH[99]), "state page")
    refuse(page, sha256(BY_PATH[101]), "before the start")
    refuse(page, FIRST_PATH, "state page")


def test_a_page_counts_for_its_own_root_only():
    page, start = middle_page()
    other = TREE.update({BY_PATH[100]: b"changed"})
    outside = TREE.update({BY_PATH[5]: b"changed"})
    refuse(page, start, "expected root", root=other.root)
    refuse(page, start, "expected root", root=outside.root)
    refuse(page, start, "expected root", root=b"")


def test_parts_too_many_too_few_or_changed_are_noticed():
    page, start = middle_page()
    for extra in (None, 0, 1, 2, sha256(b"x"), (sha256(b"p"), sha256(b"v"))):
        refuse(replace(page, parts=(*page.parts, extra)), start, "more parts")
        refuse(replace(page, parts=(extra, *page.parts)), start, "state page")
    for index, part in enumerate(page.parts):
        refuse(replace(page, parts=page.parts[:index] + page.parts[index + 1 :]), start, "state")
        for other in (None, 0, 1, 2, sha256(b"x"), (sha256(b"p"), sha256(b"v"))):
            if other != part:
                parts = (*page.parts[:index], other, *page.parts[index + 1 :])
                refuse(replace(page, parts=parts), start, "state page")


def test_a_leaf_cannot_be_hidden_as_one_that_is_not_listed():
    """Path and value hash of a leaf within the range must not stand in for the leaf."""
    tree = StateTree().update({b"only": b"v"})
    page = make_page(tree, sha256(b"only"))
    assert page.leaves == ((b"only", b"v"),)
    hidden = StatePage(leaves=(), is_last=True, parts=((sha256(b"only"), sha256(b"v")),))
    refuse(hidden, sha256(b"only"), "breaks off", root=tree.root)
    refuse(hidden, FIRST_PATH, "more parts", root=tree.root)
    beyond = Digest((int.from_bytes(sha256(b"only"), "big") + 1).to_bytes(32, "big"))
    hidden.verify(tree.root, beyond)


def test_the_empty_state_has_one_page():
    page = make_page(StateTree(), FIRST_PATH)
    assert page == StatePage(leaves=(), is_last=True, parts=())
    page.verify(EMPTY_HASH, FIRST_PATH)
    make_page(StateTree(), sha256(b"x")).verify(EMPTY_HASH, sha256(b"x"))


def test_pages_keep_their_bounds():
    big = StateTree().update({b"%d" % number: bytes(16 * 1024) for number in range(40)})
    for page in pull(big, PAGE_BYTES_MAX):
        assert sum(len(key) + len(value) for key, value in page.leaves) <= PAGE_BYTES_MAX
        assert len(page.encode()) <= PAGE_ENCODED_MAX
    small = StateTree().update({b"%d" % number: b"" for number in range(PAGE_LEAVES_MAX + 2)})
    assert [len(page.leaves) for page in pull(small, PAGE_BYTES_MAX)] == [PAGE_LEAVES_MAX, 2]
    assert len(pull(big, 1)) == 40, "one leaf always fits"


def test_a_proof_is_short():
    page, _ = middle_page()
    assert len(page.parts) <= 4 * 16
    assert page.parts.count(1) <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({0: []}, "no leaves"),
        ({0: [[b"k"]]}, "array of 2"),
        ({0: [[bytes(257), b"v"]]}, "at most 256"),
        ({0: [[b"k", bytes(16 * 1024 + 1)]]}, "at most 16384"),
        ({0: [[b"%d" % n, bytes(16 * 1024)] for n in range(17)]}, "at most 262144"),
        ({0: [[b"%d" % n, b""] for n in range(PAGE_LEAVES_MAX + 1)]}, "0 to 2048 items"),
        ({1: 1}, "boolean"),
        ({2: [3]}, "integer of 0 to 2"),
        ({2: [bytes(31)]}, "32 bytes"),
        ({2: [bytes(EMPTY_HASH)]}, "spelled out"),
        ({2: [[bytes(32)]]}, "array of 2"),
        ({2: [0] * 1026}, "0 to 1025 items"),
        ({3: 0}, "unknown critical field 3"),
        ({-1: 0}, "extensions"),
    ],
)
def test_each_page_has_one_encoding(changes: dict[int, Any], message: str):
    page, _ = middle_page()
    value = decode_canonical(page.encode(), bytes_max=PAGE_ENCODED_MAX)
    assert isinstance(value, dict)
    with pytest.raises(EncodingError, match=message):
        decode_state_page(encode_canonical({**value, **changes}))


def test_vectors_are_reproduced():
    path = Path(__file__).parents[1] / "vectors" / "ledger" / "range.json"
    assert json.loads(path.read_text()) == build_vectors()


def test_vectors_hold():
    path = Path(__file__).parents[1] / "vectors" / "ledger" / "range.json"
    for vector in json.loads(path.read_text())["vectors"]:
        raw, root = bytes.fromhex(vector["page"]), bytes.fromhex(vector["root"])
        try:
            page = decode_state_page(raw)
            page.verify(root, bytes.fromhex(vector["start"]))
        except VerificationError:
            assert vector["is_valid"] is False, vector["name"]
        else:
            assert vector["is_valid"] is True, vector["name"]
            assert [key.hex() for key, _ in page.leaves] == vector["keys"]
