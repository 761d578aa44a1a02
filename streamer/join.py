"""Bring each frame together with its annotations: of each kind the result, a skip and its cause, or
the deadline.

Exact: every frame that is added comes out once, in order, with one of the three for each kind.
Knows no pixel, no queue and no clock but the one it is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Joined(Generic[Item, Result]):
    """One frame that can be written."""

    item: Item
    results: dict[str, Result]
    """By kind, of those that there are."""
    skipped: dict[str, str]
    """By kind, why there is no result."""


class Join(Generic[Item, Result]):
    """The frames of one camera that wait for their annotations.

    Args:
        kinds: of annotation that each frame waits for.
        deadline_s: how long a frame waits; None for as long as it takes.
    """

    def __init__(self, kinds: Iterable[str], deadline_s: float | None) -> None:
        self._deadline_s = deadline_s
        self._frames: deque[tuple[int, Item, float]] = deque()
        self._kinds: dict[str, _Kind[Result]] = {kind: _Kind() for kind in kinds}

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, seq: int, item: Item, now_s: float) -> None:
        """A frame came; numbers rise."""
        self._frames.append((seq, item, now_s))

    def annotate(self, kind: str, seq: int, result: Result) -> None:
        """The result of a frame, which may come before or after it; numbers rise."""
        self._kinds[kind].last_seq = seq
        self._kinds[kind].results[seq] = result

    def skip(self, kind: str, seq: int, cause: str) -> None:
        """This frame will never have such a result."""
        self._kinds[kind].skips[seq] = cause

    def no_more_results(self, kind: str, cause: str) -> None:
        """No frame will have such a result from now on, except those that have it already."""
        self._kinds[kind].no_more = cause

    @property
    def complete(self) -> bool:
        """True if no frame will have any result from now on, except those that have it already."""
        return all(kind.no_more for kind in self._kinds.values())

    @property
    def oldest_seq(self) -> int | None:
        """Of the frames that wait; None if none does."""
        return self._frames[0][0] if self._frames else None

    @property
    def due_s(self) -> float:
        """When the oldest frame must go without what is missing; infinite if it need not."""
        if not self._frames or self._deadline_s is None:
            return float("inf")
        return self._frames[0][2] + self._deadline_s

    def next(self, now_s: float) -> Joined[Item, Result] | None:
        """The oldest frame, if it can go; its annotations leave with it."""
        if not self._frames:
            return None
        seq, item, _ = self._frames[0]
        results = {
            name: kind.results[seq] for name, kind in self._kinds.items() if seq in kind.results
        }
        late = now_s >= self.due_s
        skipped = {
            name: kind.why_none(seq) or ("deadline" if late else "")
            for name, kind in self._kinds.items()
            if name not in results
        }
        if not all(skipped.values()):
            return None
        self._frames.popleft()
        for kind in self._kinds.values():
            kind.forget(seq)
        return Joined(item, results, skipped)


class _Kind(Generic[Result]):
    """What is known of one kind of annotation."""

    def __init__(self) -> None:
        self.results: dict[int, Result] = {}
        self.skips: dict[int, str] = {}
        self.last_seq = -1
        self.no_more = ""

    def why_none(self, seq: int) -> str:
        """Why a frame without a result will stay so; empty if one may come."""
        if seq in self.skips:
            return self.skips[seq]
        # Results come in order, so one that was passed over is not coming.
        return "overtaken" if seq < self.last_seq else self.no_more

    def forget(self, seq: int) -> None:
        """Frames up to this one are gone."""
        self.results = {at: result for at, result in self.results.items() if at > seq}
        self.skips = {at: cause for at, cause in self.skips.items() if at > seq}
