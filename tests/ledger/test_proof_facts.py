"""Facts about several keys: any set of them proves, and nothing about them can be changed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.proof_facts import FACTS_MAX, StateFact, StateFacts
from ledger.state_hash import EMPTY_HASH
from ledger.state_tree import StateTree
from protocol.digest import Digest, sha256
from protocol.encoding import decode_canonical, encode_canonical
from protocol.errors import EncodingError, LocalProtocolError, VerificationError
from tests.support.proofs import make_world
from tests.support.strategies import many

KEYS = [b"key %d" % number for number in range(40)]
CDDL = (Path(__file__).parents[2] / "docs" / "spec" / "swarmd.cddl").read_text(encoding="utf-8")


def tree_of(*numbers: int) -> StateTree:
    return StateTree().update({KEYS[number]: b"value %d" % number for number in numbers})


def facts_of(tree: StateTree, *numbers: int) -> StateFacts:
    return StateFacts.of([tree.prove(KEYS[number]) for number in numbers])


@many
@given(
    held=st.sets(st.integers(0, 39), max_size=30),
    asked=st.sets(st.integers(0, 39), min_size=1, max_size=20),
)
def test_any_facts_of_any_tree_are_shown(held: set[int], asked: set[int]) -> None:
    tree = tree_of(*sorted(held))
    facts = facts_of(tree, *sorted(asked))
    read = StateFacts.from_value(
        decode_canonical(encode_canonical(facts.to_value()), bytes_max=1 << 20)
    )
    assert read == facts
    shown = read.verify(tree.root)
    assert shown == {KEYS[n]: b"value %d" % n if n in held else None for n in asked}
    spelled = sum(len(tree.prove(KEYS[n]).siblings) for n in asked)
    assert len(facts.siblings) <= spelled


@many
@given(
    held=st.sets(st.integers(0, 39), min_size=1, max_size=30),
    asked=st.sets(st.integers(0, 39), min_size=1, max_size=6),
    data=st.data(),
)
def test_nothing_about_facts_can_be_changed(
    held: set[int], asked: set[int], data: st.DataObject
) -> None:
    tree = tree_of(*sorted(held))
    facts = facts_of(tree, *sorted(asked))
    place = data.draw(st.integers(0, len(facts.facts) - 1))
    fact = facts.facts[place]
    changes: list[StateFact] = [replace(fact, depth=fact.depth + 1), replace(fact, value=b"other")]
    if fact.value is not None:
        changes.append(replace(fact, value=None))
        changes.append(replace(fact, value=None, other=(fact.path, sha256(fact.value))))
    elif fact.other is not None:
        changes.append(replace(fact, other=None))
        changes.append(replace(fact, other=(fact.other[0], sha256(b"x"))))
    changed = data.draw(st.sampled_from(changes))
    forged = replace(facts, facts=(*facts.facts[:place], changed, *facts.facts[place + 1 :]))
    with pytest.raises(VerificationError):
        forged.verify(tree.root)
    extra = replace(facts, siblings=(*facts.siblings, Digest(bytes(32))))
    with pytest.raises(VerificationError, match="left over"):
        extra.verify(tree.root)
    if facts.siblings:
        with pytest.raises(VerificationError):
            replace(facts, siblings=facts.siblings[:-1]).verify(tree.root)


def test_facts_that_contradict_each_other_are_refused() -> None:
    tree = tree_of(1)
    (fact,) = facts_of(tree, 1).facts
    other = (fact.path, sha256(b"value 1"))
    absent = StateFact(key=KEYS[2], value=None, depth=0, other=other)
    both = tuple(sorted((fact, absent), key=lambda item: item.path))
    assert StateFacts(facts=both, siblings=()).verify(tree.root)[KEYS[2]] is None
    lying = tuple(replace(f, other=None) if f is absent else f for f in both)
    with pytest.raises(VerificationError, match="contradict"):
        StateFacts(facts=lying, siblings=()).verify(tree.root)
    own = StateFact(key=KEYS[1], value=None, depth=0, other=other)
    with pytest.raises(VerificationError, match="from elsewhere"):
        StateFacts(facts=(own,), siblings=()).verify(tree.root)


def test_a_path_has_256_levels_and_no_more() -> None:
    deep = StateFact(key=b"k", value=b"v", depth=256)
    siblings = (Digest(bytes(32)),) * 256
    StateFacts(facts=(deep,), siblings=siblings).root()
    endless = StateFact(key=b"k", value=b"v", depth=257)
    with pytest.raises(VerificationError, match="deeper"):
        StateFacts(facts=(endless,), siblings=siblings).root()


def test_only_one_to_thirty_two_facts_go_together() -> None:
    tree = tree_of(1)
    with pytest.raises(LocalProtocolError):
        StateFacts.of([])
    with pytest.raises(LocalProtocolError):
        facts_of(tree, *range(FACTS_MAX + 1))


@pytest.mark.parametrize(
    "change",
    [
        {0: []},
        {1: 5000},
        {1: 0},
        {2: b""},
        {2: b"\x00\xff"},
        {3: b"short"},
        {3: EMPTY_HASH},
        {0: [[b"k", b"v", 257]]},
        {0: [[b"k", b"v", 1, bytes(32), bytes(32)]]},
        {0: [[b"k", None, 1, bytes(32)]]},
        {0: [[b"k", None, 1, bytes(31), bytes(32)]]},
        {0: [[b"k", 5, 1]]},
        {0: [[bytes(257), b"v", 1]]},
    ],
)
def test_malformed_facts_are_refused(change: dict[int, object]) -> None:
    value = list(facts_of(tree_of(1, 2, 3), 1).to_value())  # type: ignore[arg-type]
    for place, item in change.items():
        value[place] = item
    with pytest.raises(EncodingError):
        StateFacts.from_value(value)


def test_facts_stand_in_one_order() -> None:
    value = list(facts_of(tree_of(1, 2, 3), 1, 2).to_value())  # type: ignore[arg-type]
    for order in (value[0][::-1], [value[0][0]] * 2):
        with pytest.raises(EncodingError, match="ascending"):
            StateFacts.from_value([order, *value[1:]])


@pytest.mark.slow
def test_the_cddl_describes_every_kind_of_proof_file() -> None:
    pycddl = pytest.importorskip("pycddl", reason="needs pycddl")
    plain = re.sub(r"bytes \.cbor [a-z-]+", "bytes", CDDL)
    # The checker trips over a choice of arrays within an array; facts are checked above.
    facts = r"state-fact = .*?(?=state-facts = )"
    plain = re.sub(facts, "state-fact = any\n", plain, flags=re.DOTALL)
    schema = pycddl.Schema(f"root = proof-file\n{plain}")
    for data in make_world().files.values():
        schema.validate_cbor(data)
