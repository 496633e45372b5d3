"""The pinned patch objects: reproduced, and read as an outsider would."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chunks.byte_source import BytesSource
from chunks.patch import PatchError, PatchReader, read_patch
from protocol.digest import sha256
from tests.support.patch_vectors import PATH, render

DOCUMENT: dict[str, Any] = json.loads(PATH.read_text(encoding="ascii"))
BASE = BytesSource(bytes.fromhex(DOCUMENT["base"]))


def read(patch: str, target_bytes: int) -> bytes:
    source = BytesSource(bytes.fromhex(patch))
    table = read_patch(source, target_bytes=target_bytes, base_bytes=BASE.size_bytes)
    return PatchReader(table, patch=source, base=BASE).read(0, target_bytes)


def test_the_vectors_are_what_the_code_writes() -> None:
    assert PATH.read_text(encoding="ascii") == render()


@pytest.mark.parametrize("case", DOCUMENT["made"], ids=lambda case: case["name"])
def test_each_patch_makes_its_target(case: dict[str, str]) -> None:
    target = bytes.fromhex(case["target"])
    assert read(case["patch"], len(target)) == target
    assert sha256(target).hex() == case["sha256"]


@pytest.mark.parametrize("case", DOCUMENT["refused"], ids=lambda case: case["name"])
def test_what_breaks_a_line_is_refused(case: dict[str, str]) -> None:
    with pytest.raises(PatchError):
        read(case["patch"], 197)
