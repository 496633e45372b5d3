"""What whole nodes keep: the last releases, pins, what devices run, room for what is new."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from chunks.store import ImageState
from protocol.digest import Digest
from protocol.errors import StorageError
from protocol.manifest import SignedManifest
from swarmd.config import Config, StorageConfig
from swarmd.receipts import ReceiptKind
from swarmd.services.keeping import USE_S
from tests.support.swarm import Swarm, swarm, until

SIZE = 400_000
GATEWAY = "gateway-1"
NODES = ("validator-1", "validator-2", "validator-3", "validator-4", "publisher-1", GATEWAY)

pytestmark = pytest.mark.slow


def image(number: int) -> bytes:
    return hashlib.shake_256(b"release %d" % number).digest(SIZE)


def digest(signed: SignedManifest) -> Digest:
    return signed.manifest.components[0].digest


def storage(**settings: int) -> Callable[[Config], Config]:
    return lambda config: dataclasses.replace(
        config, storage=dataclasses.replace(StorageConfig(reserve_bytes=0), **settings)
    )


async def publish(lab: Swarm, *numbers: int) -> list[SignedManifest]:
    """Releases images one after the other, each complete on the gateway before the next."""
    releases = []
    for number in numbers:
        signed = await lab.release(image(number), version=f"1.{number}")
        await until(lambda signed=signed: lab.holds(GATEWAY, digest(signed)), f"1.{number} fetched")
        releases.append(signed)
    return releases


def held(lab: Swarm, name: str = GATEWAY) -> set[Digest]:
    return {record.image for record in lab[name].store.images()}


async def test_a_node_keeps_the_last_releases_and_serves_on(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=2) as lab:
        lab.configure(GATEWAY, storage(keep_releases=2))
        await lab.start(*NODES)
        releases = await publish(lab, 1, 2, 3, 4)
        kept = {digest(one) for one in releases[2:]}
        keeping = lab[GATEWAY].data_plane.storage.keeping
        await until(lambda: keeping.statistics().collected_images == 2, "older releases go")
        assert held(lab) == kept
        receipts = lab[GATEWAY].receipts
        await receipts.flush()
        entries = [e for e in receipts.newest(100) if e.kind is ReceiptKind.COLLECTED]
        assert {entry.manifest for entry in entries} == {one.manifest_id for one in releases[:2]}
        assert {entry.detail for entry in entries} == {"superseded by newer releases"}
        # A newcomer gets what is left from whoever has it.
        await lab.start("gateway-2")
        await until(lambda: lab.holds("gateway-2", digest(releases[3])), "the newest is served")


async def test_pins_and_what_devices_run_stay_through_restarts(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        lab.configure(GATEWAY, storage(keep_releases=1))
        await lab.start(*NODES)
        first, second = await publish(lab, 1, 2)
        node = lab[GATEWAY]
        await until(lambda: digest(first) not in held(lab), "the first goes: nobody wanted it kept")
        node.health.note(second.manifest_id, b"device-1", runs=True)
        (third,) = await publish(lab, 3)
        assert node.data_plane.storage.keeping.pins.add(third.manifest_id)
        (fourth,) = await publish(lab, 4)
        (fifth,) = await publish(lab, 5)
        await until(lambda: digest(fourth) not in held(lab), "the fourth goes")
        assert held(lab) == {digest(second), digest(third), digest(fifth)}
        await node.receipts.flush()
        await lab.stop(GATEWAY)
        await lab.start(GATEWAY)
        node = lab[GATEWAY]
        for _ in range(2):
            await node.data_plane.storage.keeping.collect(more_bytes=1 << 40)
        assert held(lab) == {digest(second), digest(third), digest(fifth)}
        assert node.data_plane.storage.keeping.pins.remove(third.manifest_id)
        node.health.note(fifth.manifest_id, b"device-1", runs=True)
        await node.data_plane.storage.keeping.collect()
        assert held(lab) == {digest(fifth)}


async def test_room_is_made_for_what_is_new_and_the_quota_holds(tmp_path: Path) -> None:
    quota = 3 * SIZE + SIZE // 2
    async with swarm(tmp_path, gateways=1) as lab:
        lab.configure(GATEWAY, storage(keep_releases=8, quota_bytes=max(quota, 1 << 20)))
        await lab.start(*NODES)
        releases = []
        for number in range(1, 6):
            releases += await publish(lab, number)
            statistics = lab[GATEWAY].store.statistics()
            assert statistics.reserved_bytes <= quota
        assert held(lab) == {digest(one) for one in releases[2:]}
        # Two that devices run, and one that is new: the fourth waits, and nothing is harmed.
        node = lab[GATEWAY]
        node.health.note(releases[2].manifest_id, b"a", runs=True)
        node.health.note(releases[3].manifest_id, b"b", runs=True)
        sixth = await lab.release(image(6), version="1.6")
        await until(lambda: node.exchange.statistics().fetches, "the fetch begins")
        with trio.move_on_after(0.5):
            await until(lambda: digest(sixth) in held(lab))
        assert held(lab) == {digest(one) for one in releases[2:]}
        assert all(lab.holds(GATEWAY, one) for one in held(lab))
        # Once a device moved on there is room.
        node.health.note(releases[4].manifest_id, b"a", runs=True)
        await node.images.make_room_again()
        assert digest(releases[2]) not in held(lab)


async def test_a_withdrawn_image_is_locked_while_a_device_runs_it(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*NODES)
        first, second = await publish(lab, 1, 2)
        node = lab[GATEWAY]
        node.health.note(first.manifest_id, b"device-1", runs=True)
        await lab.revoke(first)
        await until(
            lambda: node.store.record(digest(first)).state is ImageState.LOCKED, "it is locked"
        )
        await node.receipts.flush()
        await lab.stop(GATEWAY)
        await lab.start(GATEWAY)
        node = lab[GATEWAY]
        await node.data_plane.storage.keeping.collect(more_bytes=1 << 40)
        assert node.store.record(digest(first)).state is ImageState.LOCKED
        node.health.note(second.manifest_id, b"device-1", runs=True)
        await node.data_plane.storage.keeping.collect()
        assert digest(first) not in held(lab)
        assert lab.holds(GATEWAY, digest(second))


async def test_what_is_handed_out_or_fetched_is_left_alone(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        lab.configure(GATEWAY, storage(keep_releases=1))
        await lab.start(*NODES)
        (first,) = await publish(lab, 1)
        keeping = lab[GATEWAY].data_plane.storage.keeping
        keeping.note_use(digest(first))
        await publish(lab, 2)
        (verdict, *_) = await keeping.collect()
        assert (verdict.verdict.goes, verdict.verdict.reason.value) == (
            False,
            "fetched or read at the moment",
        )
        keeping._uses[digest(first)] -= USE_S
        await keeping.collect()
        assert digest(first) not in held(lab)
        # What an operator asks for is fetched again, and stays while it comes.
        lab[GATEWAY].images.request(first.manifest_id)
        await until(lambda: digest(first) in held(lab), "it is fetched again")


async def test_a_dry_run_says_what_would_go_and_deletes_nothing(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        await lab.start(*NODES)
        releases = await publish(lab, 1, 2)
        keeping = lab[GATEWAY].data_plane.storage.keeping
        quota = lab[GATEWAY].store.statistics().quota_bytes
        assert quota is not None
        dry = await keeping.collect(more_bytes=quota, is_dry=True)
        assert [kept.verdict.goes for kept in dry] == [True, False]
        assert [kept.names for kept in dry] == [("pump 1.1",), ("pump 1.2",)]
        assert held(lab) == {digest(one) for one in releases}
        assert keeping.statistics().collected_images == 0
        await keeping.collect(more_bytes=quota)
        assert held(lab) == {digest(releases[1])}


async def test_under_an_alarm_nothing_is_deleted(tmp_path: Path) -> None:
    async with swarm(tmp_path, gateways=1) as lab:
        lab.configure(GATEWAY, storage(keep_releases=1))
        await lab.start(*NODES)
        (first,) = await publish(lab, 1)
        node = lab[GATEWAY]
        keeping = node.data_plane.storage.keeping
        keeping.note_use(digest(first))
        await publish(lab, 2)
        keeping._uses.clear()
        node.ledger.raise_alarm(StorageError("a test"))
        kept = await keeping.collect()
        assert [one.is_gone for one in kept] == [False, False]
        assert len(held(lab)) == 2


async def test_what_cannot_be_deleted_is_offered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that refuses a deletion must not end the serving of a release for good."""
    async with swarm(tmp_path, gateways=1) as lab:
        lab.configure(GATEWAY, storage(keep_releases=1))
        await lab.start(*NODES)
        (first,) = await publish(lab, 1)
        node = lab[GATEWAY]
        node.data_plane.storage.keeping.note_use(digest(first))
        await publish(lab, 2)
        await until(lambda: node.data_plane.exchange.is_open(first.manifest_id), "it is served")

        def refuse(_image: Digest) -> bool:
            raise StorageError("input/output error")

        monkeypatch.setattr(node.store, "collect", refuse)
        node.data_plane.storage.keeping._uses.clear()
        with pytest.raises(StorageError):
            await node.data_plane.storage.keeping.collect()
        monkeypatch.undo()
        node.data_plane.storage.keeping.note_use(digest(first))
        await until(lambda: node.data_plane.exchange.is_open(first.manifest_id), "served again")
