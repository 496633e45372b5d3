"""A staged rollout and an emergency pause, with whole nodes in one process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from ledger.bodies.emergency import PauseOffers
from ledger.bodies.rollout import STOPPING, Command, CommandRollout, StopRollout
from ledger.bodies.subject_decisions import CertifySubject, attributes_digest
from ledger.records.rollout import HaltCause, RolloutRecord, RolloutStatus
from protocol.approval import Action, Approval, sign_approval
from protocol.digest import BlockId, Digest
from protocol.genesis import decode_genesis
from protocol.group import DAY_MS
from protocol.keys import PrivateKey
from protocol.manifest import SignedManifest
from protocol.rollout import is_in_stage
from swarmd.clock import SystemClock
from swarmd.control.client import ControlClient
from swarmd.control.protocol import JSON, ControlError
from tests.support.ledger import make_key
from tests.support.rollout import make_plan, with_emergency
from tests.support.swarm import GROUP, LIMIT_S, VALIDATORS, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"staged image").digest(100_000)
EMERGENCY = make_key("emergency/swarm")
GATEWAYS = ("gateway-1", "gateway-2")
EVERYONE = (*VALIDATORS, "publisher-1", *GATEWAYS)
PATH = f"/v1/images/{hashlib.sha256(IMAGE).hexdigest()}"


class LateClock(SystemClock):
    """The system's clocks; the wall clock can be set ahead for all who share it."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + self.ahead_ms


def with_rollout(lab: Swarm) -> None:
    """Gives the laboratory's group a plan and an emergency key, in everybody's genesis."""
    genesis = decode_genesis((lab.path / "genesis.cbor").read_bytes())
    (group,) = genesis.groups
    plan = make_plan(2000, 10_000, soak_ms=0)
    changed = replace(
        group,
        owner_root=with_emergency(group.owner_root, [EMERGENCY]),
        policy=replace(group.policy, rollout=plan),
    )
    genesis = replace(genesis, groups=(changed,))
    for path in (lab.path / "genesis.cbor", *lab.path.glob("*/genesis.cbor")):
        path.write_bytes(genesis.encode())
    lab.chain = genesis.chain


async def ask(lab: Swarm, name: str, device: str | None, *, outcome: str | None = None) -> int:
    """One HTTP request of a device; returns the status."""
    address = lab[name].data_plane.http.url
    assert address is not None
    host, port = address.removeprefix("http://").split(":")
    body = "" if outcome is None else f'{{"result": "{outcome}"}}'
    lines = [
        f"GET {PATH} HTTP/1.1" if outcome is None else f"POST {PATH}/outcome HTTP/1.1",
        "Host: gateway",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *([] if device is None else [f"Swarmd-Device: {device}"]),
    ]
    with trio.fail_after(LIMIT_S):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
            answer = b"".join([data async for data in stream])
    return int(answer.split()[1])


def rollout(lab: Swarm, signed: SignedManifest, name: str = "gateway-1") -> RolloutRecord:
    record = lab[name].ledger.chain.state.rollout(signed.manifest_id, GROUP)
    assert record is not None
    return record


async def certify(lab: Swarm, name: str, site: str) -> None:
    attributes = (("site", site),)
    subject = attributes_digest(lab.did(name), GROUP, 1, attributes)
    approvals = lab.approvals(Action.CERTIFY, subject)
    await lab.submit(
        CertifySubject(did=lab.did(name), group=GROUP, attributes=attributes, approvals=approvals)
    )


async def command(
    lab: Swarm, signed: SignedManifest, what: Command, owners: Sequence[int] = (0, 1)
) -> None:
    """Owners command the rollout; every gateway knows when this returns."""
    await lab.until_height(max(lab.height(name) for name in lab.running), "publisher-1")
    sequence = rollout(lab, signed, "publisher-1").sequence
    manifest = signed.manifest_id
    if what in STOPPING:
        stop = StopRollout(
            manifest=manifest, group=GROUP, command=what, sequence=sequence, approvals=()
        )
        approvals = lab.approvals(Action.ROLLOUT, stop.subject, owners=owners)
        height = await lab.submit(replace(stop, approvals=approvals))
    else:
        go = CommandRollout(
            manifest=manifest,
            group=GROUP,
            command=what,
            priority=0,
            sequence=sequence,
            approvals=(),
        )
        approvals = lab.approvals(Action.ROLLOUT, go.subject, owners=owners)
        height = await lab.submit(replace(go, approvals=approvals))
    await lab.until_height(height, *GATEWAYS)


def emergency_pause(lab: Swarm, key: PrivateKey) -> PauseOffers:
    body = PauseOffers(group=GROUP, product=None, manifest=None, sequence=1, approval=b"")
    approval = Approval(
        era=0,
        action=Action.PAUSE,
        subject=body.subject,
        group=GROUP,
        policy=lab.policy,
        valid_until_ms=SystemClock().wall_ms() + DAY_MS,
    )
    return replace(body, approval=sign_approval(approval, key, lab.chain).signed.raw)


def devices(lab: Swarm, signed: SignedManifest) -> tuple[str, str]:
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


@pytest.mark.slow
async def test_a_staged_rollout_goes_on_halts_and_is_paused(tmp_path: Path) -> None:
    """Stages, promotion by owners, halt by failures at two sites, an emergency pause that ends."""
    clock = LateClock()
    async with swarm(tmp_path, http=GATEWAYS, heartbeat_ms=10_000) as lab:
        with_rollout(lab)
        await lab.start(*EVERYONE, clock=clock)
        await lab.until_met(*EVERYONE)
        for name in GATEWAYS:
            await certify(lab, name, f"site of {name}")
        signed = await lab.release(IMAGE)
        digest = signed.manifest.components[0].digest
        for name in GATEWAYS:
            await until(lambda name=name: lab.holds(name, digest), f"{name} has the image")
        early, late = devices(lab, signed)
        assert [await ask(lab, "gateway-1", name) for name in (early, late, None)] == [
            200,
            404,
            404,
        ]

        await _fetching_is_an_offer_too(lab, signed, early=early, late=late)

        await command(lab, signed, Command.PROMOTE)
        assert [await ask(lab, "gateway-1", name) for name in (early, late, None)] == [
            200,
            200,
            200,
        ]
        await command(lab, signed, Command.PAUSE, owners=[1])
        assert await ask(lab, "gateway-2", early) == 404
        await command(lab, signed, Command.RESUME)
        assert await ask(lab, "gateway-2", early) == 200

        await _failures_halt_it(lab, signed)
        await command(lab, signed, Command.RESUME)
        assert await ask(lab, "gateway-1", late) == 200
        await _an_emergency_pause_ends(lab, clock, late)
        for name in EVERYONE:
            assert lab.is_alive(name)


async def _fetching_is_an_offer_too(
    lab: Swarm, signed: SignedManifest, *, early: str, late: str
) -> None:
    path = lab.directory("gateway-1").control_socket

    def fetch(device: str | None) -> object:
        params: dict[str, JSON] = {"manifest": signed.manifest_id.hex()}
        if device is not None:
            params["device"] = device
        with ControlClient(path) as client:
            try:
                return client.call("fetch", params)["size"]
            except ControlError as error:
                return error.rule

    expected = [(early, len(IMAGE)), (late, "rollout.stage"), (None, "rollout.device")]
    for device, answer in expected:
        assert await trio.to_thread.run_sync(fetch, device) == answer


async def _failures_halt_it(lab: Swarm, signed: SignedManifest) -> None:
    assert await ask(lab, "gateway-1", "pump-1", outcome="installed") == 204
    assert await ask(lab, "gateway-1", "pump-2", outcome="failed") == 204
    first = lab.did("gateway-1")
    state = lab["gateway-2"].ledger.chain
    await until(
        lambda: state.state.health(signed.manifest_id, first, GROUP), "the first report is final"
    )
    assert rollout(lab, signed).status is RolloutStatus.RUNNING  # one failing site is tolerated
    assert await ask(lab, "gateway-2", "pump-3", outcome="failed") == 204
    for name in GATEWAYS:
        await until(
            lambda name=name: rollout(lab, signed, name).status is RolloutStatus.HALTED,
            f"{name} sees the halt",
        )
        assert await ask(lab, name, "pump-9") == 404
    assert rollout(lab, signed).cause is HaltCause.FAILING_SITES


async def _an_emergency_pause_ends(lab: Swarm, clock: LateClock, device: str) -> None:
    height = await lab.submit(emergency_pause(lab, EMERGENCY))
    await lab.until_height(height, *GATEWAYS)
    with trio.fail_after(1):
        assert await ask(lab, "gateway-1", device) == 404
    assert lab["gateway-1"].ledger.chain.state.pauses(GROUP).entries
    clock.ahead_ms += 3 * DAY_MS + 60_000
    await time_goes_on(lab)
    assert await ask(lab, "gateway-1", device) == 200


async def time_goes_on(lab: Swarm) -> None:
    """Lets a block carry the new time to everybody."""
    before = lab["gateway-1"].ledger.chain.head.time_ms
    await until(
        lambda: lab["gateway-1"].ledger.chain.head.time_ms > before + 3 * DAY_MS,
        "header time has gone on",
    )
