"""Control methods about access and quarantine: what stands, what owners must sign, handing it in.

Owners' keys never come here. `access_view` tells what an owner needs to compute the digest itself
and to sign; `access_submit` takes the signed approvals and makes one transaction of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ledger.bodies.capability import GrantCapability, RevokeCapability
from ledger.bodies.defence import ReleaseQuarantine, SetQuarantine
from ledger.records.capability import CapabilitiesRecord
from ledger.records.defence import QuarantineRecord, SelfConvictionRecord
from ledger.standing import issue_of, quarantine_level, quarantine_of
from ledger.state import LedgerState
from protocol.capability import CAPABILITY_BYTES_MAX, Capability, decode_capability
from protocol.defence import QuarantineLevel
from protocol.did import did_key_text, did_text
from protocol.digest import DidId, Digest
from protocol.errors import NotYetError
from protocol.group import check_group_name
from swarmd.control.params import Params

if TYPE_CHECKING:
    from ledger.transition.kind import Body
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost
    from swarmd.services.submission import SubmissionService

FINAL_S: Final = 60.0
"""How long a decision is waited for, seconds."""
ROWS_MAX: Final = 1000
"""Entries in one answer."""
KINDS: Final = ("cap.grant", "cap.revoke", "quarantine.set", "quarantine.release")
"""Transactions that `access_submit` makes."""


class AccessDesk:
    """Implements the methods."""

    def __init__(
        self, ledger: LedgerHost, submission: SubmissionService, now_ms: Callable[[], int]
    ) -> None:
        """Speaks to the ledger and the submission service; `now_ms` is the ledger's time."""
        self._ledger = ledger
        self._submission = submission
        self._now_ms = now_ms

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "access_list": self._list,
            "access_view": self._view,
            "access_submit": self._submit,
            "quarantines": self._quarantines,
        }

    # -- looking -------------------------------------------------------------------------------

    async def _list(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        group = reader.text("group") if reader.has("group") else None
        reader.finish()
        state, now_ms = self._ledger.chain.state, self._now_ms()
        found = await self._ledger.run(lambda: _capabilities(state, group))
        chain = self._ledger.chain_id
        return [
            {
                "capability": item.capability_id.hex(),
                "subject": did_text(chain, item.subject),
                "name": _name(state, item.subject),
                "group": item.group,
                "verbs": [verb.name.lower().replace("_", "-") for verb in item.verbs],
                "product": item.product,
                "manifest": None if item.manifest is None else item.manifest.hex(),
                "expires_ms": item.expires_ms,
                "in_force": now_ms <= item.expires_ms,
            }
            for item in found
        ]

    async def _quarantines(self, params: Mapping[str, object], _report: Report) -> JSON:
        Params(params).finish()
        state, now_ms = self._ledger.chain.state, self._now_ms()
        chain = self._ledger.chain_id
        rows = await self._ledger.run(lambda: _quarantines(state))
        quarantines: list[JSON] = [
            {
                "subject": did_text(chain, did),
                "name": _name(state, did),
                "group": group,
                "level": int(record.level_at(now_ms)),
                "cause": record.cause.name.lower(),
                "since_ms": record.since_ms,
                "until_ms": record.until_ms,
            }
            for did, group, record in rows
        ]
        convicted = await self._ledger.run(lambda: _convictions(state))
        convictions: list[JSON] = [
            {
                "subject": did_text(chain, did),
                "name": _name(state, did),
                "offence": record.offence.name.lower(),
                "evidence": record.evidence.hex(),
                "height": record.height,
            }
            for did, record in convicted
        ]
        return {"quarantines": quarantines, "convictions": convictions}

    async def _view(self, params: Mapping[str, object], _report: Report) -> JSON:
        """What owners must know to sign: the group's policy, and how often things changed."""
        reader = Params(params)
        state, now_ms = self._ledger.chain.state, self._now_ms()
        if reader.has("capability"):
            issue = issue_of(state, Digest(reader.hex_bytes("capability", size=32)))
            if issue is None:
                raise NotYetError("cap.unknown", "my ledger knows no such capability")
            did, name = issue.subject, issue.group
        else:
            did = DidId(reader.hex_bytes("subject", size=32))
            name = check_group_name(reader.text("group"))
        reader.finish()
        group = state.group(name)
        if group is None:
            raise NotYetError("group.unknown", f"no group {name!r} in my ledger")
        policy_id = group.policy_at(self._ledger.chain.head.time_ms)
        policy, record = state.policy(policy_id), quarantine_of(state, did, name)
        head = self._ledger.chain.head
        return {
            "chain": self._ledger.chain_id.hex(),
            "era": head.era,
            "now_ms": now_ms,
            "group": name,
            "subject": did_text(self._ledger.chain_id, did),
            "name": _name(state, did),
            "policy": policy_id.hex(),
            "owners": [
                {"key": did_key_text(key), "name": owner} for key, owner in group.owner_root.owners
            ],
            "thresholds": {
                "cap.grant": max(policy.enrol_threshold, group.owner_root.threshold),
                "cap.revoke": policy.revoke_threshold,
                "quarantine.set": policy.revoke_threshold,
                "quarantine.release": policy.approve_threshold,
            },
            "level": int(quarantine_level(state, did, name, head.time_ms)),
            "sequence": 1 if record is None else record.sequence + 1,
        }

    # -- handing in ----------------------------------------------------------------------------

    async def _submit(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        kind = reader.choice("kind", KINDS)
        approvals = reader.hex_list("approvals", items_max=32, bytes_max=512)
        body = _read_body(reader, kind, approvals)
        reader.finish()
        transaction = await self._submission.submit(body)
        height = await self._submission.wait_final(transaction, FINAL_S)
        return {"kind": kind, "transaction": transaction.hex(), "height": height}


def _read_body(reader: Params, kind: str, approvals: tuple[bytes, ...]) -> Body:
    if kind == "cap.grant":
        (raw,) = reader.hex_list("content", items_max=1, bytes_max=CAPABILITY_BYTES_MAX)
        decode_capability(raw)
        return GrantCapability(capability=raw, approvals=approvals)
    if kind == "cap.revoke":
        capability = Digest(reader.hex_bytes("capability", size=32))
        return RevokeCapability(capability=capability, approvals=approvals)
    subject = DidId(reader.hex_bytes("subject", size=32))
    group = check_group_name(reader.text("group"))
    if kind == "quarantine.release":
        return ReleaseQuarantine(subject=subject, group=group, approvals=approvals)
    return SetQuarantine(
        subject=subject,
        group=group,
        level=QuarantineLevel(reader.uint("level", minimum=1, maximum=2)),
        until_ms=reader.uint("until_ms") if reader.has("until_ms") else None,
        approvals=approvals,
    )


def _capabilities(state: LedgerState, group: str | None) -> list[Capability]:
    found = [
        item
        for _, value in state.scan(b"cap/")
        for item in CapabilitiesRecord.decode(value).granted
        if group in (None, item.group)
    ]
    return sorted(found, key=lambda item: (item.group, item.subject, item.capability_id))[:ROWS_MAX]


def _quarantines(state: LedgerState) -> list[tuple[DidId, str, QuarantineRecord]]:
    found = [
        (DidId(key[:32]), key[32:].decode(), QuarantineRecord.decode(value))
        for key, value in state.scan(b"q/")
    ]
    return sorted(found, key=lambda row: (row[1], row[0]))[:ROWS_MAX]


def _convictions(state: LedgerState) -> list[tuple[DidId, SelfConvictionRecord]]:
    found = [(DidId(key), SelfConvictionRecord.decode(value)) for key, value in state.scan(b"cv/")]
    return sorted(found, key=lambda row: row[0])[:ROWS_MAX]


def _name(state: LedgerState, did: DidId) -> str:
    record = state.subject(did)
    return "" if record is None else record.name
