"""Control methods about rollouts and emergency pauses: what stands, and handing on what was signed.

Owners' and emergency keys never come here; their approvals arrive signed, and the node's own copy
of the ledger says at once why one would be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from ledger.bodies.emergency import DecidePause, PauseOffers
from ledger.bodies.rollout import STOPPING, Command, CommandRollout, StopRollout
from ledger.records.emergency import PauseEntry
from ledger.records.rollout import RolloutRecord
from ledger.transition.rollout import is_promotion_due
from protocol.approval import APPROVAL_BYTES_MAX
from protocol.did import did_key_text
from protocol.digest import Digest, ManifestId
from protocol.encoding import check_identifier
from protocol.errors import NotYetError
from protocol.governance import GOVERNANCE_POLICY
from protocol.group import OWNERS_MAX, check_group_name
from protocol.owner_root import EMERGENCY_ROLE, KeyHolder, OwnerRoot
from protocol.rollout import PRIORITY_MAX, RolloutPlan
from swarmd.control.params import Params

if TYPE_CHECKING:
    from ledger.transition.kind import Body
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost
    from swarmd.services.submission import SubmissionService

FINAL_S: Final = 60.0
"""How long what was submitted is waited for, seconds."""
COMMANDS: Final = tuple(command.name.lower() for command in Command)
"""Names of commands to a rollout."""


class Rollouts:
    """Implements the methods."""

    def __init__(
        self,
        ledger: LedgerHost,
        submission: SubmissionService,
        now_ms: Callable[[], int],
        own_groups: Callable[[], tuple[str, ...]],
    ) -> None:
        """Speaks to the ledger and the submission service; `now_ms` is the ledger's time."""
        self._ledger = ledger
        self._submission = submission
        self._now_ms = now_ms
        self._own_groups = own_groups

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "rollout": self._rollout,
            "command_rollout": self._command,
            "pauses": self._pauses,
            "pause_offers": self._pause,
            "decide_pause": self._decide,
        }

    def active_pauses(self) -> list[JSON]:
        """Pauses that hold offers of this node back, for its status."""
        now_ms = self._now_ms()
        return [
            _pause_value(entry, group, now_ms)
            for group in (None, *self._own_groups())
            for entry in self._ledger.chain.state.pauses(group).entries
            if entry.is_active(now_ms)
        ]

    # -- rollouts ------------------------------------------------------------------------------

    async def _rollout(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        reader.finish()
        signed = self._ledger.manifests.get(manifest)
        if signed is None:
            raise NotYetError("manifest.unknown", f"no manifest {manifest.hex()[:8]} in my ledger")
        groups: list[JSON] = []
        for group in signed.manifest.groups:
            value = self._group_value(manifest, group)
            if value is not None:
                groups.append(value)
        return {
            **self._frame(),
            "manifest": manifest.hex(),
            "raw": signed.signed.raw.hex(),
            "groups": groups,
        }

    def _frame(self) -> dict[str, JSON]:
        """What every signer needs to know of the chain."""
        return {
            "chain": self._ledger.chain_id.hex(),
            "era": self._ledger.chain.head.era,
            "now_ms": self._now_ms(),
        }

    def _group_value(self, manifest: ManifestId, group: str) -> dict[str, JSON] | None:
        chain = self._ledger.chain
        record, rollout = (
            chain.state.manifest(manifest, group),
            chain.state.rollout(manifest, group),
        )
        owners = chain.state.group(group)
        if record is None or rollout is None or owners is None:
            return None
        policy = chain.state.policy(record.policy)
        assert policy.rollout is not None, "a rollout begins under a policy with a plan"
        return {
            "group": group,
            "policy": record.policy.hex(),
            "approve_threshold": policy.approve_threshold,
            "revoke_threshold": policy.revoke_threshold,
            "owners": _keys(owners.owner_root.owners),
            **_rollout_value(rollout, policy.rollout, chain.head.time_ms),
        }

    async def _command(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        group = check_group_name(reader.text("group"))
        command = Command[reader.choice("command", COMMANDS).upper()]
        sequence = reader.uint("sequence")
        priority = reader.uint("priority", maximum=PRIORITY_MAX) if reader.has("priority") else 0
        approvals = _approvals(reader) if reader.has("approvals") else ()
        reader.finish()
        body: Body
        if command in STOPPING:
            body = StopRollout(
                manifest=manifest,
                group=group,
                command=command,
                sequence=sequence,
                approvals=approvals,
            )
        else:
            body = CommandRollout(
                manifest=manifest,
                group=group,
                command=command,
                priority=priority,
                sequence=sequence,
                approvals=approvals,
            )
        return await self._hand_over(body)

    # -- pauses --------------------------------------------------------------------------------

    async def _pauses(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        wanted = check_group_name(reader.text("group")) if reader.has("group") else None
        reader.finish()
        groups = self._own_groups() if wanted is None else (wanted,)
        scopes = (self._scope_value(group) for group in (None, *groups))
        return {**self._frame(), "scopes": [scope for scope in scopes if scope is not None]}

    def _scope_value(self, group: str | None) -> dict[str, JSON] | None:
        state = self._ledger.chain.state
        if group is None:
            root = state.governance_root()
            policy, needed = GOVERNANCE_POLICY, root.threshold
        else:
            known = state.group(group)
            if known is None:
                return None
            policy = known.policy_at(self._ledger.chain.head.time_ms)
            root, needed = known.owner_root, state.policy(policy).amend_threshold
        now_ms = self._now_ms()
        return {
            "group": group,
            "policy": policy.hex(),
            "needed": needed,
            "owners": _keys(root.owners),
            "emergency": _keys(_emergency_keys(root)),
            "pauses": [_pause_value(entry, group, now_ms) for entry in state.pauses(group).entries],
        }

    async def _pause(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        group = check_group_name(reader.text("group")) if reader.has("group") else None
        product = reader.text("product") if reader.has("product") else None
        manifest = reader.hex_bytes("manifest", size=32) if reader.has("manifest") else None
        sequence = reader.uint("sequence", minimum=1)
        (approval,) = reader.hex_list("approval", items_max=1, bytes_max=APPROVAL_BYTES_MAX)
        reader.finish()
        body = PauseOffers(
            group=group,
            product=None if product is None else check_identifier(product, "product"),
            manifest=None if manifest is None else ManifestId(manifest),
            sequence=sequence,
            approval=approval,
        )
        return await self._hand_over(body)

    async def _decide(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        body = DecidePause(
            group=check_group_name(reader.text("group")) if reader.has("group") else None,
            key_id=Digest(reader.hex_bytes("key_id", size=32)),
            sequence=reader.uint("sequence", minimum=1),
            until_ms=reader.uint("until_ms"),
            approvals=_approvals(reader),
        )
        reader.finish()
        return await self._hand_over(body)

    async def _hand_over(self, body: Body) -> JSON:
        transaction = await self._submission.submit(body)
        height = await self._submission.wait_final(transaction, FINAL_S)
        return {"transaction": transaction.hex(), "height": height}


def _approvals(reader: Params) -> tuple[bytes, ...]:
    return reader.hex_list("approvals", items_max=OWNERS_MAX, bytes_max=APPROVAL_BYTES_MAX)


def _rollout_value(record: RolloutRecord, plan: RolloutPlan, time_ms: int) -> dict[str, JSON]:
    stage = plan.stages[record.stage]
    return {
        "status": record.status.name.lower(),
        "cause": record.cause.name.lower(),
        "stage": record.stage + 1,
        "stages": [item.share for item in plan.stages],
        "share": stage.share,
        "since_ms": record.started_ms,
        "soak_ms": stage.soak_ms,
        "priority": record.priority,
        "promotion": plan.promotion.name.lower(),
        "due": is_promotion_due(record, plan, time_ms),
        "sequence": record.sequence,
        "success_sites": record.success_sites,
        "success_sites_min": stage.success_sites_min,
        "failure_sites": record.failure_sites,
        "failure_sites_max": stage.failure_sites_max,
        "successes": record.successes,
        "failures": record.failures,
        "failure_share_max": stage.failure_share_max,
    }


def _emergency_keys(root: OwnerRoot) -> tuple[KeyHolder, ...]:
    return dict(root.roles).get(EMERGENCY_ROLE, ())


def _keys(holders: tuple[KeyHolder, ...]) -> list[JSON]:
    return [{"key": did_key_text(key), "name": name} for key, name in holders]


def _pause_value(entry: PauseEntry, group: str | None, now_ms: int) -> dict[str, JSON]:
    return {
        "group": group,
        "product": entry.product,
        "manifest": None if entry.manifest is None else entry.manifest.hex(),
        "key_id": entry.key_id.hex(),
        "sequence": entry.sequence,
        "began_ms": entry.began_ms,
        "until_ms": entry.until_ms,
        "confirmed": entry.is_confirmed,
        "active": entry.is_active(now_ms),
    }
