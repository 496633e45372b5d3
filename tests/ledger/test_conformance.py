"""The conformance vectors, by production and by the naive transition (docs/spec/conformance.md)."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.state import LedgerState
from ledger.transition.block import apply_block
from ledger.transition.context import BlockContext
from ledger.transition.envelope import read_transaction
from ledger.transition.genesis import genesis_outcome
from ledger.transition.kinds import KINDS, PROTECTING_KINDS
from ledger.vote import Ed25519Verifier, decode_evidence
from protocol.digest import ChainId
from protocol.genesis import decode_genesis
from tests.support import conformance_vectors
from tests.support.conformance.walks import Walk
from tests.support.naive import block as naive
from tests.support.naive.bodies import BODIES, PROTECTING
from tests.support.naive.cbor import Malformed, decode
from tests.support.naive.transaction import read_transaction as read_naively
from tests.support.naive.world import Refused, World

ROOT = Path(__file__).parents[2]
STORIES = sorted(conformance_vectors.STORIES)


def committed(name: str) -> str:
    return (conformance_vectors.DIRECTORY / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_the_generator_reproduces_every_file(name: str) -> None:
    assert conformance_vectors.build(name) == committed(name)


def test_no_file_is_without_a_generator() -> None:
    found = sorted(path.stem for path in conformance_vectors.DIRECTORY.glob("*.json"))
    assert found == STORIES


def blobs(vector: dict[str, Any], what: str) -> list[bytes]:
    return [bytes.fromhex(raw) for raw in vector[what]]


def by_production(chain: ChainId, state: LedgerState, vector: dict[str, Any]) -> LedgerState:
    """The state after a vector's block; raises LedgerError."""
    validators = state.validators(state.epoch().epoch)
    assert validators is not None
    context = BlockContext(
        chain=chain,
        era=0,
        height=vector["height"],
        time_ms=vector["time_ms"],
        validators=validators,
    )
    transactions = [read_transaction(raw) for raw in blobs(vector, "transactions")]
    evidence = [decode_evidence(raw) for raw in blobs(vector, "evidence")]
    return apply_block(state, context, transactions, evidence, Ed25519Verifier()).state


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_production_conforms(name: str) -> None:
    document = json.loads(committed(name))
    genesis = decode_genesis(bytes.fromhex(document["genesis"]))
    states = {"genesis": genesis_outcome(genesis).state}
    for vector in document["vectors"]:
        try:
            state = by_production(genesis.chain, states[vector["on"]], vector)
        except LedgerError as error:
            found = (error.rule, isinstance(error, LedgerNotYetError))
            assert found == (vector["refused"], vector["not_yet"]), vector["name"]
            continue
        assert state.tree.root.hex() == vector.get("state_root"), vector["name"]
        states[vector["name"]] = state


def naive_disagreements(name: str) -> list[str]:
    """Names of the vectors of a file that the naive transition answers otherwise."""
    document = json.loads(committed(name))
    worlds = {"genesis": naive.genesis(bytes.fromhex(document["genesis"]))}
    found = []
    for vector in document["vectors"]:
        try:
            world = naive.apply_block(
                worlds[vector["on"]],
                height=vector["height"],
                time_ms=vector["time_ms"],
                transactions=blobs(vector, "transactions"),
                evidence=blobs(vector, "evidence"),
            )
        except Refused as refused:
            answer = (None, refused.code, refused.later)
        else:
            answer = (naive.state_root(world).hex(), None, None)
            worlds[vector["name"]] = world
        expected = (vector.get("state_root"), vector.get("refused"), vector.get("not_yet"))
        if answer != expected:
            found.append(f"{vector['name']}: {answer}, expected {expected}")
            worlds.setdefault(vector["name"], worlds[vector["on"]])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_the_naive_transition_conforms(name: str) -> None:
    genesis = bytes.fromhex(json.loads(committed(name))["genesis"])
    first = genesis_outcome(decode_genesis(genesis)).state
    assert naive.genesis(genesis).store == dict(first.tree.items())
    assert naive_disagreements(name) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "defect", "story"),
    [
        ("world.World.check_newer", lambda *_: None, "policies"),
        ("world.World.after", lambda world, _: world.now, "keys"),
        ("validators.close_epoch", lambda _: None, "epochs"),
        ("manifests._in_freeze", lambda *_: False, "decisions"),
        ("rollouts._capped", lambda good, bad: (good, bad), "failures"),
        ("defence.marks", lambda _, did, __: [did], "opinions"),
        ("rules.in_window", lambda *_: True, "rules"),
        ("block._growth", lambda *_: 0, "envelope"),
    ],
)
def test_a_defect_is_noticed(
    monkeypatch: pytest.MonkeyPatch, place: str, defect: Callable[..., Any], story: str
) -> None:
    """An implementation with one rule wrong does not pass."""
    monkeypatch.setattr(f"tests.support.naive.{place}", defect)
    assert naive_disagreements(story)


# What the vectors cover.

UNREACHED = {
    "tx.share": "64 MiB of one signer",
    "tx.tenant_rate": "72,000 transactions in an hour",
    "tx.tenant_share": "256 MiB of one tenant",
    "approval.full": "more than 128 keys, through several owner roots",
    "pause.full": "more than 64 emergency keys, through several owner roots",
    "group.children": "more than 200 groups",
}
"""Codes that take more bytes than a vector is worth; the tests of their areas reach them."""
SOURCES = ("ledger/transition", "ledger/rules", "ledger/contradiction.py")
RAISERS = ("LedgerError", "LedgerNotYetError", "_require_equal")


def codes_in_source() -> set[str]:
    """First arguments of errors that the transition raises."""
    found = set()
    for place in SOURCES:
        path = ROOT / place
        for file in [path] if path.suffix else sorted(path.glob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) in RAISERS:
                    first = node.args[0]
                    if isinstance(first, ast.Constant) and isinstance(first.value, str):
                        found.add(first.value)
    return found


def every_vector() -> list[dict[str, Any]]:
    return [vector for name in STORIES for vector in json.loads(committed(name))["vectors"]]


def test_every_code_is_reached_or_has_a_reason_not_to_be() -> None:
    reached = {vector["refused"] for vector in every_vector() if "refused" in vector}
    expected = codes_in_source()
    assert len(expected) > 100, "the scan finds the codes"
    assert expected - reached == set(UNREACHED), "codes without a vector"
    assert reached <= expected, "codes that the scan does not know"


def test_every_kind_is_accepted_and_refused() -> None:
    accepted, refused = set(), set()
    for vector in every_vector():
        for raw in blobs(vector, "transactions"):
            try:
                kind = read_naively(raw).content[5]
            except Malformed:
                continue  # bytes that are no transaction have no kind
            (refused if "refused" in vector else accepted).add(kind)
    assert accepted == set(KINDS) == set(BODIES) == set(naive.KINDS)
    assert refused >= set(KINDS)
    assert set(PROTECTING_KINDS) == PROTECTING


def rules_and_truths() -> list[tuple[Any, bool]]:
    """Each rule of `rules.json`, and whether it let a manifest pass."""
    vectors = {vector["name"]: vector for vector in json.loads(committed("rules"))["vectors"]}
    found = []
    for name, vector in vectors.items():
        if name.startswith("rule: "):
            (raw,) = blobs(vector, "transactions")
            policy = decode(read_naively(raw).content[6][1], 8192)
            outcome = vectors[name.replace("rule: ", "settling: ")]["refused"]
            found.append((policy[9], outcome == "manifest.settled"))
    return found


def test_every_operator_is_seen_true_and_false() -> None:
    cases = rules_and_truths()
    for kind in range(1, 11):
        truths = {truth for rule, truth in cases if rule[0] == kind}
        assert truths == {True, False}, f"node {kind}"
    for comparison in range(1, 7):
        seen = {truth for rule, truth in cases if rule[0] == 5 and rule[2] == comparison}
        assert seen == {True, False}, f"comparison {comparison}"
    for field in range(1, 18):
        seen = {truth for rule, truth in cases if rule[0] == 5 and rule[1] == field}
        assert seen == {True, False}, f"field {field}"
    for kind, what in ((8, "moment"), (9, "event")):
        numbers = {rule[1] for rule, _ in cases if rule[0] == kind}
        assert numbers == {1, 2, 3}, what


def test_the_naive_transition_shares_no_code_with_production() -> None:
    folder = Path(naive.__file__).parent
    for file in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif not isinstance(node, ast.Import):
                continue
            for name in names:
                assert name.split(".")[0] not in ("ledger", "protocol", "chunks", "swarmd"), file


# Both transitions on random sequences.

WALKS, STEPS = 24, 40
"""Sequences and transactions of each: about five seconds; ten thousand transactions were tried."""


def production_step(walk: Walk, raw: bytes) -> tuple[LedgerState | None, tuple[str, bool] | None]:
    try:
        return walk.bench.execute([raw]), None
    except LedgerError as error:
        return None, (error.rule, isinstance(error, LedgerNotYetError))


def naive_step(walk: Walk, world: World, raw: bytes) -> tuple[World, tuple[str, bool] | None]:
    height, time_ms = walk.bench.height + 1, walk.bench.time_ms + 1000
    try:
        return (
            naive.apply_block(
                world, height=height, time_ms=time_ms, transactions=[raw], evidence=[]
            ),
            None,
        )
    except Refused as refused:
        return world, (refused.code, refused.later)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(WALKS))
def test_both_transitions_agree_on_random_sequences(seed: int) -> None:
    walk = Walk(seed)
    world = naive.genesis(walk.lab.genesis.encode())
    accepted = 0
    for step in range(STEPS):
        raw = walk.step()
        state, refusal = production_step(walk, raw)
        world, naive_refusal = naive_step(walk, world, raw)
        assert refusal == naive_refusal, f"seed {seed}, step {step}: {raw.hex()}"
        if state is None:
            continue
        assert naive.state_root(world) == state.tree.root, f"seed {seed}, step {step}: {raw.hex()}"
        walk.accept(raw, state)
        accepted += 1
    assert accepted >= 5, "the sequence says something"
