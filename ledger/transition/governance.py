"""What `gov.checkpoint` does. Rules: docs/spec/governance.md."""

from __future__ import annotations

from typing import Final

from ledger.bodies.governance import SetCheckpoint
from ledger.errors import LedgerError
from ledger.header import Header, decode_header
from ledger.records.governance import CheckpointRecord
from ledger.state import Draft
from ledger.state_keys import CHECKPOINT_KEY
from ledger.transition.approvals import (
    Consent,
    check_approvals,
    record_approvals,
    require_threshold,
)
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind, Lane
from protocol.approval import Action
from protocol.digest import DidId
from protocol.errors import EncodingError
from protocol.governance import GOVERNANCE_GROUP, GOVERNANCE_POLICY, checkpoint_digest


def set_checkpoint(
    draft: Draft, _signer: DidId, body: SetCheckpoint, context: BlockContext
) -> None:
    """Records a checkpoint that the governance root's threshold agreed to (G11).

    Raises:
        LedgerError: `checkpoint.malformed`, `checkpoint.header` not a closing header of this chain,
            `checkpoint.old` not above the one on record, `approval.*`.
    """
    try:
        header = decode_header(body.header)
    except EncodingError as error:
        raise LedgerError("checkpoint.malformed", str(error)) from error
    _require_closing(draft, header, context)
    known = draft.checkpoint()
    if known is not None and decode_header(known.header).height >= header.height:
        raise LedgerError("checkpoint.old", f"a checkpoint at or above {header.height} is known")
    root = draft.governance_root()
    consent = Consent(
        root=root,
        action=Action.CHECKPOINT,
        subject=checkpoint_digest(header.height, header.block_id),
        group=GOVERNANCE_GROUP,
        policy=GOVERNANCE_POLICY,
    )
    checked = check_approvals(body.approvals, consent, context)
    require_threshold(len(checked), root.threshold, "a checkpoint")
    record = CheckpointRecord(header=body.header, signers=record_approvals(draft, checked))
    draft.put(CHECKPOINT_KEY, record.encode())


def _require_closing(draft: Draft, header: Header, context: BlockContext) -> None:
    """The header is of this chain and era and hands over to a set that did take over."""
    if (header.chain, header.era) != (context.chain, context.era):
        raise LedgerError("checkpoint.header", "a header of another chain or era")
    following = draft.validators(header.epoch + 1)
    ended = draft.validators(header.epoch)
    if (
        following is None
        or ended is None
        or header.validators != ended.digest
        or header.next_validators != following.digest
    ):
        raise LedgerError("checkpoint.header", "not the header that closed an epoch of this chain")


KINDS: Final = (
    Kind(
        name="gov.checkpoint",
        body=SetCheckpoint,
        read=SetCheckpoint.read,
        apply=set_checkpoint,
        lane=Lane.PROTECTING,
    ),
)
"""Transaction kinds of this area."""
