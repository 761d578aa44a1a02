"""Draw the segmenter's measured curves beside the published ones, as SVG, from the results alone.

Left: mIoU by rho; middle: time by rho as a part of the dense network's; right: mIoU by time, the
cascade against the dense networks inside it.
Command: python -m benchmarks.cascade.plot
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

RESULTS = Path(__file__).resolve().parent.parent / "results"

PUBLISHED_MIOU = {
    1.0: 72.70, 0.995: 73.56, 0.985: 73.91, 0.97: 73.63, 0.95: 73.03, 0.93: 72.53, 0.9: 71.20,
    0.8: 66.95,
}  # fmt: skip
"""VOC 2012 val; X. Li et al., "Not All Pixels Are Equal", CVPR 2017, table 2."""
PUBLISHED_MS = {1.0: 93.0, 0.985: 65.1, 0.97: 58.5, 0.95: 55.5, 0.93: 52.0, 0.9: 50.0, 0.8: 42.5}
"""The same, read off its figure; 93 ms is the plain network."""

_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 300, 240, 60, 40, 80
_COLOURS = ("#1f6feb", "#d1495b", "#2b9348")


@dataclass(frozen=True)
class Line:
    """One curve, or points without a line."""

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = True


def panel(index: int, title: str, x_name: str, y_name: str, lines: Sequence[Line]) -> str:
    """One diagram, the index-th from the left."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_range, y_range = _range(xs), _range(ys)
    left = _LEFT + index * (_WIDTH + _GAP)
    legend = left + _WIDTH * 9 // 20

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return left + across * _WIDTH, _TOP + (1 - up) * _HEIGHT

    parts = [
        f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" class="frame"/>',
        _text(left + _WIDTH / 2, _TOP - 14, title, "title"),
        _text(left + _WIDTH / 2, _TOP + _HEIGHT + 34, x_name, "middle"),
        _text(left, _TOP - 3, y_name, "start"),
    ]
    for step in range(5):
        x = x_range[0] + step / 4 * (x_range[1] - x_range[0])
        y = y_range[0] + step / 4 * (y_range[1] - y_range[0])
        parts.append(_text(at(x, 0)[0], _TOP + _HEIGHT + 16, f"{x:.3g}", "middle"))
        parts.append(_text(left - 6, at(0, y)[1] + 4, f"{y:.3g}", "end"))
    for number, line in enumerate(lines):
        colour = _COLOURS[number]
        places = [at(x, y) for x, y in sorted(line.points)]
        if line.joined:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline points="{path}" stroke="{colour}" class="line"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        place = _TOP + _HEIGHT - 12 - 16 * (len(lines) - 1 - number)
        parts.append(f'<circle cx="{legend}" cy="{place - 4}" r="3.5" fill="{colour}"/>')
        parts.append(_text(legend + 10, place, line.name, "start"))
    return "\n".join(parts)


def draw(document: dict[str, dict[str, list[dict[str, float]]]]) -> str:
    """The whole picture from the document of `bench_cascade frames`."""
    by_rho = document["results"]["by_rho"]
    shorter = document["results"]["shorter_dense"]
    dense = by_rho[0]
    ours_miou = [(row["rho"], 100 * row["miou"]) for row in by_rho]
    ours_time = [(row["rho"], row["ms_cpu"] / dense["ms_cpu"]) for row in by_rho]
    published_time = [(rho, ms / PUBLISHED_MS[1.0]) for rho, ms in PUBLISHED_MS.items()]
    by_time = [(row["ms_cpu"], 100 * row["miou"]) for row in by_rho[1:]]
    single = [(row["ms_cpu"], 100 * row["miou"]) for row in (*shorter, dense)]
    panels = [
        panel(0, "Accuracy by rho", "rho", "mIoU, %", [
            Line("this, CamVid val", ours_miou),
            Line("published, VOC 2012 val", [*PUBLISHED_MIOU.items()]),
        ]),
        panel(1, "Time by rho", "rho", "part of dense", [
            Line("this, OpenVINO", ours_time), Line("published, Caffe", published_time),
        ]),
        panel(2, "Accuracy by time", "ms of processor time a frame", "mIoU, %", [
            Line("cascade", by_time), Line("dense: 1, 2 and 3 stages", single, joined=False),
        ]),
    ]  # fmt: skip
    width, height = _LEFT + 3 * (_WIDTH + _GAP), _TOP + _HEIGHT + 50
    style = (
        "text{font:12px sans-serif;fill:#333}.title{font-weight:bold}"
        ".frame{fill:#fafafa;stroke:#999}.line{fill:none;stroke-width:1.5}"
    )
    body = "\n".join(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">\n'
        f'<style>{style}</style>\n<rect width="{width}" height="{height}" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.08 or 1.0
    return low - margin, high + margin


def _text(x: float, y: float, text: str, kind: str) -> str:
    anchor = "middle" if kind == "title" else kind
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )


def main() -> None:
    """Write the picture beside its figures."""
    document = json.loads((RESULTS / "cascade_frames.json").read_text())
    (RESULTS / "cascade_frames.svg").write_text(draw(document))


if __name__ == "__main__":
    main()
