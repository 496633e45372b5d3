"""The conformance vectors, by production and by the naive transition (docs/spec/conformance.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ledger.errors import LedgerError, LedgerNotYetError
from ledger.state import LedgerState
from ledger.transition.block import apply_block
from ledger.transition.context import BlockContext
from ledger.transition.envelope import read_transaction
from ledger.transition.genesis import genesis_outcome
from ledger.vote import Ed25519Verifier, decode_evidence
from protocol.genesis import decode_genesis
from tests.support import conformance_vectors
from tests.support.naive import block as naive
from tests.support.naive.world import Refused

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


def by_production(genesis: bytes, state: LedgerState, vector: dict[str, Any]) -> LedgerState:
    """The state after a vector's block; raises LedgerError."""
    validators = state.validators(state.epoch().epoch)
    assert validators is not None
    context = BlockContext(
        chain=decode_genesis(genesis).chain,
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
    genesis = bytes.fromhex(document["genesis"])
    states = {"genesis": genesis_outcome(decode_genesis(genesis)).state}
    for vector in document["vectors"]:
        try:
            state = by_production(genesis, states[vector["on"]], vector)
        except LedgerError as error:
            found = (error.rule, isinstance(error, LedgerNotYetError))
            assert found == (vector["refused"], vector["not_yet"]), vector["name"]
            continue
        assert state.tree.root.hex() == vector.get("state_root"), vector["name"]
        states[vector["name"]] = state


@pytest.mark.slow
@pytest.mark.parametrize("name", STORIES)
def test_the_naive_transition_conforms(name: str) -> None:
    document = json.loads(committed(name))
    genesis = bytes.fromhex(document["genesis"])
    worlds = {"genesis": naive.genesis(genesis)}
    first = genesis_outcome(decode_genesis(genesis)).state
    assert worlds["genesis"].store == dict(first.tree.items())
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
            found = (refused.code, refused.later)
            assert found == (vector["refused"], vector["not_yet"]), vector["name"]
            continue
        assert naive.state_root(world).hex() == vector.get("state_root"), vector["name"]
        worlds[vector["name"]] = world
