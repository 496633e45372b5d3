"""Honest nodes among members that ask everybody for everything, for ever, over thin links."""

from __future__ import annotations

import pytest

from protocol.limits import MIB
from swarmd.simulation.byzantine.greedy_peer import GreedyPeer
from swarmd.simulation.transfer import THIN, Transfer, link
from swarmd.simulation.transfer_host import TransferHost
from swarmd.simulation.transfer_part import ImagePart

SIZE = 2 * MIB
ALONE_S = SIZE / THIN
GREEDY = 4
FLOOD_S = 3 * GREEDY * ALONE_S
"""By then each greedy member was sent the image more than twice."""


class _Never(TransferHost):
    """Waited for until the time is up."""

    def __init__(self) -> None:
        self.is_gone = False

    @property
    def is_done(self) -> bool:
        return False


def flooded(*, greedy: int = GREEDY, is_relayed: bool = False) -> Transfer:
    """A seeder, and greedy members without uplinks worth mentioning."""
    transfer = Transfer(3, image_bytes=SIZE, is_relayed=is_relayed)
    transfer.add_seeder()
    for _ in range(greedy):
        transfer.add_leecher(link(THIN / 50, THIN), kind=GreedyPeer)
    return transfer


def begin_anew(transfer: Transfer, host: TransferHost, held: range) -> ImagePart:
    """Starts a node again under its own name, with what its disk still holds."""
    others = [each for each in (*transfer.seeders, *transfer.leechers) if each is not host]
    for other in others:
        transfer.network.disconnect(host.number, other.number)
        host.disconnect(other.number)
        other.disconnect(host.number)
    for part in host.parts:
        part.download = None
    for other in others:
        transfer.network.connect(host.number, other.number)
        host.connect(other.number)
        other.connect(host.number)
    return host.add_image(transfer.release, held=[held])


def seconds_of(transfer: Transfer, host: TransferHost) -> float:
    """How long a node takes from now on."""
    started = transfer.world.now
    transfer.run(started + 60.0, waits_for=[host])
    assert host.is_done
    return transfer.world.now - started


def sent_to_greedy(transfer: Transfer) -> int:
    """Chunk bytes that the seeder gave to greedy members on their present streams."""
    seeder = transfer.seeders[0]
    return sum(
        seeder._uploads[host.number].sent_bytes
        for host in transfer.leechers
        if isinstance(host, GreedyPeer)
    )


@pytest.mark.slow
@pytest.mark.untraced
def test_a_newcomer_gets_more_than_half_of_a_flooded_seeder() -> None:
    transfer = flooded()
    transfer.run(FLOOD_S, waits_for=[_Never()])
    assert sent_to_greedy(transfer) > 2.0 * GREEDY * SIZE
    newcomer = transfer.add_leecher()
    took = seconds_of(transfer, newcomer)
    # A fifth of the uplink would make it five times what it takes alone.
    assert took < 3.5 * ALONE_S
    before, at = sent_to_greedy(transfer), transfer.world.now
    transfer.run(at + 2.0, waits_for=[_Never()])
    assert sent_to_greedy(transfer) - before > 0.8 * 2.0 * THIN, "what is spare is given away"


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize(
    ("kept", "times"),
    [
        pytest.param(0.0, 4.0, id="lost its disk"),
        pytest.param(0.5, 5.0, id="was killed"),
        pytest.param(0.95, 2.0, id="found bad sectors"),
    ],
)
def test_who_lost_what_it_had_gets_it_again_in_a_flood(kept: float, times: float) -> None:
    transfer = flooded()
    host = transfer.add_leecher()
    transfer.run(FLOOD_S, waits_for=[_Never()])
    assert host.is_done
    assert sent_to_greedy(transfer) > 2.0 * GREEDY * SIZE
    count = len(transfer.release.components[0])
    held = range(int(kept * count))
    part = begin_anew(transfer, host, held)
    took = seconds_of(transfer, host)
    assert part.is_complete
    # It was sent everything once. Of all who were it is the least served, and comes first.
    assert took < times * ALONE_S


@pytest.mark.slow
def test_a_relay_pushes_though_members_ask_for_everything_before_it_begins() -> None:
    transfer = flooded(is_relayed=True)
    honest = [transfer.add_leecher() for _ in range(6)]
    transfer.run(60.0, waits_for=honest)
    assert all(host.is_done for host in honest)
    pulled = sent_to_greedy(transfer)
    assert pulled < transfer.seeders[0].parts[0].figures.sent_bytes - 0.9 * SIZE
