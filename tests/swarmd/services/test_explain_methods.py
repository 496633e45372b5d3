"""What `group`, `try_policy` and `explain` answer on running nodes, for every kind of reason."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from ledger.bodies.defence import SetQuarantine, quarantine_digest
from ledger.bodies.emergency import PauseOffers
from protocol.approval import Action, Approval, sign_approval
from protocol.calendar import DAY_MS
from protocol.defence import QuarantineLevel
from protocol.digest import BlockId, Digest
from protocol.genesis import decode_genesis
from protocol.manifest import SignedManifest
from protocol.policy import decode_policy
from protocol.rollout import is_in_stage
from swarmd.clock import SystemClock
from swarmd.control.client import ControlClient
from swarmd.control.protocol import ControlError, ErrorCode
from tests.support.ledger import make_key
from tests.support.rollout import make_plan, with_emergency
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm

IMAGE = hashlib.shake_256(b"explained").digest(60_000)
EMERGENCY = make_key("explain/emergency")
GATEWAYS = ("gateway-1", "gateway-2")


class AheadClock(SystemClock):
    """The system's clocks; both can be set ahead."""

    def __init__(self) -> None:
        """Begins at the system's time."""
        self.ahead_s = 0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ahead_s * 1000


def with_plan(lab: Swarm) -> None:
    """A rollout in two stages, and an emergency key, in everybody's genesis."""
    genesis = decode_genesis((lab.path / "genesis.cbor").read_bytes())
    (group,) = genesis.groups
    changed = replace(
        group,
        owner_root=with_emergency(group.owner_root, [EMERGENCY]),
        policy=replace(group.policy, rollout=make_plan(2000, 10_000, soak_ms=0)),
    )
    genesis = replace(genesis, groups=(changed,))
    for path in (lab.path / "genesis.cbor", *lab.path.glob("*/genesis.cbor")):
        path.write_bytes(genesis.encode())
    lab.chain = genesis.chain


async def ask(lab: Swarm, name: str, method: str, **params: Any) -> Any:
    """One request over the control socket."""
    path = lab.directory(name).control_socket

    def request() -> object:
        with ControlClient(path) as client:
            return client.call(method, params)

    return await trio.to_thread.run_sync(request)


async def refused(lab: Swarm, name: str, method: str, **params: Any) -> tuple[ErrorCode, str]:
    with pytest.raises(ControlError) as caught:
        await ask(lab, name, method, **params)
    return caught.value.code, caught.value.rule


class Explained:
    """An answer of `explain`, taken apart."""

    def __init__(self, answer: Any) -> None:
        """Reads it; there is one group."""
        (self.group,) = answer["groups"]
        self.conditions = {one["rule"]: one["truth"] for one in self.group["conditions"]}
        self.offer = [(one["rule"], one["truth"]) for one in self.group["offer"]]
        self.node = {one["question"]: (one["rule"], one["truth"]) for one in answer["node"]}


async def explain(
    lab: Swarm, name: str, signed: SignedManifest, device: str | None = None
) -> Explained:
    params = {} if device is None else {"device": device}
    answer = await ask(lab, name, "explain", manifest=signed.manifest_id.hex(), **params)
    return Explained(answer)


def places(lab: Swarm, signed: SignedManifest) -> tuple[str, str]:
    """A device of the first stage, and one that comes later."""
    chain = lab["publisher-1"].ledger.chain
    record = chain.state.manifest(signed.manifest_id, GROUP)
    assert record is not None
    assert record.authorised_height is not None
    header = chain.header_at(record.authorised_height)
    assert header is not None
    block = BlockId(Digest(header.block_id))
    names = [f"pump-{number}" for number in range(200)]
    early = [name for name in names if is_in_stage(block, name.encode(), 2000)]
    late = [name for name in names if not is_in_stage(block, name.encode(), 2000)]
    return early[0], late[0]


def pause(lab: Swarm) -> PauseOffers:
    body = PauseOffers(group=GROUP, product=None, manifest=None, sequence=1, approval=b"")
    approval = Approval(
        era=0,
        action=Action.PAUSE,
        subject=body.subject,
        group=GROUP,
        policy=lab.policy,
        valid_until_ms=SystemClock().wall_ms() + DAY_MS,
    )
    return replace(body, approval=sign_approval(approval, EMERGENCY, lab.chain).signed.raw)


def quarantine(lab: Swarm, name: str) -> SetQuarantine:
    level = QuarantineLevel.NO_EXCHANGE
    digest = quarantine_digest(lab.did(name), GROUP, level=int(level), until_ms=None, sequence=1)
    return SetQuarantine(
        subject=lab.did(name),
        group=GROUP,
        level=level,
        until_ms=None,
        approvals=lab.approvals(Action.QUARANTINE, digest),
    )


@pytest.mark.slow
async def test_explain_names_what_holds_a_release_back(tmp_path: Path) -> None:
    clock = AheadClock()
    others = (*VALIDATORS, "publisher-1", "gateway-2")
    async with swarm(tmp_path) as lab:
        with_plan(lab)
        lab.configure(
            "gateway-2",
            lambda config: replace(config, floor=replace(config.floor, products=("valve",))),
        )
        await lab.start(*others)
        await lab.start("gateway-1", clock=clock)
        await lab.until_met(*others, "gateway-1")
        signed = await lab.propose(IMAGE)
        await lab.until_height(lab.height("publisher-1"))
        waiting = await explain(lab, "gateway-1", signed)
        assert waiting.conditions["policy.approvals"] is False
        assert waiting.node["offer"] == ("manifest.proposed", False)
        await _group_and_policies(lab)
        await lab.until_height(await lab.approve(signed))
        await _stages(lab, signed)
        await lab.until_height(await lab.submit(pause(lab)))
        early, _ = places(lab, signed)
        paused = await explain(lab, "gateway-1", signed, early)
        assert paused.offer[-1] == ("emergency.pause", False)
        assert paused.node["offer"] == ("emergency.pause", False)
        assert paused.node["fetch"] == ("permit", True)

        await _reasons_of_a_node(lab, signed, clock)
        for name in lab.running:
            assert lab.is_alive(name)


async def _group_and_policies(lab: Swarm) -> None:
    shown = await ask(lab, "gateway-1", "group", group=GROUP)
    policy = decode_policy(bytes.fromhex(shown["policy"]))
    assert policy.policy_id.hex() == shown["policy_id"]
    assert (shown["scheduled"], shown["parent"], shown["children"]) == (None, None, [])
    greedy = replace(policy, attestations=1).encode().hex()
    for raw, lacking in ((shown["policy"], []), (greedy, ["policy.attestations"])):
        tried = await ask(lab, "gateway-1", "try_policy", group=GROUP, policy=[raw])
        (release,) = tried["manifests"]
        assert release["status"] == "proposed"
        missing = [line.split(":")[0] for line in release["missing"]]
        assert missing == ["policy.approvals", *lacking]
    assert await refused(lab, "gateway-1", "group", group="nowhere") == (
        ErrorCode.NOT_YET,
        "group.unknown",
    )
    tried = {"group": GROUP, "policy": ["00"]}
    assert (await refused(lab, "gateway-1", "try_policy", **tried))[0] is ErrorCode.USAGE
    unknown = await refused(lab, "gateway-1", "explain", manifest="ab" * 32)
    assert unknown == (ErrorCode.NOT_YET, "manifest.unknown")


async def _stages(lab: Swarm, signed: SignedManifest) -> None:
    early, late = places(lab, signed)
    now = await explain(lab, "gateway-1", signed, early)
    assert now.group["status"] == "authorised"
    assert all(now.conditions.values())
    assert all(truth for _, truth in now.offer)
    assert now.node == {"fetch": ("permit", True), "offer": ("permit", True)}
    later = await explain(lab, "gateway-1", signed, late)
    assert later.offer[-1] == ("rollout.stage", False)
    assert later.node["offer"] == ("rollout.stage", False)
    unnamed = await explain(lab, "gateway-1", signed)
    assert unnamed.offer[-1] == ("rollout.device", False)
    floor = await explain(lab, "gateway-2", signed, early)
    assert all(truth for _, truth in floor.offer)  # the ledger would allow it
    assert set(floor.node.values()) == {("floor.product", False)}


async def _reasons_of_a_node(lab: Swarm, signed: SignedManifest, clock: AheadClock) -> None:
    """Quarantine and old knowledge are this node's own; other nodes answer otherwise."""
    await lab.until_height(await lab.submit(quarantine(lab, "gateway-1")))

    quarantined = await explain(lab, "gateway-1", signed)
    assert quarantined.node["fetch"] == ("quarantine.self", False)
    await lab.crash(*VALIDATORS)
    clock.ahead_s += 400 * 24 * 3600
    old = await explain(lab, "gateway-1", signed)
    assert set(old.node.values()) == {("freshness", False)}
    assert old.offer[-1][0] != "freshness"  # no matter of the ledger
