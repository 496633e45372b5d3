"""The first state: what a genesis document means."""

from __future__ import annotations

from ledger.block import Block
from ledger.header import genesis_header
from ledger.log import Log
from ledger.records.subject import SubjectRecord
from ledger.state import Draft, LedgerState
from ledger.state_keys import GOVERNANCE_KEY
from ledger.state_tree import StateTree
from ledger.transition.block import Outcome
from ledger.transition.census import count_members
from ledger.transition.group import place_group, write_group
from ledger.transition.subject import write_subject
from ledger.transition.validators import write_first_epoch
from ledger.validators import Validator, ValidatorSet
from protocol.encoding import encode_canonical
from protocol.genesis import Genesis

FIRST_EPOCH = 1
"""Epoch of the validators that genesis names."""


def genesis_validators(genesis: Genesis) -> ValidatorSet:
    """The first validator set, in the document's order."""
    members = tuple(Validator(did, key) for did, key in genesis.validator_keys())
    return ValidatorSet(FIRST_EPOCH, members)


def genesis_outcome(genesis: Genesis) -> Outcome:
    """The state before the first block: subjects, groups, governance, validators; an empty log.

    Args:
        genesis: a document that `check_genesis` accepts.
    """
    empty = LedgerState(StateTree(), Log())
    draft = Draft(empty)
    draft.put(GOVERNANCE_KEY, encode_canonical(genesis.governance_root.to_value()))
    validators = genesis_validators(genesis)
    write_first_epoch(draft, genesis, validators)
    for group in genesis.groups:
        write_group(draft, group, creators=())
    for group in genesis.groups:
        place_group(draft, group.name, group.placement)
    for join in genesis.joins:
        record = join.record
        write_subject(draft, record.did, SubjectRecord.of(record))
    count_members(draft)
    writes = dict(draft.writes)
    state = LedgerState(empty.tree.update(writes), empty.log)
    return Outcome(state=state, writes=writes, leaves=())


def genesis_block(genesis: Genesis, state: LedgerState) -> Block:
    """The block of height 0, which needs no certificate: the genesis document names it."""
    return Block(
        genesis_header(
            chain=genesis.chain,
            era=genesis.era,
            time_ms=genesis.time_ms,
            log_size=state.log.size,
            log_root=state.log.root,
            state_root=state.tree.root,
            validators=genesis_validators(genesis).digest,
            epoch=FIRST_EPOCH,
        )
    )
