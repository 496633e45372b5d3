"""Whole daemons under faults, on simulated time."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from protocol.errors import ConfigError, TransportError
from swarmd.simulation.daemons.runtime import SimulatedClock, run_simulated
from swarmd.simulation.daemons.swarm import (
    DaemonPlan,
    DaemonSwarm,
    NeverError,
    daemon_swarm,
)
from swarmd.simulation.daemons.wire import DaemonLink

IMAGE = hashlib.shake_256(b"firmware").digest(150_000)
T = TypeVar("T")


def simulate(
    folder: Path,
    scenario: Callable[[DaemonSwarm], Awaitable[T]],
    *,
    plan: DaemonPlan | None = None,
    seed: int = 1,
) -> T:
    async def main() -> T:
        async with daemon_swarm(plan or DaemonPlan(gateways=2), folder, seed=seed) as swarm:
            return await scenario(swarm)

    return run_simulated(main, seed=seed)


async def deliver(swarm: DaemonSwarm) -> tuple[str, float]:
    await swarm.start()
    release = await swarm.release(IMAGE)
    everybody = set(swarm.gateways)
    took_s = await swarm.until(lambda: set(swarm.holders(release)) == everybody, "all hold it")
    assert swarm.disagreements() == ()
    return swarm.network.trace_hash, took_s


@pytest.mark.slow
@pytest.mark.untraced
def test_one_seed_gives_one_trace(tmp_path: Path) -> None:
    plan = DaemonPlan(gateways=2, link=DaemonLink(jitter_s=0.01, loss=0.01))
    runs = [
        simulate(tmp_path / f"{number}", deliver, plan=plan, seed=seed)
        for number, seed in enumerate((5, 5, 6))
    ]
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[2][0]


@pytest.mark.slow
def test_a_validator_crashes_and_a_gateway_is_cut_off(tmp_path: Path) -> None:
    async def scenario(swarm: DaemonSwarm) -> None:
        await swarm.start()
        await swarm.crash("validator-1")
        others = [name for name in swarm.names if name != "gateway-2"]
        swarm.network.partition({"gateway-2"}, others)
        release = await swarm.release(IMAGE)
        await swarm.until(lambda: "gateway-1" in swarm.holders(release), "gateway-1 holds it")
        assert swarm.holders(release) == ("gateway-1",)
        swarm.network.heal()
        await swarm.start("validator-1")
        await swarm.until(lambda: len(swarm.holders(release)) == 2, "gateway-2 holds it")
        height = swarm.height("validator-2")
        await swarm.until(lambda: swarm.height("validator-1") >= height, "validator-1 follows")
        assert swarm.disagreements() == ()

    simulate(tmp_path / "lab", scenario)


@pytest.mark.slow
def test_nothing_becomes_final_without_a_quorum(tmp_path: Path) -> None:
    async def scenario(swarm: DaemonSwarm) -> None:
        await swarm.start()
        await swarm.release(IMAGE)
        validators = set(swarm.validators)
        rest = set(swarm.names) - validators
        swarm.network.partition({"validator-1", "validator-2"}, {"validator-3", "validator-4"})
        await trio.sleep(5)  # what was under way arrives
        height = max(swarm.height(name) for name in swarm.validators)
        await trio.sleep(300)
        assert {swarm.height(name) for name in (*validators, *rest)} == {height}
        swarm.network.heal()
        await swarm.until(
            lambda: all(swarm.height(name) > height for name in swarm.names), "it goes on"
        )
        assert swarm.disagreements() == ()

    simulate(tmp_path / "lab", scenario)


@pytest.mark.slow
@pytest.mark.untraced
def test_a_gateway_that_believes_in_1970_takes_part(tmp_path: Path) -> None:
    since_1970 = SimulatedClock(skew_s=-1_700_000_000)
    plan = DaemonPlan(gateways=2, clocks={"gateway-1": since_1970})
    assert simulate(tmp_path / "lab", deliver, plan=plan)[1] < 120


@pytest.mark.slow
def test_a_revoked_release_is_served_no_more(tmp_path: Path) -> None:
    async def scenario(swarm: DaemonSwarm) -> None:
        await swarm.start()
        release = await swarm.release(IMAGE)
        await swarm.until(lambda: len(swarm.holders(release)) == 2, "all hold it")
        await swarm.revoke(release)
        await swarm.until(lambda: swarm.holders(release) == (), "nobody has it for devices")

    simulate(tmp_path / "lab", scenario)


@pytest.mark.slow
def test_a_daemon_that_cannot_start_and_what_never_happens_are_told(tmp_path: Path) -> None:
    async def scenario(swarm: DaemonSwarm) -> None:
        await swarm.start("validator-1")
        address = swarm.address("validator-2")
        await swarm.network.wire_of("validator-1").listen(address.host, address.port)
        with pytest.raises(TransportError, match="in use"):
            await swarm.start("validator-2")
        assert swarm.running == ("validator-1",)
        with pytest.raises(NeverError, match="not within 30 s: a block"):
            await swarm.until(lambda: swarm.height("validator-1") > 0, "a block", limit_s=30)

    simulate(tmp_path / "lab", scenario)


def test_a_plan_that_cannot_be_is_refused(tmp_path: Path) -> None:
    async def scenario(_swarm: DaemonSwarm) -> None:
        raise AssertionError("it was made")

    for plan, words in (
        (DaemonPlan(degree=0), "degree 0"),
        (DaemonPlan(validators=3), "3 validators"),
        (DaemonPlan(gateways=1_000), "1005 nodes"),
    ):
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - an error or a group of it
            simulate(tmp_path / "lab", scenario, plan=plan)
        error = caught.value
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        assert isinstance(error, ConfigError)
        assert words in str(error)
