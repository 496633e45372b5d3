"""What a node of a transfer tells itself: its own operations are over."""

from __future__ import annotations

from dataclasses import dataclass

from protocol.exchange_events import DownloadInput, UploadInput, WriteChunks
from protocol.upload import Upload
from swarmd.simulation.transfer_part import ImagePart
from swarmd.simulation.transfer_relay import WireMessage


@dataclass(frozen=True, slots=True)
class Done:
    """A storage operation of a download is over."""

    part: ImagePart
    """The image."""
    event: DownloadInput
    """What the download is told."""


@dataclass(frozen=True, slots=True)
class Read:
    """A storage operation of an upload is over."""

    peer: int
    """Whom it concerns."""
    upload: Upload
    """Who asked for it: a stream that opened since knows nothing of it."""
    event: UploadInput
    """What the upload is told."""


@dataclass(frozen=True, slots=True)
class Write:
    """The time that verifying a chunk takes is over."""

    part: ImagePart
    """The image."""
    effect: WriteChunks
    """What was to be written."""


@dataclass(frozen=True, slots=True)
class RoomReady:
    """Room for a component is there: the relay may know of it."""

    part: ImagePart
    """The image."""
    component: int
    """Position in the manifest."""


@dataclass(frozen=True, slots=True)
class RoomLook:
    """Time to see whether a disk that was full has room again."""

    part: ImagePart
    """The image that waits."""


@dataclass(frozen=True, slots=True)
class Postponed:
    """A message that misbehaviour held back."""

    target: int
    """For whom it is."""
    message: WireMessage
    """What it says."""


@dataclass(frozen=True, slots=True)
class TellNews:
    """The moment for gathered news has come."""
