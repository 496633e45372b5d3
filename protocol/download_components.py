"""How far each component of a download is."""

from __future__ import annotations

from enum import Enum

from protocol.errors import LocalProtocolError


class ComponentPhase(Enum):
    """What a component waits for."""

    RECIPE = 1
    """Pages of its recipe."""
    PREPARING = 2
    """The host's allocation."""
    FETCHING = 3
    """Chunks."""
    VERIFYING = 4
    """The host's check of the whole."""
    DONE = 5
    """Nothing."""


class ComponentBoard:
    """The phases of all components."""

    def __init__(self, count: int) -> None:
        """Starts with every recipe unknown."""
        self._phases = [ComponentPhase.RECIPE] * count

    def phase(self, component: int) -> ComponentPhase:
        """The phase of a component.

        Raises:
            LocalProtocolError: there is no such component.
        """
        if not 0 <= component < len(self._phases):
            raise LocalProtocolError(f"no component {component} among {len(self._phases)}")
        return self._phases[component]

    def expect(self, component: int, phase: ComponentPhase) -> None:
        """Checks that a host's input fits.

        Raises:
            LocalProtocolError: the component is in another phase, or does not exist.
        """
        actual = self.phase(component)
        if actual is not phase:
            raise LocalProtocolError(
                f"component {component} is {actual.name.lower()}, not {phase.name.lower()}"
            )

    def enter(self, component: int, phase: ComponentPhase) -> None:
        """Moves a component to a phase."""
        self._phases[component] = phase

    def at(self, *phases: ComponentPhase) -> tuple[int, ...]:
        """The components in one of these phases, ascending."""
        return tuple(number for number, phase in enumerate(self._phases) if phase in phases)

    @property
    def unfinished(self) -> tuple[int, ...]:
        """The components that are not done, ascending."""
        return tuple(n for n, phase in enumerate(self._phases) if phase is not ComponentPhase.DONE)
