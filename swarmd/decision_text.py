"""What a decision or a recovery says, for the person who is asked to sign it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.bodies.governance import SetCheckpoint
from ledger.bodies.group import (
    ROOT_BYTES_MAX,
    CreateGroup,
    RotateRoot,
    SetPolicy,
    UpdateGroup,
    VetoPolicy,
)
from ledger.bodies.manifest import OverrideManifest
from ledger.bodies.validators import SetParameters, SetValidators, Upgrade
from ledger.header import decode_header
from protocol.did import did_key_text, did_text
from protocol.digest import ChainId, DidId
from protocol.encoding import decode_canonical
from protocol.errors import EncodingError
from protocol.governance import Recovery
from protocol.group import OwnerRoot, decode_group, decode_placement, decode_policy
from swarmd.decision import Decision
from swarmd.policy_words import policy_sentences, rule_words

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON


def describe_decision(decision: Decision) -> dict[str, JSON]:
    """Everything in a decision that its signer should know.

    Raises:
        EncodingError: its body is malformed.
    """
    return {
        "decision": decision.kind,
        "chain": decision.chain.hex(),
        "era": decision.era,
        "decided in epoch": decision.epoch,
        "signatures valid until": f"{decision.valid_until_ms} ms since 1970, header time",
        **_content(decision),
        "signatures": len(decision.approvals),
    }


def _content(decision: Decision) -> dict[str, JSON]:
    body = decision.body()
    match body:
        case SetValidators():
            newcomers = {join.verify().did: join.record.name for join in body.joins}
            return {"validators": _members(decision.chain, body.members, newcomers)}
        case SetParameters():
            return {
                "heartbeat_ms": body.parameters.heartbeat_ms,
                "epoch_ms": body.parameters.epoch_ms,
            }
        case Upgrade():
            return {"protocol version": body.version, "from epoch": body.epoch}
        case SetCheckpoint():
            header = decode_header(body.header)
            return {
                "closed epoch": header.epoch,
                "height": header.height,
                "header": header.block_id.hex(),
            }
        case CreateGroup():
            group = decode_group(body.group)
            return {"group": group.name, "owners": [name for _, name in group.owner_root.owners]}
        case SetPolicy():
            policy = decode_policy(body.policy)
            said: list[JSON] = [*policy_sentences(policy, None)]
            return {"group": body.group, "policy": policy.policy_id.hex(), "says": said}
        case VetoPolicy():
            return {"group": body.group, "policy that must not take effect": body.policy.hex()}
        case UpdateGroup():
            placement = decode_placement(body.placement)
            selector = placement.selector
            return {
                "group": body.group,
                "parent": placement.parent,
                "takes": None if selector is None else rule_words(selector),
            }
        case RotateRoot():
            raw = decode_canonical(body.root, bytes_max=ROOT_BYTES_MAX)
            return {"group": body.group, **describe_root(OwnerRoot.from_value(raw))}
        case OverrideManifest():
            return {"group": body.group, "manifest past freezes and pauses": body.manifest.hex()}
        case _:
            raise EncodingError(f"no description of {decision.kind}")


def describe_root(root: OwnerRoot) -> dict[str, JSON]:
    """Whom an owner root names, for people."""
    roles: dict[str, JSON] = {
        role: [f"{name} {did_key_text(key)}" for key, name in keys] for role, keys in root.roles
    }
    return {
        "root version": root.version,
        "threshold": root.threshold,
        "owners": [f"{name} {did_key_text(key)}" for key, name in root.owners],
        "roles": roles,
    }


def _members(chain: ChainId, members: tuple[DidId, ...], newcomers: dict[DidId, str]) -> list[JSON]:
    return [
        f"{did_text(chain, did)}" + (f" (new: {newcomers[did]})" if did in newcomers else "")
        for did in members
    ]


def describe_recovery(recovery: Recovery) -> dict[str, JSON]:
    """Everything in a recovery that its signer should know.

    Raises:
        EncodingError: its header is malformed.
    """
    plan = recovery.plan
    last = decode_header(plan.header)
    newcomers = {join.record.did: join.record.name for join in plan.joins}
    return {
        "recovery": "begins a new era; what was final beyond its header is given up",
        "chain": last.chain.hex(),
        "era": plan.era,
        "goes on from height": last.height,
        "header": last.block_id.hex(),
        "its time": f"{last.time_ms} ms since 1970",
        "validators": _members(last.chain, tuple(seat.did for seat in plan.seats), newcomers),
        "signatures": len(recovery.approvals),
    }
