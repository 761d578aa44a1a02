"""Measure the whole pipeline: files against a hand-written loop, and latency on a camera.

Offline regime: every frame of a file is inferred, tracked, drawn and encoded (x264 veryfast, crf
23), the same network at the same input size on both sides; pipeline and loops take turns.
Metric: frames a second from the first decoded frame to the last packet; median of rounds, and the
median ratio of one round's pair. The boxes of both are compared: F1 at IoU 0.5 and score 0.3.
Peers: benchmarks/peer_loop.py as one writes it, on ONNX Runtime (the gate); and, for honesty, the
same with x264's frame threads, on ONNX Runtime and on OpenVINO. The latter computes in bfloat16 by
default where the processor has it; the pipeline computes in float32.
Measure on an idle machine: the two spinning threads of ONNX Runtime suffer most from neighbours.
Ceiling: a two-core machine has 2,000 core-ms a second; one 720p frame costs about 27 of them at the
least (decoding 2.3, network 12.3, x264 9.9, small parts), so 70 fps.

Live regime: the rendered street at 720p and 25 fps as a camera, recorded as H.264; the newest frame
wins.
Metric: capture to event, from the wall clock at which a subscriber in another process has the event
to the capture time in it (p50, p95, p99); beside it the share of frames that were inferred, frames
missing in the recording, and drops by cause.
Ceiling: one frame in the network (about 15 ms) and four hops.
Command: python -m benchmarks.bench_pipeline [--rounds 5] [--seconds 0] [--live-s 60]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks import report
from benchmarks.running import CROWD, HIGHWAY, STREET, YOLOX, Run, endpoint, events_of, listen
from engines.detectors.decode import box_iou
from engines.detectors.signature import COCO80

SIDE = 416
SCORE, IOU = 0.3, 0.5
PEERS = {
    "loop": ["--engine", "onnxruntime"],
    "loop, frame threads": ["--engine", "onnxruntime", "--frame-threads"],
    "loop, frame threads, openvino": ["--engine", "openvino", "--frame-threads"],
}
WARM_UP_S = 3.0
"""Live: events before this are not counted; the subscriber may be connecting still."""

Boxes = list[list[list[float]]]
"""By frame: rows of class, score and corners, best first."""


class Offline:
    """One file through the pipeline and the loops, in turns."""

    def __init__(self, video: Path, model: Path, folder: Path, *, seconds: float) -> None:
        self._video, self._model, self._folder = video, model, folder
        self._seconds = seconds
        self.figures: dict[str, list[dict[str, Any]]] = {}
        self.boxes: dict[str, Boxes] = {}

    def round(self) -> None:
        """Run everything once."""
        self._note("pipeline", self._pipeline())
        for peer, arguments in PEERS.items():
            self._note(peer, self._loop(peer, arguments))

    def fps(self, who: str) -> float | None:
        """Median frames a second."""
        return report.median([figures["fps"] for figures in self.figures[who]])

    def ratio(self, peer: str) -> float:
        """Median over the rounds of the pipeline's speed in terms of a peer's."""
        pairs = zip(self.figures["pipeline"], self.figures[peer], strict=True)
        ratios = [float(ours["fps"] / theirs["fps"]) for ours, theirs in pairs]
        return round(statistics.median(ratios), 3)

    def f1(self, peer: str) -> float:
        """How much the boxes of the last runs agree."""
        return round(f1(self.boxes["pipeline"], self.boxes[peer]), 4)

    def _note(self, who: str, figures: dict[str, Any]) -> None:
        self.figures.setdefault(who, []).append(figures)
        report.table(
            ["file", "who", "frames", "fps"],
            [[self._video.name, who, figures["frames"], figures["fps"]]],
        )

    def _pipeline(self) -> dict[str, Any]:
        events, out = self._folder / "events.jsonl", self._folder / "pipeline.mp4"
        events.unlink(missing_ok=True)
        limit = ["--duration", f"{self._seconds}"] if self._seconds else []
        with Run(
            str(self._video), "--offline", "--out", str(out), "--events", str(events),
            "--detector", str(self._model), "--device", "cpu", *limit,
        ) as run:  # fmt: skip
            summary = run.summary()
        boxes: Boxes = [[] for _ in range(summary["frames_in"])]
        for event in events_of(events):
            if event["type"] == "detection":
                boxes[event["frame"]] = [
                    [COCO80.index(found["class"]), found["score"], *found["box_xyxy_px"]]
                    for found in event["objects"]
                ]
        self.boxes["pipeline"] = boxes
        return {
            "frames": summary["frames_out"],
            "fps": summary["fps"],
            "dropped": summary["frames_dropped"],
            "restarts": summary["restarts"],
            "bytes": out.stat().st_size,
        }

    def _loop(self, peer: str, arguments: Sequence[str]) -> dict[str, Any]:
        found = self._folder / "loop.json"
        frames = str(len(self.boxes["pipeline"]))
        done = subprocess.run(
            [
                sys.executable, "-m", "benchmarks.peer_loop", str(self._video), str(self._model),
                str(self._folder / "loop.mp4"), str(found), *arguments,
                "--frames", frames, "--side", str(SIDE),
            ],
            cwd=report.ROOT, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        self.boxes[peer] = json.loads(found.read_text())
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures


def f1(ours: Boxes, theirs: Boxes) -> float:
    """Agreement of two detectors on the same frames; boxes match one to one within a class."""
    if len(ours) != len(theirs):
        raise ValueError(f"both must have seen the same frames, got {len(ours)}, {len(theirs)}")
    matched = sum(matches(a, b) for a, b in zip(ours, theirs, strict=True))
    total = sum(map(len, ours)) + sum(map(len, theirs))
    return 2 * matched / total if total else 1.0


def matches(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> int:
    """Pairs of one frame, the closest first."""
    if not ours or not theirs:
        return 0
    a, b = np.array(ours, np.float32), np.array(theirs, np.float32)
    close = box_iou(a[:, 2:], b[:, 2:]) * (a[:, :1] == b[:, 0])
    count = 0
    while close.max() >= IOU:
        row, column = np.unravel_index(close.argmax(), close.shape)
        close[row, :] = close[:, column] = 0
        count += 1
    return count


def live(detector: str | None, seconds: float, folder: Path) -> dict[str, Any]:
    """Run the camera for a while; latency, shares and drops."""
    address, recording = endpoint(), folder / "recording"
    choice = ["--detector", detector] if detector else []
    late_ms, begin_ns = [], 0
    with Run(
        STREET, "--live", "--record", str(recording), "--publish", address,
        "--duration", str(seconds), *choice,
    ) as run:  # fmt: skip
        for received_ns, line in listen(run, address):
            event = json.loads(line)
            if event["type"] != "detection":
                continue
            captured_ns = wall_ns(event["time_utc"])
            begin_ns = begin_ns or captured_ns
            if captured_ns - begin_ns >= WARM_UP_S * 1e9:
                late_ms.append((received_ns - captured_ns) / 1e6)
        summary = run.summary()
    recorded, due = recording_of(recording, fps=25)
    frames = summary["frames_in"]
    not_inferred = sum(
        count
        for cause, count in summary["frames_dropped"].items()
        if cause.startswith(("infer_", "track_", "no_slot"))
    )
    return {
        "detector": detector or "street",
        "latency_ms": report.percentiles(late_ms),
        "latency_ms_inside": summary["latency_ms"],
        "events_measured": len(late_ms),
        "frames": frames,
        "inferred_percent": round(100 * (frames - not_inferred) / frames, 2),
        "recorded": recorded,
        "recording_lost": frames - recorded,
        "source_late": due - recorded,
        "dropped": summary["frames_dropped"],
        "restarts": summary["restarts"],
    }


def recording_of(folder: Path, *, fps: float) -> tuple[int, int]:
    """Frames in all segments, and how many their media times have room for."""
    count, due = 0, 0
    for path in sorted(folder.rglob("*.mp4")):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            pts = [packet.pts for packet in container.demux(stream) if packet.pts is not None]
        count += len(pts)
        due += round(float((max(pts) - min(pts)) * stream.time_base) * fps) + 1
    return count, due


def wall_ns(time_utc: str) -> int:
    """Nanoseconds since 1970 of an event's time."""
    return int(np.datetime64(time_utc.removesuffix("Z"), "ns").astype(np.int64))


def offline(options: argparse.Namespace, folder: Path) -> dict[str, Offline]:
    """Both files, all rounds."""
    files = {"720p": CROWD, "320x240": HIGHWAY}
    runs = {
        name: Offline(
            options.data / files[name], options.data / YOLOX, folder, seconds=options.seconds
        )
        for name in options.files
    }
    for _ in range(options.rounds):
        for run in runs.values():
            run.round()
    return runs


def main() -> int:
    """Run what is asked for; returns the exit code."""
    options = parse()
    results: dict[str, report.Value] = {}
    gates: list[report.Gate] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        if options.rounds:
            for size, run in offline(options, folder).items():
                peers = [who for who in run.figures if who != "pipeline"]
                results[size] = {
                    "fps": {who: run.fps(who) for who in run.figures},
                    "ratio": {peer: run.ratio(peer) for peer in peers},
                    "f1": {peer: run.f1(peer) for peer in peers},
                    "rounds": run.figures,
                }
                rows = [[who, run.fps(who), None, None] for who in ["pipeline"]]
                rows += [[who, run.fps(who), run.ratio(who), run.f1(who)] for who in peers]
                report.table([size, "fps", "pipeline/peer", "F1 of boxes"], rows)
                peer = "loop"
                gates += [
                    report.Gate(f"{size} ratio to the loop", run.ratio(peer), 1.4, 2.0, True),
                    report.Gate(f"{size} F1 of boxes", run.f1(peer), 0.97, 0.97, True),
                ]
        if options.live_s:
            shipped = (report.ROOT / "engines" / "zoo" / "street.onnx").exists()
            detector = None if shipped else str(options.data / YOLOX)
            camera = live(detector, options.live_s, folder)
            results["live"] = camera
            report.table(
                ["live", "measured"],
                [[key, json.dumps(value)] for key, value in camera.items()],
            )
            gates += [
                report.Gate("live p99 ms", camera["latency_ms"]["p99"], 120, 60),
                report.Gate("live inferred %", camera["inferred_percent"], 95, 99, True),
                report.Gate("live recording lost", abs(camera["recording_lost"]), 0, 0),
            ]
    return report.finish(
        "pipeline",
        configuration={
            "rounds": options.rounds,
            "seconds": options.seconds,
            "live_s": options.live_s,
            "detector": YOLOX,
        },
        results=results,
        gates=gates,
        json_out=options.json_out,
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="offline; 0 leaves it out")
    parser.add_argument("--seconds", type=float, default=0, help="of each file; 0 for all")
    parser.add_argument("--files", nargs="+", choices=["720p", "320x240"],
                        default=["720p", "320x240"])  # fmt: skip
    parser.add_argument("--live-s", type=float, default=60.0, help="0 leaves it out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
