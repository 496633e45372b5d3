"""A follower gives its history up only if nobody at all has the blocks that follow."""

from __future__ import annotations

from typing import Any

import trio

from protocol.digest import sha256
from protocol.errors import PolicyError
from swarmd.clock import ManualClock
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.services.follower import FollowerService
from swarmd.services.ledger_service import PRUNED_RULE
from tests.support.ledger import advance, make_lab

LIAR, HONEST = (PeerKey(sha256(name)) for name in (b"liar", b"honest"))


class Service:
    """The honest peer has the blocks; the other one says that it dropped them."""

    def __init__(self, lab: Any, chain: Any) -> None:
        self._lab, self._chain = lab, chain

    async def catch_up(self, peer: PeerKey, _told: int = 0) -> None:
        await trio.lowlevel.checkpoint()
        if peer == LIAR:
            raise PolicyError(PRUNED_RULE, "blocks from 9 on are kept")
        advance(self._lab, self._chain)


async def test_one_liar_does_not_make_a_node_leap_over_history_that_others_have() -> None:
    """What others said at hello is old: they may have the blocks although they told no height."""
    lab = make_lab()
    chain = lab.open_chain()
    registry = PeerRegistry(lab.chain_id, ManualClock(), lambda *_: None)
    for key in (LIAR, HONEST):
        registry.connected(key).peer_class = PeerClass.MEMBER
    fetched: list[int] = []

    async def fetch() -> bool:
        await trio.lowlevel.checkpoint()
        fetched.append(chain.head.height)
        return False

    follower = FollowerService(
        ledger=LedgerHost(chain, lambda: 0),
        registry=registry,
        service=Service(lab, chain),  # type: ignore[arg-type]
        fetch_state=fetch,
    )
    follower.hear(LIAR, 9)
    while follower._heard and chain.head.height == 0:
        await follower._follow_best()
    assert fetched == []
    assert chain.head.height == 1
