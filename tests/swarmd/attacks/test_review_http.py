"""A device that asks for an image and never reads it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from swarmd.services import image_http
from swarmd.services.image_http import TRANSFERS_MAX
from tests.support.swarm import swarm, until

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")
STOP_S = 15.0


@pytest.mark.slow
async def test_a_device_that_reads_nothing_holds_up_no_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_http, "STALL_S", 1.0)
    image = random.Random(1).randbytes(12_000_000)
    nodes = (*VALIDATORS, "publisher-1", "gateway-1")
    async with swarm(tmp_path, http=("gateway-1",)) as lab:
        await lab.start(*nodes)
        await lab.until_met(*nodes)
        digest = (await lab.release(image)).manifest.components[0].digest
        await until(lambda: lab.holds("gateway-1", digest))
        server = lab["gateway-1"].data_plane.http
        assert server.url is not None
        host, port = server.url.removeprefix("http://").rsplit(":", 1)
        device = await trio.open_tcp_stream(host, int(port))
        device.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        request = f"GET /v1/images/{digest.hex()} HTTP/1.1\r\nHost: gateway\r\n\r\n"
        await device.send_all(request.encode())
        assert await device.receive_some(1000)
        await until(lambda: server._slots.value < TRANSFERS_MAX)
        process = lab.running["gateway-1"]
        with trio.move_on_after(STOP_S) as scope:
            await lab.stop("gateway-1")
        await device.aclose()
        await process.ended.wait()
        assert not scope.cancelled_caught, "the node waits for the device"
