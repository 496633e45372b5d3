"""What a node keeps: the rules K1 to K3, one by one and as properties of any situation."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from chunks.retention import HeldImage, HeldRelease, Need, Reason, Verdict, decide
from protocol.digest import Digest, ManifestId, sha256

LINE = ("router", "fleet")


def digest(name: str) -> Digest:
    return sha256(name.encode())


def manifest(sequence: int, product: str = "router") -> ManifestId:
    return ManifestId(digest(f"manifest {product} {sequence}"))


def image(sequence: int, **changes: object) -> HeldImage:
    held = HeldImage(
        image=digest(f"image {sequence}"), size_bytes=100, arrival=sequence, is_complete=True
    )
    return replace(held, **changes)


def release(sequence: int, **changes: object) -> HeldRelease:
    made = HeldRelease(
        manifest=manifest(sequence),
        lines=frozenset({LINE}),
        sequence=sequence,
        images=frozenset({digest(f"image {sequence}")}),
        is_whole=True,
    )
    return replace(made, **changes)


def outcome(verdicts: tuple[Verdict, ...]) -> list[tuple[bool, Reason]]:
    return [(verdict.goes, verdict.reason) for verdict in verdicts]


def test_the_last_releases_stay_and_older_ones_go() -> None:
    images = [image(sequence) for sequence in range(1, 6)]
    releases = [release(sequence) for sequence in range(1, 6)]
    assert outcome(decide(images, releases, keep=3)) == [
        (True, Reason.SUPERSEDED),
        (True, Reason.SUPERSEDED),
        (False, Reason.RECENT),
        (False, Reason.RECENT),
        (False, Reason.NEWEST),
    ]


def test_patches_go_first_once_their_release_is_whole_and_stay_until_then() -> None:
    patched = release(
        2,
        images=frozenset({digest("image 2"), digest("image 3")}),
        patches=frozenset({digest("image 3")}),
    )
    images = [image(1), image(2), image(3)]
    releases = [release(1), patched]
    assert outcome(decide(images, releases, keep=2))[2] == (False, Reason.PATCH)
    needed = outcome(decide(images, releases, keep=2, need=Need(size_bytes=100)))
    assert [goes for goes, _ in needed] == [False, False, True]
    fetching = replace(patched, is_whole=False)
    assert outcome(decide(images, [release(1), fetching], keep=2))[2] == (False, Reason.NEWEST)
    superseded = [patched, *(release(sequence) for sequence in (4, 5))]
    assert outcome(decide(images, superseded, keep=2))[2] == (True, Reason.SUPERSEDED)


def test_an_unfinished_newest_release_does_not_push_the_last_whole_one_out() -> None:
    images = [image(1), image(2), image(3, is_complete=False)]
    releases = [release(1), release(2), release(3, is_whole=False)]
    assert outcome(decide(images, releases, keep=1, need=Need(size_bytes=10_000))) == [
        (True, Reason.SUPERSEDED),
        (False, Reason.NEWEST_WHOLE),
        (False, Reason.NEWEST),
    ]


def test_the_newest_release_counts_although_nothing_of_it_is_here() -> None:
    assert outcome(decide([image(1)], [release(1), release(2, is_whole=False)], keep=1)) == [
        (False, Reason.NEWEST_WHOLE)
    ]


def test_a_download_of_a_superseded_release_goes_unless_it_is_under_way() -> None:
    partial = image(1, is_complete=False)
    releases = [release(1, is_whole=False), release(2)]
    assert outcome(decide([partial, image(2)], releases, keep=2))[0] == (True, Reason.PARTIAL)
    busy = replace(partial, is_in_use=True)
    assert outcome(decide([busy, image(2)], releases, keep=2))[0] == (False, Reason.IN_USE)


def test_what_devices_run_or_operators_pinned_stays_whatever_room_is_needed() -> None:
    images = [image(sequence) for sequence in (1, 2, 3)]
    releases = [release(1, is_running=True), release(2, is_pinned=True), release(3)]
    assert outcome(decide(images, releases, keep=1, need=Need(size_bytes=10_000, files=9))) == [
        (False, Reason.RUNNING),
        (False, Reason.PINNED),
        (False, Reason.NEWEST),
    ]


def test_stepping_stones_of_what_stays_stay_too() -> None:
    images = [image(sequence) for sequence in range(1, 6)]
    stones = {3: 2, 5: 3, 4: 1}
    releases = [
        release(
            sequence,
            stepping_stones=frozenset({manifest(stones[sequence])} if sequence in stones else ()),
        )
        for sequence in range(1, 6)
    ]
    assert outcome(decide(images, releases, keep=1)) == [
        (True, Reason.SUPERSEDED),
        (False, Reason.STEPPING_STONE),
        (False, Reason.STEPPING_STONE),
        (True, Reason.SUPERSEDED),
        (False, Reason.NEWEST),
    ]


def test_room_is_made_from_the_oldest_and_no_more_than_needed() -> None:
    images = [image(sequence) for sequence in (1, 2, 3, 4)]
    images.append(image(9, arrival=5))  # of no release
    releases = [release(sequence) for sequence in (1, 2, 3, 4)]
    for size_bytes, gone in ((0, []), (1, [9]), (100, [9]), (101, [9, 1]), (250, [9, 1, 2])):
        verdicts = decide(images, releases, keep=4, need=Need(size_bytes=size_bytes))
        assert {v.image for v in verdicts if v.goes} == {digest(f"image {n}") for n in gone}
    verdicts = decide(images, releases, keep=4, need=Need(files=2))
    assert [verdict.goes for verdict in verdicts] == [True, False, False, False, True]


def test_an_image_of_several_releases_has_the_strongest_reason() -> None:
    shared = digest("image 1")
    releases = [release(1), release(2), release(3), release(4, images=frozenset({shared}))]
    assert outcome(decide([image(1)], releases, keep=1)) == [(False, Reason.NEWEST)]


def test_lines_are_kept_apart() -> None:
    other = ("camera", "fleet")
    images = [image(1), image(2)]
    releases = [release(1, lines=frozenset({other})), release(2)]
    assert outcome(decide(images, releases, keep=1)) == [
        (False, Reason.NEWEST),
        (False, Reason.NEWEST),
    ]
    releases[0] = release(1, lines=frozenset({other, LINE}))
    assert outcome(decide(images, releases, keep=1))[0] == (False, Reason.NEWEST)


def test_a_locked_image_stays_as_long_as_a_device_runs_it() -> None:
    locked = image(1, is_locked=True)
    gone = release(1, lines=frozenset(), is_running=True, is_pinned=True)
    assert outcome(decide([locked], [gone], keep=2)) == [(False, Reason.RUNNING)]
    gone = replace(gone, is_running=False)
    assert outcome(decide([locked], [gone], keep=2)) == [(True, Reason.UNLOCKED)]


FLAGS = st.booleans()
IMAGES = st.lists(
    st.builds(
        image,
        sequence=st.integers(0, 7),
        size_bytes=st.integers(1, 50),
        is_complete=FLAGS,
        is_locked=st.sampled_from([False, False, True]),
        is_in_use=st.sampled_from([False, False, True]),
    ),
    unique_by=lambda held: held.image,
    max_size=8,
)
RELEASES = st.lists(
    st.builds(
        release,
        sequence=st.integers(0, 7),
        lines=st.frozensets(
            st.sampled_from([LINE, ("router", "lab"), ("camera", "lab")]), max_size=2
        ),
        images=st.frozensets(st.integers(0, 7).map(lambda n: digest(f"image {n}")), max_size=3),
        is_whole=FLAGS,
        is_pinned=st.sampled_from([False, False, True]),
        is_running=st.sampled_from([False, False, True]),
        stepping_stones=st.frozensets(st.integers(0, 7).map(manifest), max_size=2),
    ),
    unique_by=lambda one: one.manifest,
    max_size=8,
)
NEEDS = st.none() | st.builds(Need, size_bytes=st.integers(0, 300), files=st.integers(0, 9))


@settings(max_examples=80)
@given(images=IMAGES, releases=RELEASES, keep=st.integers(1, 3), need=NEEDS)
def test_nothing_that_is_needed_ever_goes(
    images: list[HeldImage], releases: list[HeldRelease], keep: int, need: Need | None
) -> None:
    held = {one.image: one for one in images}
    for verdict in decide(images, releases, keep=keep, need=need):
        if not verdict.goes:
            continue
        item = held[verdict.image]
        naming = [one for one in releases if verdict.image in one.images]
        assert not item.is_in_use
        assert not any(one.is_running for one in naming)
        if item.is_locked:
            continue
        assert not any(one.is_pinned for one in naming)
        for one in naming:
            for line in one.lines:
                rivals = [r for r in releases if line in r.lines]
                assert any(r.sequence >= one.sequence and r is not one for r in rivals)
                if one.is_whole:
                    newer = [r for r in rivals if r.is_whole and r is not one]
                    assert any(r.sequence >= one.sequence for r in newer)


@settings(max_examples=80)
@given(images=IMAGES, releases=RELEASES, keep=st.integers(1, 3), need=NEEDS)
def test_room_is_made_where_it_can_be_and_not_beyond(
    images: list[HeldImage], releases: list[HeldRelease], keep: int, need: Need | None
) -> None:
    without = decide(images, releases, keep=keep)
    verdicts = decide(images, releases, keep=keep, need=need)
    at_once = {one.image for one in without if one.goes}
    gone = {one.image for one in verdicts if one.goes}
    assert at_once <= gone
    assert [one.reason for one in without] == [one.reason for one in verdicts]
    if need is None:
        assert gone == at_once
        return
    soft = {one.image for one in verdicts if one.reason in {Reason.RECENT, Reason.UNCLAIMED}}
    freed = sum(one.size_bytes for one in verdicts if one.goes)
    is_enough = freed >= need.size_bytes and len(gone) >= need.files
    assert is_enough or soft <= gone
    for image_gone in gone - at_once:
        # The last one taken was still needed; taking them in order makes that true of any.
        others = [one for one in verdicts if one.goes and one.image != image_gone]
        size = sum(one.size_bytes for one in others)
        if size >= need.size_bytes and len(others) >= need.files:
            assert any(one.image in gone - at_once for one in others)


@settings(max_examples=40)
@given(images=IMAGES, releases=RELEASES, keep=st.integers(1, 3), need=NEEDS, seed=st.randoms())
def test_the_order_of_the_facts_does_not_matter(
    images: list[HeldImage], releases: list[HeldRelease], keep: int, need: Need | None, seed: object
) -> None:
    images = [replace(one, arrival=number) for number, one in enumerate(images)]
    expected = decide(images, releases, keep=keep, need=need)
    seed.shuffle(images)
    seed.shuffle(releases)
    assert decide(images, releases, keep=keep, need=need) == expected
