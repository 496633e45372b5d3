"""Control methods about the chain as a whole: what the epoch is, and submitting what was decided.

Holders of keys sign elsewhere, see `swarmd.decision`; the node only carries the result, and its own
copy of the ledger says at once why a decision would be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ledger.light import EpochStep
from protocol.did import did_text
from protocol.errors import NotYetError
from swarmd.control.params import Params
from swarmd.decision import DECISION_BYTES_MAX, decode_decision

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost
    from swarmd.services.submission import SubmissionService

FINAL_S: Final = 60.0
"""How long a submitted decision is waited for, seconds."""


class Decisions:
    """Implements the methods."""

    def __init__(
        self,
        ledger: LedgerHost,
        submission: SubmissionService,
        now_ms: Callable[[], int],
    ) -> None:
        """Speaks to the ledger and the submission service; `now_ms` is the ledger's time."""
        self._ledger = ledger
        self._submission = submission
        self._now_ms = now_ms

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {"epoch": self._epoch, "submit_decision": self._submit}

    async def _epoch(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        tip = self._ledger.chain.tip
        state, record = tip.state, tip.state.epoch()
        validators = state.validators(record.epoch)
        assert validators is not None, "the set of the current epoch is in the state"
        checkpoint = state.checkpoint()
        chain_id = self._ledger.chain_id
        return {
            "chain": chain_id.hex(),
            "era": tip.header.era,
            "epoch": record.epoch,
            "start_ms": record.start_ms,
            "version": record.version,
            "upgrade": None if record.upgrade is None else list(record.upgrade),
            "heartbeat_ms": record.parameters.heartbeat_ms,
            "epoch_ms": record.parameters.epoch_ms,
            "now_ms": self._now_ms(),
            "height": tip.header.height,
            "header": tip.header.encoded.hex(),
            "certificate": "" if tip.certificate is None else tip.certificate.encode().hex(),
            "validators": [
                {
                    "did": did_text(chain_id, member.did),
                    "name": _name(state.subject(member.did)),
                    "seat": "filled" if member.key is not None else "empty",
                    "certified": [epoch for epoch, _ in state.validator(member.did).keys],
                    "convicted": state.validator(member.did).convicted,
                }
                for member in validators.members
            ],
            "checkpoint": None if checkpoint is None else checkpoint.header.hex(),
            "closing_header": await self._closing_header(record.epoch - 1),
        }

    async def _closing_header(self, epoch: int) -> JSON:
        """The header that closed an epoch, for governance to vouch for."""
        chain = self._ledger.chain

        def read() -> EpochStep | None:
            steps = chain.epoch_steps(epoch, epoch)
            return steps[0] if steps else None

        step = await self._ledger.run(read) if epoch >= 1 else None
        return None if step is None else step.header.hex()

    async def _submit(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        (raw,) = reader.hex_list("decision", items_max=1, bytes_max=DECISION_BYTES_MAX)
        reader.finish()
        decision = decode_decision(raw)
        if not decision.approvals:
            raise NotYetError("approval.threshold", "nobody has signed this decision yet")
        transaction = await self._submission.submit(decision.body())
        height = await self._submission.wait_final(transaction, FINAL_S)
        return {"transaction": transaction.hex(), "height": height, "kind": decision.kind}


def _name(subject: Any) -> str:
    return "" if subject is None else str(subject.name)
