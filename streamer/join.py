"""Bring each frame together with its annotation: the result, a skip and its cause, or the deadline.

Exact: every frame that is added comes out once, in order, with one of the three. Knows no pixel, no
queue and no clock but the one it is given.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Joined(Generic[Item, Result]):
    """One frame that can be written."""

    item: Item
    result: Result | None
    skipped: str
    """Why there is no result; empty if there is."""


class Join(Generic[Item, Result]):
    """The frames of one camera that wait for their annotation.

    Args:
        deadline_s: how long a frame waits; None for as long as it takes.
    """

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s
        self._frames: deque[tuple[int, Item, float]] = deque()
        self._results: dict[int, Result] = {}
        self._skips: dict[int, str] = {}
        self._result_seq = -1
        self._no_more = ""

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, seq: int, item: Item, now_s: float) -> None:
        """A frame came; numbers rise."""
        self._frames.append((seq, item, now_s))

    def annotate(self, seq: int, result: Result) -> None:
        """The result of a frame, which may come before or after it; numbers rise."""
        self._result_seq = seq
        self._results[seq] = result

    def skip(self, seq: int, cause: str) -> None:
        """This frame will never have a result."""
        self._skips[seq] = cause

    def no_more_results(self, cause: str) -> None:
        """No frame will have a result from now on, except those that have it already."""
        self._no_more = cause

    @property
    def due_s(self) -> float:
        """When the oldest frame must go without its annotation; infinite if it need not."""
        if not self._frames or self._deadline_s is None:
            return float("inf")
        return self._frames[0][2] + self._deadline_s

    def next(self, now_s: float) -> Joined[Item, Result] | None:
        """The oldest frame, if it can go; its annotation leaves with it."""
        if not self._frames:
            return None
        seq, item, _ = self._frames[0]
        result = self._results.get(seq)
        skipped = "" if result is not None else self._why_skipped(seq, now_s)
        if result is None and not skipped:
            return None
        self._frames.popleft()
        for old in [old for old in self._results if old <= seq]:
            del self._results[old]
        for old in [old for old in self._skips if old <= seq]:
            del self._skips[old]
        return Joined(item, result, skipped)

    def _why_skipped(self, seq: int, now_s: float) -> str:
        if seq in self._skips:
            return self._skips[seq]
        if seq < self._result_seq:
            return "overtaken"  # results come in order, so this one is not coming
        if self._no_more:
            return self._no_more
        return "deadline" if now_s >= self.due_s else ""
