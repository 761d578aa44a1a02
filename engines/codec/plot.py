"""Draw rate-distortion curves as PNG pictures; offline, for evaluate.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

Curves = Mapping[str, Sequence[tuple[float, float]]]
"""Points (bits a pixel, value) of each codec."""


def draw_curves(curves: Curves, *, label: str, path: Path) -> None:
    """Write one diagram of all codecs.

    Args:
        curves: of each codec by name.
        label: of the upright axis.
        path: of the PNG; its folder is made.
    """
    figure = Figure(figsize=(7, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        rates, values = zip(*sorted(points), strict=True)
        ours = name.startswith(("rt", "dvc"))
        axes.plot(rates, values, "o-" if ours else "o--", label=name, linewidth=2 if ours else 1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bits a pixel, whole files")
    axes.set_ylabel(label)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
