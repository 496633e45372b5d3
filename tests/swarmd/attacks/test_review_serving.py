"""What others ask must not stand in line before consensus (G7), however much of it there is."""

from __future__ import annotations

import threading

import trio
import trio.testing

from protocol.digest import sha256
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from tests.support.ledger import make_lab

PEERS = [PeerKey(sha256(b"%d" % number)) for number in range(4)]


async def test_a_vote_waits_for_one_of_a_thousand_questions() -> None:
    chain = make_lab().open_chain()
    host = LedgerHost(chain, lambda: 0)
    done: list[str] = []
    free = threading.Event()

    async def ask(peer: PeerKey) -> None:
        await host.serve(peer, lambda: done.append("question"))

    async def vote() -> None:
        await host.run(lambda: done.append("vote"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, free.wait)  # the worker is busy
        await trio.testing.wait_all_tasks_blocked()
        for peer in PEERS:
            for _ in range(250):
                nursery.start_soon(ask, peer)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(vote)
        await trio.testing.wait_all_tasks_blocked()
        free.set()
    assert done.index("vote") <= 1
    assert len(done) == 1001


async def test_one_that_asks_on_every_stream_waits_behind_others_that_ask_once() -> None:
    chain = make_lab().open_chain()
    host = LedgerHost(chain, lambda: 0)
    done: list[PeerKey] = []
    free = threading.Event()

    async def ask(peer: PeerKey) -> None:
        await host.serve(peer, lambda: done.append(peer))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, free.wait)
        await trio.testing.wait_all_tasks_blocked()
        for peer in [PEERS[0]] * 32 + PEERS[1:]:
            nursery.start_soon(ask, peer)
            await trio.testing.wait_all_tasks_blocked()
        free.set()
    assert set(done[:4]) == set(PEERS)
    assert host._lanes == {}, "nothing is kept of who asked"


async def test_a_question_that_is_given_up_lets_the_next_one_pass() -> None:
    chain = make_lab().open_chain()
    host = LedgerHost(chain, lambda: 0)
    free = threading.Event()
    done: list[int] = []

    async def give_up(scope: trio.CancelScope) -> None:
        with scope:
            await host.serve(PEERS[0], lambda: done.append(1))

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(host.run, free.wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(give_up, scope)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(host.serve, PEERS[0], lambda: done.append(2))
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        free.set()
    assert done == [2]
    assert host._lanes == {}
