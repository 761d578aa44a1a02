"""What actions and segmentation cost the pipeline beside detection, tracking and recording.

Regime: walking_crowd_720p.mp4, 1280x720, default detector, H.264. Offline: frames a second with no
stage beside inference, with the action recogniser (whole frames, 8 samples a second of media time),
and with the segmenter (5 frames a second); the runs take turns, so that a machine that slows down
slows all of them. Live: the same clip at its own speed with both, capture to event of detections,
and what the recording lost. Delay: rendered streets with detector, tracker and the recogniser of
persons' actions, whose truth is known.
Metric: the median of frames a second of each kind, and its part of that with neither; media time
from the true begin of an action to the frame of its event.
Ceiling: 1.0, where the stages find a processor that nobody else needs.
Command: python -m benchmarks.bench_annotators [--rounds 3] [--seconds 10]
"""

from __future__ import annotations

import sys
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.running import CROWD, Event, Run, cameras_yaml, events_of
from streamer.messages import Fields
from streamer.sources.street.street import Street
from streamer.tracking.association import iou

KINDS: dict[str, tuple[str, ...]] = {
    "neither": (),
    "actions": ("actions",),
    "segmenter": ("segmenter",),
    "both": ("actions", "segmenter"),
}
STREET_FPS = 16
SAME_IOU = 0.4
"""Of a track's box and a true one, from which on they are of one person."""
SIGHT_S = 0.25
"""After its begin an action must be in sight, or its delay says nothing."""
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


def delays_s(folder: Path, seed: int, model: str, *, seconds: float) -> tuple[list[float], int]:
    """One street: how long after their begin actions were told, and how many were told wrongly.

    Only actions whose person was followed when they began.
    """
    events = folder / f"street{seed}.jsonl"
    config = cameras_yaml(
        folder / "street.yaml",
        {"street": {"source": f"synthetic:street?seed={seed}&size=1280x720&fps={STREET_FPS}"}},
        actions={"model": model, "scope": "track", "crops_per_s": 1000.0},
        events={"log": "off", "file": str(events), "updated_per_s": 100.0},
        duration_s=seconds,
    )
    with Run(str(config), "--offline") as running:
        running.summary()
    street = Street(seed, 1280, 720, fps=Fraction(STREET_FPS))
    found = events_of(events)
    boxes = {(e["frame"], e["track_id"]): e["box_xyxy_px"] for e in found
             if e["type"] in ("track.started", "track.updated")}  # fmt: skip
    tracked_s: dict[int, float] = {}
    for event in found:
        if event["type"] == "track.started":
            tracked_s[event["track_id"]] = event["pts_s"]
    first: dict[tuple[int, float], float] = {}
    wrong = 0
    for event in found:
        if event["type"] == "action.started":
            who = event["track_id"]
            begin_s = _true_begin_s(street, event, boxes.get((event["frame"], who)))
            if begin_s is None:
                wrong += 1
            elif tracked_s[who] <= begin_s + SIGHT_S:
                first.setdefault((who, begin_s), event["pts_s"] - begin_s)
    return list(first.values()), wrong


def _true_begin_s(street: Street, event: Event, box: list[float] | None) -> float | None:
    """When that person truly began that action; None if it does something else."""
    for sighting in street.truth(event["frame"]).sightings if box else ():
        episode = sighting.episode
        overlap = iou(np.array([box], np.float64), np.array([sighting.box_xyxy], np.float64))
        same = overlap[0, 0] > SAME_IOU
        if same and episode and episode.action == event["class"]:
            return float(episode.begin_s)
    return None


def main() -> int:
    """Run all kinds in turn; the exit code."""
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each kind")
    parser.add_argument("--seconds", type=float, default=10, help="of the clip in each run")
    parser.add_argument("--actions", default="fight", help="recogniser: a name or a path")
    parser.add_argument("--segmenter", default="cascade", help="segmenter: a name or a folder")
    parser.add_argument("--persons", default="street_actions", help="of persons' actions")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2], help="of the streets")
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
        delays: list[float] = []
        wrong = 0
        for seed in options.seeds:
            here, wrong_here = delays_s(folder, seed, options.persons, seconds=2 * options.seconds)
            delays, wrong = delays + here, wrong + wrong_here
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
    results["delay"] = {
        "told": len(delays),
        "told_wrongly": wrong,
        **{name: value for name, value in report.percentiles(delays).items() if name != "p99"},
    }
    return report.finish(
        "annotators",
        configuration={
            "rounds": options.rounds,
            "seconds": options.seconds,
            "actions": Path(options.actions).stem,
            "segmenter": Path(options.segmenter).name,
            "persons": Path(options.persons).stem,
            "seeds": options.seeds,
        },
        results=results,
        gates=[
            report.Gate("fps with actions, part of without", shares["actions"], 0.75, 0.9, True),
            report.Gate("live: frames of the recording lost", sum(lost.values()), 0, 0),
            report.Gate("begin of an action to its event p50, s", report.median(delays), 1.5, 0.8),
            report.Gate("live: capture to event p50, ms", live["latency_ms"]["p50"], 100, 60),
        ],
        json_out=options.json_out,
    )


if __name__ == "__main__":
    sys.exit(main())
