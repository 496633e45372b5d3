"""Control method `wait_copies`: waits until enough other members hold a release.

A copy is a member of the release's groups, other than this node, that says it holds every component
complete. One DID counts once, whatever keys or connections it uses; who was suspended or left the
groups does not count, who merely went offline does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import trio

from ledger.records.subject import SubjectStatus
from ledger.rules.membership import groups_of
from protocol.authorised import AuthorisedManifest
from protocol.digest import DidId, ManifestId
from protocol.errors import NotYetError
from swarmd.authority import Authority
from swarmd.control.params import Params
from swarmd.net.address import PeerKey
from swarmd.peers import PeerClass, PeerRegistry
from swarmd.questions import Denial, Permit
from swarmd.services.exchange_copies import RENEW_S, CopyWatch
from swarmd.services.release_desk import known_manifest

if TYPE_CHECKING:
    from swarmd.control.protocol import JSON
    from swarmd.control.server import Handler, Report
    from swarmd.ledger_host import LedgerHost
    from swarmd.services.exchange import ExchangeService

COPIES_MAX: Final = 1024
"""Most copies that may be waited for."""
WAIT_S_MAX: Final = 7 * 24 * 3600.0
"""Longest wait, seconds."""
PROGRESS_S: Final = 1.0
"""Pause between two looks at who is still a member, seconds."""


class CopiesDesk:
    """Implements the method."""

    def __init__(
        self,
        *,
        ledger: LedgerHost,
        authority: Authority,
        exchange: ExchangeService,
        registry: PeerRegistry,
        own_did: DidId,
    ) -> None:
        """Speaks to the parts of a node."""
        self._ledger = ledger
        self._authority = authority
        self._exchange = exchange
        self._registry = registry
        self._own_did = own_did

    def handlers(self) -> Mapping[str, Handler]:
        """Methods by name."""
        return {"wait_copies": self._wait}

    async def _wait(self, params: Mapping[str, object], report: Report) -> JSON:
        reader = Params(params)
        manifest = ManifestId(reader.hex_bytes("manifest", size=32))
        wanted = reader.uint("copies", minimum=1, maximum=COPIES_MAX)
        timeout_s = reader.seconds("timeout_s", maximum=WAIT_S_MAX)
        reader.finish()
        known_manifest(self._ledger, manifest)
        members: dict[DidId, None] = {}
        with trio.move_on_after(timeout_s):
            authorised = await self._until_permitted(manifest, report)
            with self._exchange.watch_copies(authorised) as watch:
                holders = Holders(watch, self._did_of)
                asked_at = trio.current_time()
                while True:
                    self._check(manifest)
                    members = holders.update(lambda did: self._counts(did, manifest))
                    await report({"stage": "copies", "copies": len(members), "wanted": wanted})
                    if len(members) >= wanted:
                        return {"manifest": manifest.hex(), "copies": len(members)}
                    with trio.move_on_after(PROGRESS_S):
                        await watch.changed.wait()
                    if trio.current_time() - asked_at >= RENEW_S:
                        asked_at = trio.current_time()
                        self._exchange.ask_again(watch)
        raise NotYetError(
            "copies.timeout",
            f"{len(members)} of {wanted} other members hold the image after {timeout_s:g} s",
        )

    def _check(self, manifest: ManifestId) -> None:
        """Refuses a release that was taken back meanwhile.

        Raises:
            PolicyError: it was.
        """
        verdict = self._authority.verdict(manifest)
        if isinstance(verdict, Denial) and not verdict.may_retry:
            raise verdict.error()

    async def _until_permitted(self, manifest: ManifestId, report: Report) -> AuthorisedManifest:
        """Waits until the release is authorised.

        Raises:
            PolicyError: it is refused for good.
        """
        while True:
            verdict = self._authority.verdict(manifest)
            if isinstance(verdict, Permit):
                return verdict.authorised
            self._check(manifest)
            await report({"stage": verdict.rule, "copies": 0})
            with trio.move_on_after(PROGRESS_S):
                await self._ledger.wait_advanced()

    def _did_of(self, peer: bytes) -> DidId | None:
        """The member behind a peer, if it is known as one now."""
        known = self._registry.get(PeerKey(peer))
        if known is None or known.peer_class < PeerClass.MEMBER:
            return None
        return known.did

    def _counts(self, did: DidId, manifest: ManifestId) -> bool:
        """Whether a subject is another one, in good standing, and in a target group."""
        state = self._ledger.chain.state
        record = state.subject(did)
        if did == self._own_did or record is None or record.status is not SubjectStatus.ACTIVE:
            return False
        targets = self._ledger.manifests[manifest].manifest.groups
        return any(group in targets for group in groups_of(state, did))


class Holders:
    """Members that said they hold everything, remembered while they are away."""

    def __init__(self, watch: CopyWatch, did_of: Callable[[bytes], DidId | None]) -> None:
        """Follows a watch."""
        self._watch = watch
        self._did_of = did_of
        self._known: dict[bytes, DidId] = {}

    def update(self, counts: Callable[[DidId], bool]) -> dict[DidId, None]:
        """The members that hold everything and count now, each once."""
        holders = self._watch.holders
        for peer in holders:
            did = self._did_of(peer)
            if did is not None:
                self._known[peer] = did
        held = (self._known[peer] for peer in holders if peer in self._known)
        return {did: None for did in held if counts(did)}
