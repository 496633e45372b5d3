"""A store that believes: the control of attacks with wrong chunks."""

from __future__ import annotations

from chunks.memory_store import MemoryStore
from chunks.store import Download, ImageState


class TrustingStore(MemoryStore):
    """Keeps what comes without looking at it, and calls complete what has all its chunks."""

    def write_chunk(self, download: Download, index: int, data: bytes) -> tuple[int, ...]:
        """Keeps any bytes for any place."""
        self._images[download.image, False].put(index, data)
        return (index,)

    def finish(self, download: Download) -> None:
        """Asks nobody for the digest of the whole."""
        held = self._images[download.image, False]
        held.state, held.generation = ImageState.COMPLETE, None


def wrong_images(store: MemoryStore) -> int:
    """Complete images of a store whose bytes are not those that their names say."""
    return sum(
        record.state is ImageState.COMPLETE and store.verify_image(record.image) != ()
        for record in store.images()
    )
