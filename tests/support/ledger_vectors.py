"""Writes the ledger's own vectors: `python -m tests.support.ledger_vectors`.

They pin what a genesis document means, what each transaction does to state and log, and one proof
file. A changed byte is a changed format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.bodies.group import CreateGroup, SetPolicy
from ledger.bodies.manifest import ApproveManifest
from ledger.bodies.receipt import AnchorReceipts
from ledger.bodies.rollout import Command
from ledger.bodies.subject import CreateSubject, SuspendSubject
from ledger.errors import LedgerError
from ledger.proof_make import make_proof
from ledger.transition.genesis import genesis_block
from protocol.approval import Action
from protocol.did import SubjectKind
from protocol.digest import sha256
from protocol.rollout import Promotion
from protocol.transaction import SignedTransaction
from tests.support.defence_vectors import defence_policy, record_defence
from tests.support.ledger import (
    FLEET,
    HOUR_MS,
    PRODUCT,
    Bench,
    Lab,
    Member,
    authorise,
    make_bench,
    make_group,
    make_lab,
    make_policy,
)
from tests.support.rollout import (
    certify_site,
    command,
    decide,
    emergency_group,
    emergency_keys,
    health,
    make_plan,
    pause,
    rollout_policy,
)

DIRECTORY = Path(__file__).parents[1] / "vectors" / "ledger"


def render(document: Any) -> str:
    """A document as it stands in its file."""
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


@dataclass
class Recorder:
    """Applies transactions and notes what each did."""

    bench: Bench
    steps: list[dict[str, Any]]

    def apply(self, signed: SignedTransaction) -> None:
        """Applies one that is valid, or notes the code of its refusal."""
        step: dict[str, Any] = {
            "kind": signed.transaction.kind,
            "time_ms": self.bench.time_ms + 1000,
            "transaction": signed.signed.raw.hex(),
        }
        before = dict(self.bench.state.tree.items())
        try:
            state = self.bench.apply(signed)
        except LedgerError as error:
            self.steps.append({**step, "refused": error.rule})
            return
        changed = {
            key.hex(): value.hex() for key, value in state.tree.items() if before.get(key) != value
        }
        self.steps.append(
            {
                **step,
                "height": self.bench.height,
                "state_root": state.tree.root.hex(),
                "log_root": state.log.root.hex(),
                "changed": changed,
            }
        )


def genesis_vector() -> dict[str, Any]:
    """A genesis document, its header and its state."""
    bench = make_bench()
    document = bench.lab.genesis.encode()
    header = genesis_block(bench.lab.genesis, bench.state).header
    return {
        "genesis": document.hex(),
        "chain": bench.lab.chain_id.hex(),
        "header": header.encoded.hex(),
        "block_id": header.block_id.hex(),
        "state_root": bench.state.tree.root.hex(),
        "log_root": bench.state.log.root.hex(),
        "state": {key.hex(): value.hex() for key, value in sorted(bench.state.tree.items())},
    }


def _creation(lab: Lab) -> SignedTransaction:
    group = make_group("pumps")
    raw = group.encode()
    approvals = tuple(
        lab.approval(
            Action.CREATE_GROUP,
            sha256(raw),
            key,
            group="pumps",
            policy=group.policy.policy_id,
        )
        for key in lab.governance[:2]
    )
    return lab.transaction(lab.gateways[0], CreateGroup(group=raw, approvals=approvals))


def transactions_vector() -> dict[str, Any]:
    """One transaction of each kind, and a few refusals, each in a block of its own."""
    recorder = Recorder(make_bench(), [])
    lab = recorder.bench.lab
    first, second = lab.gateways
    manifest = lab.manifest()
    newcomer = Member(label="gateway-new", kind=SubjectKind.GATEWAY, groups=(FLEET,))
    enrolment = lab.approvals(Action.ENROL, newcomer.did)
    policy = make_policy(enrol_threshold=1)
    amendment = lab.approvals(Action.AMEND, policy.policy_id)
    suspension = lab.approvals(Action.SUSPEND, second.did)
    proposal = lab.propose(manifest)
    for signed in (
        proposal,
        proposal,
        lab.approve(manifest.manifest_id, count=1),
        lab.transaction(first, AnchorReceipts(size=3, root=sha256(b"receipts"))),
        _creation(lab),
        lab.transaction(first, CreateSubject(join=newcomer.join, approvals=(enrolment,))),
        lab.transaction(second, lab.rotation(first)),
        lab.transaction(
            second, SetPolicy(group=FLEET, policy=policy.encode(), approvals=amendment)
        ),
    ):
        recorder.apply(signed)
    first.rotation = 1
    owners = lab.approvals(Action.AUTHORISE, manifest.manifest_id, count=3)
    for approval in owners[1:]:
        body = ApproveManifest(manifest=manifest.manifest_id, group=FLEET, approvals=(approval,))
        recorder.apply(lab.transaction(first, body))
    recorder.apply(lab.propose(lab.manifest(version="again")))
    recorder.apply(lab.revoke(manifest.manifest_id))
    body = SuspendSubject(did=second.did, group=FLEET, approvals=suspension)
    recorder.apply(lab.transaction(first, body))
    recorder.apply(lab.transaction(second, AnchorReceipts(size=1, root=sha256(b""))))
    return {"genesis": lab.genesis.encode().hex(), "product": PRODUCT, "steps": recorder.steps}


def rollout_vector() -> dict[str, Any]:
    """A rollout that goes on, halts and resumes, and emergency pauses; refusals among them."""
    policy = rollout_policy(make_plan(promotion=Promotion.AUTOMATIC, soak_ms=0))
    recorder = Recorder(make_bench(policy=policy, groups=[emergency_group("pumps")]), [])
    lab = recorder.bench.lab
    manifest = lab.manifest()
    release = manifest.manifest_id
    first, second = lab.gateways
    key = emergency_keys("pumps")[0]
    now_ms = recorder.bench.time_ms
    for signed in (
        certify_site(lab, first, "north"),
        certify_site(lab, second, "south"),
        lab.propose(manifest),
        command(lab, release, Command.PAUSE, owners=1),
        lab.approve(release),
        health(lab, release, lab.validators[0], good=1),
        health(lab, release, first, good=3, devices=3),
        command(lab, release, Command.PROMOTE, owners=0, sequence=1),
        command(lab, release, Command.PROMOTE, sequence=1),
        command(lab, release, Command.PAUSE, owners=1, sequence=2),
        health(lab, release, first, good=3, bad=1, devices=2),
        health(lab, release, second, good=120, bad=1, devices=120),
        command(lab, release, Command.RESUME, sequence=3),
        command(lab, release, Command.RESUME, sequence=4),
        command(lab, release, Command.PRIORITY, priority=7, sequence=5),
        command(lab, release, Command.HALT, sequence=6),
        lab.transaction(first, pause(lab, key, product=PRODUCT)),
        lab.transaction(first, pause(lab, key, sequence=2)),
        lab.transaction(first, decide(lab, key, now_ms + 100 * HOUR_MS)),
        lab.transaction(first, decide(lab, key, 0)),
    ):
        recorder.apply(signed)
    return {"genesis": lab.genesis.encode().hex(), "product": PRODUCT, "steps": recorder.steps}


def defence_vector() -> dict[str, Any]:
    """Reports, quarantines, a conviction and capabilities; refusals among them."""
    recorder = Recorder(make_bench(policy=defence_policy()), [])
    lab = recorder.bench.lab
    record_defence(lab, recorder.apply)
    return {"genesis": lab.genesis.encode().hex(), "product": PRODUCT, "steps": recorder.steps}


def proof_vector() -> dict[str, Any]:
    """A proof file and what it shows."""
    lab = make_lab()
    chain = lab.open_chain()
    manifest = lab.manifest(image=b"image 1")
    authorise(lab, chain, manifest)
    return {
        "genesis": lab.genesis.encode().hex(),
        "proof": make_proof(chain, manifest.manifest_id, FLEET).hex(),
        "image": b"image 1".hex(),
        "manifest_id": manifest.manifest_id.hex(),
        "group": FLEET,
        "height": chain.head.height,
        "time_ms": chain.head.time_ms,
        "approvers": ["owner-0", "owner-1"],
    }


def build() -> dict[str, dict[str, Any]]:
    """All files by name."""
    from tests.support.contract_vectors import contracts_vector, rules_vector

    return {
        "genesis.json": genesis_vector(),
        "transactions.json": transactions_vector(),
        "rollout.json": rollout_vector(),
        "contracts.json": contracts_vector(),
        "rules.json": rules_vector(),
        "defence.json": defence_vector(),
        "proof.json": proof_vector(),
    }


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for name, document in build().items():
        (DIRECTORY / name).write_text(render(document), encoding="utf-8")
