"""Measure what batching over cameras does: how full the calls are, what they cost, who waits.

Regime: 1, 4, 8 and 16 files of 640x360 at 5 fps, rendered before, each played as a live camera;
the default detector, tracks and events, nothing is written. For each number of cameras: every frame
in a call of its own; calls of up to 8 with a window of 40 ms. Then 8 cameras again, one of which
sends a frame a second. A run is stopped so many seconds after its first detection.
Metric: frames a call, milliseconds of processor time a frame in the infer process (start-up left
out), capture to event (p50, p95), frames that were not looked at. One slow camera: the median
latency of the other seven with it, in terms of the same seven with a fast eighth.
Ceiling: a call that holds a frame of each camera. On a processor a batch costs what its frames cost
one by one, so the gain is on other devices; here it must cost nothing but its window.
Command: python -m benchmarks.bench_batching [--seconds 10]
"""

from __future__ import annotations

import datetime as dt
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from benchmarks import report
from benchmarks.running import Event, Run, RunFailed, cameras_yaml, events_of, first_event, read
from streamer.planes import Planes
from streamer.sources.street import Street

SIZE, FPS, SLOW_FPS = (640, 360), 5, 1
CAMERAS = (1, 4, 8, 16)
SCENES = 4
"""Different files; more cameras play them again."""
SETTINGS: dict[str, dict[str, float]] = {
    "one by one": {"batch": 1},
    "up to 8, 40 ms": {"batch": 8, "collect_ms": 40.0},
}
FULLEST = "up to 8, 40 ms"
_CALLS = re.compile(r"(\d+) frames in (\d+) calls")
_TICKS_S = os.sysconf("SC_CLK_TCK")
_SETTLE_S = 2.0
_MEDIA_S = 60.0  # longer than starting and measuring take together


def render(path: Path, seed: int, fps: int, seconds: float) -> Path:
    """Write one scene as H.264."""
    street = Street(seed, *SIZE, fps=Fraction(fps))
    planes = Planes.empty(*SIZE)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "18"}
        for index in range(round(seconds * fps)):
            street.render(index, planes)
            frame = av.VideoFrame(*SIZE, "yuv420p")
            for target, plane in zip(frame.planes, (planes.y, planes.u, planes.v), strict=True):
                rows = memoryview(target).cast("B")
                for row, line in enumerate(plane):
                    start = row * target.line_size
                    rows[start : start + len(line)] = line.tobytes()
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def played(
    folder: Path, sources: Sequence[Path], settings: Mapping[str, float], seconds: float
) -> dict[str, Any]:
    """Run these files as cameras; what the run says of itself, and what infer cost."""
    cameras = {
        f"c{number}": {"source": str(link(folder, source, number)), "regime": "live"}
        for number, source in enumerate(sources)
    }
    events = folder / "events.jsonl"
    events.unlink(missing_ok=True)
    config = cameras_yaml(
        folder / "cameras.yaml",
        cameras,
        detector={**settings, "streams": 1},
        supervisor={"ready_s": 240.0, "beat_s": 30.0},  # the machine may be busy with other things
    )
    with Run(str(config), "--events", str(events)) as run:
        seen = first_event(run, events, "detection", timeout_s=300)
        pid = run.stages()["infer"]
        start_s = spent(pid)
        time.sleep(seconds)
        now_s = spent(pid)
        run.signal(signal.SIGINT)
        summary = run.summary()
        calls = _CALLS.search(run.log)
    if calls is None:
        raise RunFailed(f"streamer run: infer has not told its calls\n{run.log}")
    frames = int(calls[1])
    return {
        "frames_a_call": round(frames / int(calls[2]), 2),
        "infer_ms_a_frame": round((now_s - start_s) / frames * 1e3, 2),
        "latency_ms": {p: summary["latency_ms"][p] for p in ("p50", "p95")},
        "frames": frames,
        "missed": missed(events_of(events), dt.datetime.fromisoformat(seen["time_utc"])),
        "p50_by_camera": {
            name: figures["latency_ms"]["p50"] for name, figures in summary["cameras"].items()
        },
    }


def missed(events: Sequence[Event], began: dt.datetime) -> int:
    """Frames that were not looked at since all cameras had begun."""
    settled = began + dt.timedelta(seconds=_SETTLE_S)
    return sum(
        event["count"]
        for event in events
        if event["type"] == "frames.dropped"
        and dt.datetime.fromisoformat(event["time_utc"]) > settled
    )


def spent(pid: int) -> float:
    """Seconds of processor time of a process; 0 when it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_S if fields else 0.0


def link(folder: Path, source: Path, number: int) -> Path:
    """Another name for a file, since each camera needs its own source."""
    path = folder / f"camera{number}{source.suffix}"
    path.unlink(missing_ok=True)
    path.symlink_to(source)
    return path


def median_of_others(figures: Mapping[str, Any]) -> float:
    """Median over all cameras but the last of their median latencies."""
    *others, _ = figures["p50_by_camera"].values()
    return statistics.median(others)


def main(argv: Sequence[str] | None = None) -> int:
    """Render, play, report."""
    parser = report.parser(__doc__)
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of each run, from its first detection"
    )
    options = parser.parse_args(argv)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenes = [
            render(folder / f"scene{seed}.mp4", seed, FPS, _MEDIA_S) for seed in range(SCENES)
        ]
        slow = render(folder / "slow.mp4", SCENES, SLOW_FPS, _MEDIA_S)
        for count in CAMERAS:
            sources = [scenes[number % SCENES] for number in range(count)]
            results[str(count)] = {
                name: played(folder, sources, settings, options.seconds)
                for name, settings in SETTINGS.items()
            }
        sources = [*(scenes[number % SCENES] for number in range(7)), slow]
        results["8, one slow"] = {
            FULLEST: played(folder, sources, SETTINGS[FULLEST], options.seconds)
        }
    report.table(
        ["cameras", "calls", "frames a call", "infer ms a frame", "p50 ms", "p95 ms", "missed"],
        [
            [
                count, setting, run["frames_a_call"], run["infer_ms_a_frame"],
                run["latency_ms"]["p50"], run["latency_ms"]["p95"], run["missed"],
            ]
            for count, runs in results.items()
            for setting, run in runs.items()
        ],
    )  # fmt: skip
    most = results[str(CAMERAS[-1])]
    held_up = median_of_others(results["8, one slow"][FULLEST]) / median_of_others(
        results["8"][FULLEST]
    )
    cost = most[FULLEST]["infer_ms_a_frame"] / most["one by one"]["infer_ms_a_frame"]
    return report.finish(
        "batching",
        configuration={"seconds": options.seconds, "fps": FPS, "size": list(SIZE), **SETTINGS},
        results=results,
        gates=[
            report.Gate("latency beside a slow camera, ratio", round(held_up, 2), 1.3, 1.1),
            report.Gate("frames a call, 16 cameras, 40 ms", most[FULLEST]["frames_a_call"],
                        1.5, 3.0, at_least=True),
            report.Gate("processor time of batches against single frames, ratio, 16 cameras",
                        round(cost, 2), 1.3, 1.0),
        ],
        json_out=options.json_out,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
