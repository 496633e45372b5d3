"""The pinned vectors of identity: reproduced, and read as an outsider would."""

from __future__ import annotations

import json

import pytest

from ledger.errors import LedgerError
from ledger.transition.block import apply_block
from ledger.transition.context import BlockContext
from ledger.transition.envelope import read_transaction
from ledger.transition.genesis import genesis_outcome, genesis_validators
from ledger.vote import Ed25519Verifier
from protocol.digest import DidId
from protocol.enrolment_token import confirmation_code, parse_token, same_seat, seat_message
from protocol.genesis import decode_genesis
from tests.support import identity_vectors

FILES = ["documents.json", "tokens.json", "transactions.json"]


def committed(name):
    return json.loads((identity_vectors.DIRECTORY / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_the_generator_reproduces_every_file(name):
    text = (identity_vectors.DIRECTORY / name).read_text(encoding="utf-8")
    assert identity_vectors.render(identity_vectors.build()[name]) == text


def test_no_file_is_without_a_generator():
    found = sorted(path.name for path in identity_vectors.DIRECTORY.glob("*.json"))
    assert found == FILES


def test_the_pinned_tokens_give_their_seat():
    vector = committed("tokens.json")
    tokens = [parse_token(bytes.fromhex(raw)) for raw in vector["tokens"]]
    for token in tokens:
        token.verify()
    claims, did = same_seat(tokens), DidId(bytes.fromhex(vector["did"]))
    assert claims.seat.hex() == vector["seat"]
    message = seat_message(claims, did)
    assert message.hex() == vector["seat_message"]
    claims.holder.verify(bytes.fromhex(vector["proof"]), message)
    assert confirmation_code(claims, did) == vector["code"]


def test_transactions_replay_to_the_pinned_roots_and_codes():
    vector = committed("transactions.json")
    genesis = decode_genesis(bytes.fromhex(vector["genesis"]))
    state, height = genesis_outcome(genesis).state, 0
    kinds, codes = set(), []
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
            codes.append((error.rule, step.get("refused")))
            continue
        state, height = outcome.state, context.height
        kinds.add(step["kind"])
        assert state.tree.root.hex() == step["state_root"]
        assert state.log.root.hex() == step["log_root"]
    assert kinds == {
        *("did.create", "did.rotate", "did.suspend", "did.resume", "did.revoke"),
        *("did.recover", "did.claim", "did.certify"),
    }
    wanted = ["seat.taken", "seat.confirmation", "did.status", "did.waiting", "did.pending"]
    assert codes == [(code, code) for code in [*wanted, "did.status"]]
