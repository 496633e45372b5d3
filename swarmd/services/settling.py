"""Has manifests judged again that only waited for time: soak over, a freeze at its end (K48).

Nobody signs anything more for such a manifest, so no transaction would judge it. The publisher's
node asks as soon as its own copy says that the policy holds. Validators do so a minute later, the
seats in turn, for a publisher may be away. Whoever asks decides nothing: the transition judges.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import trio

from ledger.bodies.manifest import SettleManifest
from ledger.records.manifest import ManifestRecord, ManifestStatus
from ledger.records.tenant import OpenProposals
from ledger.state import LedgerState
from ledger.state_keys import open_key
from ledger.transition.decisions import judge_now
from ledger.transition.kind import Body
from protocol.digest import DIGEST_BYTES, DidId, Digest, ManifestId, TransactionId
from protocol.errors import NotYetError, PolicyError, StorageError
from protocol.transaction import parse_transaction
from swarmd.ledger_host import LedgerHost
from swarmd.services.submission import LIFETIME_MS

logger = logging.getLogger(__name__)

VALIDATOR_GRACE_MS: Final = 60_000
"""How long a policy holds before validators ask in the publisher's place, header time."""
RETRY_S: Final = 10.0
"""Pause after the store failed, seconds."""
_OPEN: Final = b"op/"
"""Where the ledger lists the manifests that wait for owners (Q20)."""
Submit = Callable[[Body], Awaitable[TransactionId]]
"""Signs and submits an own transaction."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A manifest that is not authorised yet, in one group."""

    manifest: ManifestId
    """Which manifest."""
    group: str
    """In which group."""
    missing: tuple[str, ...]
    """Names of the conditions that its policy misses; none: it would be authorised."""

    @property
    def place(self) -> tuple[ManifestId, str]:
        """What is waited for."""
        return self.manifest, self.group


def open_manifests(
    state: LedgerState, publisher: DidId | None
) -> Iterator[tuple[ManifestId, str, ManifestRecord]]:
    """Manifests that wait, of one publisher or of all, in the order of the ledger's list."""
    prefix = _OPEN if publisher is None else open_key(publisher, "")
    for rest, raw in state.scan(prefix):
        group = (prefix + rest)[len(_OPEN) + DIGEST_BYTES :].decode()
        for manifest in OpenProposals.decode(raw).manifests:
            record = state.manifest(manifest, group)
            if record is not None and record.status is ManifestStatus.PROPOSED:
                yield manifest, group, record


def find_waiting(
    state: LedgerState, publisher: DidId | None, *, time_ms: int, grace_ms: int = 0
) -> list[Waiting]:
    """Judges what waits and could still be authorised.

    Args:
        state: newest final state.
        publisher: whose manifests; None: everybody's.
        time_ms: header time of the state.
        grace_ms: the policy must have held for so long by what is signed now.
    """
    found = []
    for manifest, group, record in open_manifests(state, publisher):
        latest = state.latest(group, record.product)
        is_below = latest is not None and record.sequence <= latest.sequence
        if is_below or record.is_expired(time_ms):
            continue
        missing: dict[str, None] = {}
        for moment_ms in dict.fromkeys((time_ms, max(0, time_ms - grace_ms))):
            judgement = judge_now(state, manifest, group, record, moment_ms)
            missing.update(dict.fromkeys(one.rule for one in judgement.missing))
        found.append(Waiting(manifest, group, tuple(missing)))
    return found


class SettlingService:
    """Submits `manifest.settle`: once for each manifest and what it waited for."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        own_did: DidId,
        is_publisher: bool,
        seat: Callable[[], int | None],
    ) -> None:
        """Wires the service.

        Args:
            ledger: own copy of the chain.
            own_did: who this node is.
            is_publisher: whether it looks after its own manifests.
            seat: this node's index among the validators now; None: it has none.
        """
        self._ledger = ledger
        self._did = own_did
        self._is_publisher = is_publisher
        self._seat = seat
        self._missed: dict[tuple[ManifestId, str], tuple[str, ...]] = {}
        self._asked: dict[tuple[ManifestId, str, tuple[str, ...]], int] = {}

    async def run(self, submit: Submit) -> None:
        """Looks at what waits after each final block, until cancelled."""
        await self._note_pending()
        while True:
            try:
                await self._review(submit)
                await self._ledger.wait_advanced()
            except StorageError as error:
                logger.error("settling: %s", error)  # noqa: TRY400 - no defect
                await trio.sleep(RETRY_S)

    async def _note_pending(self) -> None:
        """Remembers what the last run asked and no block holds yet."""
        for raw in await self._ledger.run(self._ledger.chain.own_pending):
            transaction = parse_transaction(raw).transaction
            manifest, group = transaction.body.get(0), transaction.body.get(1)
            if transaction.kind == "manifest.settle" and isinstance(manifest, bytes):
                place = (ManifestId(Digest(manifest)), str(group))
                self._asked[(*place, ())] = self._ledger.chain.head.time_ms

    async def _review(self, submit: Submit) -> None:
        head, state = self._ledger.chain.head, self._ledger.chain.state
        publisher: DidId | None = self._did
        grace_ms = 0
        if not self._is_publisher:
            seat, validators = self._seat(), self._ledger.chain.validators
            if seat is None or head.height % len(validators.members) != seat:
                return  # one validator looks at each block, not all of them
            publisher, grace_ms = None, VALIDATOR_GRACE_MS
        waiting = await self._ledger.run(
            lambda: find_waiting(state, publisher, time_ms=head.time_ms, grace_ms=grace_ms)
        )
        for one in waiting:
            if not one.missing:
                await self._ask(one, submit, head.time_ms)
        self._missed = {
            one.place: one.missing or self._missed.get(one.place, ()) for one in waiting
        }
        places = {one.place for one in waiting}
        self._asked = {
            key: since_ms
            for key, since_ms in self._asked.items()
            if key[:2] in places and since_ms > head.time_ms - LIFETIME_MS
        }

    async def _ask(self, one: Waiting, submit: Submit, time_ms: int) -> None:
        """Submits once; again only if something else was missing, or no block took it."""
        key = (*one.place, self._missed.get(one.place, ()))
        if key in self._asked:
            return
        try:
            await submit(SettleManifest(manifest=one.manifest, group=one.group))
        except NotYetError as error:
            logger.info("manifest %s not settled yet: %s", one.manifest.hex()[:8], error)
            return
        except PolicyError as error:
            logger.info("manifest %s cannot be settled: %s", one.manifest.hex()[:8], error)
        self._asked[key] = time_ms
