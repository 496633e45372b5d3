"""Control methods about subjects: resolving them, and letting newcomers in by tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ledger.bodies.subject import CreateSubject, RotateKeys
from ledger.errors import LedgerNotYetError
from protocol.approval import Action, parse_approval
from protocol.did import did_text
from protocol.did_document import resolution_result
from protocol.digest import DidId
from protocol.encoding import Fields, decode_canonical
from protocol.errors import NotYetError, PolicyError
from swarmd.control.params import Params
from swarmd.did_proof import make_subject_proof, subject_facts
from swarmd.enrolment_request import REQUEST_BYTES_MAX, EnrolmentRequest, decode_request
from swarmd.recovery_decision import (
    RECOVERY_DECISION_BYTES_MAX,
    RecoveryDecision,
    decode_recovery_decision,
)
from swarmd.subject_decision import SUBJECT_DECISION_BYTES_MAX, decode_subject_decision

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost
    from swarmd.services.doorkeeper import Doorkeeper
    from swarmd.services.submission import SubmissionService

FINAL_S: Final = 60.0
"""How long a newcomer's transaction is waited for, seconds."""
ROTATION_BYTES_MAX: Final = 2048
"""A rotation of four keys takes about 600 bytes."""


class IdentityDesk:
    """Implements the methods."""

    def __init__(
        self,
        ledger: LedgerHost,
        submission: SubmissionService,
        doorkeeper: Doorkeeper,
        now_ms: Callable[[], int],
    ) -> None:
        """Speaks to these services; `now_ms` is the ledger's time."""
        self._ledger = ledger
        self._submission = submission
        self._doorkeeper = doorkeeper
        self._now_ms = now_ms

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "resolve": self._resolve,
            "decide_subject": self._decide,
            "rotate_keys": self._rotate,
            "recover_keys": self._recover,
            "claim_keys": self._recover_claim,
            "enrol": self._enrol,
            "enrol_pending": self._enrol_pending,
            "enrol_confirm": self._enrol_confirm,
        }

    async def _resolve(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        did = DidId(reader.hex_bytes("did", size=32))
        with_proof = reader.boolean("proof")
        reader.finish()
        chain = self._ledger.chain
        tip = chain.tip
        record = tip.state.subject(did)
        if record is None:
            raise LedgerNotYetError("did.unknown", f"subject {did.hex()[:8]} is not in my ledger")
        proof = ""
        if with_proof:
            proof = (await self._ledger.run(lambda: make_subject_proof(chain, did))).hex()
        facts = subject_facts(self._ledger.chain_id, did, record, tip.header)
        attributes: dict[str, JSON] = {}
        policies: dict[str, JSON] = {}
        versions: dict[str, JSON] = {}
        for name in record.groups:
            group, certified = tip.state.group(name), tip.state.certification(did, name)
            attributes[name] = {} if certified is None else dict(certified.attributes)
            versions[name] = 0 if certified is None else certified.version
            policies[name] = "" if group is None else group.policy_at(self._now_ms()).hex()
        result: JSON = {
            "resolution": resolution_result(facts),
            "kind": record.kind.name.lower(),
            "name": record.name,
            "groups": list(record.groups),
            "attributes": attributes,
            "versions": versions,
            "policies": policies,
            "changes": record.changes,
            "rotations": record.sequence,
            "chain": self._ledger.chain_id.hex(),
            "era": tip.header.era,
            "now_ms": self._now_ms(),
            "proof": proof,
        }
        return result

    async def _decide(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Submits what owners decided about a subject."""
        reader = Params(params)
        (raw,) = reader.hex_list("decision", items_max=1, bytes_max=SUBJECT_DECISION_BYTES_MAX)
        reader.finish()
        decision = decode_subject_decision(raw)
        if decision.chain != self._ledger.chain_id:
            raise PolicyError("decision.chain", "the decision is for another chain")
        if not decision.approvals:
            raise NotYetError("approval.threshold", "nobody has signed this decision yet")
        transaction = await self._submission.submit(decision.body())
        height = await self._submission.wait_final(transaction, FINAL_S)
        return {"transaction": transaction.hex(), "height": height}

    async def _rotate(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Submits a rotation of keys: this node's own, or another's that asks for it."""
        reader = Params(params)
        (raw,) = reader.hex_list("body", items_max=1, bytes_max=ROTATION_BYTES_MAX)
        reader.finish()
        value = decode_canonical(raw, bytes_max=ROTATION_BYTES_MAX)
        body = RotateKeys.read(Fields(value, "rotation"))
        transaction = await self._submission.submit(body)
        height = await self._submission.wait_final(transaction, FINAL_S)
        return {"transaction": transaction.hex(), "height": height}

    def _recovery(self, params: Mapping[str, object]) -> RecoveryDecision:
        reader = Params(params)
        (raw,) = reader.hex_list("decision", items_max=1, bytes_max=RECOVERY_DECISION_BYTES_MAX)
        reader.finish()
        decision = decode_recovery_decision(raw)
        if decision.chain != self._ledger.chain_id:
            raise PolicyError("decision.chain", "the recovery is for another chain")
        return decision

    async def _recover(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Submits new keys that owners decided on; they may be claimed a day later."""
        decision = self._recovery(params)
        if not decision.is_signed:
            raise NotYetError("approval.threshold", "a group has not signed this recovery yet")
        transaction = await self._submission.submit(decision.body())
        height = await self._submission.wait_final(transaction, FINAL_S)
        record = self._ledger.chain.state.subject(decision.did)
        pending = None if record is None else record.pending
        effective_ms = None if pending is None else pending.effective_ms
        return {"transaction": transaction.hex(), "height": height, "effective_ms": effective_ms}

    async def _recover_claim(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Puts recovered keys in force."""
        decision = self._recovery(params)
        record = self._ledger.chain.state.subject(decision.did)
        if record is not None and record.pending is not None:
            effective_ms = record.pending.effective_ms
            # Said at once: the ledger would let the claim wait with other transactions.
            if self._now_ms() < effective_ms:
                raise NotYetError(
                    "did.waiting", f"the keys may be claimed from header time {effective_ms} on"
                )
        transaction = await self._submission.submit(decision.claim())
        height = await self._submission.wait_final(transaction, FINAL_S)
        return {"transaction": transaction.hex(), "height": height}

    # -- newcomers -----------------------------------------------------------------------------

    async def _enrol(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Submits a newcomer's request, or keeps it until an owner of each group confirms it."""
        reader = Params(params)
        (raw,) = reader.hex_list("request", items_max=1, bytes_max=REQUEST_BYTES_MAX)
        reader.finish()
        request = decode_request(raw)
        if not request.claims.confirmed:
            return await self._submit(request, ())
        await self._doorkeeper.keep(request)
        raise NotYetError("seat.confirmation", "an owner of each group must confirm its code")

    async def _submit(
        self, request: EnrolmentRequest, approvals: tuple[tuple[bytes, ...], ...]
    ) -> JSON:
        body = CreateSubject(join=request.join, approvals=approvals, seat=request.seat)
        transaction = await self._submission.submit(body)
        height = await self._submission.wait_final(transaction, FINAL_S)
        return {
            "did": did_text(self._ledger.chain_id, request.did),
            "transaction": transaction.hex(),
            "height": height,
        }

    async def _enrol_pending(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Newcomers that wait, with what an owner needs to judge and to sign."""
        Params(params).finish()
        state = self._ledger.chain.state
        now_ms = self._now_ms()
        policies: dict[str, JSON] = {}
        waiting = self._doorkeeper.waiting()
        for item in waiting:
            for name in item.request.claims.groups:
                group = state.group(name)
                policies[name] = "" if group is None else group.policy_at(now_ms).hex()
        return {
            "chain": self._ledger.chain_id.hex(),
            "era": self._ledger.chain.head.era,
            "now_ms": now_ms,
            "policies": policies,
            "requests": [item.request.encode().hex() for item in waiting],
            "missing": [list(item.missing) for item in waiting],
        }

    async def _enrol_confirm(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Takes owners' confirmations; submits once there is one for each group."""
        reader = Params(params)
        did = DidId(reader.hex_bytes("did", size=32))
        raws = reader.hex_list("approvals", items_max=32, bytes_max=512)
        reader.finish()
        waiting = self._doorkeeper.find(did)
        if waiting is None:
            raise PolicyError("seat.unknown", f"no newcomer {did.hex()[:8]} waits here")
        groups = waiting.request.claims.groups
        given: dict[str, bytes] = {}
        for raw in raws:
            name = _confirmed_group(raw, did)
            if name not in groups:
                raise PolicyError("approval.subject", "an approval is about something else")
            given[name] = raw
        missing = [name for name in waiting.missing if name not in given]
        if missing:
            await self._doorkeeper.confirm(did, given)
            raise NotYetError("seat.confirmation", f"owners of {', '.join(missing)} must agree too")
        known = {**waiting.approvals, **given}
        lists = tuple((known[name],) for name in groups)
        result = await self._submit(waiting.request, lists)
        await self._doorkeeper.forget(did)
        return result


def _confirmed_group(raw: bytes, did: DidId) -> str | None:
    """The group for which an approval confirms a newcomer; None: it says something else."""
    content = parse_approval(raw).approval
    is_for = content.action is Action.ENROL and bytes(content.subject) == did
    return content.group if is_for else None
