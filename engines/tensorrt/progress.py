"""Add up what a builder reports of its nested phases into one fraction; knows no library.

Called on threads of the builder, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Tally:
    """Phases that are under way."""

    def __init__(self, report: Callable[[str, float], None]) -> None:
        """Report to a function the outermost phase and how much of it is done, 0..1."""
        self._report = report
        self._phases: dict[str, _Phase] = {}

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside another or on its own."""
        self._phases[name] = _Phase(parent, max(steps, 1))
        self._show(name)

    def step(self, name: str, step: int) -> None:
        """A phase has done its steps up to this one, counted from 0."""
        self._phases[name].done = step + 1
        self._show(name)

    def finish(self, name: str) -> None:
        """A phase has ended, with all its steps or without."""
        self._phases[name].done = self._phases[name].steps
        self._show(name)
        del self._phases[name]

    def _show(self, name: str) -> None:
        fraction = 0.0
        while True:
            phase = self._phases[name]
            fraction = min((phase.done + fraction) / phase.steps, 1.0)
            if phase.parent not in self._phases:
                break
            name = phase.parent
        self._report(name, fraction)
