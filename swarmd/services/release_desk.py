"""Control methods about releases: publishing, showing, and handing in what people signed.

Owners' and builders' keys never come here: approvals and attestations arrive signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ledger.bodies.manifest import (
    ApproveManifest,
    AttestManifest,
    RevokeManifest,
    SettleManifest,
)
from ledger.errors import LedgerNotYetError
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.transition.decisions import judge_now
from ledger.transition.kind import Body
from protocol.approval import APPROVAL_BYTES_MAX, Action, parse_approval
from protocol.did import did_key_text, did_text
from protocol.digest import Digest, ManifestId, TransactionId
from protocol.errors import NotYetError, PolicyError
from protocol.image import image_digest
from protocol.limits import PATCHES_PER_COMPONENT_MAX
from protocol.manifest import SignedManifest
from protocol.owner_root import BUILDER_ROLE, OWNERS_MAX, OwnerRoot
from swarmd.control.params import Params
from swarmd.publisher import Publisher, Release
from swarmd.services.policy_desk import holder_names, role_holders

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost
    from swarmd.services.submission import SubmissionService

FINAL_S: Final = 60.0
"""How long a submission waits to become final before it says "not yet", seconds."""
GROUPS_MAX: Final = 16
"""Target groups of a release."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is handed in under one name."""

    action: Action
    """What its approvals say."""
    body: type[ApproveManifest | AttestManifest | RevokeManifest]
    """The transaction they go into."""


_KINDS: Final[Mapping[str, _Kind]] = MappingProxyType(
    {
        "authorise": _Kind(Action.AUTHORISE, ApproveManifest),
        "revoke": _Kind(Action.REVOKE, RevokeManifest),
        "attest": _Kind(Action.ATTEST, AttestManifest),
    }
)


def known_manifest(ledger: LedgerHost, manifest: ManifestId) -> SignedManifest:
    """A manifest of the own ledger.

    Raises:
        NotYetError: `manifest.unknown`.
    """
    signed = ledger.manifests.get(manifest)
    if signed is None:
        raise NotYetError("manifest.unknown", f"no manifest {manifest.hex()[:8]} in my ledger")
    return signed


class ReleaseDesk:
    """Implements the methods."""

    def __init__(
        self,
        ledger: LedgerHost,
        submission: SubmissionService,
        publisher: Publisher | None,
        now_ms: Callable[[], int],
    ) -> None:
        """Speaks to the parts of a node; `now_ms` is the ledger's time."""
        self._ledger = ledger
        self._submission = submission
        self._publisher = publisher
        self._now_ms = now_ms

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {
            "manifest": self._manifest,
            "publish": self._publish,
            "submit_approvals": self._submit_approvals,
            "settle": self._settle,
        }

    # -- looking -------------------------------------------------------------------------------

    async def _manifest(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        reader.finish()
        signed = known_manifest(self._ledger, manifest)
        content, chain = signed.manifest, self._ledger.chain
        publisher = chain.state.subject(content.publisher)
        return {
            "manifest": manifest.hex(),
            "raw": signed.signed.raw.hex(),
            "publisher": "" if publisher is None else publisher.name,
            "publisher_did": did_text(self._ledger.chain_id, content.publisher),
            "product": content.product,
            "version": content.version,
            "sequence": content.sequence,
            "size": content.size,
            "expires_ms": content.expires_ms,
            "metadata": dict(content.metadata),
            "components": [
                {
                    "name": component.name,
                    "size": component.size,
                    "sha256": component.digest.hex(),
                    "chunks": component.chunk_count,
                    "patches": [
                        {"from": patch.base.hex(), "size": patch.size}
                        for patch in component.patches
                    ],
                }
                for component in content.components
            ],
            "groups": [self._group_value(manifest, content.product, g) for g in content.groups],
            "chain": self._ledger.chain_id.hex(),
            "era": chain.head.era,
            "epoch": chain.head.epoch,
            "now_ms": self._now_ms(),
        }

    def _group_value(self, manifest: ManifestId, product: str, group: str) -> JSON:
        state = self._ledger.chain.state
        record = state.manifest(manifest, group)
        owners = state.group(group)
        if record is None or owners is None:
            return {"group": group, "status": "unknown"}
        policy, root = state.policy(record.policy), owners.owner_root
        return {
            "group": group,
            "status": record.status.name.lower(),
            "policy": record.policy.hex(),
            "approve_threshold": policy.approve_threshold,
            "revoke_threshold": policy.revoke_threshold,
            "amend_threshold": policy.amend_threshold,
            "owners": [{"key": did_key_text(key), "name": name} for key, name in root.owners],
            "others": role_holders(root),
            "builders": _builders(root),
            "approvals": holder_names(root, record.approvers),
            "attestations": holder_names(root, record.attesters),
            "attestations_needed": policy.attestations,
            "override": record.is_override,
            "revocations": _names(root, record.revokers),
            "latest": self._latest_value(group, product),
        }

    def _latest_value(self, group: str, product: str) -> JSON:
        """The newest authorised release of a product, if this node knows its manifest."""
        latest = self._ledger.chain.state.latest(group, product)
        held = None if latest is None else self._ledger.manifests.get(latest.manifest)
        if latest is None or held is None:
            return None
        return {
            "manifest": latest.manifest.hex(),
            "version": held.manifest.version,
            "sequence": latest.sequence,
            "size": held.manifest.size,
        }

    # -- publishing ----------------------------------------------------------------------------

    async def _publish(self, params: Mapping[str, object], report: Report) -> JSON:
        publisher = self._publisher
        if publisher is None:
            raise PolicyError("node.role", "only a publisher node publishes")
        reader = Params(params)
        release = Release(
            path=Path(reader.path("path")),
            product=reader.text("product"),
            version=reader.text("version"),
            groups=reader.texts("groups", items_max=GROUPS_MAX),
            sequence=reader.uint("sequence", minimum=1) if reader.has("sequence") else None,
            metadata=(reader.text_map("metadata", items_max=32) if reader.has("metadata") else {}),
            seal=reader.text("seal") if reader.has("seal") else None,
            patch_from=(
                reader.texts("patch_from", items_max=PATCHES_PER_COMPONENT_MAX)
                if reader.has("patch_from")
                else ()
            ),
        )
        reader.finish()
        size = release.size()
        await report({"stage": "cutting", "bytes": 0, "total": size})
        signed, patches = await publisher.stage_with_patches(release)
        try:
            await report({"stage": "submitting", "bytes": size, "total": size})
            transaction = await publisher.propose(signed)
        except PolicyError:
            await publisher.discard(signed)
            raise
        await self._submission.wait_final(transaction, FINAL_S)
        return {
            "manifest": signed.manifest_id.hex(),
            "sequence": signed.manifest.sequence,
            "transaction": transaction.hex(),
            "size": signed.manifest.size,
            "patches": [
                {
                    "from": patch.base.hex(),
                    "bytes": patch.patch_bytes,
                    "chunks_bytes": patch.missing_bytes,
                    "published": patch.reference is not None,
                }
                for patch in patches
            ],
        }

    # -- handing in ----------------------------------------------------------------------------

    async def _submit_approvals(self, params: Mapping[str, object], _report: Report) -> JSON:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        kind = _KINDS[reader.choice("action", tuple(_KINDS))]
        approvals = reader.hex_list("approvals", items_max=OWNERS_MAX, bytes_max=APPROVAL_BYTES_MAX)
        reader.finish()
        signed = known_manifest(self._ledger, manifest)
        about = Digest(manifest)
        if kind.action is Action.ATTEST:
            about = image_digest(signed.manifest)
        by_group: dict[str, list[bytes]] = {}
        for raw in approvals:
            content = parse_approval(raw).approval
            if content.subject != about or content.action is not kind.action:
                raise PolicyError("approval.subject", "an approval is about something else")
            by_group.setdefault(content.group, []).append(raw)
        return await self._hand_over(
            [
                kind.body(manifest=manifest, group=group, approvals=tuple(raws))
                for group, raws in by_group.items()
            ]
        )

    async def _settle(self, params: Mapping[str, object], _report: Report) -> JSON:
        """Has a manifest judged again in the groups named, or in all where it waits."""
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        wanted = reader.texts("groups", items_max=GROUPS_MAX) if reader.has("groups") else ()
        reader.finish()
        content, state = known_manifest(self._ledger, manifest).manifest, self._ledger.chain.state
        records = {
            group: record
            for group in wanted or content.groups
            if (record := state.manifest(manifest, group)) is not None
        }
        waiting = [
            group
            for group, record in records.items()
            if record.status is ManifestStatus.PROPOSED or group in wanted
        ]
        if not waiting:
            raise PolicyError("manifest.settled", "it waits in none of these groups")
        for group in waiting:
            self._check_ripe(manifest, group, records[group])
        result = await self._hand_over(
            [SettleManifest(manifest=manifest, group=group) for group in waiting]
        )
        groups: list[JSON] = [*waiting]
        return {"manifest": manifest.hex(), "groups": groups, **result}

    def _check_ripe(self, manifest: ManifestId, group: str, record: ManifestRecord) -> None:
        """Says at once what no block would take now: a mempool keeps a "not yet" for later."""
        if record.status is not ManifestStatus.PROPOSED:
            return
        judgement = judge_now(self._ledger.chain.state, manifest, group, record, self._now_ms())
        if not judgement.is_satisfied:
            first = judgement.missing[0]
            raise LedgerNotYetError(
                "manifest.unsettled", f"{group}: {first.rule}: {first.reason.text}"
            )

    async def _hand_over(self, bodies: Sequence[Body]) -> dict[str, JSON]:
        transactions: list[TransactionId] = [await self._submission.submit(body) for body in bodies]
        height = 0
        for transaction in transactions:
            height = await self._submission.wait_final(transaction, FINAL_S)
        return {"transactions": [item.hex() for item in transactions], "height": height}


def _builders(root: OwnerRoot) -> list[JSON]:
    return [
        {"key": did_key_text(holder.key), "name": holder.name}
        for holder in root.holders()
        if holder.has_role(BUILDER_ROLE)
    ]


def _names(root: OwnerRoot, key_ids: Sequence[Digest]) -> list[JSON]:
    """Names of owners; retired keys are left out."""
    pairs = (root.owner(key_id) for key_id in key_ids)
    return [pair[1] for pair in pairs if pair is not None]
