"""Gossip announcements: an author says *that* something is final, never *who holds* what.

COSE_Sign1 by the author's node key over (chain, era, topic, manifest, height, header id). A signed
announcement of something that was never final at that height convicts its author.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.cose import Signed, parse_signed, sign
from protocol.digest import BlockId, ChainId, DidId, ManifestId
from protocol.encoding import Fields, decode_canonical, encode_canonical
from protocol.keys import PrivateKey, PublicKey

ANNOUNCEMENT_TAG: Final = "swarmd/announcement/1"
"""Domain of announcement signatures."""
ANNOUNCEMENT_BYTES_MAX: Final = 1024
"""A signed announcement takes about 400 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """What an author says."""

    era: int
    """Era it is signed for."""
    author: DidId
    """A member; its node key signs."""
    topic: str
    """The topic it is meant for; it is not valid on another one."""
    manifest: ManifestId | None
    """Manifest said to be authorised at that height; None: only the head."""
    height: int
    """Height of the final header."""
    block_id: BlockId
    """That header."""

    def encode(self) -> bytes:
        """Canonical bytes of the payload."""
        return encode_canonical(
            {
                0: 1,
                1: self.era,
                2: self.author,
                3: self.topic,
                4: self.manifest,
                5: self.height,
                6: self.block_id,
            }
        )


@dataclass(frozen=True, slots=True)
class SignedAnnouncement:
    """A parsed announcement; not verified until `verify` was called."""

    announcement: Announcement
    """The content."""
    signed: Signed
    """The COSE_Sign1 it came in."""

    def verify(self, key: PublicKey, chain: ChainId) -> None:
        """Checks the signature of the author's node key.

        Raises:
            SignatureError: another key, chain or era, or altered bytes.
        """
        self.signed.verify(key, tag=ANNOUNCEMENT_TAG, chain=chain, era=self.announcement.era)


def parse_announcement(raw: bytes) -> SignedAnnouncement:
    """Parses signed announcement bytes, without checking the signature.

    Raises:
        EncodingError: malformed or over 1 KiB.
    """
    signed = parse_signed(raw, bytes_max=ANNOUNCEMENT_BYTES_MAX)
    value = decode_canonical(signed.payload, bytes_max=ANNOUNCEMENT_BYTES_MAX)
    fields = Fields(value, "announcement")
    fields.constant(0, 1)
    announcement = Announcement(
        era=fields.uint(1),
        author=DidId(fields.digest(2)),
        topic=fields.text(3, maximum=256, empty=False),
        manifest=None if fields.value(4) is None else ManifestId(fields.digest(4)),
        height=fields.uint(5),
        block_id=BlockId(fields.digest(6)),
    )
    fields.finish()
    return SignedAnnouncement(announcement, signed)


def sign_announcement(
    announcement: Announcement, key: PrivateKey, chain: ChainId
) -> SignedAnnouncement:
    """Signs an announcement with the author's node key."""
    raw = sign(announcement.encode(), key, tag=ANNOUNCEMENT_TAG, chain=chain, era=announcement.era)
    return parse_announcement(raw)
