"""Control methods about contracts: how a group stands, what a policy would say, why a release is
or is not authorised and offered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from ledger.errors import LedgerNotYetError
from ledger.offer import Device, OfferRefusal, offer_verdict
from ledger.records.manifest import ManifestRecord
from ledger.rules.evaluate import Reason
from ledger.rules.judge import Judgement, judge
from ledger.rules.release import collect_release
from protocol.did import did_key_text
from protocol.digest import ManifestId, short
from protocol.encoding import encode_canonical
from protocol.errors import ConfigError, EncodingError
from protocol.owner_root import OwnerRoot
from protocol.policy import POLICY_BYTES_MAX, Policy, decode_policy
from swarmd.control.params import Params
from swarmd.questions import Denial, Verdict

if TYPE_CHECKING:
    from ledger.records.group import GroupRecord
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost

RECENT_MAX: Final = 20
"""Newest manifests of a group that a policy is tried on."""
SEARCHED_MAX: Final = 4096
"""Newest manifests of all groups among which those are searched."""
DEVICE_BYTES_MAX: Final = 256
"""Longest device id, as where devices ask."""


class PolicyDesk:
    """Implements the methods."""

    def __init__(
        self,
        ledger: LedgerHost,
        now_ms: Callable[[], int],
        asked: Callable[
            [ManifestId, Device], Mapping[str, Verdict]
        ] = lambda _manifest, _device: {},
    ) -> None:
        """Reads the ledger.

        Args:
            ledger: own copy of the chain.
            now_ms: its time.
            asked: what the node itself answers about a manifest, by question; its age of
                knowledge, its floor, alarms and quarantine count there.
        """
        self._ledger = ledger
        self._now_ms = now_ms
        self._asked = asked

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {"group": self._group, "try_policy": self._try_policy, "explain": self._explain}

    def _record(self, name: str) -> GroupRecord:
        record = self._ledger.chain.state.group(name)
        if record is None:
            raise LedgerNotYetError("group.unknown", f"group {name!r} is not in my ledger")
        return record

    async def _group(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        name = reader.text("group")
        reader.finish()
        tip, record, now_ms = self._ledger.chain.tip, self._record(name), self._now_ms()
        state, waiting = tip.state, record.waiting(now_ms)
        placement = state.placement(name)
        scheduled: JSON = None
        if waiting is not None and record.scheduled is not None:
            scheduled = {
                "policy": state.policy(waiting).encode().hex(),
                "effective_ms": record.scheduled[1],
            }
        return {
            "group": name,
            "chain": self._ledger.chain_id.hex(),
            "era": tip.header.era,
            "epoch": state.epoch().epoch,
            "now_ms": now_ms,
            "owner_root": encode_canonical(record.owner_root.to_value()).hex(),
            "policy": state.policy(record.policy_at(now_ms)).encode().hex(),
            "policy_id": record.policy_at(now_ms).hex(),
            "scheduled": scheduled,
            "placement": placement.encode().hex(),
            "parent": placement.parent,
            "children": list(state.children(name)),
        }

    # -- policies ------------------------------------------------------------------------------

    async def _try_policy(self, params: Mapping[str, object], _report: Report) -> JSON:
        """What a policy would say today about the newest manifests of a group."""
        reader = Params(params)
        name = reader.text("group")
        (raw,) = reader.hex_list("policy", items_max=1, bytes_max=POLICY_BYTES_MAX)
        reader.finish()
        try:
            policy = decode_policy(raw)
        except EncodingError as error:
            raise ConfigError(f"parameter 'policy': {error}") from None
        self._record(name)
        found: list[JSON] = []
        for manifest, record in await trio.to_thread.run_sync(self._recent, name):
            judgement = self._judged(manifest, name, record, policy, policy)
            found.append(
                {
                    "manifest": manifest.hex(),
                    "product": record.product,
                    "sequence": record.sequence,
                    "status": record.status.name.lower(),
                    "would_be_authorised": judgement.is_satisfied,
                    "missing": [f"{one.rule}: {one.reason.text}" for one in judgement.missing],
                }
            )
        return {"group": name, "manifests": found}

    def _recent(self, group: str) -> list[tuple[ManifestId, ManifestRecord]]:
        state = self._ledger.chain.state
        found = [
            (manifest, record)
            for manifest in self._ledger.manifests.newest(SEARCHED_MAX)
            if (record := state.manifest(manifest, group)) is not None
        ]
        found.sort(key=lambda pair: (pair[1].proposed_height, pair[0]), reverse=True)
        return found[:RECENT_MAX]

    def _judged(
        self,
        manifest: ManifestId,
        group: str,
        record: ManifestRecord,
        policy: Policy,
        in_force: Policy,
    ) -> Judgement:
        state, now_ms = self._ledger.chain.state, self._now_ms()
        release = collect_release(state, manifest, group, record, policy, time_ms=now_ms)
        return judge(release, policy, in_force, now_ms)

    # -- reasons -------------------------------------------------------------------------------

    async def _explain(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Rule by rule why a manifest is or is not authorised, and offered to a device."""
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        device = reader.text("device", maximum=DEVICE_BYTES_MAX) if reader.has("device") else None
        reader.finish()
        signed = self._ledger.manifests.get(manifest)
        if signed is None:
            raise LedgerNotYetError(
                "manifest.unknown", f"manifest {short(manifest)} is not in my ledger"
            )
        groups: list[JSON] = [
            self._explain_group(manifest, group, device) for group in signed.manifest.groups
        ]
        return {
            "manifest": manifest.hex(),
            "product": signed.manifest.product,
            "sequence": signed.manifest.sequence,
            "now_ms": self._now_ms(),
            "groups": groups,
            "node": self._explain_node(manifest, _device(device)),
        }

    def _explain_node(self, manifest: ManifestId, device: Device) -> list[JSON]:
        """What this node answers, all of its own reasons included; the first refusal of each."""
        return [
            {"question": question, **_verdict(verdict)}
            for question, verdict in self._asked(manifest, device).items()
        ]

    def _explain_group(self, manifest: ManifestId, group: str, device: str | None) -> JSON:
        state = self._ledger.chain.state
        record = state.manifest(manifest, group)
        if record is None:
            return {"group": group, "status": "unknown", "conditions": [], "offer": []}
        policy = state.policy(record.policy)
        in_force = state.policy(self._record(group).policy_at(self._now_ms()))
        judgement = self._judged(manifest, group, record, policy, in_force)
        conditions: list[JSON] = [
            {"rule": one.rule, **_reason(one.reason)} for one in judgement.conditions
        ]
        return {
            "group": group,
            "status": record.status.name.lower(),
            "policy": record.policy.hex(),
            "is_override": record.is_override,
            "authorised_ms": record.authorised_ms,
            "would_be_authorised": judgement.is_satisfied,
            "conditions": conditions,
            "offer": self._explain_offer(manifest, group, record, device),
        }

    def _explain_offer(
        self, manifest: ManifestId, group: str, record: ManifestRecord, device: str | None
    ) -> list[JSON]:
        height = record.authorised_height
        verdict = offer_verdict(
            self._ledger.chain.state,
            self._ledger.manifests[manifest],
            group,
            device=_device(device),
            now_ms=self._now_ms(),
            block_id=None if height is None else self._ledger.block_id_at(height),
        )
        said: list[JSON] = [
            {"rule": one.rule, "truth": True, "text": one.text} for one in verdict.reasons
        ]
        if isinstance(verdict, OfferRefusal):
            said.append({"rule": verdict.rule, "truth": False, "text": verdict.text})
        return said


def _device(name: str | None) -> Device:
    return replace(Device(), device_id=None if name is None else name.encode())


def _verdict(verdict: Verdict) -> dict[str, JSON]:
    if isinstance(verdict, Denial):
        return {"rule": verdict.rule, "truth": False, "text": verdict.message}
    groups = ", ".join(verdict.authorised.groups)
    return {"rule": "permit", "truth": True, "text": f"through {groups}"}


def _reason(reason: Reason) -> dict[str, JSON]:
    parts: list[JSON] = [_reason(part) for part in reason.parts]
    return {"truth": reason.truth, "text": reason.text, "parts": parts}


def role_holders(root: OwnerRoot) -> list[JSON]:
    """Whoever has a role without being an owner: key and name."""
    return [
        {"key": did_key_text(holder.key), "name": holder.name}
        for holder in root.holders()
        if not holder.is_owner
    ]


def holder_names(root: OwnerRoot, key_ids: Sequence[bytes]) -> list[JSON]:
    """Names of those whom a root knows, with their roles; retired keys are left out."""
    found = (root.holder(key_id) for key_id in key_ids)
    return [
        holder.name if holder.is_owner else f"{holder.name} ({', '.join(holder.roles)})"
        for holder in found
        if holder is not None
    ]
