"""Rotting peer: honest, but bits on its disk flip; what its store finds spoilt it does not send."""

from __future__ import annotations

from typing import Final

from protocol.exchange_events import ChunksRead, ReadChunks
from swarmd.simulation.byzantine.chunk_corrupter import corrupt
from swarmd.simulation.exchange_host import ExchangeHost

ROT_EVERY: Final = 3
"""Every third chunk on its disk is spoilt."""


class RottingPeer(ExchangeHost):
    """Rejects what no longer matches, as `chunks.file_store` does when it reads."""

    is_checked = True
    """Whether the store compares digests when it reads; the defence."""

    def _read(self, effect: ReadChunks) -> ChunksRead:
        held = self._data[effect.component]
        for index in effect.indices:
            if index % ROT_EVERY == 0 and self.is_checked:
                held.pop(index, None)
            elif index % ROT_EVERY == 0 and index in held:
                held[index] = corrupt(self._release.components[effect.component][index])
        return super()._read(effect)
