"""Two real machines over a wire that cuts the byte stream anywhere."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.bitfield import Bitfield
from protocol.digest import ManifestId, sha256
from protocol.download import Download
from protocol.download_state import DownloadState
from protocol.exchange_events import (
    ChunksRead,
    ChunksStored,
    ComponentComplete,
    ComponentPrepared,
    ComponentVerified,
    DownloadInput,
    Flushed,
    PageRead,
    PageVerified,
    PeerJoined,
    PeerMessage,
    PrepareComponent,
    ReadChunks,
    ReadPage,
    Send,
    UploadInput,
    VerifyPage,
    WriteChunks,
)
from protocol.exchange_messages import (
    EXCHANGE_FRAME_BYTES_MAX,
    Chunks,
    decode_exchange,
    encode_exchange,
)
from protocol.framing import FrameBuffer, encode_frame
from protocol.picker import RarestFirst
from protocol.upload import ServedManifest, Upload

M = ManifestId(b"m" * 32)
PEER = b"p"


class Pair:
    """A download and an upload, joined by two byte pipes."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.stored: dict[int, bytes] = {}
        served = ServedManifest(manifest_id=M, possession=(Bitfield.full(len(chunks)),))
        self.served = served
        self.upload = Upload(peer=PEER, library=self, may_serve=lambda _: True)
        picker = RarestFirst(size=len(chunks), entropy=0)
        self.download = Download(manifest_id=M, chunk_counts=[len(chunks)], picker=picker, lane=1)
        self.to_upload = bytearray()
        self.to_download = bytearray()
        self.upload_frames = FrameBuffer(EXCHANGE_FRAME_BYTES_MAX)
        self.download_frames = FrameBuffer(EXCHANGE_FRAME_BYTES_MAX)
        self.feed_download(PeerJoined(peer=PEER))

    def find(self, manifest_id: ManifestId) -> ServedManifest | None:
        return self.served if manifest_id == M else None

    def feed_download(self, event: DownloadInput) -> None:
        for effect in self.download.handle(event, 0.0):
            match effect:
                case Send():
                    body = encode_exchange(effect.message)
                    self.to_upload += encode_frame(body, bytes_max=EXCHANGE_FRAME_BYTES_MAX)
                case VerifyPage():
                    assert effect.body == b"page"
                    lengths = [len(chunk) for chunk in self.chunks]
                    self.feed_download(PageVerified(component=0, page=0, lengths=lengths))
                case PrepareComponent():
                    held = Bitfield(len(self.chunks))
                    self.feed_download(ComponentPrepared(component=0, held=held))
                case WriteChunks():
                    for index, data in effect.chunks:
                        assert sha256(data) == sha256(self.chunks[index])
                        self.stored[index] = bytes(data)
                    self.feed_download(ChunksStored(component=0, indices=effect.indices))
                case ComponentComplete():
                    self.feed_download(ComponentVerified(component=0))

    def feed_upload(self, event: UploadInput) -> None:
        for effect in self.upload.handle(event, 0.0):
            match effect:
                case Send():
                    body = encode_exchange(effect.message)
                    self.to_download += encode_frame(body, bytes_max=EXCHANGE_FRAME_BYTES_MAX)
                    if isinstance(effect.message, Chunks):
                        size = effect.message.payload_bytes
                        self.feed_upload(Flushed(payload_bytes=size))
                case ReadChunks():
                    found = tuple(
                        (index, self.chunks[index]) for index in tuple(effect.indices)[:3]
                    )
                    self.feed_upload(ChunksRead.of(effect.request_id, found))
                case ReadPage():
                    self.feed_upload(PageRead(request_id=effect.request_id, page=b"page"))

    def pump(self, cut: random.Random) -> None:
        """Moves bytes in pieces of any size until nothing is under way."""
        while self.to_upload or self.to_download:
            for pipe, frames, feed in (
                (self.to_upload, self.upload_frames, self.feed_upload),
                (self.to_download, self.download_frames, self.feed_download),
            ):
                size = cut.randint(1, 40)
                piece = bytes(pipe[:size])
                del pipe[:size]
                for body in frames.feed(piece):
                    message = decode_exchange(body)
                    feed(PeerMessage(peer=PEER, message=message))  # type: ignore[operator]


def make_chunks(seed: int, count: int) -> list[bytes]:
    generator = random.Random(seed)
    return [generator.randbytes(generator.randint(1, 60)) for _ in range(count)]


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.integers(1, 30))
def test_a_download_completes_over_any_cuts_of_the_wire(seed: int, count: int) -> None:
    pair = Pair(make_chunks(seed, count))
    pair.pump(random.Random(seed))
    assert pair.download.state is DownloadState.FINISHED
    assert [pair.stored[i] for i in range(count)] == pair.chunks
    assert pair.download.is_drained
    assert pair.upload.open_requests == 0


def test_every_single_byte_cut_gives_the_same_messages() -> None:
    pair = Pair(make_chunks(1, 5))
    stream = bytes(pair.to_upload)
    whole = FrameBuffer(EXCHANGE_FRAME_BYTES_MAX).feed(stream)
    for cut in range(len(stream) + 1):
        frames = FrameBuffer(EXCHANGE_FRAME_BYTES_MAX)
        assert frames.feed(stream[:cut]) + frames.feed(stream[cut:]) == whole
