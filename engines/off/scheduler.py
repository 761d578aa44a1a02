"""Share a budget of crops a second fairly among more people than it is enough for; no clock inside.

A recogniser needs an unbroken row of samples, so people take turns of some seconds, not samples:
who waited longest gets the next place that falls free. One for all cameras; not thread-safe.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[str, int]
"""Camera and track."""

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class _Place:
    """Somebody whose crops are taken."""

    since_ns: int
    seen_ns: int


class FairTurns:
    """Gives out places, each worth `rate` crops a second."""

    def __init__(
        self, crops_per_s: float, rate: float, *, turn_s: float = 3.0, silence_s: float = 1.0
    ) -> None:
        """Share a budget.

        Args:
            crops_per_s: the budget, over all cameras.
            rate: crops a second that one person needs.
            turn_s: a place is given up after so long, if somebody waits.
            silence_s: and after so long without a sign of life (a camera that stands still).
        """
        self.places = int(crops_per_s / rate)
        if self.places < 1 or turn_s <= 0 or silence_s <= 0:
            raise ValueError(
                f"crops_per_s must be at least {rate:g}, turn_s and silence_s above 0, got "
                f"{crops_per_s:g}, {turn_s:g} and {silence_s:g}; one person needs {rate:g} a second"
            )
        self._turn_ns, self._silence_ns = int(turn_s * _SECOND_NS), int(silence_s * _SECOND_NS)
        self._held: dict[Key, _Place] = {}
        self._waiting: dict[Key, int] = {}  # last sign of life; in the order of arrival

    def grant(self, camera: str, tracks: Iterable[int], now_ns: int) -> set[int]:
        """Say whose crops are taken from this sample of a camera.

        Args:
            camera: which; its people that are not named have gone.
            tracks: who is in the picture, in any order.
            now_ns: a clock that all cameras share.

        Returns:
            Tracks that have a place; one that lost it has to begin a new row next time.
        """
        present = {(camera, track) for track in sorted(tracks)}
        self._forget(camera, present, now_ns)
        for key in sorted(present):
            if key in self._held:
                self._held[key].seen_ns = now_ns
            else:
                self._waiting[key] = now_ns
        self._hand_over(now_ns)
        return {track for where, track in self._held if where == camera}

    def drop(self, camera: str) -> None:
        """Forget a camera."""
        self._held = {key: place for key, place in self._held.items() if key[0] != camera}
        self._waiting = {key: at for key, at in self._waiting.items() if key[0] != camera}

    def _forget(self, camera: str, present: set[Key], now_ns: int) -> None:
        def stays(key: Key, seen_ns: int) -> bool:
            return key in present if key[0] == camera else now_ns - seen_ns <= self._silence_ns

        self._held = {k: place for k, place in self._held.items() if stays(k, place.seen_ns)}
        self._waiting = {k: seen_ns for k, seen_ns in self._waiting.items() if stays(k, seen_ns)}

    def _hand_over(self, now_ns: int) -> None:
        """End turns while somebody waits for a place, then fill what is free, first come first."""
        over = [k for k, place in self._held.items() if now_ns - place.since_ns >= self._turn_ns]
        over.sort(key=lambda k: self._held[k].since_ns)
        free = self.places - len(self._held)
        for key in over[: max(len(self._waiting) - free, 0)]:
            self._waiting[key] = self._held.pop(key).seen_ns  # to the end of the queue
        for key in list(self._waiting)[: self.places - len(self._held)]:
            self._held[key] = _Place(now_ns, self._waiting.pop(key))
