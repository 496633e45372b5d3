"""Any body against rich states: nothing but a refusal may leave the transition, ever.

Whoever holds every key is the attacker here: signatures verify and approvals fit whatever they are
for, so that mutated bodies reach the depth of each rule. What is left must be refused or accepted
without any other exception, since that would stop every validator at one transaction.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.bodies.governance import SetCheckpoint
from ledger.bodies.validators import Accuse
from ledger.errors import LedgerError
from ledger.state import LedgerState
from ledger.state_keys import validators_key
from ledger.transition import approvals
from ledger.transition.block import apply_block
from ledger.transition.context import BlockContext
from ledger.transition.envelope import judge_body, read_transaction
from ledger.transition.genesis import genesis_block, genesis_outcome, genesis_validators
from ledger.transition.kinds import KINDS
from ledger.transition.validators import close_epoch
from ledger.validators import ValidatorSet
from ledger.vote import Ed25519Verifier
from protocol.approval import Action, SignedApproval, parse_approval
from protocol.encoding import INTEGER_MAX, decode_canonical, encode_canonical
from protocol.errors import EncodingError
from protocol.genesis import decode_genesis
from protocol.governance import checkpoint_digest
from protocol.keys import PublicKey
from protocol.transaction import SignedTransaction, parse_transaction, sign_transaction
from tests.support import epochs, ledger_vectors, subjects
from tests.support.ledger import Bench, make_key

FILES = ("transactions.json", "rollout.json", "defence.json", "contracts.json")
KEY = make_key("fuzz")
Case = tuple[LedgerState, SignedTransaction, BlockContext]


def pinned_cases() -> list[Case]:
    """Every transaction of the vectors with the state it met."""
    found: list[Case] = []
    for name in FILES:
        vector = json.loads((ledger_vectors.DIRECTORY / name).read_text())
        genesis = decode_genesis(bytes.fromhex(vector["genesis"]))
        state, height = genesis_outcome(genesis).state, 0
        for step in vector["steps"]:
            context = BlockContext(
                chain=genesis.chain,
                era=genesis.era,
                height=height + 1,
                time_ms=step["time_ms"],
                validators=genesis_validators(genesis),
            )
            signed = read_transaction(bytes.fromhex(step["transaction"]))
            found.append((state, signed, context))
            try:
                outcome = apply_block(state, context, [signed], [], Ed25519Verifier())
            except LedgerError:
                continue
            state, height = outcome.state, height + 1
    return found


def built_cases() -> list[Case]:
    """Kinds that those vectors have not: subjects' decisions, epochs and governance."""
    found: list[Case] = []

    def take(bench: Bench, signed: SignedTransaction) -> None:
        context = bench.lab.context(height=bench.height + 1, time_ms=bench.time_ms + 1000)
        found.append((bench.state, signed, context))
        bench.apply(signed)

    bench, member = subjects.make_shared_bench()
    take(bench, subjects.suspension(bench, member.did))
    take(bench, subjects.recovery(bench, member))
    take(bench, subjects.resumption(bench, member.did))
    subjects.wait(bench, 25 * 3_600_000)
    take(bench, subjects.claim(bench, member))
    take(bench, subjects.revocation(bench, member.did))
    lab = bench.lab
    until_ms = bench.time_ms + 3_600_000

    def governed(body: Any) -> None:
        take(bench, lab.transaction(lab.gateways[0], body, valid_until_ms=until_ms))

    newcomer = epochs.newcomer(0)
    certified = epochs.certify(lab, lab.validators[0], 2)
    take(bench, lab.transaction(lab.validators[0], certified, valid_until_ms=until_ms))
    governed(epochs.set_parameters(lab, 1, replace(lab.genesis.parameters, epoch_ms=3_600_000)))
    governed(epochs.upgrade(lab, 1, version=2, epoch=2))
    members = [newcomer, *lab.validators[1:]]
    governed(epochs.set_validators(lab, 1, members, joins=[newcomer]))
    keys = epochs.VoteKeys(lab.validators, epochs=2)
    governed(Accuse(evidence=keys.evidence(lab.validator_set, 2, lab)))
    header = genesis_block(lab.genesis, bench.state).header
    following = ValidatorSet(2, lab.validator_set.members)
    writes = {validators_key(2): following.encode()}
    bench.state = LedgerState(bench.state.tree.update(writes), bench.state.log)
    closing = replace(header, height=10, view=10, next_validators=following.digest)
    digest = checkpoint_digest(closing.height, closing.block_id)
    given = epochs.governance_approvals(lab, Action.CHECKPOINT, digest)
    governed(SetCheckpoint(header=closing.encoded, approvals=given))
    return found


@lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    return (*pinned_cases(), *built_cases())


@lru_cache(maxsize=1)
def material() -> tuple[Any, ...]:
    """Values that mean something somewhere: parts of all bodies, and edges of every type."""
    found: list[Any] = [0, 1, 2, 255, 2**31, INTEGER_MAX - 1, INTEGER_MAX, None, True, False]
    found += [b"", bytes(32), bytes(64), "", "governance", "no-such-group", "x" * 64, [], {}]
    for _, signed, context in cases():
        found += [context.time_ms, *parts(signed.transaction.body)]
    return tuple(found)


def parts(value: Any) -> list[Any]:
    """A value and all that is inside, encodings in byte strings included."""
    children: list[Any] = []
    if isinstance(value, dict):
        children = [part for item in value.values() for part in parts(item)]
    elif isinstance(value, (list, tuple)):
        children = [part for item in value for part in parts(item)]
    return [value, *children]


def inside(raw: bytes) -> Any:
    """What a byte string encodes, or None."""
    try:
        value = decode_canonical(raw, bytes_max=len(raw)) if len(raw) > 40 else None
    except EncodingError:
        return None
    return value if isinstance(value, (dict, list, tuple)) else None


def mutated(value: Any, draw: Any) -> Any:
    """A value with one part of it changed."""
    if isinstance(value, bytes) and (content := inside(value)) is not None and draw(0, 3):
        return encode_canonical(mutated(content, draw))
    if isinstance(value, dict) and value and draw(0, 15):
        key = list(value)[draw(0, len(value) - 1)]
        if not draw(0, 15):
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutated(value[key], draw)}
    if isinstance(value, (list, tuple)) and value and draw(0, 7):
        items, index = list(value), draw(0, len(value) - 1)
        match draw(0, 7):
            case 0:
                del items[index]
            case 1:
                items.insert(index, items[index])
            case 2:
                items = [*items[1:], items[0]]
            case _:
                items[index] = mutated(items[index], draw)
        return items
    if isinstance(value, int) and not isinstance(value, bool) and draw(0, 1):
        return max(0, min(INTEGER_MAX, value + draw(-2, 2)))
    if isinstance(value, bytes) and value and not draw(0, 2):
        index = draw(0, len(value) - 1)
        return value[:index] + bytes([value[index] ^ 1]) + value[index + 1 :]
    return material()[draw(0, len(material()) - 1)]


def attempt(case: Case, draw: Any) -> str:
    """Mutates a case and judges it; returns the code, or nothing if it was accepted."""
    state, signed, context = case
    body: Any = dict(signed.transaction.body)
    for _ in range(draw(0, 3)):
        body = mutated(body, draw)
    if not isinstance(body, dict):
        return "no map"
    others = (0, 1000, 25 * 3_600_000, 100 * 24 * 3_600_000, INTEGER_MAX - context.time_ms)
    context = replace(context, time_ms=context.time_ms + others[draw(0, len(others) - 1)])
    nonce = state.account(signed.transaction.signer).nonce
    try:
        content = replace(signed.transaction, body=body, nonce=nonce)
        changed = sign_transaction(content, KEY, context.chain)
        changed = parse_transaction(changed.signed.raw)
    except EncodingError:
        return "no transaction"
    root = state.tree.root
    try:
        draft = judge_body(state, changed, context)
        close_epoch(draft, context)
    except LedgerError as error:
        return error.rule
    finally:
        assert state.tree.root == root
    assert state.tree.update(dict(draft.writes)).root != root
    return ""


@pytest.fixture
def every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the attacker every key: signatures verify, approvals are for what is asked."""
    monkeypatch.setattr(PublicKey, "verify", lambda *_: None)
    monkeypatch.setattr(approvals, "_require_equal", lambda *_: None)
    monkeypatch.setattr(approvals, "parse_approval", everlasting)


def everlasting(raw: bytes) -> SignedApproval:
    """Parses an approval and forgets when it ends."""
    signed = parse_approval(raw)
    return replace(signed, approval=replace(signed.approval, valid_until_ms=INTEGER_MAX))


def test_the_cases_have_every_kind():
    assert {signed.transaction.kind for _, signed, _ in cases()} == set(KINDS)


@pytest.mark.slow
@pytest.mark.usefixtures("every_key")
@settings(
    max_examples=1500,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_nothing_but_a_refusal_leaves_the_transition(data):
    def draw(low: int, high: int) -> int:
        number: int = data.draw(st.integers(low, high))
        return number

    attempt(cases()[draw(0, len(cases()) - 1)], draw)
