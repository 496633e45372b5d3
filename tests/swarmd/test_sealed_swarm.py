"""Sealed releases through whole nodes: rings, thieves without a key, devices, revocation."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from protocol.digest import Digest
from protocol.manifest import SignedManifest
from protocol.sealing_ring import parse_ring, parse_statement
from swarmd.control.client import ControlClient
from swarmd.control.protocol import ControlError
from swarmd.publisher import Release
from tests.support.swarm import GROUP, LIMIT_S, PRODUCT, VALIDATORS, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"secret image").digest(300_000)
EVERYONE = (*VALIDATORS, "publisher-1", "gateway-1", "gateway-2")


async def control(lab: Swarm, name: str, method: str, **params: Any) -> Any:
    """Asks a node's daemon over its socket, as commands do."""

    def ask() -> Any:
        with ControlClient(lab.directory(name).control_socket) as client:
            return client.call(method, params)

    return await trio.to_thread.run_sync(ask)


async def statement(lab: Swarm, name: str) -> str:
    return str((await control(lab, name, "sealing_key"))["statement"])


async def sealed_release(
    lab: Swarm, image: bytes = IMAGE, *, version: str = "1.0", seal: str = GROUP
) -> SignedManifest:
    """Publishes a sealed image and has two owners approve it."""
    services = lab["publisher-1"]
    assert services.publisher is not None
    path = lab.path / f"image-{version}"
    path.write_bytes(image)
    release = Release(
        path=path, product=PRODUCT, version=version, groups=(GROUP,), metadata={}, seal=seal
    )
    signed = await services.publisher.stage(release)
    await services.submission.wait_final(await services.publisher.propose(signed), LIMIT_S)
    await lab.approve(signed)
    return signed


def stored(signed: SignedManifest) -> Digest:
    return signed.manifest.components[0].digest


async def states(lab: Swarm, name: str, signed: SignedManifest) -> list[str | None]:
    rows = await control(lab, name, "images")
    (row,) = [row for row in rows if row["manifest"] == signed.manifest_id.hex()]
    return [component["sealed"] for component in row["components"]]


async def refused(lab: Swarm, name: str, method: str, **params: Any) -> str:
    with pytest.raises(ControlError) as caught:
        await control(lab, name, method, **params)
    return str(caught.value)


async def get(lab: Swarm, name: str, digest: bytes) -> tuple[int, bytes]:
    """One HTTP request of a device."""
    http = lab[name].data_plane.http
    assert http is not None
    assert http.url is not None
    host, port = http.url.removeprefix("http://").split(":")
    request = f"GET /v1/images/{digest.hex()} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(request.encode())
        answer = b"".join([data async for data in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.slow
async def test_the_ring_opens_what_everybody_carries(tmp_path: Path) -> None:
    async with swarm(tmp_path, http=("gateway-1", "gateway-2")) as lab:
        for name in ("gateway-1", "gateway-2"):
            lab.configure(
                name, lambda config: replace(config, http=replace(config.http, serve_plain=True))
            )
        await lab.start(*EVERYONE)
        await lab.until_met("publisher-1", "gateway-1", "gateway-2")
        ask = partial(control, lab)
        assert "no ring" in await refused(
            lab, "publisher-1", "publish", path=str(lab.path / "genesis.cbor"), product="p",
            version="1", groups=[GROUP], seal=GROUP,
        )  # fmt: skip
        assert "publisher node" in await refused(lab, "gateway-1", "sealing_ring", group=GROUP)
        member = await statement(lab, "gateway-1")
        made = await ask("publisher-1", "sealing_ring", group=GROUP, members=[member])
        assert (made["generation"], made["version"], len(made["members"])) == (1, 1, 2)
        signed = await sealed_release(lab)
        component = signed.manifest.components[0]
        for name in ("gateway-1", "gateway-2"):  # both carry it, one can open it
            await until(partial(lab.holds, name, stored(signed)), f"{name} holds it")
        shelf = lab["gateway-1"].data_plane.sealing.service.shelf
        await until(lambda: [row.is_open for row in shelf.views()] == [True], "the ring came")
        assert await states(lab, "gateway-1", signed) == ["open"]
        assert await states(lab, "gateway-2", signed) == ["no key"]
        about = (await ask("gateway-2", "status"))["sealing"]
        assert about == {"rings": 1, "open": 0, "no_key": [signed.manifest_id.hex()]}
        assert IMAGE[:64] not in b"".join(
            path.read_bytes() for path in lab.path.glob("gateway-*/images/**/*") if path.is_file()
        )

        copy = await ask("gateway-1", "fetch", manifest=signed.manifest_id.hex())
        assert (copy["sha256"], copy["size"]) == (hashlib.sha256(IMAGE).hexdigest(), len(IMAGE))
        assert await trio.Path(copy["path"]).read_bytes() == IMAGE
        await ask("gateway-1", "fetch_done", ticket=copy["ticket"])
        assert not await trio.Path(copy["path"]).exists()
        cipher = await ask("gateway-2", "fetch", manifest=signed.manifest_id.hex(), sealed=True)
        assert cipher["sha256"] == stored(signed).hex()
        assert "no key" in await refused(
            lab, "gateway-2", "fetch", manifest=signed.manifest_id.hex()
        )

        plain_digest = component.plain_digest
        assert plain_digest is not None
        find = lab["gateway-1"].data_plane.sealing.plain.find
        await until(lambda: find(plain_digest), "it was opened as a whole")
        assert await get(lab, "gateway-1", plain_digest) == (200, IMAGE)
        assert (await get(lab, "gateway-2", plain_digest))[0] == 404
        status, body = await get(lab, "gateway-2", stored(signed))
        assert (status, hashlib.sha256(body).digest()) == (200, stored(signed))
        await lab.revoke(signed)
        await until(lambda: not lab.holds("gateway-1", stored(signed)), "withdrawn")
        assert (await get(lab, "gateway-1", plain_digest))[0] == 404


@pytest.mark.slow
async def test_members_come_and_go(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*EVERYONE)
        await lab.until_met("publisher-1", "gateway-1", "gateway-2")
        ask = partial(control, lab)
        await ask("publisher-1", "sealing_ring", group=GROUP)
        first = await sealed_release(lab, version="1")
        for name in ("gateway-1", "gateway-2"):
            await until(partial(lab.holds, name, stored(first)), f"{name} holds it")
            assert await states(lab, name, first) == ["no key"]
        added = await ask("publisher-1", "sealing_ring", group=GROUP, reachable=True)
        assert (added["generation"], added["version"], len(added["members"])) == (1, 2, 3)
        ring = Digest(bytes.fromhex(added["ring"]))
        for name in ("gateway-1", "gateway-2"):
            shelf = lab[name].data_plane.sealing.service
            shelf.peer_connected()  # the next round of questions, which time brings as well
            await until(partial(shelf.shelf.content_key, ring), f"{name} has the key")
            assert await states(lab, name, first) == ["open"]
        assert "members of the ring already" in await refused(
            lab, "publisher-1", "sealing_ring", group=GROUP, reachable=True
        )
        out = (await statement(lab, "gateway-2")).encode()
        gone = parse_statement(bytes.fromhex(out.decode())).statement.did
        did = (await ask("gateway-2", "status"))["did"]
        closed = await ask("publisher-1", "sealing_ring", group=GROUP, remove=[did])
        assert (closed["generation"], closed["version"], len(closed["members"])) == (2, 1, 2)
        second = await sealed_release(lab, version="2")
        for name in ("gateway-1", "gateway-2"):
            await until(partial(lab.holds, name, stored(second)), f"{name} holds it")
        assert stored(first) != stored(second)
        shelf = lab["gateway-1"].data_plane.sealing.service.shelf
        new_ring = Digest(bytes.fromhex(closed["ring"]))
        await until(partial(shelf.content_key, new_ring), "the new key came")
        file = await ask("gateway-1", "sealing_export", ring=closed["ring"])
        assert parse_ring(await trio.Path(file["path"]).read_bytes()).file.member(gone) is None
        imported = await ask("gateway-2", "sealing_import", path=file["path"])
        assert imported["state"] == "no key"
        assert await states(lab, "gateway-2", second) == ["no key"]
        assert await states(lab, "gateway-2", first) == ["open"]  # what it had, it keeps
        salts = await ask("gateway-1", "sealing_salts", manifest=second.manifest_id.hex())
        none = await ask("gateway-2", "sealing_salts", manifest=second.manifest_id.hex())
        assert (len(salts["salts"]), none["salts"]) == (1, {})


@pytest.mark.slow
async def test_versions_share_their_sealed_chunks(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*EVERYONE)
        await lab.until_met("publisher-1", "gateway-1", "gateway-2")
        await control(lab, "publisher-1", "sealing_ring", group=GROUP)
        first = await sealed_release(lab, version="1")
        await until(lambda: lab.holds("gateway-1", stored(first)), "holds the first")
        before = lab["gateway-1"].store.statistics().reused_bytes
        changed = IMAGE[:150_000] + b"one small insertion" + IMAGE[150_000:]
        second = await sealed_release(lab, changed, version="2")
        await until(lambda: lab.holds("gateway-1", stored(second)), "holds the second")
        assert lab["gateway-1"].store.statistics().reused_bytes - before > len(IMAGE) // 2
