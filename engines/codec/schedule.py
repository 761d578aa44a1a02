"""Which frames refresh the memory, and how quality moves from one frame to the next.

Numbers alone; the same here in training and encoding, and for the memory in decoding.
"""

from __future__ import annotations

INTRA_OFFSET = 12
"""An intra picture is worth more: every later one is built on it."""


PERIODS = (8, 4, 2, 1)
OFFSETS = (6, 6, 3, 0)
OFFSETS_AT_REST = (INTRA_OFFSET, 0, -2, -4)
"""For every 8th, 4th and 2nd frame, and the others. Where a camera rests, a good picture serves the
next seven; no better than an intra picture, or what does not change at all would be coded again."""


def quality_offset(position: int, *, at_rest: bool = False) -> int:
    """Steps of quality above or below the chosen one, by frames since the last intra picture.

    Args:
        position: 0 for the intra picture.
        at_rest: most of the picture stays where it is.
    """
    if position == 0:
        return INTRA_OFFSET
    offsets = OFFSETS_AT_REST if at_rest else OFFSETS
    return next(o for p, o in zip(PERIODS, offsets, strict=True) if position % p == 0)


def is_refresh(position: int, refresh_period: int) -> bool:
    """True if the memory is rebuilt from the decoded picture before this frame is coded."""
    return refresh_period > 0 and position > 0 and position % refresh_period == 0
