"""What a holder of everything tells whom: each chunk to one peer, until one copy is out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.upload_offers import OPEN_PEERS, PART_CHUNKS_MAX, PART_CHUNKS_START, PEERS_MAX, Offers

SIZE = 200
ALL = (1 << SIZE) - 1


def peer(number: int) -> bytes:
    return number.to_bytes(4, "big")


def offers_with(peers: int, size: int = SIZE) -> tuple[Offers, dict[bytes, int]]:
    """Offers that some peers follow beside those that are told all; what each was told."""
    offers = Offers(size)
    for number in range(OPEN_PEERS):
        assert offers.follow(peer(10_000 + number)) is None
    told = {}
    for number in range(peers):
        part = offers.follow(peer(number))
        assert part is not None
        told[peer(number)] = part
    return offers, told


def test_the_first_are_told_everything() -> None:
    offers = Offers(SIZE)
    answers = [offers.follow(peer(number)) for number in range(OPEN_PEERS + 2)]
    assert answers[:OPEN_PEERS] == [None] * OPEN_PEERS
    assert None not in answers[OPEN_PEERS:]


def test_each_chunk_is_told_to_one_peer_while_there_are_others() -> None:
    offers, told = offers_with(10)
    seen = 0
    for part in told.values():
        assert part.bit_count() == PART_CHUNKS_START
        assert not part & seen
        seen |= part
    for name, part in told.items():
        more = offers.asked(name, part).bits
        assert more.bit_count() == 2 * PART_CHUNKS_START  # it took all: it may have more
        assert not more & seen
        seen |= more


def test_who_asks_for_a_little_is_told_nothing_yet() -> None:
    offers, told = offers_with(2)
    part = told[peer(0)]
    assert not offers.asked(peer(0), part & -part)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=400))
def test_parts_never_overlap_before_all_is_divided(steps: list[tuple[int, bool]]) -> None:
    offers, told = offers_with(6)
    for number, takes_all in steps:
        name = peer(number)
        asked = told[name] if takes_all else 0
        more = offers.asked(name, asked).bits
        assert not more & told[name]
        told[name] |= more
        offers.sent(asked)
        union = 0
        for part in told.values():
            union |= part
        if union != ALL:
            assert sum(part.bit_count() for part in told.values()) == union.bit_count()
        assert more.bit_count() <= PART_CHUNKS_MAX or union == ALL


def test_parts_of_a_peer_that_asks_for_nothing_go_to_the_others_at_the_end() -> None:
    offers, told = offers_with(2)
    silent, eager = peer(0), peer(1)
    for _ in range(SIZE):
        part = told[eager]
        offers.sent(part)
        told[eager] |= offers.asked(eager, part).bits
    assert told[eager] == ALL
    assert told[silent].bit_count() == PART_CHUNKS_START
    assert offers.is_over


def test_when_one_copy_is_out_everybody_is_told_everything() -> None:
    offers, told = offers_with(3)
    offers.sent(ALL)
    assert offers.follow(peer(77)) is None
    assert offers.asked(peer(0), told[peer(0)]).bits == ALL & ~told[peer(0)]
    assert not offers.asked(peer(0), 0)  # once


def test_who_repeats_its_interest_is_told_everything() -> None:
    offers, told = offers_with(3)
    assert offers.follow(peer(1)) is None
    assert not offers.asked(peer(1), told[peer(1)])


def test_a_multitude_of_peers_takes_no_memory() -> None:
    offers, _ = offers_with(PEERS_MAX - OPEN_PEERS, 8)
    assert offers.follow(b"one more") is None
    assert not offers.asked(b"one more", 1)


def test_chunks_that_left_by_other_ways_are_told_to_nobody_as_fresh() -> None:
    offers, _ = offers_with(0)
    offers.sent((1 << 50) - 1)
    part = offers.follow(peer(2))
    assert part == ((1 << PART_CHUNKS_START) - 1) << 50
