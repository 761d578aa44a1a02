"""`streamer probe`: say what a source is."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction

from streamer.cli.main import make_parser
from streamer.sources.probe import Probe, probe


def main(arguments: Sequence[str]) -> int:
    """Look at one source for a few seconds and print what was found."""
    parser = make_parser("probe")
    parser.add_argument("source", help="anything that `streamer run` takes")
    parser.add_argument("--seconds", type=float, default=4.0, help="look so long; default 4")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    found = probe(options.source, duration_s=options.seconds)
    if options.json:
        print(json.dumps(dataclasses.asdict(found), default=_plain))
    else:
        print("\n".join(f"{name:12} {value}" for name, value in describe(found)))
    return 0


def describe(found: Probe) -> list[tuple[str, str]]:
    """What was found, as rows of a name and a text."""
    info, measured = found.info, found.measured
    rows = [
        ("source", found.uri),
        ("picture", f"{info.width}x{info.height} {found.pixel_format or ''} {info.matrix}"),
        ("codec", f"{info.codec} {found.profile or ''}, in {found.container or 'no container'}"),
        ("declared", f"{info.fps_declared:.3f} fps" if info.fps_declared else "no frame rate"),
        ("regime", "live" if info.live else "offline"),
    ]
    if measured is not None:
        rows += [
            ("measured", f"{_number(measured.fps)} fps, {_kbit(measured.bit_rate_bps)}"),
            ("key frames", f"every {measured.gop_frames or '?'} frames (longest run "
             f"{measured.gop_frames_longest})"),
            ("reordered", "yes, it has B-frames" if measured.reordered else "no"),
            ("clock", f"time base {found.time_base} s, starts at {found.start_pts}; "
             + ("tells the wall clock" if measured.wall_clock else "tells no wall clock")),
        ]  # fmt: skip
    rows.append(("audio", ", ".join(found.audio) or "none"))
    for device in found.hardware:
        rows.append((f"on {device.kind}", device.missing or "can be decoded here"))
    return rows


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _kbit(value: float | None) -> str:
    return "? kbit/s" if value is None else f"{value / 1000:.0f} kbit/s"


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Fraction) else list(value)  # type: ignore[call-overload]
