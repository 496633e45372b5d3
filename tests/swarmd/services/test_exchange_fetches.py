"""Answers that no fetch waits for."""

from __future__ import annotations

import pytest

from chunks.memory_store import MemoryStore
from protocol.download_requests import LANE_BITS
from protocol.exchange_events import ExchangeOffenceError, Offence
from protocol.exchange_messages import Reject, RejectReason
from protocol.runs import Runs
from swarmd.entropy import SeededEntropy
from swarmd.services.exchange_fetches import EXCUSED_S, FetchTable, rarest_first

ASKED, STRANGER = b"a" * 32, b"s" * 32
ANSWER = Reject(request_id=1 << LANE_BITS, indices=Runs.of(()), reason=RejectReason.CANCELLED)


def test_who_was_asked_before_a_revocation_may_answer_after_it() -> None:
    """The fetch is gone, with all that it had asked for; the peer could not know."""
    table = FetchTable(MemoryStore(), SeededEntropy(1), rarest_first)
    table.excuse(ASKED, now=100.0)
    table.take_answer(ASKED, ANSWER, now=100.0 + EXCUSED_S / 2)
    for peer, now in ((STRANGER, 100.0), (ASKED, 100.0 + EXCUSED_S)):
        with pytest.raises(ExchangeOffenceError) as caught:
            table.take_answer(peer, ANSWER, now)
        assert caught.value.offence is Offence.UNSOLICITED
    table.forget_peer(ASKED)
    with pytest.raises(ExchangeOffenceError):
        table.take_answer(ASKED, ANSWER, now=100.0)
