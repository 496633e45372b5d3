"""`wait_copies` on whole nodes: who counts, who does not, and what "not yet" says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import trio

from swarmd.control.client import ControlClient
from swarmd.control.protocol import ControlError, ErrorCode
from tests.support.swarm import VALIDATORS, Swarm, swarm, until

IMAGE = hashlib.shake_256(b"copies").digest(200_000)
PUBLISHER = "publisher-1"

pytestmark = pytest.mark.slow


async def wait_copies(
    lab: Swarm, manifest: bytes, copies: int, timeout_s: float, progress: list[Any]
) -> Any:
    """The answer; the progress on the way is added to `progress`."""
    params = {"manifest": manifest.hex(), "copies": copies, "timeout_s": timeout_s}

    def request() -> object:
        with ControlClient(lab.directory(PUBLISHER).control_socket) as client:
            return client.call("wait_copies", params, progress.append)

    return await trio.to_thread.run_sync(request, abandon_on_cancel=True)


async def not_yet(lab: Swarm, manifest: bytes, copies: int, timeout_s: float = 1.0) -> str:
    with pytest.raises(ControlError) as caught:
        await wait_copies(lab, manifest, copies, timeout_s, [])
    assert (caught.value.code, caught.value.rule) == (ErrorCode.NOT_YET, "copies.timeout")
    return str(caught.value)


async def test_a_publisher_sees_other_members_complete_its_release(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=2) as lab:
        everyone = (*VALIDATORS, PUBLISHER, "gateway-1", "gateway-2")
        await lab.start(*everyone)
        await lab.until_met(PUBLISHER, "gateway-1", "gateway-2")
        signed = await lab.propose(IMAGE)
        manifest = signed.manifest_id
        assert "0 of 1 other members" in await not_yet(lab, manifest, 1)
        async with trio.open_nursery() as nursery:
            results: list[Any] = []
            progress: list[Any] = []

            async def wait() -> None:
                results.append(await wait_copies(lab, manifest, 2, 60.0, progress))

            nursery.start_soon(wait)
            await until(lambda: progress, "it waits for approval")
            await lab.approve(signed)
        (result,) = results
        assert result == {"manifest": manifest.hex(), "copies": 2}
        stages = [fields["stage"] for fields in progress]
        assert stages[-1] == "copies"
        assert stages[0] != "copies"
        counts = [fields["copies"] for fields in progress]
        assert counts == sorted(counts)
        # Neither validators nor the publisher itself are copies.
        texts = [await not_yet(lab, manifest, 3)]
        while "2 of 3 other members" not in texts[-1] and len(texts) < 10:
            texts.append(await not_yet(lab, manifest, 3))  # a busy machine takes its time
        assert "2 of 3 other members" in texts[-1]
        # Who went offline still holds what it held; who was suspended does not count.
        await lab.stop("gateway-2")
        await lab.suspend("gateway-1")
        await until(lambda: lab.class_of(PUBLISHER, "gateway-1") is not None)
        assert "0 of 1 other members" in await not_yet(lab, manifest, 1)


async def test_a_revocation_ends_the_wait(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*VALIDATORS, PUBLISHER)
        signed = await lab.release(IMAGE)
        async with trio.open_nursery() as nursery:
            errors: list[ControlError] = []
            progress: list[Any] = []

            async def wait() -> None:
                with pytest.raises(ControlError) as caught:
                    await wait_copies(lab, signed.manifest_id, 1, 600.0, progress)
                errors.append(caught.value)

            nursery.start_soon(wait)
            await until(lambda: any(one["stage"] == "copies" for one in progress), "it counts")
            await lab.revoke(signed)
        assert [error.rule for error in errors] == ["manifest.revoked"]


async def test_what_is_refused_or_unknown_ends_at_once(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*VALIDATORS, PUBLISHER)
        signed = await lab.release(IMAGE)
        await lab.revoke(signed)
        with trio.fail_after(30):
            with pytest.raises(ControlError) as caught:
                await wait_copies(lab, signed.manifest_id, 1, 600.0, [])
            assert (caught.value.code, caught.value.rule) == (
                ErrorCode.REFUSED,
                "manifest.revoked",
            )
            with pytest.raises(ControlError) as caught:
                await wait_copies(lab, bytes(32), 1, 600.0, [])
            assert caught.value.rule == "manifest.unknown"
