"""Which frames are intra, which refresh the memory, and how quality moves between them.

Numbers alone; the same here in training, encoding and decoding.
"""

from __future__ import annotations

INTRA_OFFSET = 8
"""An intra picture is worth more: every later one is built on it."""


def quality_offset(position: int) -> int:
    """Steps of quality above the chosen one, by frames since the last intra picture."""
    if position == 0:
        return INTRA_OFFSET
    if position % 4 == 0:
        return 6
    return 3 if position % 2 == 0 else 0


def is_refresh(position: int, refresh_period: int) -> bool:
    """True if the memory is rebuilt from the decoded picture before this frame is coded."""
    return refresh_period > 0 and position > 0 and position % refresh_period == 0
