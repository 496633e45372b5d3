"""Protocol ids and gossip topics: `/swarmd/<chain>/<name>/<major>`.

The chain id is part of every id, so that nodes of two chains have nothing to say to each other.
"""

from __future__ import annotations

from enum import StrEnum

from protocol.digest import ChainId
from protocol.group import check_group_name


class ProtocolName(StrEnum):
    """Stream protocols, with their major version."""

    HELLO = "hello/1"
    """Who one is; a stranger may open it."""
    ENROL = "enrol/1"
    """A newcomer hands in its enrolment request; a stranger may open it, nobody else has to."""
    LEDGER = "ledger/1"
    """Heads, blocks, freshness, submission: request and answer."""
    CONSENSUS = "consensus/1"
    """Between validators only."""
    SEALING = "sealing/1"
    """Rings of sealed images and members' sealing keys, between members of a group."""
    EXCHANGE = "exchange/1"
    """Recipes and chunks, between members."""
    LANE = "lane/2"
    """Asks for a connection of its own for recipes and chunks, between members."""
    PEERS = "peers/1"
    """Where members are, and whether they can be reached, between members."""
    FORWARD = "forward/1"
    """Connections between two members that a third one passes on."""


def protocol_id(chain: ChainId, name: ProtocolName) -> str:
    """The libp2p protocol id, such as `/swarmd/<64 hex digits>/hello/1`."""
    return f"/swarmd/{chain.hex()}/{name.value}"


def transactions_topic(chain: ChainId) -> str:
    """Gossip topic of transactions that wait for a block."""
    return f"/swarmd/{chain.hex()}/transactions/1"


def heads_topic(chain: ChainId) -> str:
    """Gossip topic of new final heads."""
    return f"/swarmd/{chain.hex()}/heads/1"


def group_topic(chain: ChainId, group: str) -> str:
    """Gossip topic of one group's announcements."""
    return f"/swarmd/{chain.hex()}/group/{check_group_name(group)}/1"
