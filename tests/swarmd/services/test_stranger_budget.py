"""How often strangers may ask: each address for itself, and all together."""

from __future__ import annotations

import pytest

from swarmd.services.doorkeeper import (
    ADDRESS_BURST,
    ADDRESS_PER_S,
    ADDRESSES_MAX,
    TOTAL_BURST,
    TOTAL_PER_S,
    StrangerBudget,
)


def spent(budget: StrangerBudget, host: str, now: float, tries: int) -> int:
    """How many of some requests were let through."""
    return sum(budget.spend(host, now) for _ in range(tries))


def test_one_address_has_a_burst_and_then_a_rate() -> None:
    budget = StrangerBudget()
    assert spent(budget, "192.0.2.1", 0.0, 100) == ADDRESS_BURST
    assert spent(budget, "192.0.2.1", 10 / ADDRESS_PER_S / 10, 100) == 1
    assert spent(budget, "192.0.2.1", 10**6, 100) == ADDRESS_BURST


def test_one_that_floods_takes_nothing_from_the_others() -> None:
    budget = StrangerBudget()
    assert spent(budget, "192.0.2.1", 0.0, 10_000) == ADDRESS_BURST
    assert spent(budget, "192.0.2.2", 0.0, 1) == 1


def test_all_addresses_together_are_bounded() -> None:
    budget = StrangerBudget()
    hosts = [f"192.0.2.{number}" for number in range(200)]
    assert sum(spent(budget, host, 0.0, 5) for host in hosts) == TOTAL_BURST
    later = 10 / TOTAL_PER_S
    others = [f"198.51.100.{number}" for number in range(200)]
    assert sum(spent(budget, host, later, 5) for host in others) == 10
    assert len(budget._by_address) <= ADDRESSES_MAX


def test_memory_is_bounded() -> None:
    budget = StrangerBudget()
    for number in range(3 * ADDRESSES_MAX):
        budget.spend(f"10.0.{number // 256}.{number % 256}", float(number))
    assert len(budget._by_address) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("", "192.0.2.1", False),
    ],
)
def test_what_counts_as_one_address(first: str, second: str, is_same: bool) -> None:
    budget = StrangerBudget()
    spent(budget, first, 0.0, 100)
    assert budget.spend(second, 0.0) is not is_same
