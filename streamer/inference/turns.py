"""Decide which cameras' frames go into the next batch, and how long it waits to be filled.

Cameras take turns, so none starves. A batch waits only for frames that are due within its window;
a camera that is slow, late or away holds up nobody. Knows no frame, no engine and no clock but the
one it is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")

_SMOOTHING = 0.2
_LATE = 1.5  # intervals after its last frame from which on a camera is not counted on


@dataclass(slots=True)
class _Queue(Generic[Item]):
    """The frames of one camera that wait."""

    items: deque[tuple[Item, float, float]] = field(default_factory=deque)
    """Each with its arrival, and when it should leave at the latest."""
    last_s: float | None = None
    interval_s: float | None = None
    ended: bool = False

    def is_due(self, now_s: float, until_s: float) -> bool:
        """True if the next frame is expected until then."""
        if self.ended or self.last_s is None or self.interval_s is None:
            return False
        return self.last_s + self.interval_s <= until_s and (
            now_s <= self.last_s + _LATE * self.interval_s
        )


class Turns(Generic[Item]):
    """Frames of all cameras on their way into batches.

    Args:
        cameras: their names.
        most: frames in one batch at the most, each of another camera.
        collect_s: how long a frame waits for those of other cameras.
    """

    def __init__(self, cameras: Iterable[str], *, most: int, collect_s: float) -> None:
        self._queues: dict[str, _Queue[Item]] = {name: _Queue() for name in cameras}
        self._order = deque(self._queues)
        self._most = most
        self._collect_s = collect_s
        self.due_s = float("inf")
        """When to ask for a batch again, if no frame comes before."""

    def add(self, camera: str, item: Item, now_s: float, leave_by_s: float = float("inf")) -> None:
        """A frame came; it should not wait for others beyond leave_by_s."""
        queue = self._queues[camera]
        if queue.last_s is not None:
            gap_s = now_s - queue.last_s
            before_s = gap_s if queue.interval_s is None else queue.interval_s
            queue.interval_s = before_s + _SMOOTHING * (gap_s - before_s)
        queue.last_s = now_s
        queue.items.append((item, now_s, leave_by_s))

    def end(self, camera: str) -> None:
        """No more frames will come."""
        self._queues[camera].ended = True

    def next(self, now_s: float) -> list[Item]:
        """Frames that go now, one a camera; none if there are none, or they had better wait."""
        self.due_s = float("inf")
        ready = [name for name in self._order if self._queues[name].items]
        if not ready:
            return []
        if len(ready) < self._most and self._worth_waiting(ready, now_s):
            return []
        batch = []
        for name in ready[: self._most]:
            item, _, _ = self._queues[name].items.popleft()
            batch.append(item)
            self._order.remove(name)
            self._order.append(name)
        return batch

    def _worth_waiting(self, ready: list[str], now_s: float) -> bool:
        fronts = [self._queues[name].items[0] for name in ready]
        until_s = min(
            min(arrived_s + self._collect_s, leave_by_s) for _, arrived_s, leave_by_s in fronts
        )
        others = [queue for queue in self._queues.values() if not queue.items]
        if now_s < until_s and any(queue.is_due(now_s, until_s) for queue in others):
            self.due_s = until_s
            return True
        return False
