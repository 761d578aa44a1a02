"""Turn (seed, stream, index) into the same random numbers on every machine and numpy version.

Only the raw bits of Philox are used, because numpy keeps those stable and not its distributions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Uniform draws of one actor; which one it is decides them, not what was drawn before it."""

    def __init__(self, seed: int, stream: int, index: int) -> None:
        self._raw = _raw(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, index]))

    def unit(self) -> float:
        """A number in [0, 1) with 53 random bits."""
        return (next(self._raw) >> 11) * 2.0**-53

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.unit() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """One of the choices, each as likely."""
        return choices[int(self.unit() * len(choices))]


def _raw(bits: np.random.Philox) -> Iterator[int]:
    while True:
        yield from np.atleast_1d(bits.random_raw(48)).tolist()
