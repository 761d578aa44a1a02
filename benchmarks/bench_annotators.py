"""What actions and segmentation cost the pipeline beside detection, tracking and recording.

Regime: walking_crowd_720p.mp4, 1280x720, default detector, H.264. Offline: frames a second with no
stage beside inference, with the action recogniser (whole frames, 8 samples a second of media time),
and with the segmenter (5 frames a second); the runs take turns, so that a machine that slows down
slows all of them. Live: the same clip at its own speed with both, capture to event of detections,
and what the recording lost.
Metric: the median of frames a second of each kind, and its part of that with neither.
Ceiling: 1.0, where the stages find a processor that nobody else needs.
Command: python -m benchmarks.bench_annotators [--rounds 3] [--seconds 10]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.running import CROWD, Run, cameras_yaml
from streamer.messages import Fields

KINDS: dict[str, tuple[str, ...]] = {
    "neither": (),
    "actions": ("actions",),
    "segmenter": ("segmenter",),
    "both": ("actions", "segmenter"),
}
Summary = dict[str, Any]


def run(
    folder: Path, clip: Path, sections: dict[str, Fields], *, live: bool, seconds: float
) -> Summary:
    """One run to its end; its summary."""
    camera = {"source": str(clip), "regime": "live" if live else "offline"}
    output = {"record": str(folder / "rec")} if live else {"out": str(folder / "out.mp4")}
    config = cameras_yaml(
        folder / "scene.yaml",
        {"crowd": camera | output},
        duration_s=seconds,
        events={"log": "off"},
        **sections,
    )
    with Run(str(config)) as running:
        return running.summary()


def main() -> int:
    """Run all kinds in turn; the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--seconds", type=float, default=10, help="of the clip in each run")
    parser.add_argument("--actions", default="fight", help="recogniser: a name or a path")
    parser.add_argument("--segmenter", default="cascade", help="segmenter: a name or a folder")
    options = parser.parse_args()
    clip = options.data / CROWD
    sections: dict[str, Fields] = {
        "actions": {"model": options.actions, "scope": "frame"},
        "segmenter": {"model": options.segmenter, "per_s": 5.0},
    }
    fps: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(options.rounds):
            for kind, wanted in KINDS.items():
                chosen = {section: sections[section] for section in wanted}
                summary = run(folder, clip, chosen, live=False, seconds=options.seconds)
                fps[kind].append(summary["fps"])
        live = run(folder, clip, sections, live=True, seconds=options.seconds)
    medians = {kind: report.median(values) or 0.0 for kind, values in fps.items()}
    shares = {kind: round(value / medians["neither"], 3) for kind, value in medians.items()}
    report.table(
        ["offline", "frames a second", "part of neither"],
        [[kind, medians[kind], shares[kind]] for kind in KINDS],
    )
    lost = {
        cause: count
        for cause, count in live["frames_dropped"].items()
        if cause.startswith(("encode", "no_slot", "not_written"))
    }
    results: dict[str, report.Value] = {
        kind: {"fps": medians[kind], "part": shares[kind], "runs": fps[kind]} for kind in KINDS
    }
    results["live"] = {
        "latency_ms": live["latency_ms"],
        "frames_in": live["frames_in"],
        "frames_out": live["frames_out"],
        "dropped": live["frames_dropped"],
    }
    return report.finish(
        "annotators",
        configuration={
            "rounds": options.rounds,
            "seconds": options.seconds,
            "actions": Path(options.actions).stem,
            "segmenter": Path(options.segmenter).name,
        },
        results=results,
        gates=[
            report.Gate("fps with actions, part of without", shares["actions"], 0.75, 0.9, True),
            report.Gate("live: frames of the recording lost", sum(lost.values()), 0, 0),
            report.Gate("live: capture to event p50, ms", live["latency_ms"]["p50"], 100, 60),
        ],
        json_out=options.json_out,
    )


if __name__ == "__main__":
    sys.exit(main())
