"""How far each object of a download is: its components, and the patches it may want for them."""

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
    UNWANTED = 6
    """To be wanted at all: an object that the download can do without."""


class ComponentBoard:
    """The phases of all objects."""

    def __init__(self, count: int, needed: int | None = None) -> None:
        """Starts with every recipe unknown.

        Args:
            count: objects of the manifest.
            needed: the first of them without which the download is not finished; None: all. The
                others are unwanted until somebody wants them.
        """
        self._needed = count if needed is None else needed
        self._phases = [ComponentPhase.RECIPE] * self._needed
        self._phases += [ComponentPhase.UNWANTED] * (count - self._needed)

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
        """The needed objects that are not done, ascending."""
        needed = enumerate(self._phases[: self._needed])
        return tuple(number for number, phase in needed if phase is not ComponentPhase.DONE)

    @property
    def wanted(self) -> tuple[int, ...]:
        """The objects, needed or not, of which something is still wanted, ascending."""
        idle = (ComponentPhase.DONE, ComponentPhase.UNWANTED)
        return tuple(number for number, phase in enumerate(self._phases) if phase not in idle)
