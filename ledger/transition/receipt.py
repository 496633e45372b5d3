"""What `receipt.anchor` does."""

from __future__ import annotations

from typing import Final

from ledger.bodies.receipt import AnchorReceipts
from ledger.errors import LedgerError
from ledger.records.anchor import AnchorRecord
from ledger.state import Draft
from ledger.state_keys import anchor_key
from ledger.transition.context import BlockContext
from ledger.transition.kind import Kind
from protocol.digest import DidId


def anchor_receipts(
    draft: Draft, signer: DidId, body: AnchorReceipts, context: BlockContext
) -> None:
    """Fixes the signer's receipt log (L58).

    Raises:
        LedgerError: `anchor.shrunk` fewer entries than before; `anchor.conflict` another root for
            the same size.
    """
    before = draft.anchor(signer)
    if before is not None and body.size < before.size:
        raise LedgerError(
            "anchor.shrunk", f"receipt log of {before.size} entries cannot shrink to {body.size}"
        )
    if before is not None and body.size == before.size and body.root != before.root:
        raise LedgerError("anchor.conflict", f"two roots for {body.size} entries")
    record = AnchorRecord(size=body.size, root=body.root, height=context.height)
    draft.put(anchor_key(signer), record.encode())


KINDS: Final = (
    Kind(
        name="receipt.anchor",
        body=AnchorReceipts,
        read=AnchorReceipts.read,
        apply=anchor_receipts,
    ),
)
"""Kinds of this area."""
