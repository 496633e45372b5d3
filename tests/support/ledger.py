"""The simulated laboratory, under the name by which tests know it."""

from __future__ import annotations

from protocol.manifest import DEFAULT_CHUNKER
from swarmd.simulation.lab import (
    FLEET,
    GENESIS_MS,
    HOUR_MS,
    PRODUCT,
    PURPOSES,
    Lab,
    Member,
    governance_keys,
    make_genesis,
    make_group,
    make_key,
    make_lab,
    make_members,
    make_policy,
    make_root,
    owner_keys,
)
from swarmd.simulation.lab_chain import (
    Bench,
    advance,
    authorise,
    build_next,
    make_bench,
)

__all__ = [
    "DEFAULT_CHUNKER",
    "FLEET",
    "GENESIS_MS",
    "HOUR_MS",
    "PRODUCT",
    "PURPOSES",
    "Bench",
    "Lab",
    "Member",
    "advance",
    "authorise",
    "build_next",
    "governance_keys",
    "make_bench",
    "make_genesis",
    "make_group",
    "make_key",
    "make_lab",
    "make_members",
    "make_policy",
    "make_root",
    "owner_keys",
]
