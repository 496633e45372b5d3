"""Announcements: who says what about which height."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from protocol.announcement import (
    ANNOUNCEMENT_BYTES_MAX,
    Announcement,
    parse_announcement,
    sign_announcement,
)
from protocol.digest import BlockId, DidId, ManifestId, sha256
from protocol.encoding import INTEGER_MAX
from protocol.errors import EncodingError, SignatureError
from protocol.version import group_topic
from tests.support.strategies import CHAIN, OTHER_CHAIN, key

SAID = Announcement(
    era=0,
    author=DidId(sha256(b"author")),
    topic=group_topic(CHAIN, "edge"),
    manifest=ManifestId(sha256(b"manifest")),
    height=12,
    block_id=BlockId(sha256(b"header")),
)


@pytest.mark.parametrize("manifest", [SAID.manifest, None])
def test_with_and_without_a_manifest(manifest: ManifestId | None) -> None:
    said = dataclasses.replace(SAID, manifest=manifest)
    made = sign_announcement(said, key(1), CHAIN)
    made.verify(key(1).public, CHAIN)
    assert parse_announcement(made.signed.raw).announcement == said


@pytest.mark.parametrize(("number", "chain"), [(2, CHAIN), (1, OTHER_CHAIN)], ids=["key", "chain"])
def test_signatures_bind_author_and_chain(number: int, chain: Any) -> None:
    with pytest.raises(SignatureError):
        sign_announcement(SAID, key(1), CHAIN).verify(key(number).public, chain)


def test_the_largest_announcement_fits() -> None:
    largest = dataclasses.replace(
        SAID, era=INTEGER_MAX, height=INTEGER_MAX, topic=group_topic(CHAIN, "g" * 64)
    )
    assert len(sign_announcement(largest, key(1), CHAIN).signed.raw) < ANNOUNCEMENT_BYTES_MAX // 2


@pytest.mark.parametrize(
    "changes",
    [
        {"topic": ""},
        {"topic": "t" * 257},
        {"topic": "a\u2029b"},
        {"height": -1},
        {"block_id": BlockId(b"")},
        {"manifest": ManifestId(bytes(31))},
    ],
)
def test_malformed_content_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EncodingError):
        sign_announcement(dataclasses.replace(SAID, **changes), key(1), CHAIN)
