"""How long to wait before the next try: twice as long each time, and never all at the same time."""

from __future__ import annotations

import random

_FIRST_S = 0.5


class Backoff:
    """Waits of one bridge.

    Args:
        longest_s: no wait is longer.
        dice: gives the jitter, half of each wait.
    """

    def __init__(self, longest_s: float, dice: random.Random | None = None) -> None:
        self._longest_s = longest_s
        self._dice = dice or random.Random()  # noqa: S311 - jitter needs no cryptography
        self._tries = 0

    def next_s(self) -> float:
        """The next wait: between half and all of a span that doubles."""
        span_s = min(self._longest_s, _FIRST_S * 2 ** min(self._tries, 30))
        self._tries += 1
        return float(span_s * (0.5 + self._dice.random() / 2))

    def reset(self) -> None:
        """It worked; begin with short waits again."""
        self._tries = 0
