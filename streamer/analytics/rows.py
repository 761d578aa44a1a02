"""The table of what is remembered of each live track, one row each; knows no rule.

Times are media time in seconds; NaN is for what has not been.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.void]


def kind_of_rows(zones: int, lines: int) -> np.dtype[np.void]:
    """The columns of a row.

    By zone: inside is what was decided, raw what was seen last, run_s since when, edge_s when it
    was first seen inside without having been clearly outside since; entered_s and past_s are of
    this visit and all before; on says whether the surface that it stood on last counts; _due_s and
    limit_kmh are infinite where nothing is to be told.
    By line: right is the side that was decided, if it is known; raw the one seen last, beside and
    along the last place; crossed_s and crossed_at are of the last change of raw.
    """
    one = [("id", "i8"), ("class", "i8"), ("seen_s", "f8"), ("fresh", "?")]
    one += [("still_s", "f8"), ("ground_s", "f8"), ("speed_kmh", "f8")]
    few = [("box", "f8", (4,)), ("still_at", "f8", (2,)), ("sums", "f8", (7,))]
    times = ("run_s", "edge_s", "entered_s", "past_s", "fast_s", "stopped_s")
    limits = ("dwell_due_s", "loiter_due_s", "limit_kmh", "best")
    by_zone = [(name, "f8", (zones,)) for name in (*times, *limits)]
    flags = ("inside", "raw", "appeared", "loitered", "on")
    by_zone += [(name, "?", (zones,)) for name in flags]
    flags_of_line = ("known", "right", "raw", "was_in", "was_out", "on")
    by_line = [(f"line_{name}", "?", (lines,)) for name in flags_of_line]
    reals = ("run_s", "beside", "along", "crossed_s", "crossed_at")
    by_line += [(f"line_{name}", "f8", (lines,)) for name in reals]
    return np.dtype([*one, *few, *by_zone, *by_line])


def taken(rows: Rows, at: NDArray[np.int64]) -> Rows:
    """A copy of some rows; whole rows are moved as bytes, for field by field takes ten times as
    long."""
    return np.asarray(_bytes(rows)[at]).view(rows.dtype)


def put(rows: Rows, at: NDArray[np.int64], changed: Rows) -> None:
    """Replace some rows."""
    _bytes(rows)[at] = _bytes(changed)


def _bytes(rows: Rows) -> NDArray[np.void]:
    return rows.view(f"V{rows.dtype.itemsize}")


def new_rows(kind: np.dtype[np.void], count: int) -> Rows:
    """Rows of tracks that were never seen."""
    rows = np.zeros(count, kind)
    rows["fresh"] = True
    for name in ("edge_s", "entered_s", "stopped_s", "ground_s", "speed_kmh"):
        rows[name] = np.nan
    for name in ("fast_s", "dwell_due_s", "loiter_due_s", "limit_kmh"):
        rows[name] = np.inf
    return rows
