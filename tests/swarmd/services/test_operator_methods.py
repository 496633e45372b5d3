"""Every control method over the socket: answers, refusals, malformed questions."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol.approval import Action
from swarmd.control.client import ControlClient
from swarmd.control.protocol import ControlError, ErrorCode
from tests.support.swarm import GROUP, VALIDATORS, Swarm, swarm

IMAGE = hashlib.shake_256(b"operator").digest(150_000)


async def call(lab: Swarm, name: str, method: str, **params: Any) -> Any:
    """One request; errors are raised as the command line sees them."""
    path = lab.directory(name).control_socket

    def request() -> object:
        with ControlClient(path) as client:
            return client.call(method, params)

    return await trio.to_thread.run_sync(request)


async def refused(lab: Swarm, name: str, method: str, **params: Any) -> tuple[ErrorCode, str]:
    with pytest.raises(ControlError) as caught:
        await call(lab, name, method, **params)
    assert "\n" not in str(caught.value)
    return caught.value.code, caught.value.rule


@pytest.mark.slow
async def test_every_method(tmp_path: Path) -> None:
    everyone = (*VALIDATORS, "publisher-1", "gateway-1")
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*everyone)
        await lab.until_met(*everyone)
        path = lab.path / "firmware.bin"
        path.write_bytes(IMAGE)
        published = await call(
            lab,
            "publisher-1",
            "publish",
            path=str(path),
            product="pump",
            version="1.0",
            groups=[GROUP],
            metadata={"note": "first"},
        )
        assert (published["sequence"], published["size"]) == (1, len(IMAGE))
        manifest = published["manifest"]
        await lab.until_height(lab.height("publisher-1"))
        await _before_approval(lab, manifest)

        raws = lab.approvals(Action.AUTHORISE, bytes.fromhex(manifest))
        wrong = lab.approvals(Action.REVOKE, bytes.fromhex(manifest))
        assert await refused(
            lab,
            "gateway-1",
            "submit_approvals",
            manifest=manifest,
            action="authorise",
            approvals=[raw.hex() for raw in wrong],
        ) == (ErrorCode.REFUSED, "approval.subject")
        done = await call(
            lab,
            "gateway-1",
            "submit_approvals",
            manifest=manifest,
            action="authorise",
            approvals=[raw.hex() for raw in raws],
        )
        assert done["height"] > 0
        for goal in ("authorised", "complete"):
            waited = await call(
                lab, "gateway-1", "wait", manifest=manifest, timeout_s=30, **{"for": goal}
            )
            assert waited["for"] == goal
        await _after_approval(lab, manifest)
        await _looking(lab, manifest)


async def _before_approval(lab: Swarm, manifest: str) -> None:
    shown = await call(lab, "gateway-1", "manifest", manifest=manifest)
    assert (shown["product"], shown["version"], shown["sequence"]) == ("pump", "1.0", 1)
    assert shown["publisher"] == "publisher-1"
    (group,) = shown["groups"]
    assert (group["status"], group["approve_threshold"]) == ("proposed", 2)
    assert len(group["owners"]) == 3
    assert group["latest"] is None
    # Waiting would help: code 3 of the command line.
    assert await refused(lab, "gateway-1", "fetch", manifest=manifest) == (
        ErrorCode.NOT_YET,
        "manifest.proposed",
    )
    assert await refused(
        lab, "gateway-1", "wait", manifest=manifest, timeout_s=0.05, **{"for": "authorised"}
    ) == (ErrorCode.NOT_YET, "wait.timeout")
    for method in ("fetch", "manifest", "prove"):
        code, rule = await refused(lab, "gateway-1", method, manifest="ab" * 32)
        assert (code, rule) == (ErrorCode.NOT_YET, "manifest.unknown")
    code, _ = await refused(lab, "gateway-1", "prove", manifest=manifest)
    assert code in (ErrorCode.REFUSED, ErrorCode.NOT_YET)
    # Waiting would not.
    assert await refused(
        lab, "gateway-1", "publish", path="/x", product="p", version="1", groups=[GROUP]
    ) == (ErrorCode.REFUSED, "node.role")
    assert await refused(lab, "gateway-1", "fetch", manifest=manifest, component="boot") == (
        ErrorCode.REFUSED,
        "component.unknown",
    )


async def _after_approval(lab: Swarm, manifest: str) -> None:
    fetched = await call(lab, "gateway-1", "fetch", manifest=manifest)
    assert fetched["sha256"] == hashlib.sha256(IMAGE).hexdigest()
    assert await trio.Path(fetched["path"]).read_bytes() == IMAGE
    shown = await call(lab, "gateway-1", "manifest", manifest=manifest)
    (group,) = shown["groups"]
    assert group["status"] == "authorised"
    assert sorted(group["approvals"]) == ["owner-1", "owner-2"]
    assert group["latest"]["manifest"] == manifest
    proof = await call(lab, "gateway-1", "prove", manifest=manifest, group=GROUP)
    assert (proof["group"], proof["genesis"]) == (GROUP, lab.chain.hex())
    assert bytes.fromhex(proof["proof"])
    # The same release again is refused, and what was staged for it is freed.
    path = lab.path / "other.bin"
    path.write_bytes(IMAGE + b"!")
    for sequence in (1,):
        code, rule = await refused(
            lab,
            "publisher-1",
            "publish",
            path=str(path),
            product="pump",
            version="1.0",
            groups=[GROUP],
            sequence=sequence,
        )
        assert (code, rule) == (ErrorCode.REFUSED, "manifest.sequence")
    assert not lab["publisher-1"].store.staged_images()
    for changes, expected in (
        ({"groups": ["nowhere"]}, (ErrorCode.REFUSED, "group.unknown")),
        ({"path": str(lab.path)}, (ErrorCode.USAGE, "")),
        ({"path": "/nonexistent"}, (ErrorCode.USAGE, "")),
        ({"product": "a\u202eb"}, (ErrorCode.USAGE, "")),
    ):
        params = {
            "path": str(path),
            "product": "pump",
            "version": "2.0",
            "groups": [GROUP],
            **changes,
        }
        code, rule = await refused(lab, "publisher-1", "publish", **params)
        assert code is expected[0]
        assert rule == expected[1] or not expected[1]


async def _looking(lab: Swarm, manifest: str) -> None:
    status = await call(lab, "gateway-1", "status")
    assert (status["role"], status["name"], status["alarm"]) == ("gateway", "gateway-1", None)
    assert status["height"] == lab.height("gateway-1")
    assert status["consensus"] is None
    assert status["exchange"]["fetched_bytes"] == len(IMAGE)
    assert status["exchange"]["offences"] == 0
    assert status["knowledge_age_ms"] is not None
    (image,) = await call(lab, "gateway-1", "images")
    assert (image["manifest"], image["complete"], image["standing"]) == (
        manifest,
        True,
        "authorised",
    )
    peers = {peer["name"]: peer for peer in await call(lab, "gateway-1", "peers")}
    assert peers["validator-1"]["class"] == "validator"
    assert peers["publisher-1"]["groups"] == [GROUP]
    assert peers["publisher-1"]["route"] == "direct"
    reach = await call(lab, "gateway-1", "reach")
    known = {peer["name"]: peer for peer in reach["peers"]}
    assert known["publisher-1"]["connected"]
    (address,) = known["publisher-1"]["addresses"]
    assert address["origin"] == "configured"
    assert address["error"] is None
    ledger = await call(lab, "gateway-1", "ledger", **{"from": 0})
    assert [block["height"] for block in ledger["blocks"]] == list(range(len(ledger["blocks"])))
    assert (await call(lab, "gateway-1", "ledger"))["height"] == ledger["height"]
    wanted = {"authorised", "fetched"}
    for _ in range(1000):
        receipts = await call(lab, "gateway-1", "receipts", count=50)
        if {entry["kind"] for entry in receipts} >= wanted:
            break
    assert {entry["kind"] for entry in receipts} >= wanted
    assert await call(lab, "gateway-1", "receipts")
    checks = {row["check"]: row["ok"] for row in await call(lab, "validator-1", "doctor")}
    assert checks == {
        "alarm": True,
        "peers": True,
        "reach": True,
        "freshness": True,
        "voting": True,
        "version": True,
        "trust": True,
        "receipts": True,
    }
    consensus = (await call(lab, "validator-1", "status"))["consensus"]
    assert consensus["may_vote"]


MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("status", {"extra": 1}),
    ("images", {"extra": 1}),
    ("reach", {"extra": 1}),
    ("peers", {"extra": 1}),
    ("doctor", {"extra": 1}),
    ("stop", {"extra": 1}),
    ("ledger", {"from": -1}),
    ("ledger", {"from": "x"}),
    ("ledger", {"to": 1}),
    ("receipts", {"count": 0}),
    ("receipts", {"count": 10**6}),
    ("manifest", {}),
    ("manifest", {"manifest": "zz"}),
    ("manifest", {"manifest": "AB" * 32}),
    ("manifest", {"manifest": 7}),
    ("fetch", {"manifest": "ab" * 31}),
    ("fetch", {"manifest": "ab" * 32, "component": ""}),
    ("prove", {"manifest": "ab" * 32, "group": 1}),
    ("wait", {"manifest": "ab" * 32, "for": "ever", "timeout_s": 1}),
    ("wait", {"manifest": "ab" * 32, "for": "authorised"}),
    ("wait", {"manifest": "ab" * 32, "for": "authorised", "timeout_s": -1}),
    ("wait", {"manifest": "ab" * 32, "for": "authorised", "timeout_s": 10**9}),
    ("submit_approvals", {"manifest": "ab" * 32, "action": "destroy", "approvals": ["00"]}),
    ("submit_approvals", {"manifest": "ab" * 32, "action": "revoke", "approvals": []}),
    ("submit_approvals", {"manifest": "ab" * 32, "action": "revoke", "approvals": ["00"] * 33}),
    ("submit_approvals", {"manifest": "ab" * 32, "action": "revoke", "approvals": ["0"]}),
    ("publish", {}),
    ("publish", {"path": "relative", "product": "p", "version": "1", "groups": [GROUP]}),
    ("publish", {"path": "/x", "product": "", "version": "1", "groups": [GROUP]}),
    ("publish", {"path": "/x", "product": "p", "version": "1", "groups": []}),
    ("publish", {"path": "/x", "product": "p", "version": "1", "groups": GROUP}),
    (
        "publish",
        {"path": "/x", "product": "p", "version": "1", "groups": [GROUP], "patch_from": ["a"] * 5},
    ),
    (
        "publish",
        {"path": "/x", "product": "p", "version": "1", "groups": [GROUP], "sequence": 0},
    ),
    (
        "publish",
        {"path": "/x", "product": "p", "version": "1", "groups": [GROUP], "metadata": {"a": 1}},
    ),
    ("nonsense", {}),
]


@pytest.mark.slow
async def test_malformed_questions(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start("publisher-1")
        for method, params in MALFORMED:
            code, _ = await refused(lab, "publisher-1", method, **params)
            assert code is ErrorCode.USAGE, (method, params)
        assert lab.is_alive("publisher-1")
        assert not lab.running["publisher-1"].stop.is_set()
        # Junk where approvals are expected is refused, not an internal error.
        code, _ = await refused(
            lab,
            "publisher-1",
            "submit_approvals",
            manifest="ab" * 32,
            action="revoke",
            approvals=["00"],
        )
        assert code is ErrorCode.NOT_YET
        checks = {row["check"]: row["ok"] for row in await call(lab, "publisher-1", "doctor")}
        assert checks == {
            "alarm": True,
            "peers": False,
            "reach": False,
            "freshness": False,
            "version": True,
            "trust": True,
            "receipts": True,
        }
