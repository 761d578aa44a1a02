"""A histogram of durations with 2 % wide buckets: small to send, exact enough for percentiles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

_GROWTH = math.log(1.02)


class Histogram:
    """Counts of durations in logarithmic buckets from 1 microsecond on."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})

    def add(self, duration_ns: int) -> None:
        """Count one duration; anything under a microsecond counts as one."""
        self.buckets[int(math.log(max(duration_ns, 1000) / 1000) / _GROWTH)] += 1

    def merge(self, buckets: Mapping[int, int]) -> None:
        """Add the counts of another histogram."""
        self.buckets.update(buckets)

    def percentile_ms(self, percent: float) -> float | None:
        """What `percent` of all durations do not exceed (within 2 %), or None if there is none."""
        total = (
            self.buckets.total() if hasattr(self.buckets, "total") else sum(self.buckets.values())
        )
        if not total:
            return None
        rank, seen = percent / 100 * total, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= rank:
                break
        return round(math.exp((bucket + 0.5) * _GROWTH) / 1000, 3)
