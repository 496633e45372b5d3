"""Counts what an adversary tried and what of it was believed, by kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protocol.errors import SwarmError


@dataclass(slots=True)
class Trials:
    """Tries of one run."""

    attempts: int = 0
    """All tries."""
    taken: dict[str, int] = field(default_factory=dict)
    """For each kind of try, how many were believed that must not be."""

    def note(self, kind: str, *, is_taken: bool) -> None:
        """Notes one try."""
        self.attempts += 1
        self.taken[kind] = self.taken.get(kind, 0) + is_taken

    def offer(self, kind: str, call: Callable[..., object], *arguments: object) -> None:
        """Offers something that must be refused with an error of ours."""
        try:
            call(*arguments)
        except SwarmError:
            self.note(kind, is_taken=False)
        else:
            self.note(kind, is_taken=True)
