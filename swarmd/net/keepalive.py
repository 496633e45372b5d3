"""When idle peers are probed; apart, so that reading a configuration loads no network."""

from __future__ import annotations

from typing import Final

KEEPALIVE_IDLE_S: Final = 120
"""Idle seconds before TCP probes a peer that was called: most NAT devices keep a mapping at least
this long (RFC 5382 asks for 2 h), and a probe every 2 minutes costs about a byte per second."""
KEEPALIVE_METERED_IDLE_S: Final = 300
"""The same where bytes cost money. A mapping that did not last is noticed within `UNANSWERED_S`."""
KEEPALIVE_ACCEPTED_IDLE_S: Final = 1200
"""Idle seconds before TCP probes a peer that called us: it keeps the way open itself, and may pay
for each probe of ours. What is left is to find, in the end, that it is gone; one that comes back
before takes its old connection's place at once."""
KEEPALIVE_INTERVAL_S: Final = 20
"""Seconds between unanswered probes."""
KEEPALIVE_PROBES: Final = 4
"""Unanswered probes that end a connection: a dead peer that was called is noticed within 200 s."""
UNANSWERED_S: Final = KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES
"""Seconds without an acknowledgement of what was sent that end a connection of a metered node: its
probes are rarer, so it may speak into a way that is gone. TCP's own patience is a quarter hour."""
