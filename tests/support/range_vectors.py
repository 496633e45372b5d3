"""Vectors of range proofs; `python -m tests.support.range_vectors` writes the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ledger.state_range import FIRST_PATH, StatePage, make_page
from ledger.state_tree import StateTree
from protocol.digest import Digest, sha256


def _vector(name: str, root: bytes, start: bytes, page: StatePage, *, is_valid: bool) -> Any:
    return {
        "name": name,
        "root": root.hex(),
        "start": start.hex(),
        "page": page.encode().hex(),
        "is_valid": is_valid,
        "keys": [key.hex() for key, _ in page.leaves],
    }


def _vectors() -> Iterator[Any]:
    tree = StateTree().update({b"key %d" % number: b"value %d" % number for number in range(12)})
    order = sorted((key for key, _ in tree.items()), key=sha256)
    whole = make_page(tree, FIRST_PATH)
    start = sha256(order[3])
    page = make_page(tree, start, bytes_max=90)
    rest = make_page(tree, page.next_start() or b"")
    end = Digest(b"\xff" * 32)
    yield _vector(
        "empty state",
        StateTree().root,
        FIRST_PATH,
        make_page(StateTree(), FIRST_PATH),
        is_valid=True,
    )
    yield _vector("whole state", tree.root, FIRST_PATH, whole, is_valid=True)
    yield _vector("from the fourth leaf", tree.root, start, page, is_valid=True)
    yield _vector("what follows it", tree.root, page.next_start() or b"", rest, is_valid=True)
    yield _vector("nothing follows", tree.root, end, make_page(tree, end), is_valid=True)
    leaves = page.leaves
    bad = {
        "first leaf left out": replace(page, leaves=leaves[1:]),
        "last leaf left out": replace(page, leaves=leaves[:-1]),
        "inner leaf left out": replace(page, leaves=(leaves[0], *leaves[2:])),
        "changed value": replace(page, leaves=((leaves[0][0], b"changed"), *leaves[1:])),
        "wrong order": replace(page, leaves=(leaves[1], leaves[0], *leaves[2:])),
        "a leaf twice": replace(page, leaves=(leaves[0], *leaves)),
        "called the last page": replace(page, is_last=True),
        "one part more": replace(page, parts=(*page.parts, None)),
        "one part less": replace(page, parts=page.parts[:-1]),
    }
    for name, changed in bad.items():
        yield _vector(name, tree.root, start, changed, is_valid=False)
    yield _vector("another start", tree.root, FIRST_PATH, page, is_valid=False)
    yield _vector("another root", tree.update({b"key 0": b""}).root, start, page, is_valid=False)


def build_vectors() -> dict[str, Any]:
    """The document, from the code."""
    return {"format": "docs/spec/state-sync.md, Y10 to Y17", "vectors": list(_vectors())}


if __name__ == "__main__":
    TARGET = Path(__file__).parents[1] / "vectors" / "ledger" / "range.json"
    TARGET.write_text(json.dumps(build_vectors(), indent=1) + "\n")
