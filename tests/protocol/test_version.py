"""Protocol ids and topics belong to one chain."""

from __future__ import annotations

import itertools

import pytest

from protocol.errors import EncodingError
from protocol.version import (
    ProtocolName,
    group_topic,
    heads_topic,
    protocol_id,
    transactions_topic,
)
from tests.support.strategies import CHAIN, OTHER_CHAIN


def test_the_form_of_a_protocol_id() -> None:
    assert protocol_id(CHAIN, ProtocolName.HELLO) == f"/swarmd/{CHAIN.hex()}/hello/1"


def test_no_two_ids_or_topics_are_equal() -> None:
    made = [
        text
        for chain in (CHAIN, OTHER_CHAIN)
        for text in (
            *(protocol_id(chain, name) for name in ProtocolName),
            transactions_topic(chain),
            heads_topic(chain),
            *(group_topic(chain, name) for name in ("edge", "heads", "transactions", "group")),
        )
    ]
    assert all(first != second for first, second in itertools.combinations(made, 2))


@pytest.mark.parametrize("group", ["", "a/b", "..", "heads/1", "A"])
def test_a_group_cannot_reach_another_topic(group: str) -> None:
    with pytest.raises(EncodingError):
        group_topic(CHAIN, group)
