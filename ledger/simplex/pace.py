"""Timing: growing patience, pause between proposals, silent leaders (C60 to C66)."""

from __future__ import annotations

from typing import Final

from ledger.simplex.interface import Parameters

STEADY_LEAD: Final = 2
"""Views ahead of the last final one in undisturbed running: the current one is entered on a
notarize certificate, before the finalize certificate of the one before it arrives."""
_EXPONENT_MAX: Final = 32


class Pace:
    """What the engine must remember to know when it is time."""

    __slots__ = ("_heard_at", "_parameters", "_passed_view", "_proposed_at")

    def __init__(self, parameters: Parameters, count: int, now: float) -> None:
        """Starts with nobody silent and no proposal made."""
        self._parameters = parameters
        self._heard_at = [now] * count
        self._proposed_at = now - parameters.block_interval_s
        self._passed_view = 0

    def note_heard(self, peer: int, now: float) -> None:
        """A validator voted or proposed; one that only follows does not count."""
        self._heard_at[peer] = now

    def note_proposal(self, now: float) -> None:
        """A proposal was made or received."""
        self._proposed_at = now

    def pass_turn(self, view: int) -> None:
        """The host has no block for our view; it is nullified at once."""
        self._passed_view = view

    def has_passed(self, view: int) -> bool:
        """Whether our turn in `view` was passed."""
        return self._passed_view == view

    @property
    def build_at(self) -> float:
        """Earliest time of the next proposal, monotonic seconds (C66)."""
        return self._proposed_at + self._parameters.block_interval_s

    def delta_s(self, lead: int) -> float:
        """The delay bound in use (C61).

        Args:
            lead: how many views the current one is ahead of the last final one. Being a function of
                this alone, it shrinks only when a block becomes final.
        """
        exponent = min(max(0, lead - STEADY_LEAD), _EXPONENT_MAX)
        grown = self._parameters.delta_s * self._parameters.backoff**exponent
        return min(grown, self._parameters.delta_s_max)

    def is_silent(self, leader: int, quorum: int, index: int, now: float) -> bool:
        """Whether the leader said nothing for long while a quorum, us included, was heard (C64)."""
        horizon = now - self._parameters.silence_s
        if self._heard_at[leader] > horizon:
            return False
        heard = sum(1 for peer, at in enumerate(self._heard_at) if at > horizon or peer == index)
        return heard >= quorum
