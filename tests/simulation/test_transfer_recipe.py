"""A recipe on its way to many: who has it passes it on, whoever is mute or lies."""

from __future__ import annotations

import pytest

from protocol.download_pages import PAGE_PATIENCE_S
from protocol.exchange_events import Offence
from protocol.exchange_messages import RecipePageMessage
from protocol.limits import KIB, MIB
from swarmd.simulation.transfer import Transfer, link
from swarmd.simulation.transfer_host import TransferHost

RATE = 625_000.0
"""Bytes a second of 5 Mbit/s."""
CROWD = 48
PAGE_BYTES = 37_500
"""About what the recipe takes."""


class Counter(TransferHost):
    """Counts the recipe pages that it sends, and notes when it had the recipe."""

    page_bytes = 0
    pages = 0

    def outgoing(self, target: int, message: object) -> tuple[object, ...]:
        if isinstance(message, RecipePageMessage):
            self.page_bytes += len(message.page)
            self.pages += 1
        return (message,)


class Mute(TransferHost):
    """Never sends a recipe page."""

    def outgoing(self, target: int, message: object) -> tuple[object, ...]:
        return () if isinstance(message, RecipePageMessage) else (message,)


class Forger(TransferHost):
    """Sends recipe pages with one bit changed."""

    def outgoing(self, target: int, message: object) -> tuple[object, ...]:
        if isinstance(message, RecipePageMessage):
            page = bytearray(message.page)
            page[len(page) // 2] ^= 1
            return (RecipePageMessage(request_id=message.request_id, page=bytes(page)),)
        return (message,)


def crowd(seed: int, kinds: list[type[TransferHost]]) -> Transfer:
    """A seeder and members that begin at once; a recipe of 1,024 chunks, as of 16 MiB."""
    transfer = Transfer(seed, image_bytes=MIB, chunk_bytes=KIB, knows_recipe=False)
    transfer.add_seeder(link(RATE))
    for kind in kinds:
        transfer.add_leecher(link(RATE), kind=kind)
    return transfer


def recipe_times(transfer: Transfer, until_s: float) -> list[float]:
    """When each honest member had the recipe, simulated seconds."""
    honest = [host for host in transfer.leechers if isinstance(host, Counter)]
    times: dict[int, float] = {}
    while len(times) < len(honest) and transfer.world.now < until_s:
        transfer.world.run_until(transfer.world.now + 0.05)
        for host in honest:
            if host.parts[0].prepared:
                times.setdefault(host.number, transfer.world.now)
    assert len(times) == len(honest), "somebody never had it"
    return sorted(times.values())


@pytest.mark.slow
def test_a_crowd_has_the_recipe_sooner_than_the_seeder_could_send_it() -> None:
    transfer = crowd(1, [Counter] * CROWD)
    times = recipe_times(transfer, 10.0)
    together_s = CROWD * PAGE_BYTES / RATE
    assert times[0] < 0.25 * together_s
    assert times[CROWD * 9 // 10] < 0.7 * together_s
    counters = [host for host in transfer.leechers if isinstance(host, Counter)]
    assert sum(host.page_bytes for host in counters) > 0.6 * CROWD * PAGE_BYTES
    assert sum(host.pages for host in counters) <= 2.2 * CROWD  # nearly nothing comes twice


@pytest.mark.slow
def test_who_forges_pages_is_named_by_whom_it_was_asked_and_delays_nobody() -> None:
    transfer = crowd(2, [*[Forger] * 8, *[Counter] * 24])
    times = recipe_times(transfer, 20.0)
    assert times[-1] < 2 * 32 * PAGE_BYTES / RATE
    forgers = {host.number for host in transfer.leechers if isinstance(host, Forger)}
    offences = [
        each for host in transfer.leechers if isinstance(host, Counter) for each in host.offences
    ]
    assert offences
    assert all(peer in forgers for peer, _ in offences)
    assert all(offence is Offence.CORRUPT_PAGE for _, offence in offences)


@pytest.mark.slow
def test_who_takes_requests_and_sends_nothing_costs_each_member_a_stated_patience() -> None:
    mute_count = 4
    transfer = crowd(3, [*[Mute] * mute_count, *[Counter] * 24])
    times = recipe_times(transfer, 20.0)
    assert times[-1] < 28 * PAGE_BYTES / RATE + mute_count * (PAGE_PATIENCE_S + 0.25)
    assert all(not host.offences for host in transfer.leechers)
