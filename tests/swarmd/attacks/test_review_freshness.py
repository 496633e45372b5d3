"""Validators that are cut off must not make anybody fresh."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.swarm import swarm

VALIDATORS = ("validator-1", "validator-2", "validator-3", "validator-4")


@pytest.mark.slow
async def test_a_validator_vouches_for_nothing_before_it_may_vote(tmp_path: Path) -> None:
    async with swarm(tmp_path) as lab:
        await lab.start(*VALIDATORS, "publisher-1")
        await lab.until_met(*VALIDATORS, "publisher-1")
        await lab.stop("validator-1")
        await lab.propose(b"what it does not know", version="1")
        await lab.stop(*VALIDATORS[1:], "publisher-1")
        await lab.start("validator-1")
        alone = lab["validator-1"]
        assert alone.consensus is not None
        assert not alone.consensus.status.may_vote
        assert await alone.freshness.own_statements(os.urandom(32)) == ()
