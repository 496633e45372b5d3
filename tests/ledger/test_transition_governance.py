"""`gov.checkpoint`: only headers that closed an epoch, only by the governance root's threshold."""

from __future__ import annotations

import dataclasses

import pytest

from ledger.bodies.governance import SetCheckpoint
from ledger.errors import LedgerError
from ledger.header import decode_header
from ledger.state import Draft
from ledger.state_keys import validators_key
from ledger.transition.genesis import genesis_block
from ledger.transition.governance import set_checkpoint
from ledger.validators import ValidatorSet
from protocol.approval import Action, sign_approval
from protocol.digest import ChainId
from protocol.governance import checkpoint_digest, governance_approval
from tests.support.ledger import GENESIS_MS, make_bench


class Edge:
    """A state in which epoch 1 was closed by a header and epoch 2 has begun."""

    def __init__(self):
        self.bench = make_bench()
        self.lab = self.bench.lab
        self.draft = Draft(self.bench.state)
        first = self.lab.validator_set
        self.next = ValidatorSet(2, first.members)
        self.draft.put(validators_key(2), self.next.encode())
        genesis = genesis_block(self.lab.genesis, self.bench.state).header
        self.closing = dataclasses.replace(
            genesis, height=10, view=10, next_validators=self.next.digest
        )
        self.context = self.lab.context(height=20)

    def approvals(self, header, *, count=2, action=Action.CHECKPOINT, era=0, until=GENESIS_MS * 2):
        digest = checkpoint_digest(header.height, header.block_id)
        content = governance_approval(action, digest, era=era, valid_until_ms=until)
        keys = self.lab.governance[:count]
        return tuple(sign_approval(content, key, self.lab.chain_id).signed.raw for key in keys)

    def submit(self, header, approvals=None):
        body = SetCheckpoint(header=header.encoded, approvals=approvals or self.approvals(header))
        set_checkpoint(self.draft, self.lab.publisher.did, body, self.context)

    def refusal(self, header, approvals=None):
        before = dict(self.draft.writes)
        with pytest.raises(LedgerError) as caught:
            self.submit(header, approvals)
        assert dict(self.draft.writes) == before
        return caught.value.rule


def test_a_checkpoint_is_recorded_with_its_consent():
    edge = Edge()
    edge.submit(edge.closing)
    record = edge.draft.checkpoint()
    assert record is not None
    assert decode_header(record.header) == edge.closing
    assert len(record.signers) == 2


def test_too_few_keys_and_consent_to_something_else_record_nothing():
    edge = Edge()
    one = edge.approvals(edge.closing, count=1)
    assert edge.refusal(edge.closing, one) == "approval.threshold"
    other = dataclasses.replace(edge.closing, proposer=1)
    assert edge.refusal(edge.closing, edge.approvals(other)) == "approval.subject"
    recovery = edge.approvals(edge.closing, action=Action.RECOVERY)
    assert edge.refusal(edge.closing, recovery) == "approval.action"
    assert edge.refusal(edge.closing, edge.approvals(edge.closing, era=1)) == "approval.era"
    late = edge.approvals(edge.closing, until=GENESIS_MS)
    assert edge.refusal(edge.closing, late) == "approval.expired"


@pytest.mark.parametrize(
    "change",
    [
        {"chain": ChainId(bytes(32))},
        {"era": 1},
        {"epoch": 2},
        {"epoch": 0},
        {"next_validators": None},
        {"validators": bytes(32)},
    ],
)
def test_a_header_that_closed_no_epoch_of_this_chain_is_refused(change):
    edge = Edge()
    if change.get("next_validators", 1) is None:
        change = {"next_validators": edge.closing.validators}
    assert edge.refusal(dataclasses.replace(edge.closing, **change)) == "checkpoint.header"


def test_checkpoints_only_go_forward():
    edge = Edge()
    edge.submit(edge.closing)
    assert edge.refusal(edge.closing) == "checkpoint.old"
    lower = dataclasses.replace(edge.closing, height=9)
    assert edge.refusal(lower) == "checkpoint.old"


def test_bytes_that_are_no_header_are_refused():
    edge = Edge()
    body = SetCheckpoint(header=b"\xa0", approvals=edge.approvals(edge.closing))
    with pytest.raises(LedgerError) as caught:
        set_checkpoint(edge.draft, edge.lab.publisher.did, body, edge.context)
    assert caught.value.rule == "checkpoint.malformed"
