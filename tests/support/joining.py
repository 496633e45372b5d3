"""Newcomers with tokens, for tests that run whole nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from protocol.did import SubjectKind
from protocol.digest import BlockId, ChainId, sha256
from protocol.enrolment_token import EnrolmentClaims, sign_token
from protocol.keys import PrivateKey
from swarmd.clock import SystemClock
from swarmd.datadir import KeyName
from swarmd.enrolment import load_join
from swarmd.enrolment_request import EnrolmentRequest, TokenFile, make_request, write_request
from tests.support.swarm import GROUP, Swarm

SEAT_KEY = PrivateKey(sha256(b"the key that travels with the token"))
DAY_S = 24 * 3600


def token(lab: Swarm, *, owners: Sequence[int] = (0, 1), **changes: Any) -> TokenFile:
    """A seat for a gateway, right in everything but what the arguments say.

    Its checkpoint is the genesis block's successor at a height that no test reaches, unless given.
    """
    base: dict[str, Any] = {
        "issuer": lab.owners[0].public,
        "expiry_s": SystemClock().wall_ms() // 1000 + DAY_S,
        "seat_id": sha256(b"seat")[:16],
        "holder": SEAT_KEY.public,
        "chain": lab.chain,
        "era": 0,
        "checkpoint": (10**6, BlockId(sha256(b"far ahead"))),
        "addresses": tuple(lab.address(name).multiaddr for name in lab.names("validator")[:3]),
        "groups": (GROUP,),
        "kind": SubjectKind.GATEWAY,
        "confirmed": False,
    }
    claims = EnrolmentClaims(**{**base, **changes})
    tokens = [sign_token(replace(claims), lab.owners[index]) for index in owners]
    return TokenFile.of(tokens, SEAT_KEY)


def newcomer(lab: Swarm, name: str, file: TokenFile, *members: str) -> EnrolmentRequest:
    """The folder of a gateway that has a token and joins by itself through `members`."""
    lab.new_gateway(name, *members)
    return take(lab, name, file)


def take(lab: Swarm, name: str, file: TokenFile) -> EnrolmentRequest:
    """Gives the seat of a token to a node whose folder exists."""
    data = lab.directory(name)
    request = make_request(load_join(data.join).statement, file, data.load_key(KeyName.NODE))
    write_request(data, request)
    return request


def foreign_chain() -> ChainId:
    """A chain nobody here knows."""
    return ChainId(sha256(b"another chain"))
