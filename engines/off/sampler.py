"""Choose, by media time, the frames of one stream that are samples; knows no picture.

So a camera of 10 frames a second and one of 30 act alike. One per stream; not thread-safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Take = Literal["skip", "sample", "restart"]

_SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Sampler:
    """Says of each frame whether it is a sample."""

    rate: float
    """Samples a second."""
    gap_s: float = 0.5
    """A longer silence ends what was going on: the next sample begins anew."""
    _due_ns: int = field(default=0, init=False)
    _before_ns: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.gap_s * self.rate < 1:
            raise ValueError(
                f"rate must be above 0 and gap_s at least one sample, got {self.rate} a second "
                f"and {self.gap_s} s; a shorter gap would restart at every sample"
            )

    def take(self, media_time_ns: int, *, discontinuity: bool = False) -> Take:
        """Look at the next frame.

        Args:
            media_time_ns: its time; one that is not after the frame before is a jump.
            discontinuity: the media clock jumped in front of it.

        Returns:
            "sample" where it is one, "restart" where it is the first after a gap, a jump or the
            begin, "skip" for all others.
        """
        before_ns, self._before_ns = self._before_ns, media_time_ns
        period_ns = round(_SECOND_NS / self.rate)
        since_ns = None if before_ns is None else media_time_ns - before_ns
        if since_ns is None or discontinuity or not 0 < since_ns <= self.gap_s * _SECOND_NS:
            self._due_ns = media_time_ns + period_ns
            return "restart"
        # The frame nearest to the due time: the next one will be as far away as the last was.
        if media_time_ns + min(since_ns, period_ns) // 2 < self._due_ns:
            return "skip"
        self._due_ns = max(self._due_ns, media_time_ns - period_ns // 2) + period_ns
        return "sample"

    def restart(self) -> None:
        """Forget all; the next frame begins anew."""
        self._before_ns = None
