"""Who takes a validator's disk, or only says that it is ahead of everybody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from ledger.consensus_messages import Status, encode_message
from protocol.did import KeyPurpose
from protocol.digest import DidId
from protocol.genesis import EPOCH_MS
from swarmd.clock import ManualClock
from swarmd.datadir import DataDir, KeyName
from swarmd.entropy import SeededEntropy
from swarmd.epoch_keys import EpochKeys
from swarmd.freshness import FreshnessClock
from swarmd.keys.key_writer import write_key_file
from swarmd.keys.passphrase import no_passphrase
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerRegistry
from swarmd.services.consensus import ENGINE_PATIENCE_S, ConsensusService
from swarmd.services.consensus_epoch import Surroundings
from swarmd.services.vote_keys import VoteKeys
from tests.support.epochs import VoteKeys as EveryVoteKey
from tests.support.epochs import advance_epochs, certify_all
from tests.support.ledger import Lab, make_lab


def keys_of(lab: Lab, path: Path) -> tuple[DataDir, EpochKeys]:
    """The folder of the first validator."""
    member = lab.validators[0]
    data = DataDir(path / "node")
    data.create()
    write_key_file(data.key_path(KeyName.NODE), member.key(KeyPurpose.NODE))
    write_key_file(data.key_path(KeyName.VALIDATOR), member.key(KeyPurpose.VALIDATOR))
    keys = EpochKeys(data, SeededEntropy(1, "keys"), no_passphrase)
    keys.load()
    return data, keys


async def test_the_key_of_a_record_is_gone_with_its_epoch_though_no_other_was_certified(
    tmp_path: Path,
) -> None:
    """E23: a seat that went empty leaves nothing to sign the old epoch with."""
    lab = make_lab()
    chain, every = lab.open_chain(), EveryVoteKey(lab.validators)
    data, keys = keys_of(lab, tmp_path)
    host = LedgerHost(chain, lambda: chain.head.time_ms)
    service = VoteKeys(
        keys=keys,
        ledger=host,
        own_did=DidId(lab.validators[0].did),
        submit=None,  # type: ignore[arg-type]
    )
    await service._retire()
    assert data.key_path(KeyName.VALIDATOR).exists(), "it votes in epoch 1"
    now_ms = chain.head.time_ms
    advance_epochs(lab, chain, every, certify_all(lab, 2, lab.validators[1:], now_ms=now_ms))
    advance_epochs(lab, chain, every, after_ms=EPOCH_MS)
    assert chain.validators.epoch == 2
    await service._retire()
    assert not data.key_path(KeyName.VALIDATOR).exists()


def test_a_copy_that_a_power_loss_left_beside_a_key_file_is_deleted(tmp_path: Path) -> None:
    """A key file is linked to its name before the name it was written under goes."""
    lab = make_lab()
    data, keys = keys_of(lab, tmp_path)
    keys.for_epoch(2)
    path = data.key_path(f"{KeyName.VALIDATOR}-2")
    os.link(path, path.with_name(f".{path.name}.abc123"))
    again = EpochKeys(data, SeededEntropy(1, "keys"), no_passphrase)
    again.load()
    again.retire(3, keep=())
    assert [item.name for item in data.keys.iterdir() if "validator-2" in item.name] == []


async def test_one_that_lies_about_being_ahead_holds_the_engine_up_once(tmp_path: Path) -> None:
    """E19: without patience the follower overtakes the engine, which then starts anew."""
    lab = make_lab()
    chain = lab.open_chain()
    _, keys = keys_of(lab, tmp_path)
    host = LedgerHost(chain, lambda: chain.head.time_ms)
    clock = ManualClock()
    around = Surroundings(
        network=None,  # type: ignore[arg-type]
        ledger=host,
        registry=PeerRegistry(lab.chain_id, clock, lambda *_: None),
        clock=clock,
        entropy=SeededEntropy(2, "consensus"),
    )
    followed: list[PeerKey] = []
    service = ConsensusService(
        around,
        own_did=DidId(lab.validators[0].did),
        vote_keys=VoteKeys(
            keys=keys,
            ledger=host,
            own_did=DidId(lab.validators[0].did),
            submit=None,  # type: ignore[arg-type]
        ),
        delta_s=1.0,
        on_ahead=followed.append,
    )
    liar, other = (
        PeerKey(member.key(KeyPurpose.TRANSPORT).public.raw) for member in lab.validators[1:3]
    )
    frame = encode_message(Status(epoch=9, view=1, certificate=None))

    def restart() -> None:
        assert service.seat is not None
        key, index = service.seat
        service._current = service._make_epoch(key, index, None, None)

    restart()
    assert service._receive(liar, 9, frame)
    assert service.patience_s() == 0.0, "it may be true"
    for epoch in (9, 10, 11):
        restart()
        assert service._receive(liar, epoch, frame)
        assert service.patience_s() == ENGINE_PATIENCE_S, "it was not"
    assert service._receive(other, 2, frame)
    assert service.patience_s() == 0.0, "another may be right"
    assert followed == [liar, liar, liar, liar, other]
    await trio.lowlevel.checkpoint()


def test_a_clock_that_always_starts_in_1970_tells_no_time_away() -> None:
    """A gateway without a clock of its own, off for a year, must not think that it just stopped."""
    head_ms = make_lab().open_chain().head.time_ms
    clock = FreshnessClock(None, now=0.0, wall_ms=1000, head_ms=head_ms)
    clock.confirm(60.0)
    saved = clock.save(now=60.0, wall_ms=61_000)
    assert saved is not None
    a_year_later = FreshnessClock(saved, now=0.0, wall_ms=1000, head_ms=head_ms)
    assert a_year_later.age_ms(10.0) is None
    right = FreshnessClock(saved, now=0.0, wall_ms=head_ms + 60_000, head_ms=head_ms)
    assert right.age_ms(10.0) is not None, "all the time since 1970, and so too old for anything"


@pytest.mark.parametrize("behind_ms", [0, 500_000])
def test_a_clock_that_is_a_little_behind_the_head_still_tells_the_time(behind_ms: int) -> None:
    """Header times may be ahead of an honest clock by seconds, and clocks drift."""
    head_ms = make_lab().open_chain().head.time_ms
    clock = FreshnessClock(None, now=0.0, wall_ms=head_ms, head_ms=head_ms)
    clock.confirm(1.0)
    saved = clock.save(now=1.0, wall_ms=head_ms - behind_ms)
    again = FreshnessClock(saved, now=0.0, wall_ms=head_ms - behind_ms, head_ms=head_ms)
    assert again.age_ms(0.0) is not None
