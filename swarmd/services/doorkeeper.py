"""The doorkeeper: takes enrolment requests from strangers, so that newcomers need no helper.

A stranger costs its own key nothing, so every step is bounded, and what is cheap comes first: a
place among the open streams, a budget of its address and one of all, the form, the newcomer's own
handshake, the member's ledger, and only then signatures. What survives is submitted as this
member's transaction; few of them at a time and in an hour, so that strangers use up neither its
nonces nor its share. Rules: docs/spec/identity.md, I70 to I79.
"""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import trio

from ledger.bodies.subject import CreateSubject
from ledger.errors import LedgerError
from ledger.state import StateReader
from ledger.transition.context import BlockContext
from ledger.transition.enrolment import check_seat
from ledger.transition.kind import Body
from protocol.did import KeyPurpose
from protocol.digest import DidId, TransactionId
from protocol.enrolment_messages import EnrolAnswer, EnrolStatus
from protocol.errors import (
    NotYetError,
    PolicyError,
    RemoteProtocolError,
    SignatureError,
    StorageError,
    VerificationError,
)
from protocol.keys import PublicKey
from swarmd.enrolment_request import EnrolmentRequest, parse_request
from swarmd.ledger_host import LedgerHost
from swarmd.net.address import PeerKey
from swarmd.net.network import Stream
from swarmd.newcomers import Newcomer, Newcomers
from swarmd.peers import Offence, PeerRegistry

logger = logging.getLogger(__name__)

SLOTS_MAX: Final = 8
"""Requests judged at a time."""
ADDRESS_BURST: Final = 8
"""Requests from one address at once: a few newcomers behind one router."""
ADDRESS_PER_S: Final = 0.1
"""Requests regained per second by an address; a newcomer that waits asks once a minute."""
TOTAL_BURST: Final = 32
"""Requests from all addresses at once."""
TOTAL_PER_S: Final = 1.0
"""Requests regained per second by all together; judging one takes some milliseconds."""
ADDRESSES_MAX: Final = 1024
"""Addresses remembered; the one unheard for longest is forgotten first."""
IPV6_PREFIX_BITS: Final = 64
"""One customer usually has at least this many bits to choose addresses from."""
IN_FLIGHT_MAX: Final = 4
"""Transactions for strangers that wait for a block: a quarter of the nonce window."""
HOURLY_MAX: Final = 30
"""Transactions for strangers in an hour, of the 3,600 of a signer (Q10)."""
HOUR_S: Final = 3600.0
"""Seconds of that hour, monotonic time."""
ANSWER_S: Final = 5.0
"""How long a stranger is made to wait for finality, seconds: half of what it has in all."""
CARRY_S: Final = 6 * 3600.0
"""How long a transaction is followed, seconds: as long as it is valid."""


class Submitter(Protocol):
    """What the doorkeeper needs of `SubmissionService`."""

    async def submit(self, body: Body) -> TransactionId:
        """Signs and submits; raises PolicyError or NotYetError."""
        ...

    async def wait_final(self, transaction: TransactionId, timeout_s: float) -> int:
        """Waits for a block; raises PolicyError or NotYetError."""
        ...


@dataclass(slots=True)
class _Bucket:
    """What is left of a budget, and since when."""

    left: float
    since: float

    def spend(self, now: float, *, burst: int, per_s: float) -> bool:
        self.left = min(float(burst), self.left + (now - self.since) * per_s)
        self.since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class StrangerBudget:
    """How many requests strangers may make: a token bucket for each address, and one for all."""

    def __init__(self) -> None:
        """Starts with full buckets."""
        self._all = _Bucket(float(TOTAL_BURST), 0.0)
        self._by_address: OrderedDict[str, _Bucket] = OrderedDict()

    def spend(self, host: str, now: float) -> bool:
        """Counts a request; returns whether it may be made. `now`: monotonic seconds.

        An address that has used up its own budget costs the others nothing.
        """
        name = _network_of(host)
        bucket = self._by_address.pop(name, None) or _Bucket(float(ADDRESS_BURST), now)
        self._by_address[name] = bucket
        while len(self._by_address) > ADDRESSES_MAX:
            self._by_address.popitem(last=False)
        if not bucket.spend(now, burst=ADDRESS_BURST, per_s=ADDRESS_PER_S):
            return False
        return self._all.spend(now, burst=TOTAL_BURST, per_s=TOTAL_PER_S)


def _network_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the first 64 bits of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX_BITS), strict=False))


@dataclass(slots=True)
class _Flight:
    """A transaction for a stranger on its way into a block."""

    ended: trio.Event = field(default_factory=trio.Event)
    answer: EnrolAnswer | None = None


class Doorkeeper:
    """Answers the enrolment protocol, and keeps those who wait for owners."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        submission: Submitter,
        registry: PeerRegistry,
        newcomers: Newcomers,
        now_ms: Callable[[], int],
    ) -> None:
        """Wires the service; it takes nobody in until `run` runs.

        Args:
            ledger: own copy of the chain.
            submission: signs and submits as this member.
            registry: scores of peers.
            newcomers: those who wait for owners.
            now_ms: the best guess of the next header time, milliseconds.
        """
        self._ledger = ledger
        self._submission = submission
        self._registry = registry
        self._newcomers = newcomers
        self._now_ms = now_ms
        self._budget = StrangerBudget()
        self._open = 0
        self._flights: dict[DidId, _Flight] = {}
        self._submitted: deque[float] = deque()
        self._table_lock = trio.Lock()
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Carries requests into blocks and tidies the table, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    if len(self._newcomers):
                        await self._sweep()
                    await self._ledger.wait_advanced()
            finally:
                self._nursery = None  # streams of strangers may end later than this

    async def _sweep(self) -> None:
        state, now_ms = self._ledger.chain.state, self._now_ms()
        try:
            await self._in_table(partial(self._newcomers.sweep, state, now_ms))
        except StorageError as error:
            logger.error(  # noqa: TRY400 - no defect
                "newcomers not tidied: %s", error
            )

    # -- those who wait ------------------------------------------------------------------------

    async def _in_table(self, call: Callable[[], None]) -> None:
        async with self._table_lock:
            await trio.to_thread.run_sync(call)

    def waiting(self) -> tuple[Newcomer, ...]:
        """Those who wait for owners, oldest first."""
        return tuple(self._newcomers)

    def find(self, did: DidId) -> Newcomer | None:
        """One who waits, or None."""
        return self._newcomers.get(did)

    async def keep(self, request: EnrolmentRequest, *, by_itself: bool = False) -> None:
        """Lets a newcomer wait; raises NotYetError (`enrol.busy`) or StorageError."""
        await self._in_table(partial(self._newcomers.add, request, by_itself=by_itself))

    async def confirm(self, did: DidId, approvals: Mapping[str, bytes]) -> None:
        """Keeps owners' confirmations of one who waits; raises StorageError."""
        await self._in_table(partial(self._newcomers.confirm, did, dict(approvals)))

    async def forget(self, did: DidId) -> None:
        """Lets nobody wait under this name any more; raises StorageError."""
        await self._in_table(partial(self._newcomers.remove, did))

    # -- strangers -----------------------------------------------------------------------------

    async def answer(self, stream: Stream) -> None:
        """Handles an inbound stream; the network adapter bounds its time and its size."""
        may_ask = self._budget.spend(stream.remote_host, trio.current_time())
        if not may_ask or self._open >= SLOTS_MAX or self._nursery is None:
            await self._send(stream, EnrolAnswer(status=EnrolStatus.BUSY))
            return
        self._open += 1
        try:
            frame = await stream.receive_frame()
            if frame is None:
                return
            reply = await self._judge(stream.peer, parse_request(frame))
        except (VerificationError, RemoteProtocolError) as error:
            self._registry.blame(stream.peer, Offence.MALFORMED, f"enrolment: {error}")
            await stream.reset()
            return
        finally:
            self._open -= 1
        await self._send(stream, reply)

    async def _send(self, stream: Stream, reply: EnrolAnswer) -> None:
        await stream.send_frame(reply.encode())
        await stream.close_write()

    async def _judge(self, peer: PeerKey, request: EnrolmentRequest) -> EnrolAnswer:
        """Decides about a request, the cheapest questions first."""
        if request.join.record.key(KeyPurpose.TRANSPORT) != PublicKey(peer):
            return _refused("enrol.peer")
        chain, did = self._ledger.chain, request.did
        if chain.state.subject(did) is not None:
            return EnrolAnswer(status=EnrolStatus.ENROLLED)
        if (flight := self._flights.get(did)) is not None:
            return await self._follow(flight)
        if self._newcomers.get(did) is not None:
            return EnrolAnswer(status=EnrolStatus.WAITING)
        time_ms = max(chain.head.time_ms + 1, self._now_ms())
        context = chain.rules.context(height=chain.head.height + 1, time_ms=time_ms)
        call = partial(check_newcomer, chain.state, request, context)
        try:
            await trio.to_thread.run_sync(call)
            if request.claims.confirmed:
                await self.keep(request, by_itself=True)
                return EnrolAnswer(status=EnrolStatus.WAITING)
        except PolicyError as error:
            return _told(error)
        except StorageError as error:
            logger.error(  # noqa: TRY400 - no defect
                "newcomer not kept: %s", error
            )
            return EnrolAnswer(status=EnrolStatus.BUSY)
        return await self._submit(request)

    # -- transactions for strangers ------------------------------------------------------------

    async def _submit(self, request: EnrolmentRequest) -> EnrolAnswer:
        if (flight := self._flights.get(request.did)) is not None:  # judged twice side by side
            return await self._follow(flight)
        now = trio.current_time()
        while self._submitted and self._submitted[0] <= now - HOUR_S:
            self._submitted.popleft()
        is_full = len(self._flights) >= IN_FLIGHT_MAX or len(self._submitted) >= HOURLY_MAX
        if is_full or self._nursery is None:
            return EnrolAnswer(status=EnrolStatus.BUSY)
        self._submitted.append(now)
        flight = self._flights[request.did] = _Flight()
        self._nursery.start_soon(self._carry, request, flight)
        return await self._follow(flight)

    async def _follow(self, flight: _Flight) -> EnrolAnswer:
        """The outcome, or that it is on its way."""
        with trio.move_on_after(ANSWER_S):
            await flight.ended.wait()
        return flight.answer or EnrolAnswer(status=EnrolStatus.SUBMITTED)

    async def _carry(self, request: EnrolmentRequest, flight: _Flight) -> None:
        """Takes one request into a block; its place is free again only when that has ended."""
        body = CreateSubject(join=request.join, approvals=(), seat=request.seat)
        try:
            transaction = await self._submission.submit(body)
            await self._submission.wait_final(transaction, CARRY_S)
            flight.answer = EnrolAnswer(status=EnrolStatus.ENROLLED)
            logger.info("newcomer %s is enrolled", request.did.hex()[:8])
        except PolicyError as error:
            flight.answer = _told(error)
        except StorageError as error:
            flight.answer = EnrolAnswer(status=EnrolStatus.BUSY)
            logger.error(  # noqa: TRY400 - no defect
                "newcomer not submitted: %s", error
            )
        finally:
            del self._flights[request.did]
            flight.ended.set()


def check_newcomer(state: StateReader, request: EnrolmentRequest, context: BlockContext) -> None:
    """Checks what the ledger will check, but for confirmations (L50, I30, I31).

    Raises:
        PolicyError: `seat.*`, `group.unknown`, `did.join`, `did.key`.
    """
    record = request.join.record
    check_seat(state, record, request.seat, context)
    try:
        request.join.verify()
    except SignatureError as error:
        raise LedgerError("did.join", str(error)) from error
    for _, key in record.keys:  # after the signatures: only who holds a key learns that it is known
        if state.holder(key) is not None:
            raise LedgerError("did.key", "a key of the newcomer belongs to another subject")


def _refused(rule: str) -> EnrolAnswer:
    return EnrolAnswer(status=EnrolStatus.REFUSED, rule=rule)


def _told(error: PolicyError) -> EnrolAnswer:
    """What a stranger may know of a refusal: nothing about this member, nor which groups exist."""
    if error.rule == "group.unknown":
        return _refused("seat.owner")
    if isinstance(error, NotYetError) or not error.rule.startswith(("seat.", "did.")):
        return EnrolAnswer(status=EnrolStatus.BUSY)
    return _refused(error.rule)
