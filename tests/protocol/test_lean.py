"""Cheap values behave as frozen ones do, but for assignments, which the type checker finds."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.digest import ManifestId
from protocol.exchange_messages import Request
from protocol.lean import lean
from protocol.runs import Runs


@lean
class Pair:
    one: int
    other: int = 2


def test_lean_values_are_equal_and_hash_by_what_they_hold() -> None:
    assert Pair(one=1) == Pair(one=1, other=2) != Pair(one=2)
    assert len(dict.fromkeys([Pair(one=1), Pair(one=1), Pair(one=2)])) == 2
    assert repr(Pair(one=1)).endswith("Pair(one=1, other=2)")


def test_lean_values_take_keywords_and_have_slots() -> None:
    pair: Any = Pair
    with pytest.raises(TypeError):
        pair(1)
    manifest_id = ManifestId(bytes(32))
    request: Any = Request(
        request_id=1, manifest_id=manifest_id, component=0, indices=Runs.run(0, 1)
    )
    with pytest.raises(AttributeError):
        request.another = 1
