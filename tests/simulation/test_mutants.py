"""Every planted defect is found by a known seed, and the same seed finds nothing without it."""

from __future__ import annotations

import pytest

from ledger.simplex.engine import Simplex
from tests.support.consensus_mutants import MUTANTS, Mutant

IDS = [mutant.name for mutant in MUTANTS]


def test_there_are_enough_and_each_says_which_rule_it_breaks() -> None:
    assert len(MUTANTS) >= 12
    assert len(set(IDS)) == len(MUTANTS)
    for mutant in MUTANTS:
        assert mutant.rule.startswith("Breaks C"), mutant.name
        assert mutant.seed < mutant.seeds


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("mutant", MUTANTS, ids=IDS)
def test_the_seed_that_finds_it_finds_it_and_nothing_in_the_production_engine(
    mutant: Mutant,
) -> None:
    assert mutant.is_found_by(mutant.seed)
    assert not mutant.is_found_by(mutant.seed, Simplex)
