"""Draw a table of true against said classes as an SVG picture; knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

_CELL_PX, _LEFT_PX, _TOP_PX = 74, 92, 56


def confusion_svg(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Draw the counts (true class, said class); a row's shade is its share.

    Raises:
        ValueError: counts is not one row and one column for each class.
    """
    n = len(classes)
    if counts.shape != (n, n):
        raise ValueError(f"counts must be {n} x {n} for {n} classes, got {counts.shape}")
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    width, height = _LEFT_PX + n * _CELL_PX + 12, _TOP_PX + n * _CELL_PX + 12
    middle = _LEFT_PX + n * _CELL_PX / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="13" text-anchor="middle">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{middle}" y="18">said (rows: true)</text>',
    ]
    for i, name in enumerate(classes):
        across = _LEFT_PX + (i + 0.5) * _CELL_PX
        down = _TOP_PX + (i + 0.5) * _CELL_PX
        parts.append(f'<text x="{across}" y="{_TOP_PX - 10}">{escape(name)}</text>')
        parts.append(
            f'<text x="{_LEFT_PX - 10}" y="{down + 5}" text-anchor="end">{escape(name)}</text>'
        )
        for j in range(n):
            x = _LEFT_PX + j * _CELL_PX
            parts.append(
                f'<rect x="{x}" y="{down - _CELL_PX / 2}" width="{_CELL_PX - 2}" '
                f'height="{_CELL_PX - 2}" fill="#1f5fa8" fill-opacity="{share[i, j]:.3f}" '
                'stroke="#888"/>'
            )
            ink = "white" if share[i, j] > 0.5 else "black"
            parts.append(
                f'<text x="{x + _CELL_PX / 2}" y="{down}" fill="{ink}">{counts[i, j]}'
                f'<tspan x="{x + _CELL_PX / 2}" dy="16" font-size="11">'
                f"{100 * share[i, j]:.0f} %</tspan></text>"
            )
    return "\n".join([*parts, "</svg>", ""])
