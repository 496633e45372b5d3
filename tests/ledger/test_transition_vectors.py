"""The pinned vectors: reproduced from their labels, and replayed as an outsider would."""

from __future__ import annotations

import json

import pytest

from ledger.errors import LedgerError
from ledger.proof_verify import verify_authorisation
from ledger.state_tree import StateTree
from ledger.transition.block import apply_block
from ledger.transition.context import BlockContext
from ledger.transition.envelope import read_transaction
from ledger.transition.genesis import genesis_block, genesis_outcome, genesis_validators
from ledger.transition.kinds import KINDS
from ledger.vote import Ed25519Verifier
from protocol.digest import sha256
from protocol.genesis import decode_genesis
from tests.support import ledger_vectors


def committed(name):
    return json.loads((ledger_vectors.DIRECTORY / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        "genesis.json",
        "transactions.json",
        "rollout.json",
        "defence.json",
        "contracts.json",
        "rules.json",
        "proof.json",
    ],
)
def test_the_generator_reproduces_every_file(name):
    text = (ledger_vectors.DIRECTORY / name).read_text(encoding="utf-8")
    assert ledger_vectors.render(ledger_vectors.build()[name]) == text


def test_no_file_is_without_a_generator():
    found = sorted(path.name for path in ledger_vectors.DIRECTORY.glob("*.json"))
    assert found == sorted([*ledger_vectors.build(), "range.json"])


def test_genesis_gives_the_pinned_state_and_header():
    vector = committed("genesis.json")
    genesis = decode_genesis(bytes.fromhex(vector["genesis"]))
    state = genesis_outcome(genesis).state
    assert genesis.chain.hex() == vector["chain"]
    contents = {bytes.fromhex(k): bytes.fromhex(v) for k, v in vector["state"].items()}
    assert dict(state.tree.items()) == contents
    assert StateTree().update(contents).root.hex() == vector["state_root"]
    header = genesis_block(genesis, state).header
    assert (header.encoded.hex(), header.block_id.hex()) == (vector["header"], vector["block_id"])


def replay(vector):
    """Kinds that were accepted, and (code, pinned code) of what was refused."""
    genesis = decode_genesis(bytes.fromhex(vector["genesis"]))
    state, height = genesis_outcome(genesis).state, 0
    accepted, refused = [], []
    for step in vector["steps"]:
        context = BlockContext(
            chain=genesis.chain,
            era=genesis.era,
            height=height + 1,
            time_ms=step["time_ms"],
            validators=genesis_validators(genesis),
        )
        raw = bytes.fromhex(step["transaction"])
        try:
            outcome = apply_block(state, context, [read_transaction(raw)], [], Ed25519Verifier())
        except LedgerError as error:
            refused.append((error.rule, step.get("refused")))
            continue
        state, height = outcome.state, context.height
        accepted.append(step["kind"])
        assert state.tree.root.hex() == step["state_root"]
        assert state.log.root.hex() == step["log_root"]
        written = {key.hex(): value.hex() for key, value in outcome.writes.items()}
        assert step["changed"].items() <= written.items()
    return accepted, refused


def test_transactions_replay_to_the_pinned_roots_and_codes():
    accepted, refused = replay(committed("transactions.json"))
    more, refused_rollouts = replay(committed("rollout.json"))
    access, refused_access = replay(committed("defence.json"))
    contracts, refused_contracts = replay(committed("contracts.json"))
    # Every kind is pinned by the conformance vectors; these show how kinds work together.
    assert {*accepted, *more, *access, *contracts} <= set(KINDS)
    assert refused_contracts
    assert all(code == pinned for code, pinned in refused_contracts)
    assert refused_access
    assert all(code == pinned for code, pinned in refused_access)
    assert refused_rollouts
    assert all(code == pinned for code, pinned in refused_rollouts)
    codes = ["tx.nonce", "manifest.sequence", "tx.signer_status"]
    assert refused == [(code, code) for code in codes]


def test_the_pinned_proof_file_is_believed():
    vector = committed("proof.json")
    genesis = decode_genesis(bytes.fromhex(vector["genesis"]))
    image = sha256(bytes.fromhex(vector["image"]))
    shown = verify_authorisation(bytes.fromhex(vector["proof"]), genesis, image)
    assert shown.manifest_id.hex() == vector["manifest_id"]
    assert (shown.group, shown.height) == (vector["group"], vector["height"])
    assert shown.time_ms == vector["time_ms"]
    assert sorted(shown.approvers) == vector["approvers"]
