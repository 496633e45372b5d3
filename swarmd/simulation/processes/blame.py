"""Who is blamed for what by the nodes that keep the rules: the culprits, and nobody else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from swarmd.peers import Offence

_STALLED: Final = Offence.STALLED.label
"""No verdict counts it: who was cut off or killed stalls, too."""
_BANNED: Final = "banned"
_CONVICTED: Final = "convicted"


class Blame:
    """Sums up what nodes report."""

    def __init__(self, bad: Mapping[str, str]) -> None:
        """Begins with nothing.

        Args:
            bad: names of the nodes that break the rules, with their kinds.
        """
        self._bad = bad
        self._counts: dict[str, dict[str, int]] = {}
        self.of_honest = 0
        """Offences, bans and convictions of nodes that keep the rules; stalls are none."""

    def note_offences(self, name: str | None, offences: Mapping[str, int]) -> None:
        """Notes what a node holds against another one; strangers have no name."""
        for offence, count in offences.items():
            self._note(name, offence, count)

    def note_ban(self, name: str | None, detail: str) -> None:
        """Notes that a node sent another one away."""
        self._note(name, _STALLED if _STALLED in detail else _BANNED, 1)

    def note_convicted(self, name: str | None) -> None:
        """Notes at a validator whose signatures contradict each other."""
        self._note(name, _CONVICTED, 1)

    def _note(self, name: str | None, what: str, count: int) -> None:
        if name is not None and name in self._bad:
            counts = self._counts.setdefault(name, {})
            counts[what] = counts.get(what, 0) + count
        elif name and what != _STALLED:
            self.of_honest += count

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each culprit: its name, kind, and what it is blamed for."""
        return tuple(
            f"{name} ({kind}): {_listed(self._counts.get(name, {}))}"
            for name, kind in sorted(self._bad.items())
        )


def _listed(counts: Mapping[str, int]) -> str:
    told = [f"{what} {count}" for what, count in sorted(counts.items()) if count]
    return ", ".join(told) or "blamed for nothing"
