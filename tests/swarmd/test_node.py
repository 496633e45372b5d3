"""The main job end to end, with whole nodes in one process."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest
import trio

from protocol.digest import Digest
from swarmd.control.client import ControlClient
from swarmd.peers import SCORE_START, Offence
from swarmd.receipts import ReceiptKind
from tests.support.swarm import LIMIT_S, VALIDATORS, Swarm, swarm, until

FIRST = hashlib.shake_256(b"first image").digest(400_000)
SECOND = FIRST[:150_000] + b"a change" + FIRST[150_000:]


async def http(
    lab: Swarm, name: str, path: str, *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """One HTTP request of a device."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", "Connection: close"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    with trio.fail_after(LIMIT_S):
        stream = await trio.open_tcp_stream(*url(lab, name))
        async with stream:
            await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
            answer = b"".join([data async for data in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    pairs = (field.split(": ", 1) for field in fields)
    return int(status.split()[1]), {key.lower(): value for key, value in pairs}, body


def url(lab: Swarm, name: str) -> tuple[str, int]:
    address = lab[name].data_plane.http.url
    assert address is not None
    host, port = address.removeprefix("http://").split(":")
    return host, int(port)


def image_path(digest: bytes) -> str:
    return f"/v1/images/{digest.hex()}"


def kinds(lab: Swarm, name: str) -> list[ReceiptKind]:
    return [entry.kind for entry in lab[name].receipts.newest(100)]


@pytest.mark.slow
async def test_the_main_job(tmp_path: Path) -> None:
    """Release, devices, a second version that reuses chunks, crashes, revocation, anchors."""
    everyone = (*VALIDATORS, "publisher-1", "gateway-1", "gateway-2")
    async with swarm(tmp_path, http=("gateway-1",)) as lab:
        await lab.start(*everyone)
        await lab.until_met(*everyone)
        first = await lab.propose(FIRST, version="1.0")
        digest = first.manifest.components[0].digest
        assert digest == hashlib.sha256(FIRST).digest()
        await lab.approve(first, owners=[0])
        assert (await http(lab, "gateway-1", image_path(digest)))[0] == 404
        assert not lab.holds("gateway-1", digest)
        assert not lab.holds("publisher-1", digest)  # staged only
        await lab.approve(first, owners=[2])
        for name in ("gateway-1", "gateway-2", "publisher-1"):
            await until(lambda name=name: lab.holds(name, digest), f"{name} has the image")
        await _devices_are_served(lab, digest)

        # A gateway and a validator lose power while the second version is on its way.
        second = await lab.propose(SECOND, version="2.0")
        await lab.crash("validator-2")
        await lab.approve(second)
        await lab.crash("gateway-2")
        await lab.start("gateway-2", "validator-2")
        newer = second.manifest.components[0].digest
        for name in ("gateway-1", "gateway-2"):
            await until(lambda name=name: lab.holds(name, newer), f"{name} has the second")
        reused = lab["gateway-1"].store.statistics().reused_bytes
        assert reused > len(SECOND) // 2
        assert (await http(lab, "gateway-1", image_path(newer)))[2] == SECOND
        consensus = lab["validator-2"].consensus
        assert consensus is not None
        await until(lambda: consensus.status.may_vote, "the validator that crashed votes again")

        await _revocation_ends_transfers(lab, first.manifest_id, digest)
        await lab.revoke(first)
        await lab.until_height(lab.height("publisher-1"))
        status, _, _ = await http(lab, "gateway-1", image_path(digest))
        assert status == 404
        await until(lambda: not lab.holds("gateway-1", digest), "revoked bytes are gone")
        assert lab.holds("gateway-1", newer)
        assert (await http(lab, "gateway-1", image_path(newer)))[2] == SECOND
        expected = {
            ReceiptKind.AUTHORISED,
            ReceiptKind.FETCHED,
            ReceiptKind.OFFERED,
            ReceiptKind.REVOKED,
        }
        await until(lambda: expected <= set(kinds(lab, "gateway-1")), "outcomes are noted")
        await until(
            lambda: lab["validator-1"].ledger.chain.state.anchor(lab.did("gateway-1")),
            "the receipt log is anchored",
        )
        anchor = lab["validator-1"].ledger.chain.state.anchor(lab.did("gateway-1"))
        assert anchor is not None
        proof = lab["gateway-1"]._receipt_log.prove(anchor.size - 1, anchor.size)
        assert proof.root == anchor.root
        for name in everyone:
            assert lab.is_alive(name)
            assert lab[name].network.statistics().handler_faults == 0


async def _devices_are_served(lab: Swarm, digest: Digest) -> None:
    path = image_path(digest)
    status, headers, body = await http(lab, "gateway-1", path)
    assert (status, body) == (200, FIRST)
    assert headers["etag"] == f'"{digest.hex()}"'
    assert headers["content-length"] == str(len(FIRST))
    size = len(FIRST)
    ranges = {
        "bytes=0-0": (0, 1),
        "bytes=100-199999": (100, 200_000),
        f"bytes={size - 5}-": (size - 5, size),
        f"bytes={size - 5}-{size * 2}": (size - 5, size),
        "bytes=-7": (size - 7, size),
        f"bytes=-{size * 2}": (0, size),
    }
    for wanted, (start, end) in ranges.items():
        status, headers, body = await http(lab, "gateway-1", path, Range=wanted)
        assert (status, body) == (206, FIRST[start:end])
        assert headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    for wanted in (f"bytes={size}-", "bytes=5-2", "bytes=-0", "bytes=-", "bytes=a-b"):
        status, headers, body = await http(lab, "gateway-1", path, Range=wanted)
        assert (status, headers["content-range"], body) == (416, f"bytes */{size}", b"")
    status, _, body = await http(lab, "gateway-1", path, Range="lines=1-2")
    assert (status, body) == (200, FIRST)  # a unit nobody knows is ignored (RFC 9110, 14.2)
    status, headers, body = await http(lab, "gateway-1", path, method="HEAD", Range="bytes=0-0")
    assert (status, headers["content-length"], body) == (200, str(size), b"")
    for bad, expected in (
        (image_path(bytes(32)), 404),
        ("/v1/images/" + digest.hex().upper(), 400),
        ("/v1/images/abc", 400),
        ("/v1/other", 404),
    ):
        assert (await http(lab, "gateway-1", bad))[0] == expected
    assert (await http(lab, "gateway-1", path, method="POST"))[0] == 405
    status, _, body = await http(lab, "gateway-1", "/v1/health")
    assert json.loads(body) == {"status": "ok"}


async def _revocation_ends_transfers(lab: Swarm, manifest: bytes, digest: Digest) -> None:
    """A device that reads slowly is cut off within a second of the final block."""
    services = lab["gateway-1"]
    stream = await trio.open_tcp_stream(*url(lab, "gateway-1"))
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    request = f"GET {image_path(digest)} HTTP/1.1\r\nHost: gateway\r\n\r\n"
    await stream.send_all(request.encode())
    assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 200")
    assert services.data_plane.http._slots.value < 32
    await stream.aclose()
    await until(
        lambda: services.data_plane.http._slots.value == 32,
        "the slot of a device that left is free",
    )


@pytest.mark.slow
async def test_revocation_in_the_middle_of_a_fetch(tmp_path: Path) -> None:
    """The last chunks of a fetch never come; the revocation ends it and withdraws what came."""
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*VALIDATORS, "publisher-1")
        await lab.until_met(*VALIDATORS, "publisher-1")
        signed = await lab.release(FIRST)
        digest = signed.manifest.components[0].digest
        hold, served = trio.Event(), 0
        take = lab["publisher-1"].exchange.read_chunks

        async def slow(*arguments: object) -> object:
            nonlocal served
            served += 1
            if served > 1:
                await hold.wait()
            return await take(*arguments)  # type: ignore[arg-type]

        lab["publisher-1"].exchange.read_chunks = slow  # type: ignore[method-assign,assignment]
        await lab.start("gateway-1")
        await until(lambda: lab["gateway-1"].exchange.statistics().fetched_bytes, "chunks came")
        assert digest in {record.image for record in lab["gateway-1"].store.images()}
        height = await lab.revoke(signed)
        await lab.until_height(height, "gateway-1")
        with trio.fail_after(LIMIT_S):
            while lab["gateway-1"].store.images():
                await trio.lowlevel.checkpoint()
        assert not lab["gateway-1"].exchange.statistics().fetches
        hold.set()
        assert lab["publisher-1"].exchange._library.find(signed.manifest_id) is None


@pytest.mark.slow
async def test_bytes_stay_while_another_manifest_covers_them(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*VALIDATORS, "publisher-1", "gateway-1")
        await lab.until_met(*VALIDATORS, "publisher-1", "gateway-1")
        one = await lab.release(FIRST, version="1.0", product="pump")
        digest = one.manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest))
        two = await lab.release(FIRST, version="1.0", product="valve")
        await lab.until_height(await lab.revoke(one), "gateway-1")
        services = lab["gateway-1"]
        await until(lambda: services.images._settled.get(one.manifest_id) == "manifest.revoked")
        assert lab.holds("gateway-1", digest)
        assert services.images.permit_for_digest(digest).manifest_id == two.manifest_id
        await lab.until_height(await lab.revoke(two), "gateway-1")
        await until(lambda: not lab.holds("gateway-1", digest))


@pytest.mark.slow
async def test_an_orderly_stop_over_the_control_socket(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start("gateway-1")
        path = lab.directory("gateway-1").control_socket

        def stop() -> object:
            with ControlClient(path) as client:
                return client.call("stop", {})

        assert await trio.to_thread.run_sync(stop) == {"stopping": True}
        process = lab.running.pop("gateway-1")
        with trio.fail_after(LIMIT_S):
            await process.ended.wait()
        assert not path.exists()
        await lab.start("gateway-1")


@pytest.mark.slow
async def test_what_peers_bring_after_the_services_stopped_starts_nothing(tmp_path: Path) -> None:
    """The network ends last: until then it greets members and judges what they send."""
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start("validator-1", "gateway-1")
        await lab.until_met("validator-1", "gateway-1")
        services, peer = lab["gateway-1"], lab.peer("validator-1")
        member = services.registry.get(peer)
        assert member is not None
        await lab.stop("gateway-1")
        services.hello._on_member(member)
        services.hello._on_demoted(member)
        for _ in range(SCORE_START):
            if not services.registry.is_banned(peer):
                services.registry.blame(peer, Offence.MALFORMED, "after the end")
        assert services.registry.is_banned(peer)
