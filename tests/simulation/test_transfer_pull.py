"""Transfers by pulling alone, over thin links: the machines' floor when nobody relays."""

from __future__ import annotations

import pytest

from protocol.exchange_messages import Chunks
from protocol.limits import MIB
from swarmd.simulation.byzantine.chunk_corrupter import corrupt
from swarmd.simulation.exchange_host import peer_id
from swarmd.simulation.links import LinkModel, NodeLink
from swarmd.simulation.transfer import Transfer, fluid_bound_s, link
from swarmd.simulation.transfer_host import Disk, TransferHost, join


class Corrupter(TransferHost):
    """Spoils every chunk it sends over thin links."""

    def outgoing(self, target: int, message: object) -> tuple[object, ...]:
        if isinstance(message, Chunks):
            chunks = tuple((index, corrupt(data)) for index, data in message.chunks)
            return (Chunks.of(message.request_id, chunks),)
        return (message,)


class Staller(TransferHost):
    """Serves nothing over thin links."""

    def outgoing(self, target: int, message: object) -> tuple[object, ...]:
        return () if isinstance(message, Chunks) else (message,)


def test_the_fluid_bound_is_the_greatest_of_three() -> None:
    fast, slow = link(4.0), link(1.0)
    assert fluid_bound_s(12, [slow], [fast, fast]) == 12.0  # the seeder's uplink
    assert fluid_bound_s(12, [fast], [fast, NodeLink(uplink_bytes_per_s=1, downlink_bytes_per_s=2)])
    assert fluid_bound_s(12, [fast], [link(4.0, 2.0)]) == 6.0  # a downlink
    assert fluid_bound_s(12, [link(12.0)], [link(1.0, 50.0)] * 4) == 3.0  # all uplinks
    assert fluid_bound_s(12, [fast, fast], [slow]) == 12.0


@pytest.mark.slow
def test_leechers_serve_each_other() -> None:
    transfer = Transfer(1, image_bytes=2 * MIB, is_relayed=False)
    transfer.add_seeder()
    for _ in range(6):
        transfer.add_leecher()
    transfer.run()
    figures = transfer.figures()
    assert figures.is_complete
    assert 1.0 < figures.mean <= figures.makespan < 3.5
    assert figures.seeder_share < 3.5
    assert figures.duplicate_share < 0.05
    assert all(host.parts[0].is_complete for host in transfer.leechers)


@pytest.mark.slow
def test_a_transfer_is_repeated_by_its_seed() -> None:
    def run(seed: int) -> str:
        model = LinkModel(loss=0.01)
        transfer = Transfer(seed, image_bytes=MIB // 2, model=model, is_relayed=False)
        transfer.add_seeder()
        for _ in range(3):
            transfer.add_leecher()
        transfer.run()
        return transfer.world.trace_hash

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_what_was_read_for_a_stream_that_ended_is_not_told_to_the_next() -> None:
    """A peer that comes back while its last request is still being read for."""
    slow = Disk(read_s=0.3)
    transfer = Transfer(1, image_bytes=2 * MIB, is_relayed=False, disk=slow)
    seeder = transfer.add_seeder()
    leecher = transfer.add_leecher()
    for _ in range(3):
        transfer.world.run_until(transfer.world.now + 0.5)
        assert not leecher.is_done
        transfer.network.disconnect(seeder.number, leecher.number)
        seeder.disconnect(leecher.number)
        leecher.disconnect(seeder.number)
        join(transfer.network, leecher, [seeder])
    transfer.run()
    assert leecher.parts[0].is_complete


@pytest.mark.slow
def test_misbehaviour_of_the_exchange_is_survived_over_thin_links() -> None:
    transfer = Transfer(3, image_bytes=MIB, is_relayed=False)
    transfer.add_seeder()
    bad = [transfer.add_leecher(kind=Corrupter), transfer.add_leecher(kind=Staller)]
    honest = [transfer.add_leecher() for _ in range(3)]
    transfer.run(waits_for=honest)
    assert all(host.is_done for host in honest)
    blamed = {blame.peer for host in honest for blame in host.parts[0].blames}
    assert blamed == {peer_id(bad[0].number)}
