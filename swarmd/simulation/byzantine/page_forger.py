"""Page forger: serves recipe pages that describe another image, well-formed in every way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from chunks.recipe_page import decode_recipe_page
from protocol.exchange_messages import ExchangeMessage, RecipePageMessage
from swarmd.simulation.byzantine.chunk_corrupter import corrupt
from swarmd.simulation.exchange_host import ExchangeHost


class PageForger(ExchangeHost):
    """Spoils the first digest of each page."""

    def outgoing(self, target: int, message: ExchangeMessage) -> Iterable[ExchangeMessage]:
        """Forges recipe pages."""
        if isinstance(message, RecipePageMessage):
            page = decode_recipe_page(message.page)
            forged = replace(page, digests=corrupt(page.digests)).encode()
            return (RecipePageMessage(request_id=message.request_id, page=forged),)
        return super().outgoing(target, message)
