"""Properties of any history: what was promised holds after every transaction."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ledger.bodies.manifest import ApproveManifest, RevokeManifest
from ledger.errors import LedgerError
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.state_keys import split_manifest_key
from ledger.state_tree import StateTree
from ledger.transition.block import apply_block
from ledger.transition.genesis import genesis_outcome
from ledger.vote import Ed25519Verifier
from protocol.approval import Action, verify_threshold
from protocol.did import KeyPurpose
from tests.support.ledger import FLEET, GENESIS_MS, HOUR_MS, make_bench, owner_keys

OWNERS = st.lists(st.integers(0, 3), min_size=1, max_size=3)
"""Indices of signers: three owners, and a validator that has no say."""
PRODUCTS = ("pump", "valve")


class History(RuleBasedStateMachine):
    """Proposals, approvals and revocations in any order, valid or not."""

    @initialize()
    def start(self):
        self.bench = make_bench()
        self.proposed = []
        self.accepted = []
        self.floors = {}
        self.revoked = {}

    def attempt(self, signed):
        try:
            self.bench.apply(signed)
        except LedgerError:
            # A refused transaction spends no nonce.
            self.bench.lab.nonces[signed.transaction.signer] -= 1
        else:
            self.accepted.append((signed, self.bench.height, self.bench.time_ms))

    @rule(
        sequence=st.integers(1, 4),
        product=st.sampled_from(PRODUCTS),
        version=st.sampled_from("ab"),
        is_brief=st.booleans(),
    )
    def propose(self, sequence, product, version, is_brief):
        expires_ms = self.bench.time_ms + 3000 if is_brief else None
        manifest = self.bench.lab.manifest(
            sequence=sequence, product=product, version=version, expires_ms=expires_ms
        )
        self.attempt(self.bench.lab.propose(manifest))
        self.proposed.append(manifest.manifest_id)

    def decide(self, data, signers, action, make):
        lab = self.bench.lab
        manifest_id = data.draw(st.sampled_from(self.proposed))
        keys = [*owner_keys(FLEET), lab.validators[0].key(KeyPurpose.VALIDATOR)]
        approvals = tuple(lab.approval(action, manifest_id, keys[index]) for index in signers)
        body = make(manifest=manifest_id, group=FLEET, approvals=approvals)
        until_ms = self.bench.time_ms + HOUR_MS
        self.attempt(lab.transaction(lab.gateways[0], body, valid_until_ms=until_ms))

    @precondition(lambda self: self.proposed)
    @rule(data=st.data(), signers=OWNERS)
    def approve(self, data, signers):
        self.decide(data, signers, Action.AUTHORISE, ApproveManifest)

    @precondition(lambda self: self.proposed)
    @rule(data=st.data(), signers=OWNERS)
    def revoke(self, data, signers):
        self.decide(data, signers, Action.REVOKE, RevokeManifest)

    def manifests(self):
        for rest, value in self.bench.state.scan(b"m/"):
            manifest_id, group = split_manifest_key(b"m/" + rest)
            yield manifest_id, group, ManifestRecord.decode(value)

    @invariant()
    def whatever_was_authorised_has_two_owners_behind_it(self):
        lab, state = self.bench.lab, self.bench.state
        for manifest_id, group, record in self.manifests():
            if record.authorised_height is None:
                assert record.status is not ManifestStatus.AUTHORISED
                continue
            names = verify_threshold(
                state.approvals(manifest_id, group, Action.AUTHORISE),
                root=state.group(group).owner_root,
                threshold=2,
                chain=lab.chain_id,
                era=0,
                action=Action.AUTHORISE,
                subject=manifest_id,
                group=group,
                policy=record.policy,
            )
            assert len(names) == len(record.approvers) >= 2

    @invariant()
    def revocation_is_for_good(self):
        for manifest_id, _, record in self.manifests():
            if record.status is ManifestStatus.REVOKED:
                self.revoked[manifest_id] = record.revoked_height
            assert self.revoked.get(manifest_id) == record.revoked_height

    @invariant()
    def floors_only_rise_and_are_those_of_the_newest_authorisation(self):
        for product in PRODUCTS:
            latest = self.bench.state.latest(FLEET, product)
            floor = 0 if latest is None else latest.sequence
            assert floor >= self.floors.get(product, 0)
            self.floors[product] = floor
            authorised = [
                record.sequence
                for _, _, record in self.manifests()
                if record.product == product and record.authorised_height is not None
            ]
            assert len(authorised) == len(dict.fromkeys(authorised)), "one release a sequence"
            assert floor == max(authorised, default=0)

    @invariant()
    def roots_are_those_of_the_contents(self):
        state = self.bench.state
        assert StateTree().update(dict(state.tree.items())).root == state.tree.root
        assert state.log.size == len(self.accepted)

    def teardown(self):
        """A replica that executes the same blocks comes to the same state."""
        lab = self.bench.lab
        state = genesis_outcome(lab.genesis).state
        for signed, height, time_ms in self.accepted:
            context = lab.context(height=height, time_ms=time_ms)
            state = apply_block(state, context, [signed], [], Ed25519Verifier()).state
        assert state.tree.root == self.bench.state.tree.root
        assert state.log == self.bench.state.log
        assert self.bench.time_ms >= GENESIS_MS


@pytest.mark.slow
def test_any_history_keeps_the_promises():
    run_state_machine_as_test(
        History, settings=settings(max_examples=30, stateful_step_count=25, deadline=None)
    )
