"""How validators that missed something get it: status, wants, answers (C90 to C96).

Nothing here is broadcast without a reason: certificates travel to those who are behind, everything
else on request, within a byte budget for each peer.
"""

from __future__ import annotations

from typing import Final

from ledger.block import Block
from ledger.certificate import CERTIFICATE_BYTES_MAX, Certificate
from ledger.consensus_messages import (
    BLOCKS_BYTES_MAX,
    WANT_BLOCKS_MAX,
    WANT_VIEWS_MAX,
    Blocks,
    CertificateMessage,
    Message,
    Status,
    VoteMessage,
    Want,
)
from ledger.simplex.budget import Budget
from ledger.simplex.core import Core
from ledger.simplex.interface import Serve
from ledger.vote import VOTE_BYTES_MAX, VoteKind
from protocol.digest import BlockId
from protocol.errors import RemoteProtocolError, VerificationError
from protocol.limits import KIB

STATUS_PAUSE_S: Final = 0.25
"""Least time between two unasked statuses to one peer, seconds."""
VOTE_ANSWER_BYTES: Final = VOTE_BYTES_MAX
"""Charge for answering the start-up question, bytes."""
ANSWER_BYTES_MIN: Final = 64 * KIB
"""Charge for an answer from the store whose size is not known yet, bytes."""


class Sync(Core):
    """The layer that asks and answers."""

    _budget: Budget
    _want_views: dict[int, None]
    _want_ids: dict[BlockId, None]
    _want_from: int | None
    _want_final: bool
    _asked: Want | None
    _asked_at: float
    _status_at: dict[int, float]

    def _reset_sync(self) -> None:
        self._budget = Budget(len(self._validators.members))
        self._asked = None
        self._asked_at = 0.0
        self._status_at = {}
        self._clear_wants()

    def _clear_wants(self) -> None:
        self._want_views = {}
        self._want_ids = {}
        self._want_from = None
        self._want_final = False

    # -- asking --------------------------------------------------------------------------------

    def _want_final_blocks(self) -> None:
        """Wants what stands between the last final block and a finalize certificate."""
        if not self._finals:
            return
        certificate = self._finals[min(self._finals)]
        assert certificate.block_id is not None, "a finalize certificate names a block"
        path, missing = self._chain.path(certificate.block_id)
        if missing is not None and self._chain.is_fork(path):
            self._halt_fork()
        elif missing is not None:
            self._want_ids[missing] = None
            self._want_final = missing == certificate.block_id

    def _ask(self) -> None:
        """Sends the wants of this turn, at once when they changed, else after the retry pause."""
        if not (self._want_views or self._want_ids or self._want_final):
            self._asked = None
            return
        want = Want(
            tuple(sorted(self._want_views))[:WANT_VIEWS_MAX],
            tuple(self._want_ids)[:WANT_BLOCKS_MAX],
            self._chain.final.height if self._want_final else None,
        )
        again = want == self._asked
        if again and self._now < self._asked_at + self._parameters.retry_s:
            return
        target = self._want_from if self._want_from is not None and not again else None
        if again:
            self._helper = (self._helper + 1) % len(self._validators.members)
        if target is None or target == self._index:
            if self._helper == self._index:
                self._helper = (self._helper + 1) % len(self._validators.members)
            target = self._helper
        self._asked = want
        self._asked_at = self._now
        self._send(target, want)

    def _ask_deadline(self) -> float | None:
        return None if self._asked is None else self._asked_at + self._parameters.retry_s

    # -- answering -----------------------------------------------------------------------------

    def _on_want(self, peer: int, want: Want) -> None:
        for view in want.views:
            for message in self._knowledge_of(view):
                if not self._spend(peer, CERTIFICATE_BYTES_MAX):
                    return
                self._send(peer, message)
        if want.after is not None and want.after < self._chain.final.height:
            self._serve(peer, after=want.after, block_ids=())
            return
        known = [self._chain.blocks[item] for item in want.block_ids if item in self._chain.blocks]
        for block in known:
            if self._spend(peer, len(block.encoded)):
                self._send(peer, Blocks((block,)))
        unknown = tuple(item for item in want.block_ids if item not in self._chain.blocks)
        if unknown:
            self._serve(peer, after=None, block_ids=unknown)

    def _knowledge_of(self, view: int) -> list[Message]:
        """Certificates of a view, or our own votes there if none is held (C91)."""
        if view == self._chain.view and self._chain.certificate is not None:
            return [CertificateMessage(self._chain.certificate)]
        state = self._views.get(view)
        if state is not None and state.certificates:
            return [CertificateMessage(held) for held in state.certificates.values()]
        if any(view in {vote.view for vote in votes} for _, votes in self._held):
            return []
        return [VoteMessage(vote) for vote in self._ballots.of_view(view)]

    def _serve(self, peer: int, *, after: int | None, block_ids: tuple[BlockId, ...]) -> None:
        for size in (BLOCKS_BYTES_MAX, ANSWER_BYTES_MIN):
            if self._spend(peer, size):
                self._effects.append(Serve(peer, after, block_ids, size))
                return

    def _spend(self, peer: int, size_bytes: int) -> bool:
        return self._budget.take(peer, size_bytes, self._now)

    def _on_blocks(self, peer: int, answer: Blocks) -> None:
        """Takes blocks that were asked for (C93).

        Raises:
            RemoteProtocolError: a certificate that does not certify the linked blocks.
        """
        if answer.certificate is None:
            for block in answer.blocks:
                if block.block_id in self._want_ids or self._is_asked(block.block_id):
                    self._chain.add(block)
            return
        if not answer.blocks or answer.certificate.block_id != answer.blocks[-1].block_id:
            raise RemoteProtocolError(f"validator {peer}: the last block is not the certified one")
        for parent, child in zip(answer.blocks, answer.blocks[1:], strict=False):
            if child.header.parent != parent.block_id:
                raise RemoteProtocolError(f"validator {peer}: blocks are not linked")
        if answer.certificate.view <= self._chain.view:
            return
        self._verify_final(peer, answer.certificate)
        if self._is_beside_final(answer.blocks):
            self._halt_fork()
            return
        for block in answer.blocks:
            self._chain.add(block)
        self._accept_certificate(peer, answer.certificate)

    def _is_beside_final(self, blocks: tuple[Block, ...]) -> bool:
        """Tells whether linked blocks with a valid, newer F do not extend our last final one."""
        final = self._chain.final
        if blocks[-1].header.height <= final.height:
            return True
        return any(
            block.header.height == final.height + 1 and block.header.parent != final.block_id
            for block in blocks
        )

    def _halt_fork(self) -> None:
        """More than f validators lied: whoever is right, we do not vote on."""
        self._finals.clear()
        self._halt(f"a final block does not extend our final height {self._chain.final.height}")

    def _is_asked(self, block_id: BlockId) -> bool:
        return self._asked is not None and block_id in self._asked.block_ids

    def _verify_final(self, peer: int, certificate: Certificate) -> None:
        if self._finals.get(certificate.view) == certificate:
            return
        try:
            if certificate.kind is not VoteKind.FINALIZE:
                raise VerificationError("not a finalize certificate")
            certificate.verify(self._validators, self._chain_id, self._era, self._verifier)
        except VerificationError as error:
            raise RemoteProtocolError(f"validator {peer} sent a bad certificate") from error

    # -- status --------------------------------------------------------------------------------

    def _status(self) -> Status:
        return Status(self._validators.epoch, self._view, self._chain.certificate)

    def _on_status(self, peer: int, status: Status) -> None:
        """Helps one who is behind; tells one who is ahead where we are (C94, C95)."""
        if status.epoch != self._validators.epoch:
            return
        if status.certificate is not None:
            self._accept_certificate(peer, status.certificate)
        if status.view > self._view:
            self._tell(peer)
            return
        final_view = 0 if status.certificate is None else status.certificate.view
        for certificate in self._help_for(status.view, final_view):
            if self._spend(peer, CERTIFICATE_BYTES_MAX):
                self._send(peer, CertificateMessage(certificate))

    def _tell(self, peer: int) -> None:
        """Tells a peer that seems to be ahead where we are, not too often."""
        self._helper = peer
        if self._now >= self._status_at.get(peer, -STATUS_PAUSE_S) + STATUS_PAUSE_S:
            self._status_at[peer] = self._now
            self._send(peer, self._status())

    def _help_for(self, view: int, final_view: int) -> list[Certificate]:
        """Certificates that lift a peer to our last final block and to our view."""
        found: list[Certificate] = []
        own_final = self._chain.certificate
        if own_final is not None and own_final.view > final_view:
            found.append(own_final)
        if view < self._view and self._view - 1 in self._views:
            certificates = self._views[self._view - 1].certificates
            for kind in (VoteKind.NOTARIZE, VoteKind.NULLIFY):
                if kind in certificates and certificates[kind] not in found:
                    found.append(certificates[kind])
                    break
        return found

    def _entry_certificate(self) -> Certificate | None:
        """The certificate that let us leave the previous view, if it is held."""
        state = self._views.get(self._view - 1)
        if state is None:
            return None
        for kind in (VoteKind.FINALIZE, VoteKind.NOTARIZE, VoteKind.NULLIFY):
            if kind in state.certificates:
                return state.certificates[kind]
        return None

    def _path(self, block_id: BlockId) -> list[Block] | None:
        """Blocks above the final one up to `block_id`; wants the first that is missing."""
        path, missing = self._chain.path(block_id)
        if missing is None:
            return path
        if not self._chain.is_fork(path):
            self._want_ids[missing] = None
        return None
