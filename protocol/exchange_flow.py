"""What a download knows of one peer: possession, open requests, and how much to ask at once.

The window follows the bandwidth-delay product: requested and unanswered bytes aim at what the peer
delivers in two round trips plus a tenth of a second. Deeper queues would make everybody ask the
fastest peer for the same early chunks; shallower ones would idle on long links.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from protocol.exchange_events import PeerId
from protocol.exchange_layout import PageKey
from protocol.limits import KIB, MIB

WINDOW_BYTES_START: Final = 64 * KIB
"""Unanswered bytes before anything is known of a peer; doubles with each answer where that pays.
16 leechers of one seeder at 20 Mbit/s took 2.0 times the bound with 256 KiB, 1.7 with this and the
slack below: deep first queues have everybody ask the seeder for what others could give."""
WINDOW_BYTES_MIN: Final = 16 * KIB
"""Least window; one chunk is always allowed, whatever its size."""
WINDOW_BYTES_MAX: Final = 4 * MIB
"""Largest window: 320 Mbit/s at 100 ms."""
WINDOW_SLACK_S: Final = 0.1
"""Queue at the peer that covers its disk reads and our writes, seconds (measured as above: 0.25
costs a fifth of the makespan)."""
WINDOW_SLACK_NEAR_S: Final = 0.4
"""The same at a peer nearby, seconds: where processors are the limit, not links, small requests
make rates small, which would keep requests small."""
NEAR_RTT_S: Final = 0.005
"""A round trip, storage included, that only peers of the same network have, seconds."""
REQUEST_BYTES_MAX: Final = 1 * MIB
"""Most bytes of one request, and of what a peer reads for us at once."""
REQUEST_BYTES_AIM: Final = 512 * KIB
"""Requests are not smaller than this where half of the window allows it: below it, what a message
costs is felt. Half of a window covers a round trip, so that two of them keep a link busy."""
REQUESTS_OPEN_MAX: Final = 64
"""Unanswered requests at one peer for one manifest; a server has room for several times as many."""
DEADLINE_S_MIN: Final = 2.0
"""Least patience with a request, seconds: spares peers that sync their disk."""
DEADLINE_S_START: Final = 5.0
"""Patience while the peer's rate is unknown: the first window at 13 KB/s."""
DEADLINE_S_MAX: Final = 30.0
"""Most patience; later answers are still welcome, but others are asked too."""
DEADLINE_FACTOR: Final = 4.0
"""A request is overdue at this many times its expected duration."""
BUSY_S_START: Final = 0.25
"""First pause after a peer said BUSY, seconds; doubles each time."""
BUSY_S_MAX: Final = 8.0
"""Longest pause after BUSY, seconds."""
PAGE_PAUSE_S_START: Final = 0.03
"""First pause before a peer that said BUSY is asked for recipe pages again, seconds; doubles each
time: about what one page takes at 10 Mbit/s."""
PAGE_PAUSE_S_MAX: Final = 0.5
"""Longest such pause, seconds: until everybody has the recipe nothing else can begin."""
INTEREST_RETRY_S_START: Final = 1.0
"""First pause before interest is repeated at a peer that said UNKNOWN. A peer whose ledger lags
answers by itself once it caught up; this covers what it forgot, seconds."""
INTEREST_RETRY_S_MAX: Final = 120.0
"""Longest pause between repeated interests, seconds."""
_SAMPLE_S_MIN: Final = 0.05
"""Shortest span over which a rate is measured, seconds, unless a whole window came in less."""


@dataclass(slots=True, kw_only=True, eq=False)
class OpenRequest:
    """A request that is not fully answered yet."""

    request_id: int
    """The request it belongs to."""
    peer: PeerId
    """Whom it concerns."""
    component: int
    """Position of the component in the manifest."""
    offset: int
    """Number of the component's first chunk: index plus offset is the chunk number."""
    sent_at: float
    """Seconds, the machine's clock."""
    deadline_at: float
    """When it becomes overdue, seconds."""
    pending: int = 0
    """Numbers of the chunks not answered yet, as a set."""
    pending_bytes: int = 0
    """Bytes of these."""
    page: PageKey | None = None
    """The recipe page asked for; then `pending` is empty."""
    is_overdue: bool = False
    """Its deadline passed: others may be asked for the same chunks; late answers count."""
    was_alone: bool = False
    """Nothing else was open when it was sent, so its first answer measures the round trip."""


class PeerFlow:
    """State of one peer within one download."""

    __slots__ = (
        "_busy_pause_s",
        "_meter_bytes",
        "_meter_started_at",
        "_page_pause_s",
        "_retry_pause_s",
        "busy_until",
        "is_stall_told",
        "is_stalled",
        "outstanding_bytes",
        "pages_busy_until",
        "pages_refused",
        "peer",
        "possession",
        "rate",
        "received_bytes",
        "recipes",
        "requests",
        "retry_at",
        "rtt_s",
        "window_bytes",
    )

    def __init__(self, peer: PeerId) -> None:
        """Starts without possession and with the starting window."""
        self.peer = peer
        self.possession = 0
        self.requests: dict[int, OpenRequest] = {}
        self.recipes: dict[int, None] = {}
        self.pages_refused: dict[PageKey, None] = {}
        self.pages_busy_until = 0.0
        self.outstanding_bytes = 0
        self.window_bytes = WINDOW_BYTES_START
        self.rate: float | None = None
        self.rtt_s: float | None = None
        self.busy_until = 0.0
        self.retry_at: float | None = None
        self.is_stalled = False
        self.is_stall_told = False
        self.received_bytes = 0
        self._meter_started_at = 0.0
        self._meter_bytes = 0
        self._busy_pause_s = BUSY_S_START
        self._page_pause_s = PAGE_PAUSE_S_START
        self._retry_pause_s = INTEREST_RETRY_S_START

    @property
    def is_page_probed(self) -> bool:
        """Whether it said BUSY when it was last asked for a page: then one is asked for at once."""
        return self._page_pause_s > PAGE_PAUSE_S_START

    def budget(self, now: float, least_bytes: int = 0) -> int:
        """Bytes the next request may hold; 0: none now.

        A request is sent once its share of the window is free, so requests stay few and large.
        With `least_bytes` window and share are that large at least.
        """
        if self.is_stalled or now < self.busy_until or len(self.requests) >= REQUESTS_OPEN_MAX:
            return 0
        window_bytes = self.window_bytes
        if window_bytes < least_bytes:
            window_bytes = least_bytes
        # Every chunk comes by here for several peers: no calls of `min` and `max`.
        share = window_bytes // 2
        if share > REQUEST_BYTES_AIM:
            share = max(window_bytes // 4, REQUEST_BYTES_AIM)
        if share < least_bytes:
            share = least_bytes
        if self.requests and window_bytes - self.outstanding_bytes < share:
            return 0
        return share if 0 < share <= REQUEST_BYTES_MAX else max(1, min(share, REQUEST_BYTES_MAX))

    def deadline_s(self, request_bytes: int) -> float:
        """Patience with a request of that many bytes behind all that is open, seconds."""
        if self.rate is None or self.rtt_s is None:
            return DEADLINE_S_START
        queued_bytes = self.outstanding_bytes + request_bytes
        expected_s = self.rtt_s + queued_bytes / max(self.rate, 1.0)
        return min(max(DEADLINE_FACTOR * expected_s, DEADLINE_S_MIN), DEADLINE_S_MAX)

    def opened(self, request: OpenRequest, now: float) -> None:
        """Notes a request that is being sent."""
        if not self.requests:
            request.was_alone = True
            self._meter_started_at = now
            self._meter_bytes = 0
        self.requests[request.request_id] = request
        self.outstanding_bytes += request.pending_bytes

    def answered(self, request: OpenRequest, now: float, *, payload_bytes: int) -> None:
        """Notes an answer of that many useful bytes; the caller has shrunk `pending`."""
        self.is_stalled = False
        if request.was_alone:
            sample = max(now - request.sent_at, 0.0)
            self.rtt_s = sample if self.rtt_s is None else min(sample, self.rtt_s)
            request.was_alone = False
        if not request.pending:
            self.requests.pop(request.request_id, None)
        if payload_bytes:
            self.received_bytes += payload_bytes
            self._busy_pause_s = BUSY_S_START
            self._measure(now, payload_bytes)

    def _measure(self, now: float, payload_bytes: int) -> None:
        self._meter_bytes += payload_bytes
        elapsed = now - self._meter_started_at
        # A whole window is a sample, too: on a fast link it comes in less time than that.
        if elapsed < _SAMPLE_S_MIN and self._meter_bytes < self.window_bytes and self.requests:
            return
        sample = self._meter_bytes / max(elapsed, 1e-3)
        self.rate = sample if self.rate is None else (self.rate + sample) / 2
        self._meter_started_at = now
        self._meter_bytes = 0
        rtt_s = self.rtt_s or 0.0
        slack_s = WINDOW_SLACK_NEAR_S if rtt_s < NEAR_RTT_S else WINDOW_SLACK_S
        aim = int(self.rate * (2 * rtt_s + slack_s))
        aim = min(aim, 2 * self.window_bytes)
        self.window_bytes = min(max(aim, WINDOW_BYTES_MIN), WINDOW_BYTES_MAX)

    def overdue(self) -> None:
        """Notes that a request passed its deadline: ask less at once from now on."""
        self.window_bytes = max(self.window_bytes // 2, WINDOW_BYTES_MIN)

    def said_busy(self, now: float) -> None:
        """Notes a BUSY: pause, longer each time until something useful comes."""
        self.busy_until = now + self._busy_pause_s
        self._busy_pause_s = min(2 * self._busy_pause_s, BUSY_S_MAX)

    def said_busy_for_pages(self, now: float) -> None:
        """Notes a BUSY for a recipe page: others may be asked meanwhile."""
        if now < self.pages_busy_until:
            return  # one refusal of all that was asked at once
        self.pages_busy_until = now + self._page_pause_s
        self._page_pause_s = min(2 * self._page_pause_s, PAGE_PAUSE_S_MAX)

    def sent_page(self) -> None:
        """Notes that a recipe page came: it has the turn, and may be asked for more."""
        self.pages_busy_until = 0.0
        self._page_pause_s = PAGE_PAUSE_S_START

    def said_unknown(self, now: float) -> None:
        """Notes an UNKNOWN: forget possession and repeat the interest later."""
        self.possession = 0
        self.recipes.clear()
        self.retry_at = now + self._retry_pause_s
        self._retry_pause_s = min(2 * self._retry_pause_s, INTEREST_RETRY_S_MAX)

    def said_possession(self) -> None:
        """Notes that the peer knows the manifest."""
        self.retry_at = None
        self._retry_pause_s = INTEREST_RETRY_S_START
        self.pages_refused.clear()

    def unanswered(self) -> int:
        """Chunk numbers this peer still owes an answer, as a set."""
        numbers = 0
        for request in self.requests.values():
            numbers |= request.pending
        return numbers
